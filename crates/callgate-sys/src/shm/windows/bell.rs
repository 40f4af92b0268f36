//! How the threads of a client sleep until their server wakes them.
//!
//! `WaitOnAddress` knows no other process, so what a server rings is an event, one for each connection, which lets one
//! waiter go. Who waits for it, and on what the others sleep, is `callgate_proto::sleepers`'; this file is their beds.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use callgate_proto::sleepers::{Bed, Sleepers};

use crate::futex::{self, Waited};
use crate::win::{Event, has_passed};

/// The sleepers of one connection.
#[derive(Debug)]
pub(super) struct Bell {
    event: Arc<Event>,
    sleepers: Sleepers,
}

impl Bell {
    pub(super) fn new(event: Arc<Event>) -> Bell {
        Bell { event, sleepers: Sleepers::new() }
    }

    /// Rings: one sleeper wakes, now or as soon as there is one, and wakes the others.
    pub(super) fn ring(&self) {
        self.event.set();
    }

    /// Wakes all sleepers of this process.
    pub(super) fn ring_all(&self) {
        self.event.set();
        self.sleepers.next_round(&Sleep { event: &self.event, deadline_ns: 0 });
    }

    /// Sleeps until rung, as long as `word` holds `expected`. May wake for nothing.
    pub(super) fn wait(&self, word: &AtomicU32, expected: u32, deadline_ns: u64) -> Waited {
        let bed = Sleep { event: &self.event, deadline_ns };
        self.sleepers.wait(word, expected, &bed).unwrap_or(Waited::Changed)
    }
}

/// One thread's sleep.
struct Sleep<'a> {
    event: &'a Event,
    deadline_ns: u64,
}

impl Bed for Sleep<'_> {
    type Woken = Waited;

    fn wait_for_ring(&self) -> Waited {
        let deadline_ns = Some(self.deadline_ns);
        match !self.event.wait(deadline_ns) && has_passed(deadline_ns) {
            true => Waited::TimedOut,
            false => Waited::Woken,
        }
    }

    fn wait_for_round(&self, round: &AtomicU32, seen: u32) -> Waited {
        futex::wait_private(round, seen, Some(self.deadline_ns))
    }

    fn wake(&self, round: &AtomicU32) {
        futex::wake_private(round, u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::deadline_ns;
    use std::sync::atomic::Ordering;
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
