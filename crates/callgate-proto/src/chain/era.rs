//! Whether a call was taken, beyond what its turn can tell.

use crate::cell::Turn;
use crate::layout::CELLS_MAX;

/// About where a call stands in the long row of a connection's calls, of which turns know the last 2^26 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Era(u32);

impl Era {
    /// Calls of one era, as a power of two: more than there are cells, fewer than half of the turns.
    const SHIFT: u32 = 16;
    const _FITS: () = assert!(CELLS_MAX < 1 << Self::SHIFT && Self::SHIFT < 24);

    /// That of the call with this number.
    #[inline(always)]
    #[must_use]
    pub fn of(number: u64) -> Self {
        Self((number >> Self::SHIFT) as u32)
    }
}

/// Whether a server that takes no more calls may have taken the one of this turn and era. `next`: number of the next call
/// that its client would publish; `taken`: turn of the last one that the server took.
///
/// Turns come round after 2^26 calls, and a call may be under way for longer than that. But a server takes calls in their
/// order, and each that it has not taken has a cell: one that lies further behind the next than there are cells was taken.
#[must_use]
pub fn may_have_run(turn: Turn, era: Era, next: u64, taken: Turn) -> bool {
    let eras = Era::of(next).0.wrapping_sub(era.0);
    eras > 1 || !turn.is_after(taken)
}
