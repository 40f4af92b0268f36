//! Forked partners for the bare measurements, and where they run.
//!
//! The program must be single-threaded when it forks, since the child goes on in Rust code.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A forked child; dropping it kills and reaps it.
pub struct Partner {
    pid: Pid,
}

impl Partner {
    /// Runs `work` in a forked child on the given CPUs (all that we may use when empty).
    ///
    /// The child dies with this process, and ends when `work` returns.
    ///
    /// # Errors
    /// When this process has other threads, or fork fails.
    pub fn fork(cpus: &[usize], work: impl FnOnce()) -> io::Result<Partner> {
        let threads = fs::read_dir("/proc/self/task")?.count();
        if threads != 1 {
            return Err(io::Error::other(format!("fork with {threads} threads")));
        }
        let parent = rustix::process::getpid();
        // SAFETY: this process has one thread (checked above), so the child inherits no lock held
        // by a thread that does not exist in it, and may go on in ordinary code.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                // The parent may have died before the line above took effect.
                if rustix::process::getppid() == Some(parent) {
                    let _ = pin(cpus);
                    work();
                }
                // SAFETY: _exit has no preconditions; it skips the destructors and exit handlers
                // that belong to the parent.
                unsafe { libc::_exit(0) }
            }
            pid => match Pid::from_raw(pid) {
                Some(pid) => Ok(Partner { pid }),
                None => Err(io::Error::other("fork returned no pid")),
            },
        }
    }

    /// Waits until the child has ended by itself.
    ///
    /// # Errors
    /// When it ended otherwise than by returning from its work.
    pub fn join(self) -> io::Result<()> {
        let ended = waitpid(Some(self.pid), WaitOptions::empty())?;
        // Reaped: nothing is left for Drop to kill.
        std::mem::forget(self);
        match ended {
            Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
            other => Err(io::Error::other(format!("a child ended with {other:?}"))),
        }
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// The CPUs that this thread may run on.
///
/// # Errors
/// Those of `sched_getaffinity`.
pub fn cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Binds this thread to the given CPUs; does nothing when there are none.
///
/// # Errors
/// Those of `sched_setaffinity`.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Zeroed memory of a memfd that forked children share.
pub struct Shared {
    start: *mut u8,
    len: usize,
}

impl Shared {
    /// Maps `len` bytes, all of them present.
    ///
    /// # Errors
    /// When the system has no memory or no memfd.
    pub fn new(len: usize) -> io::Result<Shared> {
        let fd = rustix::fs::memfd_create("callgate-bench", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let start = unsafe {
            mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, &fd, 0)?
        };
        Ok(Shared { start: start.cast(), len })
    }

    /// The start of the mapping, page-aligned.
    pub fn start(&self) -> *mut u8 {
        self.start
    }

    /// The word at `offset`, as an atomic.
    ///
    /// # Panics
    /// When the word is not inside the mapping, or not aligned: a bug of the caller.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len);
        // SAFETY: inside of the mapping and aligned (asserted); the mapping lives as long as
        // `self`, and every process reaches this word as an atomic only.
        unsafe { AtomicU32::from_ptr(self.start.add(offset).cast()) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly this range, and no borrow of it outlives `self`.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}

/// A one-shot gate in shared memory at which forked processes wait for each other, sleeping.
pub struct Gate<'a>(pub &'a AtomicU32);

impl Gate<'_> {
    /// Opens the gate.
    pub fn open(&self) {
        self.0.store(1, Ordering::Release);
        let _ = rustix::thread::futex::wake(self.0, FUTEX_SHARED, u32::MAX >> 1);
    }

    /// Sleeps until the gate is open.
    pub fn pass(&self) {
        while self.0.load(Ordering::Acquire) == 0 {
            let _ = rustix::thread::futex::wait(self.0, FUTEX_SHARED, 0, None);
        }
    }
}

/// Futexes between processes: without the private flag.
pub const FUTEX_SHARED: rustix::thread::futex::Flags = rustix::thread::futex::Flags::empty();
