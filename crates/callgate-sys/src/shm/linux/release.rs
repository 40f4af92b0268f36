//! Proof that memory handed to a peer is gone from every process.

use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use callgate_points::at;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::memfd::MemFd;
use crate::process::TrackedFd;
use crate::shm::Told;

/// One region that is being watched, as [`ReleaseWatch::watch`] named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseId(i32);

/// Tells when regions of memory are gone: unmapped and closed by every process. Their pages are
/// given back then, but for those that somebody has single references to: see `Hold`.
///
/// Memory that a peer holds stays on its maker's account, however dead the connection is. The
/// kernel says when the last mapping and the last descriptor are gone (inotify's `IN_DELETE_SELF`
/// on the unlinked file); not a moment earlier, and whatever happened to the peer. One instance
/// counts against the user's limits (`fs.inotify`), so one for a process is right. Any thread may
/// use it.
#[derive(Debug)]
pub struct ReleaseWatch {
    inotify: TrackedFd,
    /// What was given out by `watch` and not yet reported.
    watched: Mutex<HashSet<i32>>,
}

impl ReleaseWatch {
    /// Makes one that watches nothing.
    ///
    /// # Errors
    ///
    /// What `inotify_init1` says: `EMFILE` also when the user has too many instances.
    pub fn new() -> io::Result<ReleaseWatch> {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let inotify = TrackedFd::open(|| at!("sys.shm.inotify_init", inotify::init(flags)))?;
        Ok(ReleaseWatch { inotify, watched: Mutex::default() })
    }

    /// Starts to watch the memory behind `fd`, which is still open and so not gone. Doesn't keep it
    /// from going.
    ///
    /// Watching the same memory again gives the same id. Needs `/proc`. Never blocks.
    ///
    /// # Errors
    ///
    /// What `inotify_add_watch` says: `ENOSPC` when the user has too many watches, `ENOENT` without
    /// `/proc`.
    pub fn watch(&self, fd: &MemFd) -> io::Result<ReleaseId> {
        let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        // Under the lock, so that a `drain` that meets the event knows the id.
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let id = at!(
            "sys.shm.inotify_add_watch",
            inotify::add_watch(
                &self.inotify,
                path,
                WatchFlags::DELETE_SELF | WatchFlags::CLOSE_NOWRITE
            )
        )?;
        watched.insert(id);
        Ok(ReleaseId(id))
    }

    /// Reports each region that has gone since the last call, once; and, as a hint, each of which a
    /// file that was opened for reading has been closed. Never blocks.
    ///
    /// If more happened at once than the kernel's queue holds (`fs.inotify.max_queued_events`), it
    /// drops events. Nothing is lost by that: the watches that the kernel still has are read from
    /// `/proc/self/fdinfo` then, all others are reported as gone, and those as perhaps closed.
    /// Should that file be unreadable too, they are never reported as gone: memory is then held to
    /// be in use, never free.
    pub fn drain(&self, told: impl FnMut(Told)) {
        self.read().into_iter().for_each(told);
    }

    fn read(&self) -> Vec<Told> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = Vec::new();
        let mut overflow = false;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            match at!("sys.shm.inotify_read", reader.next()) {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => overflow = true,
                Ok(event) if event.events().contains(ReadFlags::CLOSE_NOWRITE) => {
                    if watched.contains(&event.wd()) {
                        told.push(Told::Closed(ReleaseId(event.wd())));
                    }
                }
                Ok(event) => {
                    if watched.remove(&event.wd()) {
                        told.push(Told::Gone(ReleaseId(event.wd())));
                    }
                }
                Err(Errno::INTR) => continue,
                Err(_) => break,
            }
        }
        if overflow {
            if let Some(alive) = self.alive() {
                let gone = watched.extract_if(|id| !alive.contains(id));
                told.extend(gone.map(|id| Told::Gone(ReleaseId(id))));
            }
            told.extend(watched.iter().map(|id| Told::Closed(ReleaseId(*id))));
        }
        told
    }

    /// The watches that the kernel has.
    fn alive(&self) -> Option<HashSet<i32>> {
        let path = format!("/proc/self/fdinfo/{}", self.inotify.as_fd().as_raw_fd());
        Some(watches(&std::fs::read_to_string(path).ok()?))
    }
}

impl AsFd for ReleaseWatch {
    /// Readable while [`ReleaseWatch::drain`] has something to report.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Reads `inotify wd:HEX ino:... ...` lines.
fn watches(fdinfo: &str) -> HashSet<i32> {
    let ids = fdinfo.lines().filter_map(|line| line.strip_prefix("inotify wd:")?.split(' ').next());
    ids.filter_map(|id| i32::from_str_radix(id, 16).ok()).collect()
}
