//! A worker: takes calls from the connections it was given, runs the handler, and decides when to sleep.
//!
//! Connections that are active are polled in user space. One that was quiet for a while is *armed*: its client rings for
//! the next call over its socket, and epoll tells which of thousands rang. Before the worker sleeps, all are armed; how it
//! sleeps, and how its clients ring then, is in `rest`.

mod link;
mod rest;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use callgate_proto::cell::Doorbell;
use callgate_proto::chain::Taken;
use callgate_proto::pace::{Gaps, SizeClass, WorkerPace, YieldBan, YieldHabit};
use callgate_sys::collections::HashMap;
use callgate_sys::poller::Event;
use callgate_sys::process::Slice;
use callgate_sys::shm::PayloadReader;
use callgate_sys::{clock, process, thread};

pub(crate) use link::Admitted;
use link::{BATCH, Link, Read, handle_next, read_messages};
use rest::Rest;

use super::Handler;
use super::shared::{Desk, Phase, Shared, WAKER_TOKEN, lock};
use crate::region::{Incoming, Unusable};
use crate::wait::learn_cpus;

/// A connection's turn ends early after this long, in nanoseconds.
const TURN_NS: u64 = 50_000;
/// Passes without a call of its own after which a connection is armed while others are busy.
const QUIET_PASSES: u32 = 4_096;
/// Sleeps without a call of its own after which it is armed for good.
const QUIET_SLEEPS: u32 = 8;
const TIDY_AFTER: Duration = Duration::from_secs(1);
/// Visits, a second apart, after which a quiet connection keeps no reply memory.
const TIDY_KEEPS: u32 = 10;
const TIDY_BACKOFF_MAX: u32 = 60;

struct Tidy {
    due_ns: u64,
    id: u64,
    visits: u32,
}

pub(super) struct Worker<H> {
    shared: Arc<Shared>,
    handler: Arc<H>,
    index: usize,
    links: Vec<Option<Link>>,
    free: Vec<usize>,
    by_id: HashMap<u64, usize>,
    active: Vec<usize>,
    tidy: VecDeque<Tidy>,
    /// What the last look at the poller found, and was not attended to.
    events: Vec<Event>,
    pace: WorkerPace,
    ban: YieldBan,
    slice: Slice,
    never_yield: bool,
    next_tick_ns: Option<u64>,
    looked_ns: u64,
    /// The CPU plus one, in the high half, as replies tell it.
    cpu_hint: u64,
    /// The process whose call the handler had when it panicked.
    handling: Option<u32>,
    gaps: Gaps,
    /// What the last call moved.
    size: SizeClass,
    habit: YieldHabit,
    /// Whether the last pass had calls.
    passed_with_work: bool,
    /// Calls taken when it last gave way in a crowd.
    gave_way: u64,
    /// When the last sleep ended, while no call was taken since.
    woken_ns: Option<u64>,
    /// It has given way since the last call that ended a sleep.
    has_given_way: bool,
    /// Whether the last look at the poller found something.
    found_events: bool,
    /// The count of the desk's bell that was answered.
    bell_seen: u32,
}

impl<H: Handler> Worker<H> {
    pub(super) fn new(shared: Arc<Shared>, handler: Arc<H>, index: usize) -> Self {
        // One worker ticks: the first.
        let ticks = shared.idle_interval.filter(|_| index == 0);
        Self {
            next_tick_ns: ticks.map(clock::deadline_ns),
            shared,
            handler,
            index,
            links: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::default(),
            active: Vec::new(),
            tidy: VecDeque::new(),
            events: Vec::new(),
            pace: WorkerPace::default(),
            ban: YieldBan::default(),
            slice: Slice::default(),
            never_yield: process::is_realtime(),
            looked_ns: 0,
            cpu_hint: 0,
            handling: None,
            gaps: Gaps::default(),
            size: SizeClass::SHORT,
            habit: YieldHabit::default(),
            passed_with_work: false,
            gave_way: 0,
            woken_ns: None,
            has_given_way: false,
            found_events: false,
            bell_seen: 0,
        }
    }

    fn desk(&self) -> &Desk {
        &self.shared.desks[self.index]
    }

    /// Serves until the server stops; returns whether calls were cut off by a drain's deadline.
    pub(super) fn run(mut self) -> bool {
        crate::client::mark_worker(self.shared.epoch);
        while let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.serve_all())) {
            let Some(pid) = self.handling.take() else { resume_unwind(payload) };
            // Its own drop could panic, out here where nothing catches it.
            std::mem::forget(payload);
            tracing::error!(pid, "the handler panicked");
        }
        let cut_off = self.drain();
        self.end_all();
        cut_off
    }

    /// Serves while the server does. Unwinds when a handler panics, and can then be called again.
    fn serve_all(&mut self) {
        while self.shared.phase() == Phase::Serving {
            let mut rest = Rest::default();
            while !self.pass() {
                self.rest(&mut rest);
                if rest.is_over {
                    break;
                }
            }
            if !rest.is_over {
                self.worked(&rest);
            }
        }
    }

    /// Gives every active connection its turn; returns whether any had a call.
    fn pass(&mut self) -> bool {
        let others_worked = std::mem::take(&mut self.passed_with_work);
        let mut worked = false;
        let mut at = 0;
        while at < self.active.len() {
            let index = self.active[at];
            match self.serve(index) {
                Ok(true) => worked = true,
                Ok(false) if self.goes_quiet(index, others_worked) => {
                    self.active.swap_remove(at);
                    continue;
                }
                Ok(false) => {}
                Err(unusable) => {
                    self.cannot_go_on(index, unusable);
                    continue; // ending it took it from the list
                }
            }
            at += 1;
        }
        self.passed_with_work = worked;
        worked
    }

    /// Takes and handles calls of one connection, at most a batch.
    #[inline(never)]
    fn serve(&mut self, index: usize) -> Result<bool, Unusable> {
        let hints = self.cpu_hint | self.active.len().min(usize::from(u16::MAX)) as u64;
        let desk = &self.shared.desks[self.index];
        let Some(link) = self.links[index].as_mut() else { return Ok(false) };
        link.connection.tell(hints);
        let (mut taken, mut began_ns, batch) = (Taken::default(), 0, link.batch);
        if batch < BATCH {
            if !link.is_waiting()? {
                return Ok(false);
            }
            began_ns = clock::now_ns();
        }
        let mut count = 0;
        while count < batch {
            let handling = &mut self.handling;
            if !handle_next(link, &mut taken, &*self.handler, &desk.calls, handling)? {
                break;
            }
            // Now, when nobody waits for it.
            self.size = SizeClass::of(taken.request.body.len());
            link.quiet_passes = 0;
            link.quiet_sleeps = 0;
            self.pace.served(taken.request.head.think, taken.request.body.len());
            count += 1;
            if count.is_multiple_of(4) {
                let now_ns = clock::now_ns();
                if began_ns == 0 {
                    began_ns = now_ns;
                } else if now_ns - began_ns > TURN_NS {
                    link.batch = 1;
                    return Ok(true);
                }
            }
        }
        if batch < BATCH && count > 0 {
            link.took(clock::now_ns() - began_ns, count, TURN_NS);
        }
        Ok(count > 0)
    }

    /// Arms a connection that was quiet for long while others were busy; true if it is to be polled no more. Passes in which
    /// nobody had a call do not count: how long those go on is the budget's to say.
    fn goes_quiet(&mut self, index: usize, others_worked: bool) -> bool {
        let Some(link) = self.links[index].as_mut() else { return true };
        link.quiet_passes += u32::from(others_worked);
        let quiet = link.quiet_passes >= QUIET_PASSES || link.quiet_sleeps >= QUIET_SLEEPS;
        if !quiet || link.arm(Doorbell::Socket).is_none() {
            return false;
        }
        link.active = false;
        self.tidy_later(index);
        true
    }

    /// Waits for events until `deadline_ns` and attends to them; to those first that the last look has left.
    fn wait(&mut self, deadline_ns: Option<u64>) {
        let mut events = std::mem::take(&mut self.events);
        if events.is_empty()
            && let Err(error) = self.desk().poller.wait(&mut events, deadline_ns)
        {
            tracing::error!(%error, "a worker cannot wait");
            thread::sleep(Duration::from_millis(10));
        }
        self.found_events = !events.is_empty();
        let mut attended = 0;
        for event in &events {
            attended += 1;
            // Mapping and unmapping take long: others get their turn before the next event.
            if event.token == WAKER_TOKEN {
                self.desk().woken();
            } else if self.attend(*event) {
                break;
            }
        }
        events.drain(..attended);
        self.events = events;
    }

    /// Returns whether memory was mapped or unmapped.
    fn attend(&mut self, event: Event) -> bool {
        if !self.by_id.contains_key(&event.token) {
            self.pick_up();
        }
        let Some(index) = self.by_id.get(&event.token).copied() else { return false };
        let Some(link) = self.links[index].as_mut() else { return false };
        let read = read_messages(link);
        if !link.active {
            link.active = true;
            link.quiet_passes = 0;
            link.quiet_sleeps = 0;
            self.active.push(index);
        }
        match read {
            Ok(Read::Message | Read::Empty) => return false,
            Ok(Read::Region) => {}
            Ok(Read::Closed) => self.end(index, "closed"),
            Err(unusable) => self.cannot_go_on(index, unusable),
        }
        true
    }

    /// Takes over the connections that admission left.
    fn pick_up(&mut self) {
        let admitted = lock(&self.desk().inbox).as_mut().map(std::mem::take);
        self.adopt(admitted.unwrap_or_default());
    }

    fn adopt(&mut self, admitted: Vec<Admitted>) {
        for Admitted { connection, intake } in admitted {
            let incoming =
                Incoming::new(self.shared.limits.bytes_per_client, PayloadReader::accept);
            let id = connection.id;
            let link = Link {
                connection,
                intake,
                incoming,
                batch: 1,
                active: false,
                quiet_passes: 0,
                quiet_sleeps: 0,
                in_tidy: false,
            };
            let index = match self.free.pop() {
                Some(index) => {
                    self.links[index] = Some(link);
                    index
                }
                None => {
                    self.links.push(Some(link));
                    self.links.len() - 1
                }
            };
            self.by_id.insert(id, index);
        }
    }

    fn cannot_go_on(&mut self, index: usize, unusable: Unusable) {
        let Some(link) = &self.links[index] else { return };
        let (pid, uid) = (link.connection.caller.pid, link.connection.caller.uid);
        match unusable {
            Unusable::Violation(violation) => {
                tracing::warn!(pid, uid, %violation, "a client broke the protocol");
                self.shared.violations.fetch_add(1, Ordering::Relaxed);
                self.end(index, "violation");
            }
            Unusable::System(error) => {
                tracing::warn!(pid, uid, %error, "a client's memory cannot be mapped");
                self.end(index, "the server lacks memory");
            }
            Unusable::Gone => self.end(index, "closed"),
        }
    }

    fn end(&mut self, index: usize, why: &'static str) {
        let Some(link) = self.links[index].take() else { return };
        let Link { connection, incoming, .. } = link;
        tracing::info!(
            pid = connection.caller.pid,
            uid = connection.caller.uid,
            why,
            "client disconnected"
        );
        let _ = self.desk().poller.remove(&connection.socket);
        connection.close_by_worker();
        self.shared.unregister(&connection);
        self.by_id.remove(&connection.id);
        self.active.retain(|active| *active != index);
        self.free.push(index);
        let bytes = incoming.bytes() + connection.reply_bytes();
        self.shared.clone().bury(bytes, (incoming, connection));
    }

    fn end_all(&mut self) {
        // What admission has left so far is taken, and from here on it leaves nothing.
        let last = lock(&self.desk().inbox).take();
        self.adopt(last.unwrap_or_default());
        for index in 0..self.links.len() {
            self.end(index, "server stopped");
        }
    }

    fn tidy_later(&mut self, index: usize) {
        let Some(link) = self.links[index].as_mut() else { return };
        if !link.in_tidy && link.connection.is_untidy() {
            link.in_tidy = true;
            let due_ns = clock::deadline_ns(TIDY_AFTER);
            self.tidy.push_back(Tidy { due_ns, id: link.connection.id, visits: 0 });
        }
    }

    fn do_what_is_due(&mut self, now_ns: u64) {
        if let Some(tick_ns) = self.next_tick_ns
            && now_ns >= tick_ns
        {
            let handler = self.handler.clone();
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| handler.idle())) {
                std::mem::forget(payload);
                tracing::error!("the handler's idle tick panicked");
            }
            self.next_tick_ns = self.shared.idle_interval.map(clock::deadline_ns);
        }
        while let Some(tidy) = self.tidy.front()
            && now_ns >= tidy.due_ns
        {
            if let Some(tidy) = self.tidy.pop_front() {
                self.visit(tidy);
            }
        }
    }

    /// Gives back reply memory of a connection that went quiet; comes again while there is some.
    fn visit(&mut self, mut tidy: Tidy) {
        let Some(index) = self.by_id.get(&tidy.id).copied() else { return };
        let Some(link) = self.links[index].as_mut() else { return };
        link.in_tidy = false;
        if link.active && link.quiet_sleeps == 0 {
            return; // going quiet, it comes back here
        }
        tidy.visits += 1;
        if link.connection.tidy(tidy.visits < TIDY_KEEPS) {
            link.in_tidy = true;
            // A caller that keeps a reply for long is looked after ever more rarely.
            let seconds = tidy.visits.saturating_sub(TIDY_KEEPS).clamp(1, TIDY_BACKOFF_MAX);
            tidy.due_ns = clock::deadline_ns(TIDY_AFTER * seconds);
            let at = self.tidy.partition_point(|other| other.due_ns <= tidy.due_ns);
            self.tidy.insert(at, tidy);
        }
    }

    /// Takes no more calls, and waits until those that were deferred are answered, or the drain's time is over.
    fn drain(&mut self) -> bool {
        let unfinished = |worker: &Self| {
            worker.links.iter().flatten().any(|link| link.connection.has_unanswered())
        };
        while self.shared.phase() == Phase::Draining && unfinished(self) {
            let until_ns = self.shared.drain_until_ns.load(Ordering::Relaxed);
            if clock::now_ns() >= until_ns {
                break;
            }
            self.wait(Some(until_ns));
        }
        unfinished(self)
    }
}

/// How many CPUs there are for workers and clients, quotas included; asked early, so that no call pays for it.
pub(super) fn warm_up() {
    learn_cpus();
}
