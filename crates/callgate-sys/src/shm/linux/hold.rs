//! A hold on memory that was handed out, by which the kernel is asked what is left of it elsewhere.
//!
//! That the inode is gone (see `release`) does not say that its pages are: a pipe, a socket or a
//! request under way can have references to single pages, which outlive it. So its maker keeps a
//! descriptor, and closes it when two things are so, in this order:
//!
//! 1. No other open file refers to it, and so no descriptor, no mapping and no message under way.
//!    The kernel counts those that were opened by name, and grants a write lease only to who has
//!    the only one. The descriptors here and at the peer are therefore opened anew, each by itself;
//!    the one that `memfd_create` gave is not counted.
//! 2. No page has a reference that is not a mapping's. To forbid all writing (`F_SEAL_WRITE`) the
//!    kernel looks at each, and refuses with `EBUSY`, after 150 ms, while one has.
//!
//! Behind the first nobody can come by a reference to a page any more, except by opening the file
//! again: it is for its owner only to read (mode 0400), so this takes a process of this user.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use callgate_points::at;
use rustix::fs::{CWD, Mode, OFlags, SealFlags, fchmod, fcntl_add_seals, openat};
use rustix::io::{Errno, retry_on_intr};

use super::memfd::MemFd;
use crate::process::TrackedFd;
use crate::shm::Left;

/// A descriptor of memory that was made here and handed out, kept for asking what is left of it
/// elsewhere. While it lives, so does the memory.
#[derive(Debug)]
pub struct Hold(TrackedFd);

impl Hold {
    /// Opens `memory`, which nobody else has seen, for reading, to be handed out, and for this; closes
    /// the descriptor that it was made by. Gives `memory` back where this kernel grants no leases or
    /// does not count who has a file open, or a policy forbids any of it.
    ///
    /// Needs `/proc`. Never blocks.
    pub(super) fn split(memory: MemFd) -> io::Result<Result<(MemFd, Hold), MemFd>> {
        match Hold::try_split(&memory) {
            Ok((read, hold)) => Ok(Ok((MemFd::plain(read), hold))),
            Err(Errno::ACCESS | Errno::PERM | Errno::INVAL | Errno::NOSYS) => Ok(Err(memory)),
            Err(error) => Err(error.into()),
        }
    }

    fn try_split(memory: &MemFd) -> Result<(TrackedFd, Hold), Errno> {
        let path = format!("/proc/self/fd/{}", memory.as_fd().as_raw_fd());
        let read = reopen(&path, OFlags::RDONLY)?;
        let hold = Hold(reopen(&path, OFlags::RDWR)?);
        at!("sys.shm.fchmod", fchmod(memory, Mode::RUSR))?;
        match hold.lease() {
            // Somebody has it open, says the kernel; and so it is.
            Err(Errno::AGAIN) => Ok((read, hold)),
            // `fs.leases-enable` is 0, or a filter forbids it.
            Err(error) => Err(error),
            // Before Linux 5.3.
            Ok(()) => Err(Errno::INVAL),
        }
    }

    /// Asks the kernel what anybody else has of the memory. This process must have unmapped it.
    ///
    /// Blocks for some 150 ms where single pages are in use, else for as long as it takes to look at
    /// each page. After [`Left::Nothing`] nobody can come by a page of it any more who could not
    /// send this process signals; dropping this frees it.
    pub fn ask(&self) -> Left {
        match self.lease() {
            Ok(()) => {}
            Err(Errno::AGAIN) => return Left::Open,
            Err(_) => return Left::Pages,
        }
        match at!("sys.shm.seal_write", fcntl_add_seals(self, SealFlags::WRITE)) {
            Ok(()) => Left::Nothing,
            Err(_) => Left::Pages,
        }
    }

    /// Takes a write lease, and gives it back at once. Who opens the memory in between, for which
    /// it takes a process of this user, has this one sent a signal: SIGURG, which a process ignores
    /// that does not ask for it, not SIGIO, which would end it.
    fn lease(&self) -> Result<(), Errno> {
        // Each time: the end of a lease resets it.
        at!("sys.shm.set_signal", self.control(F_SETSIG, libc::SIGURG))?;
        at!("sys.shm.lease", self.control(libc::F_SETLEASE, libc::F_WRLCK))?;
        at!("sys.shm.unlease", self.control(libc::F_SETLEASE, libc::F_UNLCK))
    }

    fn control(&self, command: libc::c_int, value: libc::c_int) -> Result<(), Errno> {
        // SAFETY: the descriptor is open, and the commands used take a number.
        match unsafe { libc::fcntl(self.0.as_fd().as_raw_fd(), command, value) } {
            0 => Ok(()),
            _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
        }
    }
}

/// Chooses the signal of a lease that is broken; `libc` has no name for it here.
const F_SETSIG: libc::c_int = 10;

impl AsFd for Hold {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn reopen(path: &str, flags: OFlags) -> Result<TrackedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    let again = || at!("sys.shm.reopen", retry_on_intr(|| openat(CWD, path, flags, Mode::empty())));
    TrackedFd::open(again)
}

#[cfg(test)]
mod tests;
