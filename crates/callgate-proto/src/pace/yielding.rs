//! When to give the CPU away: turns in a crowd, the habit of it, and bans.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Calls in a row in a crowd of `active` clients, after which a client gives way, and the worker.
///
/// More of them cost fewer switches; fewer of them are fairer to the clients on the worker's CPU, of which each gets one
/// call for a turn of the worker's.
#[must_use]
pub fn calls_per_turn(active: usize) -> u32 {
    (active as u32 * 3 / 2).clamp(4, 80)
}

/// A yield longer than this in nanoseconds met a stranger, where `active` clients take turns: each may have one, and a
/// stranger's time slice is some milliseconds.
#[must_use]
pub fn slow_yield_ns(active: usize) -> u64 {
    (200_000 + 16_000 * active as u64).min(2_000_000)
}

/// A yield shorter than this in nanoseconds met nobody: no other thread wanted the CPU.
pub const YIELD_ALONE_NS: u64 = 600;

/// What a slow yield counts, in quick ones.
const BAN_SLOW: u32 = 32;
/// From this count on yielding is banned.
pub(super) const BAN_SCORE: u32 = 96;
pub(super) const BAN_FIRST_NS: u64 = 10_000_000;
const BAN_MAX_NS: u64 = 500_000_000;

/// Whether the peer is reached by yielding rather than by looking: it waits for this very CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct YieldHabit {
    pub(super) score: u8,
}

impl YieldHabit {
    pub(super) const FIRST: u8 = 4;
    const MAX: u8 = 8;

    /// Whether to yield before looking for long.
    #[inline]
    #[must_use]
    pub fn yields_first(self) -> bool {
        self.score >= Self::FIRST
    }

    /// Learns from a yield: how long it took, and whether it brought what was waited for.
    #[must_use]
    pub fn yielded(self, took_ns: u64, found: bool) -> Self {
        let score = if took_ns <= YIELD_ALONE_NS {
            self.score.saturating_sub(1)
        } else if found {
            (self.score + 2).min(Self::MAX)
        } else {
            self.score
        };
        Self { score }
    }

    /// Learns that looking alone found it.
    #[inline]
    #[must_use]
    pub fn looked(self) -> Self {
        Self { score: self.score.saturating_sub(1) }
    }
}

/// Keeps off yielding for a growing while after yields that were slow. Accesses are Relaxed: these are estimates.
///
/// One slow yield proves nothing: in a crowd a thread may just have begun its time slice. Slow ones in a row, or with few
/// quick ones between, mean that strangers want the CPU.
#[derive(Default)]
pub struct YieldBan {
    until_ns: AtomicU64,
    length_ns: AtomicU64,
    score: AtomicU32,
}

impl YieldBan {
    /// Whether yielding is banned now.
    #[must_use]
    pub fn holds(&self, now_ns: u64) -> bool {
        now_ns < self.until_ns.load(Ordering::Relaxed)
    }

    /// Learns how long a yield took, where `active` clients take turns.
    pub fn yielded(&self, took_ns: u64, now_ns: u64, active: usize) {
        let score = self.score.load(Ordering::Relaxed);
        if took_ns <= slow_yield_ns(active) {
            if score > 0 {
                self.score.store(score - 1, Ordering::Relaxed);
                if score == 1 {
                    self.length_ns.store(0, Ordering::Relaxed);
                }
            }
            return;
        }
        let score = score + BAN_SLOW;
        if score < BAN_SCORE {
            self.score.store(score, Ordering::Relaxed);
            return;
        }
        // The next slow yield after the ban bans again.
        self.score.store(BAN_SCORE - 1, Ordering::Relaxed);
        let length = self.length_ns.load(Ordering::Relaxed);
        let length = (length * 2).clamp(BAN_FIRST_NS, BAN_MAX_NS);
        self.length_ns.store(length, Ordering::Relaxed);
        self.until_ns.store(now_ns + length, Ordering::Relaxed);
    }
}
