//! Queues of messages in memory, with hang-up and bounded length.

use std::io;

use super::{Received, RecvError, Ring, SendError};
use crate::poller::Pollable;
use crate::process::{Identity, gid, pid_of, uid};
use crate::shm::MemFd;
use crate::sim::kernel::{Message, Object};
use crate::sim::world::{State, Wait, inside};
use crate::sim::{Handle, fault};

/// One end of a connection.
#[derive(Debug)]
pub struct Socket(Handle);

impl Socket {
    pub(crate) fn new(handle: Handle) -> Socket {
        Socket(handle)
    }

    /// Makes two connected sockets of this process.
    ///
    /// # Errors
    ///
    /// `EMFILE` by chance.
    pub fn pair() -> io::Result<(Socket, Socket)> {
        let here = inside();
        here.operation("sys.socket.pair", 500, |state| {
            fault(state, libc::EMFILE)?;
            let pair = state.kernel.pair([here.process; 2]);
            let mut side =
                |side| Socket(Handle::new(state, here.process, Object::Socket { pair, side }));
            Ok((side(0), side(1)))
        })
    }

    /// Sends one message of 1 byte or more, with memory if some is given.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was sent then.
    pub fn send(&self, bytes: &[u8], fd: Option<&MemFd>) -> Result<(), SendError> {
        if bytes.is_empty() {
            return Err(SendError::Os(io::ErrorKind::InvalidInput.into()));
        }
        inside().operation("sys.socket.send", 800, |state| self.push(state, bytes, fd))
    }

    /// Sends one message with a piece of shared memory; as [`Socket::send`].
    ///
    /// # Errors
    ///
    /// As [`Socket::send`].
    pub fn send_memory(&self, bytes: &[u8], memory: &MemFd) -> Result<(), SendError> {
        self.send(bytes, Some(memory))
    }

    fn push(&self, state: &mut State, bytes: &[u8], fd: Option<&MemFd>) -> Result<(), SendError> {
        let room = state.kernel.is_writable(self.0.0);
        let (pair, side) = state.kernel.socket(self.0.0);
        if pair.shut || !pair.open[1 - side] {
            return Err(SendError::Closed);
        }
        if !room {
            return Err(SendError::Full);
        }
        let memory = match fd {
            Some(fd) => {
                if fault(state, libc::ETOOMANYREFS).is_err() {
                    return Err(SendError::TooManyDescriptors);
                }
                let Object::Memory(region) = *state.kernel.object(fd.number()) else {
                    unreachable!("a number of memory")
                };
                state.kernel.keep(region);
                Some(region)
            }
            None => None,
        };
        state.kernel.changed = true;
        let (pair, side) = state.kernel.socket(self.0.0);
        pair.queues[1 - side].push_back(Message { bytes: bytes.to_vec(), memory });
        pair.arrivals[1 - side] += 1;
        Ok(())
    }

    /// Rings the peer's doorbell: sends one byte of value 0.
    pub fn ring(&self) -> Ring {
        inside().operation("sys.socket.ring", 800, |state| {
            state.rings += 1;
            if state.rings == state.config.drop_ring {
                return Ring::Rung;
            }
            match self.push(state, &[0], None) {
                Ok(()) | Err(SendError::Full) => Ring::Rung,
                Err(_) => Ring::Gone,
            }
        })
    }

    /// Receives one message into `buf`, with at most one descriptor.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] when there is nothing, [`RecvError::Closed`] when there will be nothing
    /// any more.
    pub fn recv(&self, buf: &mut [u8]) -> Result<Received, RecvError> {
        let here = inside();
        here.operation("sys.socket.recv", 600, |state| {
            let (pair, side) = state.kernel.socket(self.0.0);
            let Some(message) = pair.queues[side].pop_front() else {
                return match pair.shut || !pair.open[1 - side] {
                    true => Err(RecvError::Closed),
                    false => Err(RecvError::Empty),
                };
            };
            state.kernel.changed = true;
            let len = message.bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&message.bytes[..len]);
            let fd = message.memory.map(|region| {
                let handle = Handle::new(state, here.process, Object::Memory(region));
                state.kernel.release(region); // the message's own hold on it
                MemFd::new(handle)
            });
            let truncated = message.bytes.len() > len;
            Ok(Received { len, truncated, fd, extra_fds: 0, lost_fd: false })
        })
    }

    /// Does nothing: what was sent is there.
    pub fn catch_up(&self) {}

    /// Gives how much of what was sent the peer has not read.
    ///
    /// # Errors
    ///
    /// None.
    pub fn unread(&self) -> io::Result<usize> {
        inside().operation("sys.socket.unread", 300, |state| {
            let (pair, side) = state.kernel.socket(self.0.0);
            Ok(pair.queues[1 - side].iter().map(|message| message.bytes.len()).sum())
        })
    }

    /// Gives who connected, or, seen from a client, who listens.
    ///
    /// # Errors
    ///
    /// None.
    pub fn peer(&self) -> io::Result<Identity> {
        inside().operation("sys.socket.peer", 300, |state| {
            let (pair, side) = state.kernel.socket(self.0.0);
            Ok(Identity { pid: pid_of(pair.process[1 - side]), uid: uid(), gid: gid() })
        })
    }

    /// Tells whether the peer has closed the connection or died.
    pub fn is_closed(&self) -> bool {
        inside().operation("sys.socket.poll_closed", 300, |state| {
            state.kernel.readiness(self.0.0, &state.processes).closed
        })
    }

    /// Ends the connection in both directions: the peer sees it hang up.
    pub fn shutdown(&self) {
        inside().operation("sys.socket.shutdown", 500, |state| {
            state.kernel.socket(self.0.0).0.shut = true;
            state.kernel.changed = true;
        });
    }

    /// Waits until something can be sent or the peer is gone (true), or `deadline_ns` has passed
    /// (false).
    ///
    /// # Errors
    ///
    /// None.
    pub fn wait_writable(&self, deadline_ns: Option<u64>) -> io::Result<bool> {
        Ok(self.wait(Wait::Writable(self.0.0), deadline_ns))
    }

    /// Waits until something can be received or the peer is gone (true), or `deadline_ns` has
    /// passed (false).
    ///
    /// # Errors
    ///
    /// None.
    pub fn wait_readable(&self, deadline_ns: Option<u64>) -> io::Result<bool> {
        Ok(self.wait(Wait::Readable(self.0.0), deadline_ns))
    }

    fn wait(&self, wait: Wait, deadline_ns: Option<u64>) -> bool {
        let here = inside();
        here.point("sys.socket.poll", 400);
        here.block(here.world.lock(), wait, deadline_ns)
    }
}

impl Pollable for Socket {
    fn number(&self) -> u64 {
        self.0.0
    }
}
