//! Whether every page of a peer's memory is there, asked so that no peer can keep who asks.
//!
//! Whoever has a descriptor of memory can hold the lock of its inode for as long as it likes, for
//! example by a write from a page of its own that never comes. `lseek(SEEK_HOLE)` takes that lock,
//! and is not to be interrupted, not even by SIGKILL. `cachestat(2)` (Linux 6.5) takes none: it
//! counts the pages of a range, those that were swapped out among them. Before that, and where a
//! filter forbids it, `lseek` is all there is.
//!
//! Counting takes some 30 ns a page, and it costs a peer nothing to announce the same memory again
//! and again. So of large memory it is not all pages that are counted. It has as many as it has
//! blocks, and none of them lies beyond its end: then none is missing before it.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use callgate_points::at;
use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::Errno;

use super::memfd::failed;
use super::page_size;
use crate::shm::Rejected;

/// Up to this size, in bytes, all pages are counted: 10 us.
const COUNTED_MAX: u64 = 1 << 20;

/// So many pages of larger memory are looked at, one by one. That finds who lacks many, before all
/// those that he made beyond the end instead are counted.
const SAMPLES: u64 = 64;

/// Checks that no page of `size` bytes of memory is missing. The memory is sealed against growing
/// and shrinking; where it is not sealed against writing, pages can go again at any time.
///
/// Never blocks on Linux 6.5 and later.
pub(super) fn check(fd: BorrowedFd<'_>, size: u64, is_sealed: bool) -> Result<(), Rejected> {
    let found = match counts() {
        true if size <= COUNTED_MAX => check_all(fd, size),
        true => check_large(fd, size),
        false => Err(Errno::NOSYS),
    };
    match found {
        Ok(result) => result,
        // What can go again at any time is not worth the wait.
        Err(Errno::NOSYS) if is_sealed => check_slowly(fd, size),
        Err(Errno::NOSYS) => Ok(()),
        Err(error) => Err(failed("cachestat", error)),
    }
}

type Found = Result<Result<(), Rejected>, Errno>;

fn check_all(fd: BorrowedFd<'_>, size: u64) -> Found {
    let page = page_size() as u64;
    let pages = size.div_ceil(page);
    let present = count(fd, 0, pages * page)?;
    Ok(match pages.saturating_sub(present) {
        0 => Ok(()),
        missing => Err(Rejected::Holes { missing: missing * page, size }),
    })
}

fn check_large(fd: BorrowedFd<'_>, size: u64) -> Found {
    let page = page_size() as u64;
    let pages = size.div_ceil(page);
    // Nobody can know beforehand which ones.
    let random = RandomState::new();
    for sample in 0..SAMPLES {
        let at = random.hash_one(sample) % pages;
        if count(fd, at * page, page)? == 0 {
            return Ok(Err(Rejected::Holes { missing: page, size }));
        }
    }
    // In this order: none is beyond the end, and from then on the seal lets none come there.
    let beyond = count(fd, pages * page, 0)?;
    let blocks = at!("sys.shm.fstat_blocks", fstat(fd))?.st_blocks.cast_unsigned();
    if beyond == 0 && blocks == pages * (page / 512) {
        return Ok(Ok(()));
    }
    if may_be_huge() {
        return check_all(fd, size);
    }
    Ok(match beyond {
        0 => Err(Rejected::Holes { missing: (pages * page).saturating_sub(blocks * 512), size }),
        _ => Err(Rejected::Beyond { pages: beyond, size }),
    })
}

/// Whether this system gives shared memory pages of more than one size, of which the last one may
/// reach beyond the end.
fn may_be_huge() -> bool {
    const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    !std::fs::read_to_string(SETTING).is_ok_and(|text| text.contains("[never]"))
}

fn check_slowly(fd: BorrowedFd<'_>, size: u64) -> Result<(), Rejected> {
    match at!("sys.shm.seek_hole", seek(fd, SeekFrom::Hole(0))) {
        Ok(first_hole) if first_hole == size => Ok(()),
        Ok(first_hole) => {
            Err(Rejected::Holes { missing: size.saturating_sub(first_hole).max(1), size })
        }
        Err(error) => Err(failed("lseek(SEEK_HOLE)", error)),
    }
}

/// Number of the system call, on all architectures; `libc` has no name for it on each.
const CACHESTAT: libc::c_long = 451;

/// Bytes of a file, as the kernel takes them; a length of 0 is up to the last page there is.
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

/// Whether the kernel counts pages.
fn counts() -> bool {
    static COUNTS: OnceLock<bool> = OnceLock::new();
    *COUNTS.get_or_init(|| {
        let range = Range { offset: 0, len: 0 };
        cachestat(-1, &range, &mut Counts::default()) == Err(Errno::BADF)
    })
}

/// How many pages there are in a range, swapped out or not.
fn count(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<u64, Errno> {
    let mut counts = Counts::default();
    cachestat(fd.as_fd().as_raw_fd(), &Range { offset, len }, &mut counts)?;
    Ok(counts.cached.saturating_add(counts.evicted))
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
