//! `SOCK_SEQPACKET` of `AF_UNIX`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use callgate_points::at;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, RecvMsg, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

use super::{Received, RecvError, Ring, SendError};
use crate::clock;
use crate::process::{Identity, PeerFd, TrackedFd};

/// One end of a connection. Any thread may use it; a forked child can't.
#[derive(Debug)]
pub struct Socket(PeerFd);

impl Socket {
    /// Makes two connected sockets, each the other's peer. For tests and for connections within a
    /// process.
    ///
    /// # Errors
    ///
    /// What `socketpair` says: `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn pair() -> io::Result<(Socket, Socket)> {
        TrackedFd::no_fork(|| {
            let flags = SocketFlags::CLOEXEC;
            let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            Ok((Socket(a.into()), Socket(b.into())))
        })
    }

    /// Sends one message of 1 byte or more, with a descriptor if one is given. Never blocks; all or
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the connection is as it was, and with [`SendError::Full`] the same message
    /// may be sent later. An empty message is refused with `EINVAL`: a receiver would take it for
    /// the end.
    pub fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), SendError> {
        if bytes.is_empty() {
            return Err(SendError::Os(Errno::INVAL.into()));
        }
        let fds = fd.map(|fd| [fd]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(fds) = &fds {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        match at!("sys.socket.send", self.send_now(bytes, &mut control)) {
            Ok(_) => Ok(()),
            Err(Errno::AGAIN) => Err(SendError::Full),
            Err(error) if is_gone(error) => Err(SendError::Closed),
            Err(Errno::TOOMANYREFS) => Err(SendError::TooManyDescriptors),
            Err(error) => Err(SendError::Os(error.into())),
        }
    }

    /// Sends one message with a piece of shared memory; as [`Socket::send`].
    ///
    /// # Errors
    ///
    /// As [`Socket::send`].
    pub fn send_memory(&self, bytes: &[u8], memory: &crate::shm::MemFd) -> Result<(), SendError> {
        self.send(bytes, Some(memory.as_fd()))
    }

    /// Rings the peer's doorbell: sends one byte of value 0. Never blocks.
    ///
    /// If the socket is full, something unread is there already, and the peer will look: that
    /// counts as rung. An error of the kernel that isn't the peer's death (no memory, a security
    /// policy) counts as gone: a peer that can't be woken must not be waited for.
    pub fn ring(&self) -> Ring {
        match at!("sys.socket.ring", self.send_now(&[0], &mut SendAncillaryBuffer::default())) {
            Ok(_) | Err(Errno::AGAIN) => Ring::Rung,
            Err(_) => Ring::Gone,
        }
    }

    /// Receives one message into `buf`, with at most one descriptor. Never blocks.
    ///
    /// What the peer sent before it went is still received.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] when there is nothing, [`RecvError::Closed`] when there will be nothing
    /// any more.
    pub fn recv(&self, buf: &mut [u8]) -> Result<Received, RecvError> {
        match at!("sys.socket.recv", self.recv_now(buf)) {
            Ok((fd, others, message)) => {
                // There is room for all that can come: the kernel could not open one, or the next.
                let lost_fd = message.flags.contains(ReturnFlags::CTRUNC);
                if message.bytes == 0 && fd.is_none() && !lost_fd {
                    // The end, or an empty message, of which the peer is to blame: so it must be known which.
                    match self.has_hung_up() {
                        Ok(true) => return Err(RecvError::Closed),
                        Ok(false) => {}
                        Err(error) => return Err(RecvError::Os(error.into())),
                    }
                }
                let extra_fds = others + usize::from(lost_fd && fd.is_some());
                Ok(Received {
                    len: message.bytes,
                    truncated: message.flags.contains(ReturnFlags::TRUNC),
                    fd: fd.map(Into::into),
                    extra_fds,
                    lost_fd: lost_fd && extra_fds == 0,
                })
            }
            Err(Errno::AGAIN) => Err(RecvError::Empty),
            Err(error) if is_gone(error) => Err(RecvError::Closed),
            Err(error) => Err(RecvError::Os(error.into())),
        }
    }

    /// Makes sure that the next [`Socket::recv`] finds what the peer had sent before something else that was seen of it:
    /// so it does anyway on this system.
    #[inline]
    pub fn catch_up(&self) {}

    /// Gives how much memory the kernel holds for messages that the peer hasn't read, in bytes; 0
    /// means that all are read.
    ///
    /// It is the kernel's own account, a few hundred bytes a message more than was sent. Never
    /// blocks.
    ///
    /// # Errors
    ///
    /// What the kernel says; none is known for a connected socket.
    pub fn unread(&self) -> io::Result<usize> {
        let mut unread: libc::c_int = 0;
        at!("sys.socket.unread", {
            // SAFETY: SIOCOUTQ (by the name of TIOCOUTQ) writes one int to a live local.
            match unsafe {
                libc::ioctl(self.0.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut unread)
            } {
                0 => Ok(usize::try_from(unread).unwrap_or(0)),
                _ => Err(io::Error::last_os_error()),
            }
        })
    }

    /// Gives who connected, or, seen from a client, who listens, as it was at that moment.
    ///
    /// # Errors
    ///
    /// What the kernel says; none is known for a connected socket.
    pub fn peer(&self) -> io::Result<Identity> {
        let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut size = size_of::<libc::ucred>() as libc::socklen_t;
        at!("sys.socket.peer", {
            // The call itself: rustix has no way to say "pid 0", which the kernel says across pid
            // namespaces.
            // SAFETY: both pointers are to live locals, and the size is that of the first.
            let result = unsafe {
                libc::getsockopt(
                    self.0.as_fd().as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_PEERCRED,
                    (&raw mut credentials).cast(),
                    &raw mut size,
                )
            };
            if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        })?;
        let libc::ucred { pid, uid, gid } = credentials;
        Ok(Identity { pid: u32::try_from(pid).unwrap_or(0), uid, gid })
    }

    /// Tells whether the peer has closed the connection or died. Never blocks; once true, it stays
    /// true.
    ///
    /// What it sent before may still be there to receive. A child that the peer forked may hold the
    /// connection open after its death: a [`crate::process::PidFd`] tells that.
    pub fn is_closed(&self) -> bool {
        self.has_hung_up().unwrap_or(false)
    }

    fn has_hung_up(&self) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(&self.0, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A signal ends even a poll that does not wait.
        at!("sys.socket.poll_closed", retry_on_intr(|| poll(&mut fds, Some(&now))))?;
        let gone = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR | PollFlags::NVAL;
        Ok(fds[0].revents().intersects(gone))
    }

    /// Ends the connection in both directions, whoever else holds the descriptor: the peer sees it hang up.
    ///
    /// Never blocks; does nothing when it has ended already.
    pub fn shutdown(&self) {
        let _ =
            at!("sys.socket.shutdown", rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both));
    }

    /// Waits until something can be sent or the peer is gone (true), or `deadline_ns` has passed
    /// (false).
    ///
    /// Blocks, for ever without a deadline. A deadline in the past makes it look only.
    ///
    /// # Errors
    ///
    /// What `ppoll` says: `ENOMEM`.
    pub fn wait_writable(&self, deadline_ns: Option<u64>) -> io::Result<bool> {
        self.wait_for(PollFlags::OUT, deadline_ns)
    }

    /// Waits until something can be received or the peer is gone (true), or `deadline_ns` has
    /// passed (false).
    ///
    /// Blocks, for ever without a deadline. A deadline in the past makes it look only.
    ///
    /// # Errors
    ///
    /// What `ppoll` says: `ENOMEM`.
    pub fn wait_readable(&self, deadline_ns: Option<u64>) -> io::Result<bool> {
        self.wait_for(PollFlags::IN, deadline_ns)
    }

    fn wait_for(&self, what: PollFlags, deadline_ns: Option<u64>) -> io::Result<bool> {
        loop {
            let mut fds = [PollFd::new(&self.0, what | PollFlags::RDHUP)];
            let left = deadline_ns.map(clock::left);
            match at!("sys.socket.poll", poll(&mut fds, left.as_ref())) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn send_now(
        &self,
        bytes: &[u8],
        control: &mut SendAncillaryBuffer<'_, '_, '_>,
    ) -> Result<usize, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match sendmsg(&self.0, &[IoSlice::new(bytes)], control, flags) {
                Err(Errno::INTR) => continue,
                result => return result,
            }
        }
    }

    /// Gives the first descriptor, and how many others came, which are closed.
    fn recv_now(&self, buf: &mut [u8]) -> Result<(Option<TrackedFd>, usize, RecvMsg), Errno> {
        let mut reset = false;
        loop {
            let received = TrackedFd::open_with(|| {
                let ((first, others), message) = receive(self.0.as_fd(), &mut *buf)?;
                Ok((first, (others, message)))
            });
            match received {
                Err(Errno::INTR) => continue,
                // The peer closed with messages of ours unread. That is told once, before what it
                // had sent itself.
                Err(Errno::CONNRESET) if !reset => reset = true,
                Err(error) => return Err(error),
                Ok((fd, (others, message))) => {
                    let count = others.len();
                    others.into_iter().for_each(|fd| drop(PeerFd::from(fd)));
                    return Ok((fd, count, message));
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Socket {
    /// Takes over a connected `SOCK_SEQPACKET` socket.
    fn from(fd: OwnedFd) -> Socket {
        Socket(fd.into())
    }
}

impl From<TrackedFd> for Socket {
    fn from(fd: TrackedFd) -> Socket {
        Socket(fd.into())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The peer need not wait until it is closed. Not for a parent's, of which a child may have a copy.
        if self.0.is_ours() {
            self.shutdown();
        }
    }
}

/// Most descriptors that one message has (SCM_MAX_FD).
const FDS_MAX: usize = 253;

/// What came with a message: the first descriptor, and the others.
type Fds = (Option<OwnedFd>, Vec<OwnedFd>);

/// There is room for all descriptors that a message can have: those that it has no room for the kernel would close here, in
/// this call, and that can take as long as the peer wants.
fn receive(socket: BorrowedFd<'_>, buf: &mut [u8]) -> Result<(Fds, RecvMsg), Errno> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(socket, &mut [IoSliceMut::new(buf)], &mut control, flags)?;
    let mut fds = control.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let mut fds = fds.by_ref().flatten();
    let first = fds.next();
    Ok(((first, fds.collect()), message))
}

fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN | Errno::CONNREFUSED)
}
