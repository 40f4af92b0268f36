//! Linux: credentials, limits, scheduling; the parts with a state of their own have files of their
//! own.

mod closer;
mod cpus;
mod generation;
mod pidfd;
mod slice;
mod tracked;

use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub(crate) use closer::{PeerFd, begin as begin_closer};
pub use cpus::{cpus_allowed, cpus_usable};
pub use generation::{generation, is_current};
pub use pidfd::PidFd;
pub use slice::Slice;
pub(crate) use tracked::TrackedFd;

/// Gives this process's id.
pub fn pid() -> u32 {
    std::process::id()
}

/// Gives this process's effective user id.
pub fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Gives this process's effective group id.
pub fn gid() -> u32 {
    rustix::process::getegid().as_raw()
}

/// Gives the user id that stands for every user without one in our user namespace. It must
/// authorise nothing.
///
/// Read once from `/proc/sys/kernel/overflowuid`; 65534 where that can't be read.
pub fn overflow_uid() -> u32 {
    static OVERFLOW_UID: OnceLock<u32> = OnceLock::new();
    *OVERFLOW_UID.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
        text.trim().parse().unwrap_or(65534)
    })
}

/// Gives the CPU that the caller runs on; it may be another one by the time that the answer is
/// used.
///
/// No system call where the C library keeps it in the thread's restartable-sequence area. 0 if the
/// kernel can't tell.
#[inline]
pub fn current_cpu() -> u32 {
    // SAFETY: sched_getcpu takes no argument and touches no memory of ours.
    u32::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

/// Lets another runnable thread have this CPU. A thread of a real-time scheduler must not (see
/// [`is_realtime`]).
#[inline]
pub fn yield_now() {
    rustix::thread::sched_yield();
}

/// Tells whether the calling thread runs under a real-time policy (FIFO, round robin, deadline).
pub fn is_realtime() -> bool {
    const RESET_ON_FORK: libc::c_long = 0x4000_0000;
    // The system call itself, since musl's function of that name always fails.
    // SAFETY: sched_getscheduler takes a thread id by value (0 is the caller) and touches no memory
    // of ours.
    let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
    let real_time = [libc::SCHED_FIFO, libc::SCHED_RR, libc::SCHED_DEADLINE];
    policy >= 0 && real_time.iter().any(|&p| libc::c_long::from(p) == policy & !RESET_ON_FORK)
}

/// Raises the soft limit on open descriptors to the hard one; gives both as they stand afterwards,
/// `u64::MAX` for none.
///
/// Mind that programs which use `select` break on descriptors above 1023: a library shouldn't call
/// this unasked.
///
/// # Errors
///
/// What `setrlimit` says; the limit is then unchanged.
pub fn raise_nofile() -> io::Result<(u64, u64)> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    let hard = limit.maximum.unwrap_or(u64::MAX);
    Ok((hard, hard))
}

#[cfg(test)]
mod tests;

/// Makes every running thread of this process pass a full memory barrier; false where the kernel
/// can't.
///
/// What the caller stored before is then seen by every load that another thread makes after, and
/// what they stored before is seen by the caller's loads after
/// ([membarrier(2)](https://man7.org/linux/man-pages/man2/membarrier.2.html), private expedited).
/// For rare events that spare the common path a fence. Takes microseconds; never blocks.
pub fn barrier_all_threads() -> bool {
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    let membarrier = |command: libc::c_int| {
        // SAFETY: membarrier takes numbers only and touches no memory of ours.
        callgate_points::at!("sys.process.membarrier", unsafe {
            libc::syscall(libc::SYS_membarrier, command, 0, 0)
        }) == 0
    };
    membarrier(PRIVATE_EXPEDITED)
        || (membarrier(REGISTER_PRIVATE_EXPEDITED) && membarrier(PRIVATE_EXPEDITED))
}
