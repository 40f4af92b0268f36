//! How the threads of a client sleep where its server can wake one of them only: it does not know who they are.
//!
//! What a server rings on such a system (Windows) is an event, which lets one waiter go. One thread, the *leader*, waits for
//! it; the others, its *followers*, sleep on a word of their own process. Whenever the leader wakes, for whatever reason, it
//! makes way and wakes all the others: each looks at its own cell, and one of them becomes the leader. A caller that is
//! alone is the leader always.
//!
//! The sleeping itself is the system's: see [`Bed`].

use crate::sync::{AtomicU32, Ordering, fence};

/// What the threads of one connection sleep on. Private memory.
#[derive(Debug, Default)]
pub struct Sleepers {
    /// Whether there is a leader: 0 or 1.
    led: AtomicU32,
    /// Counts the leaders that have woken; wraps. Followers sleep on it.
    round: AtomicU32,
    /// Those who sleep on `round`, or are about to, or look whether they may lead.
    followers: AtomicU32,
}

/// How one thread sleeps.
pub trait Bed {
    /// Why a sleep ended.
    type Woken;

    /// Sleeps until the peer has rung, or has rung since somebody was woken last; or until this thread's time is over.
    fn wait_for_ring(&self) -> Self::Woken;

    /// Sleeps until the word is woken, as long as it holds `seen`; or until this thread's time is over. Comparing and going
    /// to sleep is one step for whoever wakes.
    fn wait_for_round(&self, round: &AtomicU32, seen: u32) -> Self::Woken;

    /// Wakes all who sleep on the word.
    fn wake(&self, round: &AtomicU32);
}

impl Sleepers {
    /// Makes one that nobody sleeps on.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        let [led, round, followers] = [const { AtomicU32::new(0) }; 3];
        Self { led, round, followers }
    }

    /// Sleeps once, unless `word` holds something else than `expected`: then there is no sleep, and `None`. May wake for
    /// nothing.
    pub fn wait<B: Bed>(&self, word: &AtomicU32, expected: u32, bed: &B) -> Option<B::Woken> {
        // Relaxed: what makes a change visible is the edges below; who wakes looks at its cell with the cell's own.
        let is_over = || word.load(Ordering::Relaxed) != expected;
        self.followers.fetch_add(1, Ordering::Relaxed);
        // EDGE followers (other end: `next_round`). We say that we are about to sleep, then look whether there is a leader;
        // a leader makes way, then looks for followers. With a fence between each pair at least one sees the other: we
        // lead ourselves, or are woken.
        fence(Ordering::SeqCst);
        // EDGE round (other end: `next_round`): who sees a leader's count sees the replies that it was rung for.
        let round = self.round.load(Ordering::Acquire);
        let woken = if is_over() {
            None
        // EDGE lead (other end: below): the next leader sees the replies that the last one was rung for.
        } else if self.led.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            self.followers.fetch_sub(1, Ordering::Relaxed);
            // Once more: what the last leader was rung for may have come between.
            let woken = if is_over() { None } else { Some(bed.wait_for_ring()) };
            // EDGE lead (other end: above).
            self.led.store(0, Ordering::Release);
            self.next_round(bed);
            return woken;
        } else {
            Some(bed.wait_for_round(&self.round, round))
        };
        self.followers.fetch_sub(1, Ordering::Relaxed);
        woken
    }

    /// Wakes all followers. Ring the peer's event, too, to wake the leader.
    pub fn next_round(&self, bed: &impl Bed) {
        // EDGE round (other end: `wait`).
        self.round.fetch_add(1, Ordering::Release);
        // EDGE followers (other end: `wait`).
        fence(Ordering::SeqCst);
        if self.followers.load(Ordering::Relaxed) > 0 {
            bed.wake(&self.round);
        }
    }
}
