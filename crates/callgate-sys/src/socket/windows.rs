//! Message pipes.
//!
//! | file | owns |
//! | --- | --- |
//! | here | [`Socket`]: what the rest of the library calls |
//! | `frame` | what stands before each message: which handles come with it |
//! | `pipe` | one end of a pipe: a read in flight, a write in flight, its end |
//! | `writing` | the write that is under way |
//! | `passing` | handles on their way between two processes |

mod frame;
mod passing;
mod pipe;
mod writing;

use std::io;
use std::os::windows::io::OwnedHandle;
use std::sync::Arc;

use super::{Received, RecvError, Ring, SendError};
use crate::poller::{Pollable, Source};
use crate::process::{Identity, Peer};
use crate::shm::MemFd;
use frame::Frame;
use pipe::Pipe;
pub(crate) use pipe::Side;

/// What a thread reads at a time at most, where messages are for this file only.
const TAKEN_MAX: usize = 64;

/// One end of a connection. Any thread may use it.
#[derive(Debug)]
pub struct Socket(Arc<Pipe>);

impl Socket {
    /// Takes over an end of a pipe that is connected.
    pub(crate) fn new(handle: OwnedHandle, side: Side) -> io::Result<Socket> {
        Ok(Socket(Pipe::new(handle, side)?))
    }

    /// Makes two connected ones, the server's end first. For tests.
    #[cfg(test)]
    pub(crate) fn pair() -> io::Result<(Socket, Socket)> {
        let name = format!(r"\\.\pipe\callgate-test-{:x}", crate::process::fresh_number());
        let path = std::path::Path::new(&name);
        let listener =
            crate::endpoint::Listener::bind(path, path, 0o600, None).map_err(io::Error::other)?;
        let client = crate::endpoint::connect(path, None).map_err(io::Error::other)?;
        let server = listener.accept()?.ok_or(io::ErrorKind::WouldBlock)?;
        Ok((server, client))
    }

    /// Sends one message of 1 byte or more, with memory if some is given. Never blocks; all or nothing.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the connection is as it was, and with [`SendError::Full`] the same message may be sent later. An
    /// empty message, or one of more than 64 bytes, is refused with `InvalidInput`.
    pub fn send(&self, bytes: &[u8], memory: Option<&MemFd>) -> Result<(), SendError> {
        let Some(frame) = Frame::message(bytes) else {
            return Err(SendError::Os(io::ErrorKind::InvalidInput.into()));
        };
        self.0.send(frame, memory)
    }

    /// Sends one message with a piece of shared memory; as [`Socket::send`].
    ///
    /// # Errors
    ///
    /// As [`Socket::send`].
    pub fn send_memory(&self, bytes: &[u8], memory: &MemFd) -> Result<(), SendError> {
        self.send(bytes, Some(memory))
    }

    /// Rings the peer's doorbell: sends one byte of value 0. Never blocks.
    ///
    /// If the last message has not been taken in yet, something unread is there already, and the peer will look: that
    /// counts as rung. An error that isn't the peer's death counts as gone: a peer that can't be woken must not be waited
    /// for.
    pub fn ring(&self) -> Ring {
        match self.send(&[0], None) {
            Ok(()) | Err(SendError::Full) => Ring::Rung,
            Err(_) => Ring::Gone,
        }
    }

    /// Receives one message into `buf`, with the memory that came with it. Never blocks.
    ///
    /// What the peer sent before it went is still received.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] when there is nothing, [`RecvError::Closed`] when there will be nothing any more.
    pub fn recv(&self, buf: &mut [u8]) -> Result<Received, RecvError> {
        for _ in 0..TAKEN_MAX {
            let (frame, more) = self.0.take()?;
            if let Some(received) = self.0.open(&frame, more, buf)? {
                return Ok(received);
            }
        }
        // A peer that goes on so keeps nobody here.
        Err(RecvError::Empty)
    }

    /// Makes sure that the next [`Socket::recv`] finds what the peer had sent before something else that was seen of it.
    /// Never blocks.
    pub fn catch_up(&self) {
        self.0.catch_up();
    }

    /// Gives 0: what was sent lies with the peer, and counts against nobody here.
    ///
    /// # Errors
    ///
    /// None on this system.
    pub fn unread(&self) -> io::Result<usize> {
        Ok(0)
    }

    /// Gives who connected, or, seen from a client, who listens: the process that opened that end of the pipe, and its
    /// user.
    ///
    /// # Errors
    ///
    /// What the system says, also where it does not let us open that process.
    pub fn peer(&self) -> io::Result<Identity> {
        self.0.peer().map(|peer| peer.identity)
    }

    pub(crate) fn peer_process(&self) -> io::Result<Peer> {
        self.0.peer()
    }

    /// Tells whether the peer has closed the connection or died. Never blocks; once true, it stays true.
    ///
    /// What it sent before may still be there to receive. Where another process has that end of the pipe, too, it stays
    /// open after the peer's death: a [`crate::process::PidFd`] tells that.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Ends the connection in both directions: the peer sees it hang up. What was sent and has been taken in can still be
    /// read there. Never blocks; does nothing when it has ended already.
    pub fn shutdown(&self) {
        self.0.shut();
    }

    /// Waits until something can be sent or the peer is gone (true), or `deadline_ns` has passed (false).
    ///
    /// Blocks, for ever without a deadline. A deadline in the past makes it look only.
    ///
    /// # Errors
    ///
    /// None on this system.
    pub fn wait_writable(&self, deadline_ns: Option<u64>) -> io::Result<bool> {
        Ok(self.0.wait_writable(deadline_ns))
    }

    /// Waits until something can be received or the peer is gone (true), or `deadline_ns` has passed (false).
    ///
    /// Blocks, for ever without a deadline. A deadline in the past makes it look only.
    ///
    /// # Errors
    ///
    /// None on this system.
    pub fn wait_readable(&self, deadline_ns: Option<u64>) -> io::Result<bool> {
        Ok(self.0.wait_readable(deadline_ns))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Pollable for Socket {
    fn source(&self) -> Option<Arc<dyn Source>> {
        Some(self.0.clone())
    }
}

#[cfg(test)]
mod tests;
