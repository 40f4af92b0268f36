//! Forked partners for the bare measurements, where processes run, and their clocks.
//!
//! The program must be single-threaded when it forks, since the child goes on in Rust code.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, waitid, waitpid,
};
use rustix::thread::futex;
use rustix::thread::{CpuSet, clock_nanosleep_absolute, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, Timespec, clock_gettime};

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

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether it has ended, by itself or by a signal; does not reap it.
    pub fn has_ended(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.pid), look), Ok(None))
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

/// A word in shared memory by which a client lets a polling server run for a round, and sleep else.
///
/// 0: the server sleeps, or is about to; 1: it polls. The client says otherwise when a round ends.
pub struct Switch<'a>(pub &'a AtomicU32);

impl Switch<'_> {
    /// Client: waits until the server has left the last round; what it polls may be set then.
    pub fn await_off(&self) {
        while self.0.load(Ordering::Acquire) != 0 {
            std::thread::yield_now();
        }
    }

    /// Client: starts the server.
    pub fn on(&self) {
        self.0.store(1, Ordering::Release);
        let _ = futex::wake(self.0, FUTEX_SHARED, 1);
    }

    /// Server: sleeps until it is started.
    pub fn await_on(&self) {
        while self.0.load(Ordering::Acquire) == 0 {
            let _ = futex::wait(self.0, FUTEX_SHARED, 0, None);
        }
    }

    /// Server: says that it has left the round.
    pub fn off(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// Futexes between processes: without the private flag.
pub const FUTEX_SHARED: futex::Flags = futex::Flags::empty();

/// Binds all threads of a process to the given CPUs.
///
/// # Errors
/// When the process is gone.
pub fn pin_process(pid: u32, cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = task?.file_name();
        let thread = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        // A thread may end between the list and the call.
        let _ = thread.map(|thread| sched_setaffinity(Some(thread), &set));
    }
    Ok(())
}

/// Two of the given CPUs, on different cores where there are such; None when there is but one.
pub fn two_cores(cpus: &[usize]) -> Option<(usize, usize)> {
    let (one, rest) = cpus.split_first()?;
    let core = |cpu: usize| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        fs::read_to_string(path).unwrap_or_else(|_| cpu.to_string())
    };
    let other = rest.iter().find(|cpu| core(**cpu) != core(*one)).or(rest.first())?;
    Some((*one, *other))
}

/// Now, on the clock of [`sleep_until`].
pub fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// Sleeps until that time of the monotonic clock; returns at once where it is over.
pub fn sleep_until(ns: u64) {
    let until =
        Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as _ };
    while clock_nanosleep_absolute(rustix::thread::ClockId::Monotonic, &until).is_err() {}
}

/// CPU time that this process and another one have used so far; 0 stands for no other.
///
/// # Errors
/// When the other process is gone.
pub fn cpu_ns(other: u32) -> io::Result<u64> {
    let own = nanoseconds(clock_gettime(ClockId::ProcessCPUTime));
    if other == 0 {
        return Ok(own);
    }
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is ours to write, and no pid is wrong to ask for.
    let found = unsafe { libc::clock_getcpuclockid(other as libc::pid_t, &raw mut clock) };
    if found != 0 {
        return Err(io::Error::from_raw_os_error(found));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours to write; a clock of a process that has ended is an error.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(own + time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_on() {
        let before = cpu_ns(0).unwrap();
        let until = monotonic_ns() + 2_000_000;
        sleep_until(until);
        assert!(monotonic_ns() >= until);
        assert!(cpu_ns(0).unwrap() >= before);
        assert!(cpu_ns(std::process::id()).unwrap() >= before);
    }

    #[test]
    fn two_cores_are_two() {
        assert_eq!(two_cores(&[]), None);
        assert_eq!(two_cores(&[0]), None);
        let (one, two) = two_cores(&cpus().unwrap()).unwrap_or((0, 1));
        assert_ne!(one, two);
    }
}
