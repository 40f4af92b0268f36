//! What a worker does while there is nothing to do: look again, yield, and at last sleep.
//!
//! The decisions are `callgate_proto::pace`'s. A worker sleeps in one of two ways:
//!
//! * with few active clients *on their state words*, all of them at once (`futex_waitv`): then a call costs the client one
//!   wake and the worker one wait, and no descriptor takes part. Sockets are watched meanwhile by the admission thread,
//!   in whose poller ours is a member; it rings the desk's bell.
//! * else *in its poller*, and clients ring over their sockets.

use std::sync::atomic::Ordering;

use callgate_proto::cell::Doorbell;
use callgate_proto::pace::calls_per_turn;
use callgate_sys::futex::{self, Waited, Word};
use callgate_sys::{clock, process};

use super::{Handler, Worker};
use crate::server::shared::Phase;
use crate::wait::cpus;

/// Passes without a call before the clock is read: about a microsecond.
const FIRST_PASSES: u32 = 24;
/// Passes without a call between two readings of the clock, and two yields.
const PASSES_PER_CLOCK: u32 = 16;
/// Passes without a call between two yields in a crowd.
const CROWD_PASSES: u32 = 8;
/// How often a busy worker looks at its poller unasked, in nanoseconds: never wholly dependent on being told.
const LOOK_NS: u64 = 1_000_000;
/// The same when there is news: a client that rings without end must not keep the worker from the others.
const LOOK_NEWS_NS: u64 = 5_000;
/// Most clients on whose words a worker sleeps.
const WORDS_MAX: usize = 4;

/// One stretch of time without work.
#[derive(Default)]
pub(super) struct Rest {
    passes: u32,
    began_ns: u64,
    budget_ns: u64,
    /// How long the last thing before this pass took, if that was a yield.
    yielded_ns: Option<u64>,
    /// The worker has slept, or has to look whether the server still serves.
    pub(super) is_over: bool,
}

impl<H: Handler> Worker<H> {
    /// Passes a moment without work.
    pub(super) fn rest(&mut self, rest: &mut Rest) {
        let policy = self.shared.wait;
        let yielded_ns = rest.yielded_ns.take();
        if rest.passes <= 1 && (self.active.is_empty() || self.pace.sleeps_at_once(policy)) {
            return self.sleep_soon(rest);
        }
        rest.passes += 1;
        let yields = match self.is_crowded() {
            true => rest.passes.is_multiple_of(CROWD_PASSES),
            false => self.habit.yields_first(),
        };
        if rest.passes < FIRST_PASSES && !yields {
            return process::pause_between_looks();
        }
        if !yields && !rest.passes.is_multiple_of(PASSES_PER_CLOCK) && rest.began_ns != 0 {
            return process::pause_between_looks();
        }
        let now_ns = clock::now_ns();
        if rest.began_ns == 0 {
            rest.began_ns = now_ns;
            let shares_cpu = self.is_crowded() || self.habit.yields_first();
            rest.budget_ns = self.pace.budget_ns(policy, shares_cpu);
        }
        if let Some(took_ns) = yielded_ns {
            self.habit = self.habit.yielded(took_ns, false);
        }
        if self.look_around(now_ns) && self.shared.phase() != Phase::Serving {
            rest.is_over = true;
        } else if now_ns - rest.began_ns >= rest.budget_ns {
            if rest.budget_ns > 0 {
                self.pace.dry();
            }
            self.sleep(now_ns);
            rest.is_over = true;
        } else {
            rest.yielded_ns = self.give_way(now_ns);
            if rest.yielded_ns.is_none() {
                process::pause_between_looks();
            }
        }
    }

    /// Sleeps, but first gives way to the callers, once, if they are on this CPU: going to sleep takes as long as half a call.
    #[cold]
    fn sleep_soon(&mut self, rest: &mut Rest) {
        let now_ns = clock::now_ns();
        let has_given_way = std::mem::take(&mut self.has_given_way);
        if rest.passes == 0 && !has_given_way && !self.active.is_empty() && !self.pace.is_long() {
            rest.yielded_ns = self.give_way(now_ns);
            if rest.yielded_ns.is_some() {
                rest.passes = 1;
                return;
            }
        }
        if !self.look_around(now_ns) || !self.found_events {
            self.sleep(now_ns);
        }
        rest.is_over = true;
    }

    /// The call that ended a sleep is answered. Where the next one is far, lets the caller run at once, if it waits for this
    /// CPU: what a worker has to do besides comes after that, and before it sleeps again.
    #[cold]
    fn answered_sparse(&mut self, now_ns: u64) {
        if self.is_sparse() {
            self.has_given_way = self.give_way(now_ns).is_some();
            // A client on this CPU that wakes us again lets us run at once, and needs no yield for it.
            self.slice.shorten();
        }
        self.see_where();
    }

    /// A pass had calls: learns from what came before it.
    pub(super) fn worked(&mut self, rest: &Rest) {
        if self.is_crowded() {
            // Whose turn it was says nothing about where a client runs.
        } else if let Some(took_ns) = rest.yielded_ns {
            self.habit = self.habit.yielded(took_ns, true);
        } else if rest.passes > 0 {
            self.habit = self.habit.looked();
        }
        if rest.began_ns != 0 {
            self.pace.paid();
        } else if self.active.len() == 1 && rest.yielded_ns.is_none() {
            self.gaps[self.size] = self.gaps[self.size].found(self.size, rest.passes);
        }
        // Each time, not now and then: the gap is learned best where all calls take the same way.
        let now_ns = clock::now_ns();
        let woken_ns = self.woken_ns.take();
        self.pace.worked(woken_ns.map(|woken_ns| now_ns.saturating_sub(woken_ns)));
        // Who was just woken looks before it sleeps again, when nobody waits for it.
        if woken_ns.is_none() || self.has_news() {
            self.look_around(now_ns);
        } else {
            self.answered_sparse(now_ns);
        }
        if self.is_crowded() {
            // A crowd: its clients yield to each other and to us; see `CallerPace::yields_first`.
            let calls = self.desk().calls.load(Ordering::Relaxed);
            if calls.wrapping_sub(self.gave_way) >= calls_per_turn(self.active.len()).into() {
                self.gave_way = calls;
                self.give_way(now_ns);
            }
        }
        if self.is_sparse() {
            return;
        }
        // Threads that yield to each other take turns where their slices are alike.
        self.slice.lengthen();
        if self.active.len() == 1
            && !self.habit.yields_first()
            && !self.pace.sleeps_at_once(self.shared.wait)
        {
            process::pause_ns(self.gaps[self.size].ns());
        }
    }

    /// Whether each call comes alone, long after the last one, and is short.
    fn is_sparse(&self) -> bool {
        self.pace.sleeps_at_once(self.shared.wait) && !self.pace.is_long() && !self.is_crowded()
    }

    /// Whether there are more threads than CPUs: the clients, and this one.
    fn is_crowded(&self) -> bool {
        self.active.len() >= cpus().max(2) as usize
    }

    /// Lets others have the CPU, unless that was found to take too long. Returns how long it took.
    fn give_way(&mut self, now_ns: u64) -> Option<u64> {
        if self.never_yield || self.ban.holds(now_ns) {
            return None;
        }
        process::yield_now();
        let after_ns = clock::now_ns();
        self.ban.yielded(after_ns - now_ns, after_ns, self.active.len());
        Some(after_ns - now_ns)
    }

    /// Looks at the poller without waiting, and at what is due, if the bell was rung or it is time; returns whether so.
    fn look_around(&mut self, now_ns: u64) -> bool {
        let after_ns = if self.has_news() { LOOK_NEWS_NS } else { LOOK_NS };
        if now_ns < self.looked_ns + after_ns {
            return false;
        }
        self.looked_ns = now_ns;
        self.see_where();
        self.answer_bell();
        self.do_what_is_due(now_ns);
        true
    }

    /// Notes where we run.
    fn see_where(&mut self) {
        self.cpu_hint = (u64::from(process::current_cpu()) + 1) << 32;
    }

    /// Arms all connections and sleeps until one rings, or something is due.
    fn sleep(&mut self, now_ns: u64) {
        self.do_what_is_due(now_ns);
        if !self.events.is_empty() {
            return self.answer_bell();
        }
        for at in 0..self.active.len() {
            self.tidy_later(self.active[at]);
        }
        let tidy_ns = self.tidy.front().map(|tidy| tidy.due_ns);
        let due_ns = tidy_ns.into_iter().chain(self.next_tick_ns).min();
        let few = (1..=WORDS_MAX).contains(&self.active.len()) && futex::WAITS_ON_MANY;
        if few {
            match self.sleep_on_words(due_ns) {
                Some(true) => return,
                Some(false) => {}
                None => return self.is_awake(false),
            }
        }
        if !self.active.iter().all(|index| self.arm(*index, Doorbell::Socket).is_some()) {
            return; // the next pass takes what came meanwhile
        }
        for index in std::mem::take(&mut self.active) {
            if let Some(link) = self.links[index].as_mut() {
                link.active = false;
            }
        }
        self.wait(due_ns);
        self.is_awake(!self.found_events);
    }

    /// Sleeps on the words of the active connections. `Some(true)`: there was something to take. `Some(false)`: the
    /// system cannot do it.
    fn sleep_on_words(&mut self, due_ns: Option<u64>) -> Option<bool> {
        if self.has_news() {
            self.answer_bell();
            return Some(true);
        }
        let rung = self.bell_seen;
        let (bell, _) = self.desk().bell();
        let mut words = [Word { word: bell, expected: rung, private: true }; WORDS_MAX + 1];
        for (at, index) in self.active.iter().enumerate() {
            let Some(expected) = self.arm(*index, Doorbell::Word) else { return Some(true) };
            let Some(link) = &self.links[*index] else { return Some(true) };
            let cell = link.connection.control.cell(link.intake.cell());
            words[at + 1] = Word { word: cell.futex(), expected, private: false };
        }
        let count = self.active.len() + 1;
        let waited = futex::wait_any(&words[..count], due_ns);
        for at in 0..self.active.len() {
            let index = self.active[at];
            if let Some(link) = self.links[index].as_mut() {
                link.quiet_sleeps += 1;
            }
        }
        match waited {
            None => Some(false),
            Some(Waited::Woken | Waited::Changed | Waited::TimedOut) => None,
        }
    }

    fn arm(&self, index: usize, bell: Doorbell) -> Option<u32> {
        self.links[index].as_ref().and_then(|link| link.arm(bell))
    }

    /// Goes on after a sleep. Somebody may wait for the answer to what ended it, so the rest of what a worker has to do
    /// comes later: see `answered_sparse`, and `sleep`.
    fn is_awake(&mut self, timed_out: bool) {
        let now_ns = clock::now_ns();
        self.woken_ns = Some(now_ns);
        if self.has_news() {
            self.answer_bell();
        }
        if timed_out {
            self.do_what_is_due(now_ns);
        }
    }

    /// Whether the poller may have something: the bell was rung, or the last look found something, of which more may be
    /// left. Admission is told of what comes anew, not of what is left.
    fn has_news(&self) -> bool {
        self.found_events || self.desk().bell().1 != self.bell_seen
    }

    /// Looks at the poller.
    fn answer_bell(&mut self) {
        // Read before looking: what comes later rings again.
        self.bell_seen = self.desk().bell().1;
        self.wait(Some(0));
    }
}
