//! `CLOCK_MONOTONIC`, read through the vDSO.

use rustix::event::Timespec;
use rustix::time::{ClockId, clock_gettime};

/// Reads the clock: nanoseconds of `CLOCK_MONOTONIC`. About 25 ns; never blocks, never fails.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Converts nanoseconds to the kernel's form; what its seconds can't hold becomes the largest that
/// they can.
pub(crate) fn timespec(ns: u64) -> Timespec {
    // u64::MAX ns are 584 years: they fit the 64-bit seconds of every target of this rustix.
    Timespec { tv_sec: (ns / 1_000_000_000) as _, tv_nsec: (ns % 1_000_000_000) as _ }
}

/// Converts a deadline to the time left, for the waits that take a duration; zero when it has
/// passed.
pub(crate) fn left(deadline_ns: u64) -> Timespec {
    timespec(deadline_ns.saturating_sub(now_ns()))
}
