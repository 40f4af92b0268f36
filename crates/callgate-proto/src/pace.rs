//! The decisions of waiting: whether to spin, to yield or to sleep. Decisions only; the loops are elsewhere.
//!
//! Who spins while the peer must first be woken holds the CPU on which the peer could run, and pays a wake-up of a
//! halted one instead. So nobody spins blindly:
//!
//! * A caller that had to ring found the server asleep: it sleeps at once (COLD).
//! * A caller that found the server polling keeps away from the line for a moment ([`Gap`]), then spins: for twice as
//!   long as answers have been taking, at least half of a wake-up and never longer than one (HOT). Where answers take
//!   longer than that it sleeps (LONG), and tries again now and then.
//! * Where the active clients and the worker are more than the CPUs, or the server was last seen on the caller's own
//!   CPU, it yields instead of spinning (CROWD), and in a crowd gives way once in a turn even if answers come at
//!   once. Yields that brought the answer make a habit of it ([`YieldHabit`]). Several yields that took long mean
//!   that strangers want the CPU: then yielding is banned for a while that grows each time ([`YieldBan`]).
//! * The server polls after an answer while that pays: told by its clients how long they think between calls, and
//!   taught by polls that found nothing, and by calls that took long.

use crate::body::{ReplyHead, Think};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// What the user wants of waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Spin long before sleeping. For pairs that have CPUs to themselves.
    LowestLatency,
    /// Learn when spinning pays.
    #[default]
    Balanced,
    /// Sleep whenever there is nothing to do.
    LowestCpu,
}

/// What a wake-up of a sleeping peer costs, in nanoseconds; spinning longer than this to avoid one is a loss.
pub const WAKE_NS: u64 = 50_000;

/// Beyond so many bytes a wake-up is nothing beside the message.
const WORTH_BYTES_MAX: u64 = 32 << 20;

/// How long a caller yields between looks, in nanoseconds, before it sleeps.
const YIELD_NS: u64 = 4 * WAKE_NS;

/// How long it is worth to look for a peer that handles a message of so many bytes, in nanoseconds, rather than to sleep: a
/// wake-up, and the time that the message itself takes to be written and read, at some 8 bytes in a nanosecond. Both sides
/// use their CPUs for that anyway.
#[inline]
#[must_use]
pub fn worth_ns(bytes: u64) -> u64 {
    WAKE_NS + bytes.min(WORTH_BYTES_MAX) / 8
}

/// How long [`Policy::LowestLatency`] spins, in nanoseconds.
pub const LATENCY_SPIN_NS: u64 = 2_000_000;

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
const BAN_SCORE: u32 = 96;
const BAN_FIRST_NS: u64 = 10_000_000;
const BAN_MAX_NS: u64 = 500_000_000;
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

/// What the callers of one connection have learned. Shared by the threads of one process; all accesses are Relaxed,
/// since these are estimates.
#[derive(Default)]
pub struct CallerPace {
    answer_ns: AtomicU32,
    /// Length of the last reply; 0 for one that lay in its cell.
    reply_bytes: AtomicU32,
    long_calls: AtomicU32,
    hints: AtomicU64,
    gap: AtomicU32,
    habit: AtomicU32,
    crowded: AtomicU32,
    ban: YieldBan,
    /// When a caller that shares its CPU with the server tries to part from it; 0: it does not share one.
    part_due_ns: AtomicU64,
    /// From that try to the next.
    part_wait_ns: AtomicU64,
}

/// Whether the peer is reached by yielding rather than by looking: it waits for this very CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct YieldHabit {
    score: u8,
}

impl YieldHabit {
    const FIRST: u8 = 4;
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

impl CallerPace {
    /// Whether a caller looks at all before it sleeps. `rang`: it found the server asleep.
    #[inline]
    #[must_use]
    pub fn looks_first(&self, policy: Policy, rang: bool) -> bool {
        match policy {
            Policy::LowestLatency => true,
            Policy::Balanced => !rang,
            Policy::LowestCpu => false,
        }
    }

    /// How long to keep away from the line after sending.
    #[inline]
    #[must_use]
    pub fn gap(&self) -> Gap {
        Gap { quarters: self.gap.load(Ordering::Relaxed) as u16 }
    }

    /// Learns how many looks a reply took after the gap; stores only what changed.
    #[inline]
    pub fn found(&self, gap: Gap, look: u32) {
        let learned = gap.found(look);
        if learned != gap {
            self.gap.store(learned.quarters.into(), Ordering::Relaxed);
        }
    }

    /// Whether to give the CPU away before looking: the server, or other clients, wait for it. `cpu` tells where the caller
    /// runs; it is asked in a crowd only.
    #[inline]
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
        self.part_due_ns.store(0, Ordering::Relaxed);
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
    #[inline]
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
    #[inline]
    pub fn note(&self, head: &ReplyHead, cpus: u32) {
        let hints = u64::from(head.active) | (head.cpu.map_or(0, |cpu| u64::from(cpu) + 1) << 32);
        if self.hints.load(Ordering::Relaxed) != hints {
            self.hints.store(hints, Ordering::Relaxed);
            // One more thread than there are clients: the server's.
            let crowded = u32::from(head.active) >= cpus.max(2);
            if crowded != self.is_crowded() {
                self.crowded.store(crowded.into(), Ordering::Relaxed);
            }
        }
    }

    /// Whether yielding is banned now.
    #[must_use]
    pub fn is_yielding_banned(&self, now_ns: u64) -> bool {
        self.ban.holds(now_ns)
    }
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

/// How long to keep away from a line after writing it: for about as long as the peer takes to answer.
///
/// A look that comes while the peer is about to write takes the line from it, and the peer has to fetch it back. So the
/// first look is put off, by a time that is learned: a little shorter when that look finds the answer (it may have been
/// there for long), longer when it comes too early. It settles where three first looks in four find the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// In quarters of a nanosecond.
    quarters: u16,
}

impl Gap {
    const MAX: u16 = 400 * 4;
    const SHORTER: u16 = 2;
    const LONGER: u16 = 3 * Self::SHORTER;

    /// Nanoseconds before the first look.
    #[inline]
    #[must_use]
    pub fn ns(self) -> u32 {
        u32::from(self.quarters / 4)
    }

    /// Learns that the answer was found at this look, counted from 0.
    #[inline]
    #[must_use]
    pub fn found(self, look: u32) -> Self {
        let quarters = match look {
            0 => self.quarters.saturating_sub(Self::SHORTER),
            _ => (self.quarters + Self::LONGER).min(Self::MAX),
        };
        Self { quarters }
    }
}

impl Default for Gap {
    fn default() -> Self {
        Self { quarters: 50 * 4 }
    }
}

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

    /// How long to poll before sleeping, in nanoseconds; 0: sleep now.
    pub fn budget_ns(&mut self, policy: Policy) -> u64 {
        match policy {
            Policy::LowestLatency => return LATENCY_SPIN_NS,
            Policy::LowestCpu => return 0,
            Policy::Balanced => {}
        }
        if self.skip > 0 {
            self.skip -= 1;
            return 0;
        }
        if self.sleeps_at_once(policy) { 0 } else { WAKE_NS + worth_ns(self.bytes) }
    }

    /// Whether the last calls took long, so that their clients sleep.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.long
    }

    /// Learns how long the first calls after a sleep took; `None`: they did not come after a sleep. Where that is longer
    /// than a wake-up, the clients sleep while they wait, and polling for them would burn as much again.
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const AROUND: Surroundings =
        Surroundings { now_ns: 1_000_000, cpu: 0, cpus: 2, never_yield: false, bytes: 0 };

    const SLOW: u64 = 3_000_000;

    fn seen(active: u16, cpu: u32) -> CallerPace {
        let pace = CallerPace::default();
        pace.note(&ReplyHead { failure: false, active, cpu: Some(cpu) }, AROUND.cpus);
        pace
    }

    #[test]
    fn who_rang_sleeps_at_once() {
        let pace = CallerPace::default();
        assert!(!pace.looks_first(Policy::Balanced, true));
        assert!(pace.looks_first(Policy::Balanced, false));
        assert!(pace.looks_first(Policy::LowestLatency, true));
        assert!(!pace.looks_first(Policy::LowestCpu, false));
    }

    #[test]
    fn quick_answers_are_spun_for_and_slow_ones_slept_for() {
        let pace = seen(1, 1);
        pace.answered(2_000);
        assert_eq!(pace.plan(Policy::Balanced, AROUND), Plan::Spin(WAKE_NS / 2));
        for _ in 0..50 {
            pace.answered(1_000_000);
        }
        let plans: Vec<_> = (0..32).map(|_| pace.plan(Policy::Balanced, AROUND)).collect();
        assert_eq!(plans.iter().filter(|plan| **plan == Plan::Sleep).count(), 30, "two probes");
        for _ in 0..50 {
            pace.answered(1_000);
        }
        assert!(matches!(pace.plan(Policy::Balanced, AROUND), Plan::Spin(_)));
    }

    #[test]
    fn crowds_and_shared_cpus_yield() {
        assert!(matches!(seen(5, 1).plan(Policy::Balanced, AROUND), Plan::Yield(_)));
        assert!(matches!(seen(1, 0).plan(Policy::Balanced, AROUND), Plan::Yield(_)));
        let realtime = Surroundings { never_yield: true, ..AROUND };
        assert_eq!(seen(5, 1).plan(Policy::Balanced, realtime), Plan::Sleep);
    }

    #[test]
    fn slow_yields_are_banned_for_a_growing_while() {
        let pace = seen(5, 1);
        for _ in 0..2 {
            pace.yielded(SLOW, AROUND.now_ns, false);
            assert!(matches!(pace.plan(Policy::Balanced, AROUND), Plan::Yield(_)), "not yet");
        }
        pace.yielded(SLOW, AROUND.now_ns, false);
        assert_eq!(pace.plan(Policy::Balanced, AROUND), Plan::Sleep);
        let later = Surroundings { now_ns: AROUND.now_ns + BAN_FIRST_NS, ..AROUND };
        assert!(matches!(pace.plan(Policy::Balanced, later), Plan::Yield(_)));
        pace.yielded(SLOW, later.now_ns, false);
        let again = Surroundings { now_ns: later.now_ns + BAN_FIRST_NS, ..AROUND };
        assert_eq!(pace.plan(Policy::Balanced, again), Plan::Sleep, "the second ban is longer");
        let over = Surroundings { now_ns: later.now_ns + 2 * BAN_FIRST_NS, ..AROUND };
        for _ in 0..BAN_SCORE {
            pace.yielded(1_000, over.now_ns, false);
        }
        pace.yielded(SLOW, over.now_ns, false);
        assert!(matches!(pace.plan(Policy::Balanced, over), Plan::Yield(_)), "all is forgotten");
    }

    #[test]
    fn a_shared_cpu_is_yielded_at_once_and_a_free_one_is_not() {
        let pace = seen(1, 0);
        assert!(!pace.yields_first(|| 0), "not before it was tried");
        for _ in 0..2 {
            pace.yielded(1_500, 0, true);
        }
        assert!(pace.yields_first(|| 0));
        for _ in 0..4 {
            pace.yielded(250, 0, false);
        }
        assert!(!pace.yields_first(|| 0), "nobody else wants this CPU");
        let crowd = seen(5, 1);
        let ways = (0..10 * calls_per_turn(5)).filter(|_| crowd.yields_first(|| 3)).count();
        assert_eq!(ways, 10, "each in its turn");
        assert!(!seen(1, 1).yields_first(|| 0), "a CPU for each");
    }

    #[test]
    fn who_shares_the_servers_cpu_sleeps_for_long_answers() {
        let pace = seen(1, 0);
        assert_eq!(pace.plan(Policy::Balanced, AROUND), Plan::Yield(YIELD_NS));
        (0..8).for_each(|_| pace.answered(3_000_000));
        let plans: Vec<Plan> = (0..32).map(|_| pace.plan(Policy::Balanced, AROUND)).collect();
        assert_eq!(plans.iter().filter(|plan| **plan != Plan::Sleep).count(), 2, "{plans:?}");
    }

    #[test]
    fn large_messages_are_worth_a_longer_look() {
        let pace = seen(1, 1);
        (0..8).for_each(|_| pace.answered(100_000));
        assert_eq!(pace.plan(Policy::Balanced, AROUND), Plan::Sleep);
        let large = Surroundings { bytes: 1 << 20, ..AROUND };
        assert!(matches!(pace.plan(Policy::Balanced, large), Plan::Spin(ns) if ns > 150_000));
        // A large reply is remembered until the next one.
        pace.replied(1 << 20);
        assert!(matches!(pace.plan(Policy::Balanced, AROUND), Plan::Spin(_)));
        pace.replied(0);
        assert_eq!(pace.plan(Policy::Balanced, AROUND), Plan::Sleep);
        assert!(worth_ns(u64::MAX) < 5_000_000, "whatever a peer says");
    }

    #[test]
    fn a_pair_on_one_cpu_tries_to_part_ever_more_rarely() {
        let pace = seen(1, 0);
        let mut tries = Vec::new();
        for ms in 0..1_000 {
            let around = Surroundings { now_ns: 1_000_000 * (1 + ms), ..AROUND };
            match pace.plan(Policy::Balanced, around) {
                Plan::Part(_) => tries.push(ms),
                plan => assert_eq!(plan, Plan::Yield(YIELD_NS)),
            }
        }
        assert_eq!(tries, [20, 60, 140, 300, 620]);
        // With one CPU there is nowhere to go.
        let alone = Surroundings { now_ns: 10_000_000_000, cpus: 1, ..AROUND };
        assert_eq!(pace.plan(Policy::Balanced, alone), Plan::Yield(YIELD_NS));
    }

    #[test]
    fn a_worker_with_long_calls_sleeps_as_its_clients_do() {
        let mut pace = WorkerPace::default();
        assert!(!pace.sleeps_at_once(Policy::Balanced));
        pace.worked(Some(100_000));
        assert!(pace.sleeps_at_once(Policy::Balanced) && pace.budget_ns(Policy::Balanced) == 0);
        assert!(!pace.sleeps_at_once(Policy::LowestLatency));
        pace.worked(Some(3_000));
        assert!(!pace.sleeps_at_once(Policy::Balanced));
    }

    #[test]
    fn a_gap_settles_where_the_answer_comes() {
        // The answer comes 105 ns after the line was written, and the looks are 25 ns apart.
        let mut gap = Gap::default();
        for _ in 0..1_000 {
            gap = gap.found(105u32.saturating_sub(gap.ns()).div_ceil(25));
        }
        assert!((103..=107).contains(&gap.ns()), "{gap:?}");
        for _ in 0..1_000 {
            gap = gap.found(0);
        }
        assert_eq!(gap.ns(), 0);
        for _ in 0..1_000 {
            gap = gap.found(9);
        }
        assert_eq!(gap.ns(), 400);
    }

    #[test]
    fn a_worker_stops_polling_when_it_does_not_pay() {
        let mut pace = WorkerPace::default();
        assert!(pace.budget_ns(Policy::Balanced) > 0);
        pace.dry();
        assert!(pace.budget_ns(Policy::Balanced) > 0, "one dry poll is no pattern");
        pace.dry();
        let skipped = (0..100).take_while(|_| pace.budget_ns(Policy::Balanced) == 0).count();
        assert_eq!(skipped, 8);
        pace.dry();
        let skipped = (0..100).take_while(|_| pace.budget_ns(Policy::Balanced) == 0).count();
        assert_eq!(skipped, 16);
        pace.paid();
        pace.dry();
        assert!(pace.budget_ns(Policy::Balanced) > 0);
    }

    #[test]
    fn a_worker_does_not_poll_for_a_client_that_thinks_long() {
        let mut pace = WorkerPace::default();
        pace.served(Think::from_ns(1_000_000), 0);
        assert_eq!(pace.budget_ns(Policy::Balanced), 0);
        assert!(pace.budget_ns(Policy::LowestLatency) > 0);
        pace.served(Think::from_ns(1_000), 0);
        assert!(pace.budget_ns(Policy::Balanced) > 0);
        assert_eq!(pace.budget_ns(Policy::LowestCpu), 0);
    }
}
