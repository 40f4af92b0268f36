//! Sleeping on a word of memory, and waking those who sleep on it.
//!
//! The shared calls find a sleeper in any process that maps the same page, a read-only mapping
//! included; the private ones only in this process, and a little faster. A wake never blocks,
//! whatever a peer does with the memory, so it is what a server may use towards a client that it
//! doesn't trust.

#[cfg(all(target_os = "linux", not(callgate_sim)))]
mod linux;
#[cfg(callgate_sim)]
mod sim;
#[cfg(all(windows, not(callgate_sim)))]
mod windows;

#[cfg(all(target_os = "linux", not(callgate_sim)))]
pub use linux::{wait, wait_any, wait_private, wake, wake_private};
#[cfg(callgate_sim)]
pub use sim::{wait, wait_any, wait_private, wake, wake_private};
#[cfg(all(windows, not(callgate_sim)))]
pub use windows::{wait_any, wait_private, wake_private};

/// Whether this system can sleep on several words, and on words that other processes wake. Kernels without it are found
/// out by [`wait_any`].
pub const WAITS_ON_MANY: bool = cfg!(not(windows));

/// Most words that [`wait_any`] sleeps on.
pub const WORDS_MAX: usize = 8;

/// One of several words to sleep on.
#[derive(Clone, Copy, Debug)]
pub struct Word<'a> {
    /// The word.
    pub word: &'a AtomicU32,
    /// Sleep as long as it holds this.
    pub expected: u32,
    /// Whether only this process wakes it.
    pub private: bool,
}

use std::sync::atomic::AtomicU32;

/// Why a wait on a word returned. None of them proves that the word has changed: look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// A wake came, or a signal interrupted the sleep.
    Woken,
    /// The word didn't hold the expected value, so there was no sleep.
    Changed,
    /// The deadline passed.
    TimedOut,
}

#[cfg(all(test, target_os = "linux", not(callgate_sim)))]
mod tests;
