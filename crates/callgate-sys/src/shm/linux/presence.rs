//! Whether every page of a peer's memory is there, asked so that no peer can keep who asks.
//!
//! Whoever has a descriptor of memory can hold the lock of its inode for as long as it likes, for
//! example by a write from a page of its own that never comes. `lseek(SEEK_HOLE)` takes that lock,
//! and is not to be interrupted, not even by SIGKILL. `cachestat(2)` (Linux 6.5) takes none: it
//! counts the pages of a range, those that were swapped out among them, some 20 to 40 ns each.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use callgate_points::at;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::memfd::failed;
use super::page_size;
use crate::shm::Rejected;

/// So many bytes are counted at a time, each piece at a multiple of it: the kernel may make one page
/// of them, or many of one, while it counts, and would count some twice.
const PIECE: u64 = 2 << 20;

/// What to do where the kernel does not tell who asks how many pages there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untold {
    /// Wait for the lock, also where the peer is of another user and lets only its own ask.
    Wait,
    /// Wait for it on a system that cannot tell anybody. Else it is the peer's doing.
    WaitUnlessRefused,
    /// Let it be: pages of memory that its maker can punch are worth nothing.
    LetBe,
}

/// Checks that no page of `size` bytes of memory is missing. The memory is sealed against growing
/// and shrinking, and against punching too if pages are not to go again.
///
/// Never blocks, except as `untold` says.
pub(super) fn check(fd: BorrowedFd<'_>, size: u64, untold: Untold) -> Result<(), Rejected> {
    let page = page_size() as u64;
    let end = size.next_multiple_of(page);
    let mut at = 0;
    while at < end {
        let len = PIECE.min(end - at);
        match count(fd, at, len) {
            Ok(present) if present >= len / page => at += len,
            Ok(present) => {
                let missing = len - present * page;
                return Err(Rejected::Holes { at, missing, size });
            }
            Err(error) => return check_untold(fd, size, untold, error),
        }
    }
    Ok(())
}

#[cold]
fn check_untold(
    fd: BorrowedFd<'_>,
    size: u64,
    untold: Untold,
    error: Errno,
) -> Result<(), Rejected> {
    // Asked of nothing, to tell a peer's permissions from a filter of system calls.
    let refused = error == Errno::PERM && count_nothing() == Err(Errno::BADF);
    match (error, untold) {
        (Errno::NOSYS | Errno::PERM, Untold::LetBe) => Ok(()),
        (Errno::PERM, Untold::WaitUnlessRefused) if refused => Err(failed("cachestat", error)),
        (Errno::NOSYS | Errno::PERM, _) => check_slowly(fd, size),
        _ => Err(failed("cachestat", error)),
    }
}

fn check_slowly(fd: BorrowedFd<'_>, size: u64) -> Result<(), Rejected> {
    match at!("sys.shm.seek_hole", seek(fd, SeekFrom::Hole(0))) {
        Ok(hole) if hole == size => Ok(()),
        Ok(at) => Err(Rejected::Holes { at, missing: page_size() as u64, size }),
        Err(error) => Err(failed("lseek(SEEK_HOLE)", error)),
    }
}

/// Number of the system call, on all architectures; `libc` has no name for it on each.
const CACHESTAT: libc::c_long = 451;

/// Bytes of a file, as the kernel takes them.
#[repr(C)]
struct Range {
    offset: u64,
    len: u64,
}

/// What the kernel says of them, in pages.
#[repr(C)]
#[derive(Default)]
struct Counts {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// How many pages there are in a range, swapped out or not.
fn count(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<u64, Errno> {
    static LACKS: OnceLock<()> = OnceLock::new();
    if LACKS.get().is_some() {
        return Err(Errno::NOSYS);
    }
    let mut counts = Counts::default();
    let counted = cachestat(fd.as_raw_fd(), &Range { offset, len }, &mut counts);
    if counted == Err(Errno::NOSYS) {
        // It will lack it next time, too.
        let _ = LACKS.set(());
    }
    counted?;
    Ok(counts.cached.saturating_add(counts.evicted))
}

/// What the kernel says when it is asked of no file: `BADF`, if it can be asked at all.
fn count_nothing() -> Result<(), Errno> {
    cachestat(-1, &Range { offset: 0, len: 0 }, &mut Counts::default())
}

fn cachestat(fd: i32, range: &Range, counts: &mut Counts) -> Result<(), Errno> {
    // SAFETY: both point to live locals of the kernel's layout, one to be read and one to be
    // written; the call touches nothing else.
    let result = at!("sys.shm.cachestat", unsafe {
        libc::syscall(CACHESTAT, fd, &raw const *range, &raw mut *counts, 0)
    });
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
