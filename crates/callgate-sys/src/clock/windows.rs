//! `QueryPerformanceCounter`: one for the whole machine, monotonic. It counts the time that the machine is suspended, too.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use windows_sys::Win32::System::Performance::{QueryPerformanceCounter, QueryPerformanceFrequency};

const NS_PER_S: u64 = 1_000_000_000;

/// Ticks in a second; 0 while it was not asked for. The same for as long as the system runs.
static FREQUENCY: AtomicU64 = AtomicU64::new(0);

/// Reads the clock: nanoseconds of the performance counter. Never blocks, never fails.
pub fn now_ns() -> u64 {
    let mut ticks = 0;
    // SAFETY: the result is written to a live local. It does not fail on any Windows since XP.
    unsafe { QueryPerformanceCounter(&raw mut ticks) };
    let ticks = ticks as u64;
    let frequency = match FREQUENCY.load(Relaxed) {
        0 => ask(),
        known => known,
    };
    if NS_PER_S.is_multiple_of(frequency) {
        return ticks.wrapping_mul(NS_PER_S / frequency);
    }
    (u128::from(ticks) * u128::from(NS_PER_S) / u128::from(frequency)) as u64
}

#[cold]
fn ask() -> u64 {
    let mut frequency = 0;
    // SAFETY: the result is written to a live local.
    unsafe { QueryPerformanceFrequency(&raw mut frequency) };
    let frequency = (frequency as u64).max(1);
    FREQUENCY.store(frequency, Relaxed);
    frequency
}
