//! What callers decide, and what they learn.

use super::gap::{Gap, SharedGaps, SizeClass};
use super::yielding::{YieldBan, YieldHabit, calls_per_turn};
use super::{LATENCY_SPIN_NS, Policy, WAKE_NS, worth_ns};
use crate::body::Hints;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// How long a caller yields between looks, in nanoseconds, before it sleeps.
pub(super) const YIELD_NS: u64 = 4 * WAKE_NS;

const LONG_PROBE_EVERY: u32 = 16;
/// How long a caller waits for the server to be moved to another CPU: some ticks of the system's clock.
const PART_NS: u64 = 10_000_000;
const PART_FIRST_NS: u64 = 20_000_000;
const PART_MAX_NS: u64 = 2_000_000_000;

/// What a caller does next, after a first microsecond of looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Sleep now.
    Sleep,
    /// Look on for at most this many nanoseconds, then sleep.
    Spin(u64),
    /// Yield between looks for at most this many nanoseconds, then sleep.
    Yield(u64),
    /// Look on for at most this many nanoseconds, so that the system may find the server a CPU of its own; then sleep. How
    /// long it takes says nothing.
    Part(u64),
}

/// What a caller sees around itself.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// The monotonic clock, in nanoseconds.
    pub now_ns: u64,
    /// The CPU that the caller runs on.
    pub cpu: u32,
    /// CPUs that this process may use.
    pub cpus: u32,
    /// Whether yielding is out of the question (real-time scheduling).
    pub never_yield: bool,
    /// Length of the request.
    pub bytes: u64,
}

/// What the callers of one connection have learned. Shared by the threads of one process; all accesses are Relaxed,
/// since these are estimates.
#[derive(Default)]
pub struct CallerPace {
    answer_ns: AtomicU32,
    /// Length of the last reply; 0 for one that lay in its cell.
    reply_bytes: AtomicU32,
    long_calls: AtomicU32,
    hints: AtomicU64,
    gaps: SharedGaps,
    habit: AtomicU32,
    crowded: AtomicU32,
    ban: YieldBan,
    /// When a caller that shares its CPU with the server tries to part from it; 0: it does not share one.
    part_due_ns: AtomicU64,
    /// From that try to the next.
    part_wait_ns: AtomicU64,
}

impl CallerPace {
    /// Whether a caller looks at all before it sleeps. `rang`: it found the server asleep.
    #[inline(always)]
    #[must_use]
    pub fn looks_first(&self, policy: Policy, rang: bool) -> bool {
        match policy {
            Policy::LowestLatency => true,
            Policy::Balanced => !rang,
            Policy::LowestCpu => false,
        }
    }

    /// How long to keep away from the line after sending.
    #[inline(always)]
    #[must_use]
    pub fn gap(&self, class: SizeClass) -> Gap {
        self.gaps.get(class)
    }

    /// Learns how many looks a reply took after the gap; stores only what changed.
    #[inline(always)]
    pub fn found(&self, class: SizeClass, gap: Gap, look: u32) {
        let learned = gap.found(class, look);
        if learned != gap {
            self.gaps.set(class, learned);
        }
    }

    /// Whether to give the CPU away before looking: the server, or other clients, wait for it. `cpu` tells where the caller
    /// runs; it is asked in a crowd only.
    #[inline(always)]
    #[must_use]
    pub fn yields_first(&self, cpu: impl FnOnce() -> u32) -> bool {
        let crowded = self.crowded.load(Ordering::Relaxed);
        if crowded == 0 {
            return u32::from(YieldHabit::FIRST) <= self.habit.load(Ordering::Relaxed);
        }
        // In a crowd a call in so many gives way, even if the server is quick: who never yields among those who do keeps
        // the CPU for a whole time slice.
        self.crowded.store(crowded.wrapping_add(1).max(1), Ordering::Relaxed);
        let hints = self.hints.load(Ordering::Relaxed);
        crowded.is_multiple_of(calls_per_turn((hints & 0xffff) as usize))
            || (hints >> 32) as u32 == cpu().wrapping_add(1)
    }

    fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed) != 0
    }

    /// Learns from a yield; see [`YieldHabit::yielded`] and [`YieldBan::yielded`].
    pub fn yielded(&self, took_ns: u64, now_ns: u64, found: bool) {
        self.gave_way(took_ns, now_ns);
        if self.is_crowded() {
            return; // others' turns say nothing about where the server runs
        }
        let old = YieldHabit { score: self.habit.load(Ordering::Relaxed) as u8 };
        let new = old.yielded(took_ns, found);
        if new != old {
            self.habit.store(new.score.into(), Ordering::Relaxed);
        }
    }

    /// Learns how long a yield took whose outcome says nothing about where the server runs: it had just been woken.
    pub fn gave_way(&self, took_ns: u64, now_ns: u64) {
        let active = (self.hints.load(Ordering::Relaxed) & 0xffff) as usize;
        self.ban.yielded(took_ns, now_ns, active);
    }

    /// Decides how to go on when the first looks found nothing.
    #[must_use]
    pub fn plan(&self, policy: Policy, around: Surroundings) -> Plan {
        match policy {
            Policy::LowestLatency if around.cpus > 1 => return Plan::Spin(LATENCY_SPIN_NS),
            Policy::LowestCpu => return Plan::Sleep,
            _ => {}
        }
        let hints = self.hints.load(Ordering::Relaxed);
        let answer_ns = u64::from(self.answer_ns.load(Ordering::Relaxed));
        let cpu = (hints >> 32) as u32;
        if self.is_crowded()
            || u32::from(YieldHabit::FIRST) <= self.habit.load(Ordering::Relaxed)
            || around.cpus == 1
            || cpu == around.cpu.wrapping_add(1)
        {
            return if around.never_yield
                || self.ban.holds(around.now_ns)
                || answer_ns > YIELD_NS && !self.probes_long()
            {
                Plan::Sleep
            } else if around.cpus > 1 && !self.is_crowded() && self.parts_now(around.now_ns) {
                Plan::Part(PART_NS)
            } else {
                Plan::Yield(YIELD_NS)
            };
        }
        if self.part_due_ns.load(Ordering::Relaxed) != 0 {
            self.part_due_ns.store(0, Ordering::Relaxed);
        }
        let reply_bytes = u64::from(self.reply_bytes.load(Ordering::Relaxed));
        let worth_ns = worth_ns(around.bytes.max(reply_bytes));
        if answer_ns > worth_ns {
            return if self.probes_long() { Plan::Spin(worth_ns) } else { Plan::Sleep };
        }
        // Half a wake-up at the least: less would never find out that answers take that long.
        Plan::Spin((2 * answer_ns).clamp(WAKE_NS / 2, worth_ns))
    }

    /// Whether a caller of long calls looks for once, to see whether they still are long.
    fn probes_long(&self) -> bool {
        let calls = self.long_calls.fetch_add(1, Ordering::Relaxed);
        calls % LONG_PROBE_EVERY == LONG_PROBE_EVERY - 1
    }

    /// Whether it is time to try and part from the server. A pair that yields to each other looks busy to the system's load
    /// balancer, and both look as if they had just run: it leaves them where they are, though other CPUs are idle. Who does
    /// not yield for once leaves the server waiting, and that is what the balancer looks for.
    fn parts_now(&self, now_ns: u64) -> bool {
        let due_ns = self.part_due_ns.load(Ordering::Relaxed);
        if due_ns != 0 && now_ns < due_ns {
            return false;
        }
        let wait_ns = match due_ns {
            0 => PART_FIRST_NS,
            _ => (self.part_wait_ns.load(Ordering::Relaxed) * 2).min(PART_MAX_NS),
        };
        self.part_wait_ns.store(wait_ns, Ordering::Relaxed);
        self.part_due_ns.store(now_ns + wait_ns, Ordering::Relaxed);
        due_ns != 0
    }

    /// Learns how long a reply is; 0 for one that lay in its cell.
    #[inline(always)]
    pub fn replied(&self, bytes: u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.reply_bytes.load(Ordering::Relaxed) != bytes {
            self.reply_bytes.store(bytes, Ordering::Relaxed);
        }
    }

    /// Learns from an answer that came while the caller was looking, or from how long a failed look and a sleep took.
    pub fn answered(&self, took_ns: u64) {
        let old = u64::from(self.answer_ns.load(Ordering::Relaxed));
        let took = took_ns.min(u64::from(u32::MAX) / 2);
        self.answer_ns.store(((old * 3 + took) / 4) as u32, Ordering::Relaxed);
    }

    /// Notes what the server said of itself, and how many CPUs there are; stores only what changed.
    #[inline(always)]
    pub fn note(&self, hints: Hints, cpus: impl FnOnce() -> u32) {
        if self.hints.load(Ordering::Relaxed) != hints.0 {
            self.learn(hints, cpus());
        }
    }

    #[cold]
    fn learn(&self, hints: Hints, cpus: u32) {
        self.hints.store(hints.0, Ordering::Relaxed);
        // One more thread than there are clients: the server's.
        let crowded = u32::from(hints.active()) >= cpus.max(2);
        if crowded != self.is_crowded() {
            self.crowded.store(crowded.into(), Ordering::Relaxed);
        }
    }

    /// Whether yielding is banned now.
    #[must_use]
    pub fn is_yielding_banned(&self, now_ns: u64) -> bool {
        self.ban.holds(now_ns)
    }
}
