//! Closing what a peer has a hand in, by threads that do nothing else.
//!
//! `close` waits for whoever is behind a descriptor: for a TCP socket that lingers, for the server of a file (FUSE). A peer
//! may send such a one, and a socket that is closed closes all that lies in it unread. So whatever came from a peer, and
//! each socket that a peer writes to, is closed here, and nobody else waits for it, a fork included.
//!
//! One thread does it. Where that is stuck, the next who has something to close makes another one, up to [`THREADS_MAX`];
//! they go when they come free. Where no thread can be had at all, the caller closes by itself.
//!
//! Two things are left. What is queued behind a close that is stuck stays open until something else is to be closed. And a
//! child that is forked while such a socket is open lets go of its copy in the fork handler: if the parent has closed its own
//! in that moment, the child waits.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicPtr, Ordering::AcqRel, Ordering::Acquire};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::generation::{generation, is_current};
use super::tracked::TrackedFd;
use crate::clock;

/// Each that waits takes some 20 KiB of the kernel's, and the descriptor.
const THREADS_MAX: usize = 1_024;
const STACK_BYTES: usize = 64 << 10;
/// A close that has taken this long, in nanoseconds, is stuck. More than a loaded machine keeps a thread from the CPU.
const STUCK_NS: u64 = 250_000_000;

/// An owned descriptor that a peer can keep from being closed. Dropping it waits for nobody, as long as there is a thread
/// that closes.
#[derive(Debug)]
pub(crate) struct PeerFd(Option<TrackedFd>);

impl PeerFd {
    /// Takes it as one that no peer has a hand in: it was made here, or is known to be ordinary memory.
    pub(crate) fn into_plain(mut self) -> TrackedFd {
        self.0.take().expect("only this and drop take it")
    }

    /// Whether this process owns it, rather than one that it was forked from.
    pub(crate) fn is_ours(&self) -> bool {
        self.0.as_ref().is_some_and(TrackedFd::is_ours)
    }
}

impl From<TrackedFd> for PeerFd {
    fn from(fd: TrackedFd) -> PeerFd {
        PeerFd(Some(fd))
    }
}

impl From<OwnedFd> for PeerFd {
    fn from(fd: OwnedFd) -> PeerFd {
        TrackedFd::from(fd).into()
    }
}

impl AsFd for PeerFd {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("only `into_plain` and drop take it").as_fd()
    }
}

impl Drop for PeerFd {
    fn drop(&mut self) {
        if let Some(fd) = self.0.take()
            && fd.is_ours()
        {
            Closer::of_this_process().close(fd);
        }
    }
}

/// The threads of one process. One that it was forked from may have left its own: that is never touched again.
struct Closer {
    generation: u32,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    fds: VecDeque<TrackedFd>,
    /// Threads that wait for work.
    idle: usize,
    threads: usize,
    /// When one took the last descriptor.
    taken_ns: u64,
}

static CLOSER: AtomicPtr<Closer> = AtomicPtr::new(std::ptr::null_mut());

impl Closer {
    fn of_this_process() -> &'static Closer {
        loop {
            // EDGE closer-made (other end: the exchange below): Acquire takes over what the pointer leads to.
            let known = CLOSER.load(Acquire);
            // SAFETY: null, or from Box::into_raw below and never freed.
            if let Some(closer) = unsafe { known.as_ref() }
                && is_current(closer.generation)
            {
                return closer;
            }
            let (state, work) = (Mutex::default(), Condvar::new());
            let fresh = Box::into_raw(Box::new(Closer { generation: generation(), state, work }));
            // EDGE closer-made (other end: the load above).
            if CLOSER.compare_exchange(known, fresh, AcqRel, Acquire).is_err() {
                // SAFETY: from Box::into_raw just above, and nobody else has it.
                drop(unsafe { Box::from_raw(fresh) });
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&'static self, fd: TrackedFd) {
        let mut state = self.state();
        state.fds.push_back(fd);
        if state.idle > 0 {
            return self.work.notify_one();
        }
        let is_stuck = clock::now_ns().saturating_sub(state.taken_ns) > STUCK_NS;
        if state.threads == 0 || (is_stuck && state.threads < THREADS_MAX) {
            self.begin_thread(state);
        }
    }

    /// Makes one more thread.
    fn begin_thread(&'static self, mut state: MutexGuard<'_, State>) {
        state.threads += 1;
        // So that a second one is not made before it has begun.
        state.taken_ns = clock::now_ns();
        drop(state);
        let thread = std::thread::Builder::new().name("callgate-close".into());
        if thread.stack_size(STACK_BYTES).spawn(|| self.run()).is_ok() {
            return;
        }
        let mut state = self.state();
        state.threads -= 1;
        let left = match state.threads {
            0 => std::mem::take(&mut state.fds),
            _ => VecDeque::new(),
        };
        drop(state);
        left.into_iter().for_each(TrackedFd::close_outside);
    }

    fn run(&self) {
        let mut state = self.state();
        loop {
            while let Some(fd) = state.fds.pop_front() {
                state.taken_ns = clock::now_ns();
                drop(state);
                fd.close_outside();
                state = self.state();
            }
            if state.idle > 0 {
                state.threads -= 1;
                return;
            }
            state.idle += 1;
            while state.fds.is_empty() {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.idle -= 1;
        }
    }
}

/// Sees to it that the thread that stays is there: so a process that serves, or is connected, has the same threads from then
/// on.
pub(crate) fn begin() {
    let closer = Closer::of_this_process();
    let state = closer.state();
    if state.threads == 0 {
        closer.begin_thread(state);
    }
}
