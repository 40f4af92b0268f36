//! `FUTEX_WAIT_BITSET` with an absolute `CLOCK_MONOTONIC` deadline, and `FUTEX_WAKE`.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use callgate_points::at;
use rustix::io::Errno;
use rustix::thread::ClockId;
use rustix::thread::futex::{self, Flags, Wait, WaitFlags, WaitPtr, WaitvFlags};

use super::{WORDS_MAX, Waited, Word};
use crate::clock;

/// Sleeps until somebody wakes `word`, as long as it holds `expected`, at most until `deadline_ns`
/// (nanoseconds of [`clock::now_ns`]; `None` waits for ever).
///
/// Blocks. The kernel compares and goes to sleep in one step: a wake between the caller's last look
/// and the sleep isn't lost. The word may lie in a read-only mapping. A peer that takes the page
/// away makes it return [`Waited::Changed`].
pub fn wait(word: &AtomicU32, expected: u32, deadline_ns: Option<u64>) -> Waited {
    at!("sys.futex.wait", sleep(word, Flags::empty(), expected, deadline_ns))
}

/// Sleeps as [`wait()`] does, on a word that only this process wakes.
pub fn wait_private(word: &AtomicU32, expected: u32, deadline_ns: Option<u64>) -> Waited {
    at!("sys.futex.wait_private", sleep(word, Flags::PRIVATE, expected, deadline_ns))
}

/// Sleeps until somebody wakes one of at most [`WORDS_MAX`] words, as long as all hold what is expected; `None` where the
/// system cannot (`futex_waitv`, Linux 5.16).
///
/// A peer that moves the sleeper of its own word elsewhere (`FUTEX_REQUEUE`) loses its own doorbell, and no other: each
/// word has an entry of its own in the kernel.
pub fn wait_any(words: &[Word<'_>], deadline_ns: Option<u64>) -> Option<Waited> {
    /// Whether the system call has been found missing, or forbidden by a filter that doesn't know it.
    static MISSING: AtomicBool = AtomicBool::new(false);

    if MISSING.load(Relaxed) {
        return None;
    }
    let mut waits = [Wait::new(); WORDS_MAX];
    let waits = &mut waits[..words.len()];
    for (wait, word) in waits.iter_mut().zip(words) {
        wait.val = word.expected.into();
        wait.uaddr = WaitPtr::new(word.word.as_ptr().cast());
        wait.flags = WaitFlags::SIZE_U32;
        wait.flags.set(WaitFlags::PRIVATE, word.private);
    }
    let deadline = deadline_ns.map(clock::timespec);
    let monotonic = ClockId::Monotonic;
    let waited = at!(
        "sys.futex.wait_any",
        futex::waitv(waits, WaitvFlags::empty(), deadline.as_ref(), monotonic)
    );
    Some(match waited {
        Ok(_) | Err(Errno::INTR) => Waited::Woken,
        Err(Errno::TIMEDOUT) => Waited::TimedOut,
        Err(Errno::NOSYS | Errno::PERM) => {
            MISSING.store(true, Relaxed);
            return None;
        }
        Err(_) => Waited::Changed,
    })
}

/// Wakes at most `count` sleepers of `word`, in any process; tells how many it woke.
///
/// Never blocks and never fails: where the kernel can't reach the word, there is nobody to wake and
/// the answer is 0.
pub fn wake(word: &AtomicU32, count: u32) -> u32 {
    at!("sys.futex.wake", rouse(word, Flags::empty(), count))
}

/// Wakes as [`wake`] does, but finds only sleepers of this process that used [`wait_private`].
pub fn wake_private(word: &AtomicU32, count: u32) -> u32 {
    at!("sys.futex.wake_private", rouse(word, Flags::PRIVATE, count))
}

fn sleep(word: &AtomicU32, flags: Flags, expected: u32, deadline_ns: Option<u64>) -> Waited {
    // Without FUTEX_CLOCK_REALTIME the deadline of FUTEX_WAIT_BITSET is an absolute CLOCK_MONOTONIC
    // time.
    let deadline = deadline_ns.map(clock::timespec);
    match futex::wait_bitset(word, flags, expected, deadline.as_ref(), NonZeroU32::MAX) {
        Ok(()) | Err(Errno::INTR) => Waited::Woken,
        Err(Errno::TIMEDOUT) => Waited::TimedOut,
        Err(_) => Waited::Changed,
    }
}

fn rouse(word: &AtomicU32, flags: Flags, count: u32) -> u32 {
    // The kernel reads the count as a signed number.
    futex::wake(word, flags, count.min(i32::MAX as u32)).map_or(0, |woken| woken as u32)
}
