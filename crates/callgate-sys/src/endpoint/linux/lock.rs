//! The instance lock: one server for a name, known to all, freed by the kernel.
//!
//! A POSIX record lock has a trap: closing any descriptor of the file, in any part of the process,
//! frees it. So a process opens each lock file once, and a registry keeps every other part of it
//! from opening it again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicPtr, Ordering::AcqRel, Ordering::Acquire};
use std::sync::{Mutex, MutexGuard, PoisonError};

use callgate_points::at;
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, fcntl_lock, fstat, openat, statat,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Flock, FlockType, fcntl_getlk};

use super::address::{FileId, Folder, file_id};
use crate::process::{TrackedFd, generation, is_current, pid};

/// How often a lock is tried whose holder vanishes before it can be asked for.
const ATTEMPTS: usize = 100;

/// Proof that this process is the server of a name. Dropping it frees the name; the file stays.
#[derive(Debug)]
pub(super) struct InstanceLock {
    fd: Option<TrackedFd>,
    key: FileId,
}

/// Why the lock wasn't had.
pub(super) enum LockError {
    /// Another has it.
    Held(Option<u32>),
    /// A system call failed.
    Os(&'static str, Errno),
}

impl InstanceLock {
    /// Takes the lock on the file at `path`, which is made if there is none. Never blocks.
    pub(super) fn acquire(path: &Path) -> Result<InstanceLock, LockError> {
        let (folder, name) = Folder::of(path).map_err(|e| LockError::Os("open", e))?;
        let mut held = held();
        match statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if held.contains(&file_id(&stat)) => return Err(LockError::Held(Some(pid()))),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(LockError::Os("stat", error)),
        }
        // NONBLOCK: whatever else has that name, a FIFO for one, must not hold us up.
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = TrackedFd::open(|| {
            at!("sys.endpoint.open_lock", retry_on_intr(|| openat(&folder.fd, name, flags, mode)))
        });
        let fd = fd.map_err(|e| LockError::Os("open", e))?;
        let stat = fstat(&fd).map_err(|e| LockError::Os("fstat", e))?;
        let key = file_id(&stat);
        if held.contains(&key) {
            // Somebody gave our own lock file this name just now. To close it again would free our
            // lock.
            std::mem::forget(fd);
            return Err(LockError::Held(Some(pid())));
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(LockError::Os("open", Errno::INVAL));
        }
        take(fd.as_fd())?;
        held.push(key);
        Ok(InstanceLock { fd: Some(fd), key })
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        let mut held = held();
        // Under the registry's lock: nobody opens the file between the two.
        held.retain(|key| *key != self.key);
        at!("sys.endpoint.close_lock", drop(self.fd.take()));
    }
}

fn take(fd: BorrowedFd<'_>) -> Result<(), LockError> {
    for _ in 0..ATTEMPTS {
        match at!("sys.endpoint.setlk", fcntl_lock(fd, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN | Errno::ACCESS) => {}
            Err(error) => return Err(LockError::Os("fcntl(F_SETLK)", error)),
        }
        match asked(fd) {
            // It ended between the two calls.
            Ok(None) => continue,
            Ok(Some(pid)) => return Err(LockError::Held((pid != 0).then_some(pid))),
            Err(error) => return Err(LockError::Os("fcntl(F_GETLK)", error)),
        }
    }
    Err(LockError::Held(None))
}

/// Who holds the lock, 0 for somebody whom the kernel can't name here.
fn asked(fd: BorrowedFd<'_>) -> Result<Option<u32>, Errno> {
    let wanted = Flock::from(FlockType::WriteLock);
    let lock = at!("sys.endpoint.getlk", retry_on_intr(|| fcntl_getlk(fd, &wanted)))?;
    Ok(lock.map(|lock| lock.pid.map_or(0, |pid| pid.as_raw_nonzero().get() as u32)))
}

/// Tells which process holds the instance lock, and so serves: its id, our own if this process
/// does; `None` if nobody does or there is no such file.
///
/// Where the kernel can't name it (another pid namespace), 0. Never blocks.
///
/// # Errors
///
/// What the kernel says: `EACCES` for a file that we may not read.
pub fn holder(lock_path: &Path) -> io::Result<Option<u32>> {
    let (folder, name) = match Folder::of(lock_path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        result => result?,
    };
    let held = held();
    match statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if held.contains(&file_id(&stat)) => return Ok(Some(pid())),
        Ok(_) => {}
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let fd = match at!(
        "sys.endpoint.open_lock_to_ask",
        retry_on_intr(|| openat(&folder.fd, name, flags, Mode::empty()))
    ) {
        Err(Errno::NOENT) => return Ok(None),
        result => result?,
    };
    if held.contains(&file_id(&fstat(&fd)?)) {
        // As in `acquire`.
        std::mem::forget(fd);
        return Ok(Some(pid()));
    }
    Ok(asked(fd.as_fd())?)
}

/// The lock files that this process holds, while no other thread opens or closes one.
///
/// A forked child holds none of its parent's locks, and the parent's registry may have been locked
/// by another thread when it was forked: so each generation has a registry of its own. Those of
/// past generations are left alone.
fn held() -> MutexGuard<'static, Vec<FileId>> {
    struct Registry {
        generation: u32,
        held: Mutex<Vec<FileId>>,
    }
    static REGISTRY: AtomicPtr<Registry> = AtomicPtr::new(std::ptr::null_mut());

    // EDGE registry-made (both ends here): whoever sees the pointer sees what it points to.
    let mut registry = REGISTRY.load(Acquire);
    loop {
        // SAFETY: a pointer that was published came from Box::into_raw and is never freed.
        if let Some(current) = unsafe { registry.as_ref() }
            && is_current(current.generation)
        {
            return current.held.lock().unwrap_or_else(PoisonError::into_inner);
        }
        let fresh =
            Box::into_raw(Box::new(Registry { generation: generation(), held: Mutex::default() }));
        match REGISTRY.compare_exchange(registry, fresh, AcqRel, Acquire) {
            Ok(_) => registry = fresh,
            Err(first) => {
                // SAFETY: made just above, and not published.
                drop(unsafe { Box::from_raw(fresh) });
                registry = first;
            }
        }
    }
}
