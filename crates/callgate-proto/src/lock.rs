//! A lock of one word, without its sleeping: three states, as in Drepper, "Futexes Are Tricky" (2011), mutex 2.
//!
//! ```text
//! 0 free      1 held      2 held, and somebody may sleep
//! ```

use crate::sync::{AtomicU32, Ordering};

const FREE: u32 = 0;
const HELD: u32 = 1;
const WANTED: u32 = 2;

/// The word of a lock. Private memory; the sleeping is the caller's.
#[derive(Default)]
pub struct LockWord(AtomicU32);

impl LockWord {
    /// The value on which those who wait sleep.
    pub const WANTED: u32 = WANTED;

    /// Makes a free one.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(FREE))
    }

    /// Takes the lock if it is free.
    #[inline]
    #[must_use]
    pub fn try_take(&self) -> bool {
        take(&self.0)
    }

    /// Takes the lock, or says that somebody may sleep: false, then sleep while the word is [`LockWord::WANTED`].
    ///
    /// Who takes it here gives it back as wanted, since others may sleep still.
    #[must_use]
    pub fn take_or_want(&self) -> bool {
        // EDGE lock (other end: `give_back`): Acquire takes over what the last holder wrote.
        self.0.swap(WANTED, Ordering::Acquire) == FREE
    }

    /// Gives the lock back; true when one sleeper must be woken.
    #[inline]
    #[must_use]
    pub fn give_back(&self) -> bool {
        // EDGE lock (other end: `try_take`, `take_or_want`): Release hands over what the holder wrote.
        self.0.swap(FREE, Ordering::Release) == WANTED
    }

    /// The word to sleep on.
    #[must_use]
    pub fn futex(&self) -> &AtomicU32 {
        &self.0
    }
}

#[inline]
fn take(word: &AtomicU32) -> bool {
    // EDGE lock, EDGE try (other ends: `give_back` of each): Acquire takes over what the last holder wrote.
    word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

/// The word of a lock that nobody waits for: who does not get it goes another way.
#[derive(Default)]
pub struct TryWord(AtomicU32);

impl TryWord {
    /// Takes the lock if it is free.
    #[inline]
    #[must_use]
    pub fn try_take(&self) -> bool {
        take(&self.0)
    }

    /// Gives the lock back. A store, since nobody is to be woken.
    #[inline]
    pub fn give_back(&self) {
        // EDGE try (other end: `try_take`): Release hands over what the holder wrote.
        self.0.store(FREE, Ordering::Release);
    }
}
