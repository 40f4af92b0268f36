//! Handles on their way. The server alone does the passing: it may reach into the client's table of handles, the client
//! not into the server's.
//!
//! What a client sends it keeps open until the server has looked for it; what a server sends lies in the client's table
//! before the message tells of it.

use std::collections::VecDeque;
use std::os::windows::io::OwnedHandle;

use super::frame::{Frame, Parsed};
use super::pipe::{Pipe, Side};
use crate::shm::{GIVEN_RIGHTS, MemFd, READER_RIGHTS};
use crate::socket::{Received, RecvError, SendError};
use crate::sync::Mutex;
use crate::win::{Kind, copy_of, exchange, granted, kind};

/// Most sections that a client has lent at a time. An honest server looks for each as it reads, and the pipe is full before
/// so many messages are unread; another one must not have us keep memory without end.
const LENT_MAX: usize = 64;

/// What one end keeps of it.
#[derive(Default)]
pub(super) struct Passing {
    /// A client's: what it named and the server has not looked for yet, in this order.
    lent: VecDeque<MemFd>,
    /// A server's: how many it has looked for that the client was not told of.
    pub(super) taken: u32,
}

impl Passing {
    /// Whether a client may lend another one.
    pub(super) fn has_room(&self) -> bool {
        self.lent.len() < LENT_MAX
    }

    pub(super) fn lend(&mut self, memory: &MemFd) {
        self.lent.push_back(memory.clone());
    }

    pub(super) fn forget(&mut self) {
        self.lent.clear();
    }
}

impl Pipe {
    /// Makes what the library gets out of what came; `None` for what is between the two ends only.
    pub(super) fn open(
        &self,
        frame: &Frame,
        more: bool,
        buf: &mut [u8],
    ) -> Result<Option<Received>, RecvError> {
        let nothing = Received { len: 0, truncated: more, fd: None, extra_fds: 0, lost_fd: false };
        let (memory, event, message) = match frame.parse() {
            Some(Parsed::Message { memory, event, message }) => (memory, event, message),
            Some(Parsed::Taken(count)) if self.side == Side::Client => {
                let lent = &mut self.state().passing.lent;
                lent.drain(..lent.len().min(count as usize));
                return Ok(None);
            }
            // No honest peer sends it: the protocol calls it a message of no length.
            Some(Parsed::Taken(_)) | None => return Ok(Some(nothing)),
        };
        let len = message.len().min(buf.len());
        buf[..len].copy_from_slice(&message[..len]);
        let truncated = more || message.len() > len;
        let (fd, lost_fd) = match (memory, self.side) {
            (0, _) => (None, false),
            (number, Side::Client) => (Some(MemFd::from_peer(given(number), None)), false),
            (number, Side::Server) => self.take_from_client(number, event)?,
        };
        Ok(Some(Received { len, truncated, fd, lost_fd, ..nothing }))
    }

    /// Takes what a client named out of its table. Whether it could be taken, and whether it is our fault if not.
    fn take_from_client(
        &self,
        number: u32,
        event: u32,
    ) -> Result<(Option<MemFd>, bool), RecvError> {
        let Ok(peer) = self.proven() else {
            return if self.is_closed() { Err(RecvError::Closed) } else { Ok((None, true)) };
        };
        let section = copy_of(&peer.process, number);
        let event = match event {
            0 => Ok(None),
            number => copy_of(&peer.process, number).map(Some),
        };
        let told = {
            let state = &mut *self.state();
            state.passing.taken = state.passing.taken.saturating_add(1);
            state.tell_what_was_taken()
        };
        // It has closed the connection, and after that what it had lent: the number may be another handle's by now.
        if matches!(told, Err(SendError::Closed)) {
            return Err(RecvError::Closed);
        }
        let (section, event) = match (section, event) {
            (Ok(section), Ok(event)) => {
                return Ok((Some(MemFd::from_peer(Some(section), event)), false));
            }
            other => other,
        };
        // It is ending, and its handles went first.
        if peer.is_ending() || self.is_closed() {
            return Err(RecvError::Closed);
        }
        let is_its_fault = [section.as_ref().err(), event.as_ref().err()]
            .iter()
            .flatten()
            .all(|error| is_no_handle(error));
        match is_its_fault {
            true => Ok((Some(MemFd::from_peer(section.ok(), event.ok().flatten())), false)),
            false => Ok((None, true)),
        }
    }
}

fn is_no_handle(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(windows_sys::Win32::Foundation::ERROR_INVALID_HANDLE as i32)
}

/// Takes what a server has put into our table under this number. Only what bears the mark of that is taken: another handle
/// of this process is left alone, whatever a server says.
///
/// The handle is exchanged for one without the mark, one thread at a time: so a number is taken once, by whomever it is
/// named, and what was taken can be named by nobody.
fn given(number: u32) -> Option<OwnedHandle> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    let handle = std::ptr::without_provenance_mut(number as usize);
    if kind(handle) != Kind::Section || granted(handle) != GIVEN_RIGHTS {
        return None;
    }
    // SAFETY: only a server makes handles with the mark, and puts them here; who took one before has exchanged it, and nobody
    // else is here meanwhile. (A hostile server may reach into this table itself.)
    unsafe { exchange(handle, READER_RIGHTS) }.ok()
}

/// Lets go of what came with a message that nobody will receive.
pub(super) fn discard(frame: &Frame) {
    if let Some(Parsed::Message { memory, .. }) = frame.parse()
        && memory != 0
    {
        drop(given(memory));
    }
}
