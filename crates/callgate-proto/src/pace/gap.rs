//! When to look at a line for the first time.

use crate::layout::INLINE_MAX;
use crate::sync::{AtomicU32, Ordering};

/// How long to keep away from a line after writing it: for about as long as the peer takes to answer.
///
/// A look that comes while the peer is about to write takes the line from it, and the peer has to fetch it back. So the
/// first look is put off, by a time that is learned: a little shorter when that look finds the answer (it may have been
/// there for long), longer when it comes too early, by more where it is long already. It settles where three first looks
/// in four find the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// In quarters of a nanosecond.
    pub(super) quarters: u16,
}

impl Gap {
    const SHORTER: u16 = 2;
    /// The part of a gap that a step has besides.
    const PART: u16 = 256;

    /// Nanoseconds before the first look.
    #[inline]
    #[must_use]
    pub fn ns(self) -> u32 {
        u32::from(self.quarters / 4)
    }

    /// Learns that the answer was found at this look, counted from 0.
    #[inline]
    #[must_use]
    pub fn found(self, class: SizeClass, look: u32) -> Self {
        let step = Self::SHORTER + self.quarters / Self::PART;
        let quarters = match look {
            0 => self.quarters.saturating_sub(step),
            _ => (self.quarters + 3 * step).min(class.gap_max()),
        };
        Self { quarters }
    }
}

/// How much a call moves, as far as gaps depend on it: each class has a gap of its own, since a call that follows one of
/// another size is answered sooner or later than that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizeClass(u8);

impl SizeClass {
    /// How many there are.
    pub(super) const COUNT: usize = 3;
    /// What fits into a cell.
    pub const SHORT: Self = Self(0);

    /// In quarters of a nanosecond. No more: a quick answer is found late after slow ones.
    fn gap_max(self) -> u16 {
        if self == Self::SHORT { 400 * 4 } else { 1_200 * 4 }
    }

    /// The class of a call whose request has so many bytes.
    #[inline]
    #[must_use]
    pub fn of(bytes: u64) -> Self {
        Self(u8::from(bytes > INLINE_MAX as u64) + u8::from(bytes > 1 << 10))
    }
}

/// A gap for each class, of who has them for itself.
#[derive(Default)]
pub struct Gaps([Gap; SizeClass::COUNT]);

impl std::ops::Index<SizeClass> for Gaps {
    type Output = Gap;

    #[inline]
    fn index(&self, class: SizeClass) -> &Gap {
        &self.0[usize::from(class.0) % SizeClass::COUNT]
    }
}

impl std::ops::IndexMut<SizeClass> for Gaps {
    #[inline]
    fn index_mut(&mut self, class: SizeClass) -> &mut Gap {
        &mut self.0[usize::from(class.0) % SizeClass::COUNT]
    }
}

/// The same, shared by threads. Relaxed: estimates.
#[derive(Default)]
pub(super) struct SharedGaps([AtomicU32; SizeClass::COUNT]);

impl SharedGaps {
    #[inline(always)]
    pub(super) fn get(&self, class: SizeClass) -> Gap {
        let quarters = self.0[usize::from(class.0) % SizeClass::COUNT].load(Ordering::Relaxed);
        Gap { quarters: quarters as u16 }
    }

    #[inline(always)]
    pub(super) fn set(&self, class: SizeClass, gap: Gap) {
        let place = &self.0[usize::from(class.0) % SizeClass::COUNT];
        place.store(gap.quarters.into(), Ordering::Relaxed);
    }
}

impl Default for Gap {
    fn default() -> Self {
        Self { quarters: 50 * 4 }
    }
}
