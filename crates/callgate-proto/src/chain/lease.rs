//! The place of the next call, lent to callers that are alone: they publish one call after the other in one cell, without
//! the lock of the [`Submitter`](super::Submitter).
//!
//! ```text
//! word   bits  0..2    0 not lent, 1 lent, 2 lent and in use
//!        bits  2..16   the cell
//!        bits 16..64   number of the next call; in use: of the call that was begun
//!
//! from          to            by                       how    then
//! ------------  ------------  -----------------------  -----  ----------------------------------------------
//! not lent      in use(n)     who drew a lone call     store  under the lock: it has the place until it ends
//! in use(n)     lent(n + 1)   who began call n         CAS    its reply was read
//! lent(n)       in use(n)     a caller that is alone   CAS    it publishes call n, and nothing but that
//! any           not lent      who holds the lock       swap   call n, if one was begun, ends under the lock
//! ```
//!
//! What a caller puts aside for the next one, or for who recalls the place, it puts aside before it ends its call: who
//! has the place after it sees that, and whose call does not end at the lease ends it under the lock.
//!
//! Who recalls the place need not wait until a call that was begun is published: it goes to another cell with a detour,
//! and the server follows that only after call n, for which it waits at the place that was lent.

use super::{NUMBER_SHIFT, after};
use crate::cell::Turn;
use crate::layout::CELLS_MAX;
use crate::sync::{AtomicU64, Ordering};

const NONE: u64 = 0;
const LENT: u64 = 1;
const IN_USE: u64 = 2;
const STATE_MASK: u64 = 0b11;
const CELL_SHIFT: u32 = 2;
const CELL_MASK: u64 = (1 << (NUMBER_SHIFT - CELL_SHIFT)) - 1;
const _: () = assert!(CELLS_MAX as u64 <= CELL_MASK + 1);

/// The last number that is lent. Numbers skip 0 when they wrap and turns do not, so from there on they differ by more than
/// their length.
const NUMBER_MAX: u64 = u64::MAX >> NUMBER_SHIFT;

/// Whether, and as what, the place of the next call is lent. Private memory.
#[derive(Default)]
pub struct Lease(pub(super) AtomicU64);

/// The right, and the duty, to publish one call at the lent place, and to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lone(pub(super) u64);

/// A place that was lent, as it came back.
pub(super) struct Recalled {
    /// Number of the call that comes next.
    pub(super) number: u64,
    /// Whether the call before it was begun and has not ended.
    pub(super) in_use: bool,
}

/// Whether a call's number can be told from what a lease holds, and its turn from its number.
pub(super) fn can_lend(number: u64, turn: Turn) -> bool {
    number < NUMBER_MAX && Turn::of_number(number) == turn
}

impl Lone {
    /// Turn of the call.
    #[inline(always)]
    #[must_use]
    pub fn turn(self) -> Turn {
        Turn::of_number(self.0 >> NUMBER_SHIFT)
    }

    /// Its number.
    #[inline(always)]
    #[must_use]
    pub fn number(self) -> u64 {
        self.0 >> NUMBER_SHIFT
    }

    /// Its cell, which is also the next call's.
    #[inline(always)]
    #[must_use]
    pub fn cell(self) -> u16 {
        (self.0 >> CELL_SHIFT & CELL_MASK) as u16
    }
}

impl Lease {
    /// Begins a call, if the place is lent and nobody uses it.
    #[inline(always)]
    #[must_use]
    pub fn begin(&self) -> Option<Lone> {
        let lent = self.0.load(Ordering::Relaxed);
        if lent & STATE_MASK != LENT || lent >> NUMBER_SHIFT >= NUMBER_MAX {
            return None;
        }
        let used = lent - LENT + IN_USE;
        // EDGE lease (other end: `end`): Acquire orders the last caller's reads of its reply before our use of the cell.
        let began = self.0.compare_exchange(lent, used, Ordering::Acquire, Ordering::Relaxed);
        began.is_ok().then_some(Lone(used))
    }

    /// The cell of the next call, if the place is lent and nobody uses it at this moment: a hint.
    #[inline(always)]
    #[must_use]
    pub fn likely_cell(&self) -> Option<u16> {
        let lent = self.0.load(Ordering::Relaxed);
        (lent & STATE_MASK == LENT).then(|| Lone(lent).cell())
    }

    /// Ends a call whose reply was read. False when the place was recalled meanwhile: end it under the lock.
    #[inline(always)]
    #[must_use]
    pub fn end(&self, lone: Lone) -> bool {
        let lent = (lone.0 & !STATE_MASK | LENT) + (1 << NUMBER_SHIFT);
        // EDGE lease (other ends: `begin`, `recall`): Release orders our reads of the reply before the reuse of its cell, and
        // hands on what we put aside.
        self.0.compare_exchange(lone.0, lent, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// The same, for who knows the call by its turn and cell only.
    #[inline]
    #[must_use]
    pub fn end_of(&self, turn: Turn, cell: u16) -> bool {
        // Only the call in question can be in use with this turn: another one has it 2^26 calls later, after this one ended.
        let lone = Lone(self.0.load(Ordering::Relaxed));
        lone.0 & IN_USE != 0 && lone.turn() == turn && lone.cell() == cell && self.end(lone)
    }

    /// Lends the place of a lone call to who drew it, under the lock.
    #[inline]
    pub(super) fn lend(&self, number: u64, cell: u16) {
        // Relaxed: the drawer goes on by itself, and hands over with `end`.
        let used = number << NUMBER_SHIFT | u64::from(cell) << CELL_SHIFT | IN_USE;
        self.0.store(used, Ordering::Relaxed);
    }

    /// Takes the place back, under the lock. `None` if it was not lent.
    #[inline]
    pub(super) fn recall(&self) -> Option<Recalled> {
        // EDGE lease (other end: `end`): Acquire orders the last caller's reads of its reply before our use of the cell, and
        // what it put aside before our look at that.
        let lent = self.0.swap(NONE, Ordering::Acquire);
        let number = lent >> NUMBER_SHIFT;
        match lent & STATE_MASK {
            LENT => Some(Recalled { number, in_use: false }),
            IN_USE => Some(Recalled { number: after(number), in_use: true }),
            _ => None,
        }
    }
}
