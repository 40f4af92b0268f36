//! What a server's worker decides, and what it learns.

use super::{LATENCY_SPIN_NS, Policy, SLOW_WAKE_NS, WAKE_NS, worth_ns};
use crate::body::Think;

/// What a server's worker does when it has nothing to do. Owned by one thread.
#[derive(Debug, Default)]
pub struct WorkerPace {
    dry_in_a_row: u32,
    skip: u32,
    skip_next: u32,
    /// Length of the last request.
    bytes: u64,
    think: Think,
    long: bool,
}

impl WorkerPace {
    /// Whether to sleep without another look: the next request is far, or the client sleeps anyway.
    #[inline]
    #[must_use]
    pub fn sleeps_at_once(&self, policy: Policy) -> bool {
        match policy {
            Policy::LowestLatency => false,
            Policy::LowestCpu => true,
            Policy::Balanced => {
                self.long || self.think.ns_max().is_some_and(|ns| ns > worth_ns(self.bytes))
            }
        }
    }

    /// How long to poll before sleeping, in nanoseconds; 0: sleep now. `shares_cpu`: clients wait for this CPU, or may.
    pub fn budget_ns(&mut self, policy: Policy, shares_cpu: bool) -> u64 {
        match policy {
            Policy::LowestLatency => return LATENCY_SPIN_NS,
            Policy::LowestCpu => return 0,
            Policy::Balanced => {}
        }
        if self.skip > 0 {
            self.skip -= 1;
            return 0;
        }
        if self.sleeps_at_once(policy) {
            return 0;
        }
        // Who says how long it thinks has slept for its last answer, so it may have to wake up first.
        let wakes = self.think.ns_max().is_some() && !shares_cpu;
        if wakes { SLOW_WAKE_NS + worth_ns(self.bytes) } else { WAKE_NS + worth_ns(self.bytes) }
    }

    /// Whether the last calls took long, so that their clients sleep.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.long
    }

    /// Learns how long the first calls after a sleep took; `None`: they did not come after a sleep. Where that is longer
    /// than looking is worth, the clients sleep while they wait, and polling for them would burn as much again.
    #[inline]
    pub fn worked(&mut self, took_ns: Option<u64>) {
        self.long = took_ns.is_some_and(|ns| ns > worth_ns(self.bytes));
    }

    /// Learns that a request came, how long it is, and what its client said of its thinking.
    #[inline]
    pub fn served(&mut self, think: Think, bytes: u64) {
        self.think = think;
        self.bytes = bytes;
    }

    /// Learns that polling within the budget found a request.
    pub fn paid(&mut self) {
        self.dry_in_a_row = 0;
        self.skip_next = 0;
    }

    /// Learns that the budget ran out: two in a row, and polling is skipped for a while that grows.
    pub fn dry(&mut self) {
        self.dry_in_a_row += 1;
        if self.dry_in_a_row >= 2 {
            self.skip_next = (self.skip_next * 2).clamp(8, 1024);
            self.skip = self.skip_next;
        }
    }
}
