//! How the threads of a client sleep until their server wakes them.
//!
//! `WaitOnAddress` knows no other process, so what a server rings is an event, one for each connection, which lets one
//! waiter go. That one, the *leader*, sleeps in the kernel; the others sleep on a word of their own process. Whenever the
//! leader wakes, for whatever reason, it makes way and wakes all the others: each looks at its own cell, and one of them
//! becomes the leader. A caller that is alone is the leader always.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::futex::{self, Waited};
use crate::win::{Event, has_passed};

/// The sleepers of one connection.
#[derive(Debug)]
pub(super) struct Bell {
    event: Arc<Event>,
    /// Whether there is a leader.
    led: AtomicU32,
    /// Counts the leaders that have woken.
    round: AtomicU32,
    /// Those who sleep on `round`, or are about to.
    followers: AtomicU32,
}

impl Bell {
    pub(super) fn new(event: Arc<Event>) -> Bell {
        let [led, round, followers] = [const { AtomicU32::new(0) }; 3];
        Bell { event, led, round, followers }
    }

    /// Rings: the leader wakes, now or as soon as there is one.
    pub(super) fn ring(&self) {
        self.event.set();
    }

    /// Wakes all sleepers of this process.
    pub(super) fn ring_all(&self) {
        self.event.set();
        self.next_round();
    }

    /// Sleeps until rung, as long as `word` holds `expected`. May wake for nothing.
    pub(super) fn wait(&self, word: &AtomicU32, expected: u32, deadline_ns: u64) -> Waited {
        // EDGE followers (other end: `next_round`). We say that we are about to sleep, then look whether there is a leader;
        // a leader makes way, then looks for followers. All four SeqCst, so not both miss the other: then we lead
        // ourselves, or are woken.
        self.followers.fetch_add(1, Ordering::SeqCst);
        // EDGE round (other end: `next_round`): who sees a leader's count sees the replies that it was rung for.
        let round = self.round.load(Ordering::Acquire);
        let waited = if word.load(Ordering::Acquire) != expected {
            Waited::Changed
        } else if self.led.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.followers.fetch_sub(1, Ordering::SeqCst);
            return self.lead(word, expected, deadline_ns);
        } else {
            futex::wait_private(&self.round, round, Some(deadline_ns))
        };
        self.followers.fetch_sub(1, Ordering::SeqCst);
        waited
    }

    fn lead(&self, word: &AtomicU32, expected: u32, deadline_ns: u64) -> Waited {
        // Once more: what the last leader was rung for may have come between.
        let waited = if word.load(Ordering::Acquire) != expected {
            Waited::Changed
        } else if !self.event.wait(Some(deadline_ns)) && has_passed(Some(deadline_ns)) {
            Waited::TimedOut
        } else {
            Waited::Woken
        };
        // EDGE followers (other end: `wait`).
        self.led.store(0, Ordering::SeqCst);
        self.next_round();
        waited
    }

    fn next_round(&self) {
        // EDGE round (other end: `wait`).
        self.round.fetch_add(1, Ordering::SeqCst);
        // EDGE followers (other end: `wait`).
        if self.followers.load(Ordering::SeqCst) > 0 {
            futex::wake_private(&self.round, u32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::deadline_ns;
    use std::time::Duration;

    #[test]
    fn each_of_many_sleepers_hears_its_own_ring() {
        const SLEEPERS: usize = 6;
        const ROUNDS: u32 = 300;
        let bell = Bell::new(Arc::new(Event::auto_for_peers().unwrap()));
        let words = [const { AtomicU32::new(0) }; SLEEPERS];
        std::thread::scope(|scope| {
            for word in &words {
                let bell = &bell;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let end = deadline_ns(Duration::from_secs(60));
                        while word.load(Ordering::Acquire) == 2 * round {
                            assert_ne!(bell.wait(word, 2 * round, end), Waited::TimedOut);
                        }
                        word.store(2 * round + 2, Ordering::Release);
                    }
                });
            }
            for round in 0..ROUNDS {
                for word in &words {
                    while word.load(Ordering::Acquire) != 2 * round {
                        std::thread::yield_now();
                    }
                    word.store(2 * round + 1, Ordering::Release);
                    bell.ring();
                }
            }
        });
    }

    #[test]
    fn a_deadline_ends_a_sleep_and_a_change_keeps_it_from_beginning() {
        let bell = Bell::new(Arc::new(Event::auto_for_peers().unwrap()));
        let word = AtomicU32::new(1);
        assert_eq!(bell.wait(&word, 0, u64::MAX), Waited::Changed);
        let end = deadline_ns(Duration::from_millis(3));
        assert_eq!(bell.wait(&word, 1, end), Waited::TimedOut);
        assert!(crate::clock::now_ns() >= end);
        bell.ring();
        assert_eq!(bell.wait(&word, 1, u64::MAX), Waited::Woken);
    }
}
