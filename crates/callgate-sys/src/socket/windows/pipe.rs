//! One end of a pipe: one read in flight, always, and one write.
//!
//! The lock is held for calls that begin, look at or cancel an operation, none of which waits for a peer.

use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::sync::{Arc, OnceLock};

use callgate_points::at;
use windows_sys::Win32::Foundation::{ERROR_CANNOT_IMPERSONATE, ERROR_PIPE_NOT_CONNECTED, HANDLE};
use windows_sys::Win32::System::Pipes::{
    GetNamedPipeClientProcessId, GetNamedPipeServerProcessId, PeekNamedPipe,
};

use super::frame::{FRAME_MAX, Frame};
use super::passing::Passing;
use super::writing::{Given, Writing};
use crate::poller::{Port, Readiness, RegisteredWait, Slot, Source};
use crate::process::{Peer, Sid, Who, Word};
use crate::shm::MemFd;
use crate::socket::{RecvError, SendError};
use crate::sync::{Mutex, MutexGuard};
use crate::win::{Operation, Progress, Security, has_passed, is_pipe_gone, ok, was_aborted};

/// What a client looks through of what its server has sent and nobody will receive; more than the pipe holds. A server that
/// goes on writing meanwhile keeps nobody here: what it then leaves in the client it could have put there without a word.
const UNREAD_MAX: usize = 1_024;

/// Which side of a connection an end is on: handles are passed by the server only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

pub(super) struct Pipe {
    pub(super) side: Side,
    slot: Slot,
    peer: OnceLock<Peer>,
    state: Mutex<State>,
}

/// Where the read in flight is.
enum Reading {
    Idle,
    Pending,
    Done {
        len: usize,
        more: bool,
    },
    /// Nothing will come any more.
    Ended,
}

/// Who is told when a read has ended.
enum Told {
    Nobody,
    /// The port that the pipe is bound to, by the kernel.
    Bound(Arc<Port>),
    /// Another port, by a thread that waits for the read's event.
    ByWait(Arc<Port>),
}

pub(super) struct State {
    /// `None` once it was shut.
    pub(super) handle: Option<OwnedHandle>,
    read: Operation<FRAME_MAX>,
    reading: Reading,
    pub(super) write: Operation<FRAME_MAX>,
    /// What the write under way is of.
    pub(super) writing: Writing,
    told: Told,
    /// Bound to a port that watches it no more.
    was_bound: bool,
    wait: Option<RegisteredWait>,
    pub(super) passing: Passing,
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe").field("side", &self.side).finish_non_exhaustive()
    }
}

impl Pipe {
    pub(super) fn new(handle: OwnedHandle, side: Side) -> io::Result<Arc<Pipe>> {
        let state = State {
            handle: Some(handle),
            read: Operation::new()?,
            reading: Reading::Idle,
            write: Operation::new()?,
            writing: Writing::default(),
            told: Told::Nobody,
            was_bound: false,
            wait: None,
            passing: Passing::default(),
        };
        let (slot, peer, state) = (Slot::new(), OnceLock::new(), Mutex::new(state));
        Ok(Arc::new(Pipe { side, slot, peer, state }))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Takes the message that has come, and begins to read the next one.
    pub(super) fn take(&self) -> Result<(Frame, bool), RecvError> {
        let state = &mut *self.state();
        state.look(self.slot.key());
        match state.reading {
            Reading::Done { len, more } => {
                let frame = Frame::received(state.read.buffer(), len);
                state.reading = Reading::Idle;
                state.look(self.slot.key());
                Ok((frame, more))
            }
            Reading::Ended => Err(RecvError::Closed),
            Reading::Idle | Reading::Pending => Err(RecvError::Empty),
        }
    }

    /// Sends a frame; with memory, passes that first.
    pub(super) fn send(&self, frame: Frame, memory: Option<&MemFd>) -> Result<(), SendError> {
        // Before the lock: it asks the system, the first time.
        let peer = match (memory, self.side) {
            (Some(_), Side::Server) => Some(self.proven().map_err(SendError::Os)?),
            _ => None,
        };
        let state = &mut *self.state();
        state.tell_what_was_taken()?;
        state.may_write()?;
        let Some(memory) = memory else { return state.write(&frame, None) };
        match peer {
            // Into the client's table; then the message tells it.
            Some(peer) => {
                let number = memory.give_to(&peer.process).map_err(SendError::Os)?;
                let given = Given { process: peer.process, number };
                state.write(&frame.with_handles(number, 0), Some(given))
            }
            // The server takes it from ours, by the number; it stays until the server says so.
            None => {
                if !state.passing.has_room() {
                    return Err(SendError::Os(io::ErrorKind::QuotaExceeded.into()));
                }
                let (section, event) = memory.numbers();
                state.write(&frame.with_handles(section, event), None)?;
                state.passing.lend(memory);
                Ok(())
            }
        }
    }

    /// Makes sure that what the peer has written by now is there to be taken.
    ///
    /// A read that is pending is given a message in the moment of the write, but whether it is done shows here only once the
    /// thread that began it has run. So it is called back: then it has a message, or has none, and a fresh one finds what is
    /// there.
    pub(super) fn catch_up(&self) {
        let state = &mut *self.state();
        state.look(self.slot.key());
        if matches!(state.reading, Reading::Pending)
            && let Some(handle) = &state.handle
        {
            state.reading = match state.read.cancel(handle) {
                Some(Progress::Done { len, more }) => Reading::Done { len, more },
                _ => Reading::Idle,
            };
            state.look(self.slot.key());
        }
    }

    pub(super) fn peer(&self) -> io::Result<Peer> {
        if let Some(peer) = self.peer.get() {
            return Ok(peer.clone());
        }
        let mut pid = 0;
        let state = self.state();
        let gone = || io::Error::from_raw_os_error(ERROR_PIPE_NOT_CONNECTED as i32);
        let handle = state.handle.as_ref().ok_or_else(gone)?.as_raw_handle();
        // SAFETY: the handle is open while the lock is held; the result is a live local.
        ok(at!("sys.socket.peer", unsafe {
            match self.side {
                Side::Server => GetNamedPipeClientProcessId(handle, &raw mut pid),
                Side::Client => GetNamedPipeServerProcessId(handle, &raw mut pid),
            }
        }))?;
        let word = match self.side {
            Side::Server => opened_by(handle).map(Word::OfClient),
            Side::Client => owner(handle).map(Word::OfServer),
        };
        drop(state);
        let peer = word.and_then(|word| Ok((Peer::open(pid, &word)?, word)));
        // What failed failed because of that, perhaps.
        if self.is_closed() {
            return Err(gone());
        }
        match peer? {
            // It is asked again, before anything is passed.
            (peer, Word::OfClient(None)) => Ok(peer),
            (peer, _) => Ok(self.peer.get_or_init(|| peer).clone()),
        }
    }

    /// The process to take handles from, or to put them in: that of whom the kernel says that it opened the pipe.
    pub(super) fn proven(&self) -> io::Result<Peer> {
        let peer = self.peer()?;
        if self.peer.get().is_none() {
            return Err(io::Error::from_raw_os_error(ERROR_CANNOT_IMPERSONATE as i32));
        }
        Ok(peer)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().is_closed(self.slot.key())
    }

    /// Ends the connection.
    pub(super) fn shut(&self) {
        self.end();
        // Nobody else tells those who watch.
        self.state().tell(self.slot.key());
    }

    /// The end that this process has goes.
    pub(super) fn close(&self) {
        self.slot.leave();
        self.end();
        let state = &mut *self.state();
        state.told = Told::Nobody;
        // Only now: a server that cannot take it sees that the connection has ended.
        state.passing.forget();
    }

    /// Closes the pipe. A client first closes what the server has put into its table, and nobody will receive any more.
    fn end(&self) {
        if self.side == Side::Client {
            let came = std::iter::from_fn(|| self.take().ok()).take(UNREAD_MAX);
            came.for_each(|(frame, _)| super::passing::discard(&frame));
        }
        let state = &mut *self.state();
        state.shut();
        if let Reading::Done { len, .. } = state.reading
            && self.side == Side::Client
        {
            // It came just before.
            super::passing::discard(&Frame::received(state.read.buffer(), len));
            state.reading = Reading::Ended;
        }
    }

    pub(super) fn wait_readable(&self, deadline_ns: Option<u64>) -> bool {
        loop {
            let event = {
                let state = &mut *self.state();
                state.look(self.slot.key());
                if !matches!(state.reading, Reading::Idle | Reading::Pending) {
                    return true;
                }
                state.read.event().raw()
            };
            // Open for as long as the pipe, which outlives this call.
            let woken = crate::win::wait(event, deadline_ns);
            if !woken && has_passed(deadline_ns) {
                return false;
            }
        }
    }

    pub(super) fn wait_writable(&self, deadline_ns: Option<u64>) -> bool {
        loop {
            let event = {
                let state = &mut *self.state();
                if !matches!(state.may_write(), Err(SendError::Full)) {
                    return true;
                }
                state.write.event().raw()
            };
            let woken = crate::win::wait(event, deadline_ns);
            if !woken && has_passed(deadline_ns) {
                return false;
            }
        }
    }
}

impl State {
    /// Looks how far the read is, and begins one where there is none.
    fn look(&mut self, key: u64) {
        loop {
            let Some(handle) = &self.handle else {
                if !matches!(self.reading, Reading::Done { .. }) {
                    self.reading = Reading::Ended;
                }
                return;
            };
            let began = matches!(self.reading, Reading::Idle);
            let progress = match self.reading {
                Reading::Idle => {
                    self.wait = None;
                    self.read.read(handle)
                }
                Reading::Pending => self.read.look(handle),
                Reading::Done { .. } | Reading::Ended => return,
            };
            match progress {
                Progress::Pending => {
                    self.reading = Reading::Pending;
                    // Also where it could not be arranged before.
                    if began || self.wait.is_none() {
                        self.arrange(key);
                    }
                    return;
                }
                Progress::Done { len, more } => {
                    self.reading = Reading::Done { len, more };
                    if began && matches!(self.told, Told::ByWait(_)) {
                        self.tell(key);
                    }
                    return;
                }
                // The thread that began it has ended: another one begins it again.
                Progress::Failed(error) if was_aborted(&error) => {
                    self.reading = Reading::Idle;
                }
                Progress::Failed(_) => {
                    self.reading = Reading::Ended;
                    if began {
                        self.tell(key);
                    }
                    return;
                }
            }
        }
    }

    /// Has the port told when the read that is pending ends.
    fn arrange(&mut self, key: u64) {
        let Told::ByWait(port) = &self.told else { return };
        // SAFETY: the event is open as long as the pipe's state, in which the wait is dropped first (`shut`, `look`, `end`),
        // at the latest with the state: see the order of its drops in `Pipe::close`.
        match unsafe { RegisteredWait::new(self.read.event().raw(), port, key) } {
            Ok(wait) => self.wait = Some(wait),
            // Then it is looked at again and again, until it can be waited for: see `look`.
            Err(_) => port.post(key),
        }
    }

    fn tell(&self, key: u64) {
        if let Told::Bound(port) | Told::ByWait(port) = &self.told {
            port.post(key);
        }
    }

    fn is_closed(&mut self, key: u64) -> bool {
        self.look(key);
        let Some(handle) = &self.handle else { return true };
        if matches!(self.reading, Reading::Ended) {
            return true;
        }
        let null = std::ptr::null_mut();
        // SAFETY: the handle is open; nothing is asked for but whether the pipe is connected.
        let looked = ok(at!("sys.socket.peek", unsafe {
            PeekNamedPipe(
                handle.as_raw_handle(),
                null,
                0,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        }));
        looked.is_err_and(|error| is_pipe_gone(&error))
    }

    /// Cancels what is in flight and closes the handle. A message that came stays there to be received.
    fn shut(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        self.wait = None;
        if let Some(Progress::Done { len, more }) = self.read.cancel(&handle) {
            self.reading = Reading::Done { len, more };
        }
        if let Some(Progress::Failed(_)) = self.write.cancel(&handle) {
            self.not_written();
        }
        if !matches!(self.reading, Reading::Done { .. }) {
            self.reading = Reading::Ended;
        }
        at!("sys.socket.close", drop(handle));
    }
}

/// Who opened the pipe of which this is a server's end.
fn opened_by(handle: HANDLE) -> io::Result<Option<Who>> {
    match Who::of_client(handle) {
        Ok(who) => Ok(Some(who)),
        Err(error) if error.raw_os_error() == Some(ERROR_CANNOT_IMPERSONATE as i32) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whose the pipe is: the user who made its first instance, who alone says who else may make one.
fn owner(handle: HANDLE) -> io::Result<Sid> {
    let owner = Security::of(handle)?.owner().ok_or(io::ErrorKind::PermissionDenied)?;
    Ok(Sid::new(owner))
}

impl Source for Pipe {
    fn slot(&self) -> &Slot {
        &self.slot
    }

    fn begin(&self, port: &Arc<Port>, for_good: bool) -> io::Result<()> {
        let state = &mut *self.state();
        if for_good && !state.was_bound {
            // A read that is pending tells the port, too.
            if let Some(handle) = &state.handle {
                port.bind(handle, self.slot.key())?;
                state.was_bound = true;
            }
            state.told = Told::Bound(port.clone());
            return Ok(());
        }
        state.told = Told::ByWait(port.clone());
        if matches!(state.reading, Reading::Pending) {
            state.arrange(self.slot.key());
        }
        Ok(())
    }

    fn end(&self) {
        let state = &mut *self.state();
        state.wait = None;
        state.told = Told::Nobody;
    }

    fn readiness(&self) -> Readiness {
        let state = &mut *self.state();
        state.look(self.slot.key());
        let closed = matches!(state.reading, Reading::Ended);
        Readiness { readable: closed || matches!(state.reading, Reading::Done { .. }), closed }
    }
}
