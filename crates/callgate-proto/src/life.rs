//! How callers that sleep learn that their connection has ended.
//!
//! A caller sleeps on its cell's state word, which a dead server no longer changes. So whoever learns of the death wakes
//! that word; and because a wake-up between the caller's last look and its sleep would be lost, it goes on waking until
//! nobody is left asleep. This works on every kernel, needs no second futex in the wait, and a peer has no part in it:
//! these words are private to the client's process.

use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Whether a connection lives, and how many threads may be asleep on it. Private memory.
#[derive(Default)]
pub struct Life {
    ended: AtomicU32,
    sleepers: AtomicU32,
}

impl Life {
    /// Whether the end was declared. It is sticky.
    #[inline]
    #[must_use]
    pub fn has_ended(&self) -> bool {
        // EDGE ended (other end: `end`): Acquire, so that the reason written before it is seen.
        self.ended.load(Ordering::Acquire) != 0
    }

    /// Declares the end. Then wake the sleepers' words, again and again, while [`Life::has_sleepers`].
    pub fn end(&self) {
        // EDGE ended (other end: `has_ended`).
        self.ended.store(1, Ordering::Release);
        // EDGE last-look (other end: `may_sleep`). We declare the end, then look for sleepers; a sleeper announces
        // itself, then looks for the end. With a fence between each pair at least one sees the other.
        fence(Ordering::SeqCst);
    }

    /// Whether a thread may be asleep, or about to be.
    #[must_use]
    pub fn has_sleepers(&self) -> bool {
        // Relaxed: the fence of `end` stands before it; later rounds only poll for zero.
        self.sleepers.load(Ordering::Relaxed) != 0
    }

    /// Announces a sleeper. False when the connection has ended: do not sleep. Pair with [`Life::awake`] either way.
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        // EDGE last-look (other end: `end`).
        fence(Ordering::SeqCst);
        self.ended.load(Ordering::Relaxed) == 0
    }

    /// Takes the announcement back.
    pub fn awake(&self) {
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a lane keeps, for those who end connections: a number that stands for a connection, or 0. Private memory.
#[derive(Default)]
pub struct Kept(AtomicU64);

impl Kept {
    /// Says what is kept from now on. Look for the end of it afterwards, before leaving it there.
    pub fn say(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
        // EDGE lane (other end: `may_be`). We say what we keep, then look whether it has ended; who ends it declares that,
        // then looks whether it is kept. With a fence between each pair at least one sees the other.
        fence(Ordering::SeqCst);
    }

    /// Whether that may be kept whose end was declared before.
    #[must_use]
    pub fn may_be(&self, number: u64) -> bool {
        // EDGE lane (other end: `say`).
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) == number
    }
}
