//! The place of the next call, lent to callers that are alone: they publish one call after the other in one cell, without
//! the lock of the [`Submitter`](super::Submitter).
//!
//! ```text
//! word   bits  0..2    0 not lent, 1 lent, 2 lent and in use, 3 that, and what is kept is in use, too
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
//! With the place something may be **kept** for its callers: the client keeps the memory of the last far request there. It
//! is the lock holder's to change, but while a call has it, which says so when it begins. That call ends by giving it back
//! with the place, or under the lock; who recalls the place meanwhile is told that it is with the call.
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
const IN_USE_KEPT: u64 = 3;
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
    /// Whether that call has what is kept.
    pub(super) kept: bool,
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

    /// The same for a call that uses what is kept, if `look` finds that it serves. It may look at what is being changed,
    /// and then the call does not begin: nothing but `Some` may follow from what it sees, before this returns.
    #[inline(always)]
    #[must_use]
    pub fn begin_with<T>(&self, look: impl FnOnce() -> Option<T>) -> Option<(Lone, T)> {
        // EDGE lease (other end: `end`): Acquire orders the last caller's reads of its reply, and what was kept before,
        // before our look and our use of the cell. A word says `lent(n)` once only, so the exchange below need not say so.
        let lent = self.0.load(Ordering::Acquire);
        if lent & STATE_MASK != LENT || lent >> NUMBER_SHIFT >= NUMBER_MAX {
            return None;
        }
        let seen = look()?;
        let used = lent - LENT + IN_USE_KEPT;
        // EDGE kept (other end: `recall`): Release orders our look before what is done under the lock to what is kept.
        let began = self.0.compare_exchange(lent, used, Ordering::Release, Ordering::Relaxed);
        began.is_ok().then_some((Lone(used), seen))
    }

    /// Ends a call whose reply was read. False when the place was recalled meanwhile: end it under the lock.
    #[inline(always)]
    #[must_use]
    pub fn end(&self, lone: Lone) -> bool {
        let lent = (lone.0 & !STATE_MASK | LENT) + (1 << NUMBER_SHIFT);
        // EDGE lease (other ends: `begin`, `recall`): Release orders our reads of the reply before the reuse of its cell.
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

    /// Lends the place of a lone call to who drew it, under the lock. `kept`: the call has what is kept.
    #[inline]
    pub(super) fn lend(&self, number: u64, cell: u16, kept: bool) {
        // Relaxed: the drawer goes on by itself, and hands over with `end`.
        let state = if kept { IN_USE_KEPT } else { IN_USE };
        let used = number << NUMBER_SHIFT | u64::from(cell) << CELL_SHIFT | state;
        self.0.store(used, Ordering::Relaxed);
    }

    /// Takes the place back, under the lock. `None` if it was not lent.
    #[inline]
    pub(super) fn recall(&self) -> Option<Recalled> {
        // EDGE lease (other end: `end`): Acquire orders the last caller's reads of its reply before our use of the cell.
        // EDGE kept (other end: `begin_with`): and its look at what is kept before we change that.
        let lent = self.0.swap(NONE, Ordering::Acquire);
        let number = lent >> NUMBER_SHIFT;
        match lent & STATE_MASK {
            LENT => Some(Recalled { number, in_use: false, kept: false }),
            state @ (IN_USE | IN_USE_KEPT) => {
                Some(Recalled { number: after(number), in_use: true, kept: state == IN_USE_KEPT })
            }
            _ => None,
        }
    }
}
