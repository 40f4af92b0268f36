//! Windows: users, processes, scheduling.
//!
//! There is no fork, so a process has one life, and whatever belongs to it does so for good.

mod peer;
mod token;
mod user;

use std::io;

use windows_sys::Win32::System::Threading::{
    FlushProcessWriteBuffers, GetCurrentProcessorNumber, GetCurrentThread, GetPriorityClass,
    GetProcessAffinityMask, GetThreadPriority, REALTIME_PRIORITY_CLASS, SwitchToThread,
    THREAD_PRIORITY_TIME_CRITICAL,
};

pub use peer::PidFd;
pub(crate) use peer::{Peer, Word};
pub(crate) use token::Who;
pub(crate) use user::{Sid, own_sid_text};
pub use user::{gid, overflow_uid, uid};

use crate::win::current_process;

/// Handles that a process can have: 2^24, less what the kernel keeps.
const HANDLES_MAX: u64 = 16_000_000;

/// Gives this process's id.
pub fn pid() -> u32 {
    std::process::id()
}

/// Gives the token of this process's life: the same for all of it.
#[inline]
pub fn generation() -> u32 {
    1
}

/// Tells whether `token` was given out by [`generation`] in this process.
#[inline]
pub fn is_current(token: u32) -> bool {
    token == 1
}

/// Gives the number of CPUs that this process may use at once, at least 1. Quotas of job objects are left aside.
pub fn cpus_usable() -> usize {
    cpus_allowed()
}

/// Gives the number of CPUs in this process's affinity mask, which are those of one processor group. At least 1.
pub fn cpus_allowed() -> usize {
    let (mut own, mut system) = (0, 0);
    // SAFETY: both results are written to live locals.
    unsafe { GetProcessAffinityMask(current_process(), &raw mut own, &raw mut system) };
    match own.count_ones() as usize {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        count => count,
    }
}

/// Gives the CPU that the caller runs on, counted in its processor group; it may be another one by the time that the
/// answer is used.
#[inline]
pub fn current_cpu() -> u32 {
    // SAFETY: it has no conditions.
    unsafe { GetCurrentProcessorNumber() }
}

/// Lets another runnable thread have this CPU.
#[inline]
pub fn yield_now() {
    // SAFETY: it has no conditions.
    unsafe { SwitchToThread() };
}

/// Tells whether the calling thread has a priority that nothing else comes beside: a real-time process, or a time-critical
/// thread.
pub fn is_realtime() -> bool {
    // SAFETY: no memory is passed, and both handles are constants that mean the caller.
    unsafe {
        GetPriorityClass(current_process()) == REALTIME_PRIORITY_CLASS
            || GetThreadPriority(GetCurrentThread()) == THREAD_PRIORITY_TIME_CRITICAL
    }
}

/// Gives how many handles a process can have, twice: there is no limit to raise.
///
/// # Errors
///
/// None.
pub fn raise_nofile() -> io::Result<(u64, u64)> {
    Ok((HANDLES_MAX, HANDLES_MAX))
}

/// Makes every running thread of this process pass a full memory barrier; always true. Takes microseconds; never blocks.
pub fn barrier_all_threads() -> bool {
    // SAFETY: it has no conditions.
    callgate_points::at!("sys.process.membarrier", unsafe { FlushProcessWriteBuffers() });
    true
}

/// The time slice of the thread that owns this: the system lets no thread choose one.
#[derive(Debug, Default)]
pub struct Slice {
    _nothing: (),
}

impl Slice {
    /// Changes nothing.
    #[inline]
    pub fn shorten(&mut self) {}

    /// Changes nothing.
    #[inline]
    pub fn lengthen(&mut self) {}
}
