//! `WaitOnAddress`, which knows no other process. What sleeps across processes is `shm::Control`.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use callgate_points::at;
use windows_sys::Win32::System::Threading::{WaitOnAddress, WakeByAddressAll, WakeByAddressSingle};

use super::{Waited, Word};
use crate::win::{has_passed, ms_left};

/// Sleeps until somebody of this process wakes `word`, as long as it holds `expected`, at most until `deadline_ns`
/// (nanoseconds of [`now_ns`](crate::clock::now_ns); `None` waits for ever).
///
/// Blocks. The system compares and goes to sleep in one step: a wake between the caller's last look and the sleep isn't
/// lost.
pub fn wait_private(word: &AtomicU32, expected: u32, deadline_ns: Option<u64>) -> Waited {
    if word.load(Relaxed) != expected {
        return Waited::Changed;
    }
    // SAFETY: both addresses are of four bytes that live for the call.
    let woken = at!("sys.futex.wait_private", unsafe {
        WaitOnAddress(word.as_ptr().cast(), (&raw const expected).cast(), 4, ms_left(deadline_ns))
    });
    // It fails for one reason: the time is over.
    if woken == 0 && has_passed(deadline_ns) { Waited::TimedOut } else { Waited::Woken }
}

/// Gives `None`: this system cannot sleep on several words; see [`WAITS_ON_MANY`](super::WAITS_ON_MANY).
pub fn wait_any(_words: &[Word<'_>], _deadline_ns: Option<u64>) -> Option<Waited> {
    None
}

/// Wakes one sleeper of `word`, or, where `count` is more, all of them. Only those of this process. How many there were
/// isn't known: 0. Never blocks and never fails.
pub fn wake_private(word: &AtomicU32, count: u32) -> u32 {
    at!("sys.futex.wake_private", {
        // SAFETY: the address is only compared with those that threads sleep on.
        unsafe {
            match count {
                0 => {}
                1 => WakeByAddressSingle(word.as_ptr().cast()),
                _ => WakeByAddressAll(word.as_ptr().cast()),
            }
        }
    });
    0
}
