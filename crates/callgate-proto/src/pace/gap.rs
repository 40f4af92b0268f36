//! When to look at a line for the first time.

/// How long to keep away from a line after writing it: for about as long as the peer takes to answer.
///
/// A look that comes while the peer is about to write takes the line from it, and the peer has to fetch it back. So the
/// first look is put off, by a time that is learned: a little shorter when that look finds the answer (it may have been
/// there for long), longer when it comes too early. It settles where three first looks in four find the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// In quarters of a nanosecond.
    pub(super) quarters: u16,
}

impl Gap {
    const MAX: u16 = 400 * 4;
    const SHORTER: u16 = 2;
    const LONGER: u16 = 3 * Self::SHORTER;

    /// Nanoseconds before the first look.
    #[inline]
    #[must_use]
    pub fn ns(self) -> u32 {
        u32::from(self.quarters / 4)
    }

    /// Learns that the answer was found at this look, counted from 0.
    #[inline]
    #[must_use]
    pub fn found(self, look: u32) -> Self {
        let quarters = match look {
            0 => self.quarters.saturating_sub(Self::SHORTER),
            _ => (self.quarters + Self::LONGER).min(Self::MAX),
        };
        Self { quarters }
    }
}

impl Default for Gap {
    fn default() -> Self {
        Self { quarters: 50 * 4 }
    }
}
