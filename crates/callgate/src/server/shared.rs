//! What all threads of one server share: its limits, its phase, its counters, and how to reach each worker.

use std::collections::VecDeque;
use std::io;
use std::sync::Weak;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use callgate_proto::pace::Policy;
use callgate_proto::wire::Status;
use callgate_sys::collections::HashMap;
use callgate_sys::poller::{Poller, Waker};
use callgate_sys::sync::{Condvar, Mutex, MutexGuard};
use callgate_sys::{clock, futex, process};

use super::connection::Connection;
use super::ledger::Ledger;
use super::worker::Admitted;
use crate::options::{Access, Limits};

/// Where a server is in its life. It only ever moves forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    Serving = 0,
    /// No new clients, no new calls; calls that were taken finish.
    Draining = 1,
    Stopping = 2,
}

/// Mappings of fewer bytes are let go of where they are.
const BURIED_BYTES_MIN: u64 = 256 << 10;

/// Pieces that wait to be unmapped; beyond that a worker unmaps what it lets go of itself.
const BURIED_MAX: usize = 64;

/// Token of a desk's own waker in its poller; connections count from 0.
pub(super) const WAKER_TOKEN: u64 = u64::MAX;

/// How others reach a worker.
pub(crate) struct Desk {
    pub(super) poller: Poller,
    waker: Waker,
    /// Rung, by counting up, for a worker that sleeps on its clients' words. Private memory.
    bell: AtomicU32,
    /// Connections that were admitted and that the worker has not picked up; `None` once it takes no more.
    pub(super) inbox: Mutex<Option<Vec<Admitted>>>,
    /// Connections that the worker has or is about to have.
    pub(super) load: AtomicUsize,
    /// Calls taken. Written by the worker alone.
    pub(super) calls: AtomicU64,
}

impl Desk {
    pub(super) fn new() -> io::Result<Self> {
        let (poller, waker) = (Poller::new()?, Waker::new()?);
        poller.add(&waker, WAKER_TOKEN, false)?;
        Ok(Self {
            poller,
            waker,
            bell: AtomicU32::new(0),
            inbox: Mutex::new(Some(Vec::new())),
            load: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
        })
    }

    /// Wakes the worker, however it sleeps.
    pub(super) fn wake(&self) {
        self.waker.wake();
        self.ring();
    }

    /// Wakes the worker if it sleeps on words: its poller has something for it.
    pub(super) fn ring(&self) {
        // EDGE bell (other end: `bell`): a worker reads it, then decides to sleep while it holds what was read. Release, so
        // that who sees the count sees what it was rung for.
        self.bell.fetch_add(1, Ordering::Release);
        futex::wake_private(&self.bell, 1);
    }

    /// What the worker sleeps on, and its present value.
    pub(super) fn bell(&self) -> (&AtomicU32, u32) {
        // EDGE bell (other end: `ring`).
        (&self.bell, self.bell.load(Ordering::Acquire))
    }

    /// The worker has seen that it was woken.
    pub(super) fn woken(&self) {
        self.waker.drain();
    }
}

pub(crate) struct Shared {
    /// What admission waits at: newcomers, and workers' pollers while those sleep elsewhere.
    pub(super) door: Poller,
    pub(super) epoch: u64,
    pub(super) began_ns: u64,
    pub(super) limits: Limits,
    /// Clients that the descriptors of this process suffice for, if fewer than the limit.
    pub(super) clients_max: u32,
    /// Unfinished handshakes at a time; beyond that the oldest of the user with the most gives way.
    pub(super) half_open_max: usize,
    pub(super) access: Access,
    pub(super) wait: Policy,
    pub(super) idle_interval: Option<Duration>,
    pub(super) ledger: Ledger,
    pub(super) desks: Vec<Desk>,
    pub(super) admission: Waker,
    pub(super) refused: AtomicU64,
    pub(super) violations: AtomicU64,
    pub(super) drain_until_ns: AtomicU64,
    /// Memory to be unmapped away from the workers; `None` once nobody does that any more.
    buried: Mutex<Option<VecDeque<Box<dyn Send>>>>,
    /// Told when there is more of it, or the phase has moved on.
    burying: Condvar,
    phase: AtomicU32,
    connections: Mutex<HashMap<u64, Weak<Connection>>>,
    threads: Mutex<Threads>,
    thread_ended: Condvar,
}

#[derive(Default)]
struct Threads {
    running: usize,
    cut_off: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "the parts that `serve` put together")]
    pub(super) fn new(
        door: Poller,
        epoch: u64,
        limits: Limits,
        clients_max: u32,
        half_open_max: usize,
        holds_max: u32,
        access: Access,
        wait: Policy,
        idle_interval: Option<Duration>,
        desks: Vec<Desk>,
        admission: Waker,
    ) -> Self {
        Self {
            door,
            epoch,
            began_ns: clock::now_ns(),
            // Clients are bounded by descriptors, and so is what the kernel lets be under way.
            ledger: Ledger::new(limits.clone(), (clients_max / 4).max(64), holds_max),
            limits,
            clients_max,
            half_open_max,
            access,
            wait,
            idle_interval,
            desks,
            admission,
            refused: AtomicU64::new(0),
            violations: AtomicU64::new(0),
            drain_until_ns: AtomicU64::new(0),
            buried: Mutex::new(Some(VecDeque::new())),
            burying: Condvar::new(),
            phase: AtomicU32::new(Phase::Serving as u32),
            connections: Mutex::default(),
            threads: Mutex::default(),
            thread_ended: Condvar::new(),
        }
    }

    #[inline]
    pub(super) fn phase(&self) -> Phase {
        // EDGE phase (other end: `advance`): Acquire sees the drain's deadline.
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Stopping,
        }
    }

    /// Moves forward to `phase` and tells all threads.
    pub(super) fn advance(&self, phase: Phase) {
        // EDGE phase (other end: `phase`).
        // SeqCst for EDGE drained (see `Connection::deferred_ended`).
        self.phase.fetch_max(phase as u32, Ordering::SeqCst);
        self.admission.wake();
        // Who looked at the phase under the lock waits by now.
        drop(lock(&self.buried));
        self.burying.notify_all();
        if phase == Phase::Stopping {
            self.ledger.holds.end();
        }
        for desk in &self.desks {
            desk.wake();
        }
    }

    /// Ends all connections from outside of their workers, so that a handler that never returns keeps nobody waiting.
    pub(super) fn close_connections(&self) {
        let connections: Vec<_> =
            lock(&self.connections).values().filter_map(Weak::upgrade).collect();
        for connection in &connections {
            connection.mark_gone();
        }
        // EDGE closing (other end: `Connection::take`). Without a barrier a worker could take a call that its client has
        // been told was not started; then only the workers themselves hang up.
        if process::barrier_all_threads() {
            for connection in &connections {
                connection.socket.shutdown();
            }
        }
    }

    /// Lets go of `memory`, which holds `bytes` bytes of mappings. Unmapping much takes milliseconds, in which a worker
    /// would serve nobody, and no client would be let in; so a thread of its own does it.
    pub(super) fn bury(&self, bytes: u64, memory: impl Send + 'static) {
        if bytes >= BURIED_BYTES_MIN
            && let Some(buried) = &mut *lock(&self.buried)
            && buried.len() < BURIED_MAX
        {
            buried.push_back(Box::new(memory));
            self.burying.notify_all();
        }
    }

    /// Unmaps what is buried, until the server drains or stops. From then on everyone unmaps on their own.
    pub(super) fn unmap_buried(&self) {
        let mut buried = lock(&self.buried);
        loop {
            if let Some(memory) = buried.as_mut().and_then(VecDeque::pop_front) {
                drop(buried);
                drop(memory);
                buried = lock(&self.buried);
            } else if self.phase() == Phase::Serving {
                buried = self.burying.wait_timeout(buried, Duration::MAX);
            } else {
                *buried = None;
                return;
            }
        }
    }

    pub(super) fn register(&self, connection: &std::sync::Arc<Connection>) {
        let weak = std::sync::Arc::downgrade(connection);
        lock(&self.connections).insert(connection.id, weak);
        self.desks[connection.worker].load.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection has ended. Its place among the clients is free once nothing of it is left, deferred calls included:
    /// see its `Drop`.
    pub(super) fn unregister(&self, connection: &Connection) {
        lock(&self.connections).remove(&connection.id);
        self.desks[connection.worker].load.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn least_loaded(&self) -> usize {
        let load = |at: &usize| self.desks[*at].load.load(Ordering::Relaxed);
        (0..self.desks.len()).min_by_key(load).unwrap_or(0)
    }

    /// A deferred call has ended; a worker that drains waits for the last one.
    pub(super) fn deferred_ended(&self, worker: usize) {
        // EDGE drained (see `Connection::deferred_ended`).
        if self.phase.load(Ordering::SeqCst) != Phase::Serving as u32 {
            self.desks[worker].wake();
        }
    }

    pub(super) fn status(&self) -> Status {
        Status {
            uptime_ns: clock::now_ns().saturating_sub(self.began_ns),
            clients: lock(&self.connections).len() as u64,
            calls: self.desks.iter().map(|desk| desk.calls.load(Ordering::Relaxed)).sum(),
            refused: self.refused.load(Ordering::Relaxed),
            violations: self.violations.load(Ordering::Relaxed),
            reply_bytes: self.ledger.bytes(),
        }
    }

    pub(super) fn thread_begins(&self) {
        lock(&self.threads).running += 1;
    }

    /// A thread ends; `cut_off`: it drained, and its time ran out with calls unfinished.
    pub(super) fn thread_ends(&self, cut_off: bool) {
        let mut threads = lock(&self.threads);
        threads.running -= 1;
        threads.cut_off |= cut_off;
        drop(threads);
        self.thread_ended.notify_all();
    }

    /// Blocks until all threads have ended, or the time is over; returns whether they have, with no call cut off.
    pub(super) fn wait_for_threads(&self, until_ns: Option<u64>) -> bool {
        let mut threads = lock(&self.threads);
        while threads.running > 0 {
            let slice = match until_ns {
                Some(until_ns) => until_ns.saturating_sub(clock::now_ns()),
                None => u64::MAX,
            };
            if slice == 0 {
                return false;
            }
            let slice = Duration::from_nanos(slice.min(1 << 60));
            threads = self.thread_ended.wait_timeout(threads, slice);
        }
        !threads.cut_off
    }
}
