//! A peer process held by a descriptor: it names that process for ever, even when the id is given
//! out again.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use callgate_points::at;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, pidfd_open};

use super::TrackedFd;
use crate::socket::Socket;

/// `SO_PEERPIDFD`, the same number on every architecture that Rust's Linux targets share with the
/// generic header.
#[cfg(not(any(target_arch = "sparc", target_arch = "sparc64")))]
const SO_PEERPIDFD: libc::c_int = 77;
#[cfg(any(target_arch = "sparc", target_arch = "sparc64"))]
const SO_PEERPIDFD: libc::c_int = 0x0056;

/// A peer process; readable for a poller once it is dead.
#[derive(Debug)]
pub struct PidFd(TrackedFd);

impl PidFd {
    /// Opens the process that connected (or, seen from a client, that listens) at the other end of
    /// `socket`.
    ///
    /// Before Linux 6.5 the kernel only gives a process id. Then the process is opened by that, and
    /// the socket looked at once more: if it isn't hung up, its holder lives, so the id hasn't been
    /// given to another process, unless the socket was left to a forked child. Never blocks.
    ///
    /// # Errors
    ///
    /// `ESRCH` when the peer is dead already. Else what the kernel says: `EMFILE`, `ENFILE`, or
    /// `ENODATA` and `EINVAL` for a peer whose process can't be named from here.
    pub fn peer_of(socket: &Socket) -> io::Result<PidFd> {
        match TrackedFd::open(|| at!("sys.process.peer_pidfd", peer_pidfd(socket.as_fd()))) {
            Ok(fd) => Ok(PidFd(fd)),
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Self::by_id(socket),
            Err(error) => Err(error),
        }
    }

    /// Whether an error of [`PidFd::peer_of`] means that the peer is dead.
    pub fn says_dead(error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::ESRCH)
    }

    pub(super) fn by_id(socket: &Socket) -> io::Result<PidFd> {
        let pid = at!("sys.process.peer_pid", socket_peercred(socket.as_fd()))?.pid;
        let fd = TrackedFd::open(|| {
            at!("sys.process.pidfd_open", pidfd_open(pid, PidfdFlags::empty()))
        })?;
        if socket.is_closed() {
            return Err(Errno::SRCH.into());
        }
        Ok(PidFd(fd))
    }

    /// Tells whether the process has ended (a zombie has). Never blocks; once true, it stays true.
    ///
    /// A stopped or starved process is not dead.
    pub fn is_dead(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A signal ends even a poll that does not wait.
        let polled = at!("sys.process.poll_pidfd", retry_on_intr(|| poll(&mut fds, Some(&now))));
        polled.is_ok() && fds[0].revents().intersects(PollFlags::IN | PollFlags::HUP)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut pidfd: libc::c_int = -1;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and the size is that of the first.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut pidfd).cast(),
            &raw mut size,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the kernel has opened this descriptor for us (close-on-exec).
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}
