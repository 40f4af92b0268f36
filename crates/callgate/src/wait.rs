//! Where callers wait for replies. (Where workers wait for requests is `server::worker`.)
//!
//! The decisions are `callgate_proto::pace`'s; this file carries them out. No clock is read in the first microsecond.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use callgate_proto::Violation;
use callgate_proto::cell::Turn;
use callgate_proto::layout::Cell;
use callgate_proto::life::Life;
use callgate_proto::pace::{CallerPace, Plan, Policy, SizeClass, Surroundings, WAKE_NS, worth_ns};
use callgate_sys::futex::Waited;
use callgate_sys::{clock, process};

use crate::region::ControlView;

/// Looks in the first phase: a little more than a microsecond, so that a handler of one is found without a clock.
const FIRST_LOOKS: u32 = 44;
/// Looks between two readings of the clock.
const LOOKS_PER_CLOCK: u32 = 32;
/// Longest sleep without a look around, in nanoseconds. A hostile server could move our sleep to another word
/// (FUTEX_REQUEUE) and die: then nobody can wake us, and we find out after this long. It doubles each time that nothing
/// was wrong.
const SLICE_FIRST_NS: u64 = 1_000_000_000;
const SLICE_MAX_NS: u64 = 30_000_000_000;

/// Sleepers that an honest connection has on one word: a caller, and the worker that waits there for the next call. A peer
/// that parks more of its own there loses its wakes, and does not make us wake them all.
pub(crate) const SLEEPERS_MAX: u32 = 2;

/// What a wait needs to know.
pub(crate) struct Wait<'a> {
    pub(crate) control: &'a ControlView,
    pub(crate) cell: &'a Cell,
    pub(crate) turn: Turn,
    pub(crate) life: &'a Life,
    pub(crate) pace: &'a CallerPace,
    pub(crate) policy: Policy,
    pub(crate) rang: bool,
    /// Length of the request.
    pub(crate) bytes: u64,
    pub(crate) deadline_ns: Option<u64>,
    /// Asks the kernel whether the server lives, and ends the connection if not. For once in a long while.
    pub(crate) look_around: &'a dyn Fn(),
}

/// How a wait ended.
pub(crate) enum Ended {
    /// The reply is there, to be read; and whether the caller slept for it.
    Reply { slept: bool },
    /// The deadline passed.
    TimedOut,
    /// The connection ended, and no reply is there.
    Gone,
}

/// Looks for the reply for about a microsecond, unless there is a reason not to; no clock is read. What follows is
/// [`Wait::run`].
#[inline(always)]
pub(crate) fn first_looks(
    cell: &Cell,
    turn: Turn,
    pace: &CallerPace,
    policy: Policy,
    rang: bool,
    class: SizeClass,
) -> Result<bool, Violation> {
    if !pace.looks_first(policy, rang) || pace.yields_first(process::current_cpu) {
        return Ok(false);
    }
    let gap = pace.gap(class);
    process::pause_ns(gap.ns());
    for look in 0..FIRST_LOOKS {
        if cell.has_reply(turn)? {
            pace.found(class, gap, look);
            return Ok(true);
        }
        process::pause_between_looks();
    }
    Ok(false)
}

impl Wait<'_> {
    /// Blocks until there is a reply, the deadline has passed, or the connection has ended. Where [`first_looks`] found
    /// nothing.
    pub(crate) fn run(&self) -> Result<Ended, Violation> {
        // Who rang sleeps, or the woken server would have to go to another CPU; unless the message alone takes it longer
        // than a wake-up.
        let is_large = worth_ns(self.bytes) > 2 * WAKE_NS && self.policy == Policy::Balanced;
        let looks = self.pace.looks_first(self.policy, self.rang) || is_large;
        if !looks {
            if self.rang && self.give_way()? {
                return Ok(Ended::Reply { slept: true });
            }
            return self.sleep();
        }
        let began_ns = clock::now_ns();
        let plan = self.pace.plan(self.policy, surroundings(began_ns, self.bytes));
        if self.look(plan, began_ns)? {
            if matches!(plan, Plan::Spin(_)) {
                self.pace.answered(clock::now_ns() - began_ns);
            }
            return Ok(Ended::Reply { slept: false });
        }
        let ended = self.sleep()?;
        if matches!(ended, Ended::Reply { .. }) && !matches!(plan, Plan::Part(_)) {
            // Some of it was the wake-up.
            self.pace.answered((clock::now_ns() - began_ns) / 4 * 3);
        }
        Ok(ended)
    }

    /// Yields once to the server that was just woken; whether the reply is there then.
    ///
    /// Where the kernel wakes it on this very CPU it runs at once, and who is not asleep need not be woken: that saves the
    /// more expensive half of a sleep on both sides. Where it wakes on another CPU nothing is lost but the yield.
    fn give_way(&self) -> Result<bool, Violation> {
        // It may have run in our place already.
        if self.cell.has_reply(self.turn)? {
            return Ok(true);
        }
        let before_ns = clock::now_ns();
        if is_realtime() || self.pace.is_yielding_banned(before_ns) {
            return Ok(false);
        }
        process::yield_now();
        let now_ns = clock::now_ns();
        self.pace.gave_way(now_ns - before_ns, now_ns);
        self.cell.has_reply(self.turn)
    }

    fn look(&self, plan: Plan, began_ns: u64) -> Result<bool, Violation> {
        let (limit_ns, yields) = match plan {
            Plan::Sleep => return Ok(false),
            Plan::Spin(ns) | Plan::Part(ns) => (ns, false),
            Plan::Yield(ns) => (ns, true),
        };
        let limit_ns = began_ns.saturating_add(limit_ns).min(self.deadline_ns.unwrap_or(u64::MAX));
        let mut now_ns = began_ns;
        while now_ns < limit_ns && !self.life.has_ended() {
            if yields {
                process::yield_now();
                let before_ns = std::mem::replace(&mut now_ns, clock::now_ns());
                let found = self.cell.has_reply(self.turn)?;
                self.pace.yielded(now_ns - before_ns, now_ns, found);
                if found {
                    return Ok(true);
                }
                if self.pace.is_yielding_banned(now_ns) {
                    break;
                }
                process::pause_between_looks();
            } else {
                for _ in 0..LOOKS_PER_CLOCK {
                    if self.cell.has_reply(self.turn)? {
                        return Ok(true);
                    }
                    process::pause_between_looks();
                }
                now_ns = clock::now_ns();
            }
        }
        Ok(false)
    }

    fn sleep(&self) -> Result<Ended, Violation> {
        let mut slice_ns = SLICE_FIRST_NS;
        loop {
            if self.cell.has_reply(self.turn)? {
                return Ok(Ended::Reply { slept: true });
            }
            let now_ns = clock::now_ns();
            if self.deadline_ns.is_some_and(|deadline| now_ns >= deadline) {
                return Ok(Ended::TimedOut);
            }
            let until_ns = now_ns.saturating_add(slice_ns);
            let until_ns = self.deadline_ns.map_or(until_ns, |deadline| deadline.min(until_ns));
            // EDGE last-look: announced, then looked; see `callgate_proto::life`.
            let mut timed_out = false;
            let may_sleep = self.life.may_sleep();
            if may_sleep && let Some(value) = self.cell.arm_reply(self.turn) {
                let waited = self.control.sleep_at(self.cell, value, until_ns);
                timed_out = waited == Waited::TimedOut;
            }
            self.life.awake();
            if !may_sleep {
                return Ok(match self.cell.has_reply(self.turn)? {
                    true => Ended::Reply { slept: true },
                    false => Ended::Gone,
                });
            }
            if timed_out {
                // Never wholly dependent on being told.
                (self.look_around)();
                slice_ns = (slice_ns * 2).min(SLICE_MAX_NS);
            }
        }
    }
}

/// Wakes those who sleep on the cells of a connection that has ended. False when some may sleep still: call it again.
///
/// Those who announced themselves and do not sleep yet need a moment: they refuse to sleep once they look. And a hostile
/// server can have moved a sleeper to another word: that one looks around when its slice of sleep is over. Nobody waits
/// for either here.
pub(crate) fn wake_sleepers(life: &Life, control: &ControlView) -> bool {
    for _ in 0..4 {
        if !life.has_sleepers() {
            return true;
        }
        control.wake_all();
        process::yield_now();
    }
    !life.has_sleepers()
}

fn surroundings(now_ns: u64, bytes: u64) -> Surroundings {
    let (cpu, cpus, never_yield) = (process::current_cpu(), cpus(), is_realtime());
    Surroundings { now_ns, cpu, cpus, never_yield, bytes }
}

/// Whether this thread is scheduled in real time; asked of the system once in a while.
fn is_realtime() -> bool {
    const EVERY: u32 = 1_024;
    thread_local! {
        static KNOWN: std::cell::Cell<(u32, bool)> = const { std::cell::Cell::new((0, false)) };
    }
    let (left, known) = KNOWN.get();
    if left > 0 {
        KNOWN.set((left - 1, known));
        return known;
    }
    let now = process::is_realtime();
    KNOWN.set((EVERY, now));
    now
}

callgate_sys::process_local! {
    static CPUS: AtomicU32 = AtomicU32::new(0);
}

/// CPUs that this process may use; quotas count once [`learn_cpus`] has run.
pub(crate) fn cpus() -> u32 {
    let known = CPUS.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let allowed = count(process::cpus_allowed());
    // Who has learned more in the meantime is not contradicted.
    match CPUS.compare_exchange(0, allowed, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => allowed,
        Err(known) => known,
    }
}

/// Finds out how many CPUs this process may use, quotas included. Reads a dozen files: not in a caller's thread.
pub(crate) fn learn_cpus() {
    CPUS.store(count(process::cpus_usable()), Ordering::Relaxed);
}

fn count(cpus: usize) -> u32 {
    u32::try_from(cpus).unwrap_or(u32::MAX)
}

/// How long ago an instant of the monotonic clock was.
pub(crate) fn since(began_ns: u64) -> Duration {
    Duration::from_nanos(clock::now_ns().saturating_sub(began_ns))
}
