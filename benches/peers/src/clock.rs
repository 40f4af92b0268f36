//! Clocks that more than one process can read.

use std::mem::MaybeUninit;
use std::time::Instant;

use crate::peer::Result;

/// Nanoseconds of the monotonic clock, the same in all processes.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// CPU time that all threads of the process `pid` have used so far, in nanoseconds.
///
/// # Errors
/// When there is no such process.
pub fn cpu_ns(pid: u32) -> Result<u64> {
    let mut clock = 0;
    // SAFETY: `clock` may be written.
    let failed = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    if failed != 0 {
        return Err(std::io::Error::from_raw_os_error(failed).into());
    }
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `time` may be written.
    if unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: the call above succeeded, and so has written it.
    let time = unsafe { time.assume_init() };
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// What reading the clock twice costs, in nanoseconds: the median over many pairs.
///
/// Each measured time holds about this much of the clock's own, which is subtracted.
pub fn cost_ns() -> u64 {
    let mut costs: Vec<u64> = (0..2_001)
        .map(|_| {
            let start = Instant::now();
            start.elapsed().as_nanos() as u64
        })
        .collect();
    costs.sort_unstable();
    costs[costs.len() / 2]
}
