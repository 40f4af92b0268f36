//! Locks of one futex word; the word's protocol is `callgate_proto::lock`.

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use callgate_proto::lock::LockWord;

use crate::{clock, futex};

/// Looks at a held lock before sleeping: those who hold one do little.
const LOOKS: u32 = 40;

/// A lock with what it guards. As `std`'s, but never poisoned.
#[derive(Default)]
pub struct Mutex<T> {
    word: LockWord,
    data: UnsafeCell<T>,
}

// SAFETY: the lock gives its content to one thread at a time.
unsafe impl<T: Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Mutex<T> {}

/// The right to use what a [`Mutex`] holds. It stays on its thread.
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    _thread: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives shared access to the content only.
unsafe impl<T: Sync> Sync for MutexGuard<'_, T> {}

impl<T> Mutex<T> {
    /// Makes a free one.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex { word: LockWord::new(), data: UnsafeCell::new(value) }
    }

    /// Waits until it is free, and takes it.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        if !self.word.try_take() {
            self.wait();
        }
        MutexGuard { mutex: self, _thread: PhantomData }
    }

    #[cold]
    fn wait(&self) {
        for _ in 0..LOOKS {
            std::hint::spin_loop();
            if self.word.futex().load(Relaxed) == 0 && self.word.try_take() {
                return;
            }
        }
        while !self.word.take_or_want() {
            futex::wait_private(self.word.futex(), LockWord::WANTED, None);
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").finish_non_exhaustive()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard is the only one while it lives.
        unsafe { &*self.mutex.data.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `&mut self` makes it exclusive.
        unsafe { &mut *self.mutex.data.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if self.mutex.word.give_back() {
            wake_one(self.mutex.word.futex());
        }
    }
}

#[cold]
fn wake_one(word: &AtomicU32) {
    futex::wake_private(word, 1);
}

/// A condition variable.
#[derive(Debug, Default)]
pub struct Condvar(AtomicU32);

impl Condvar {
    /// Makes one that nobody waits for.
    pub const fn new() -> Condvar {
        Condvar(AtomicU32::new(0))
    }

    /// Gives the lock back and waits to be notified, at most that long; takes the lock again. May return early.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> MutexGuard<'a, T> {
        let mutex = guard.mutex;
        // Read under the lock: a notification after a change made under it moves the word on from this value.
        let seen = self.0.load(Relaxed);
        drop(guard);
        futex::wait_private(&self.0, seen, Some(clock::deadline_ns(limit)));
        mutex.lock()
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.0.fetch_add(1, Relaxed);
        futex::wake_private(&self.0, u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn one_holder_at_a_time() {
        let mutex = Arc::new(Mutex::new(0u64));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let mutex = mutex.clone();
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        let mut held = mutex.lock();
                        let seen = *held;
                        std::hint::black_box(());
                        *held = seen + 1;
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*mutex.lock(), 80_000);
    }

    #[test]
    fn a_notification_ends_a_wait() {
        let pair = Arc::new((Mutex::new(false), Condvar::new()));
        let other = pair.clone();
        let waiter = std::thread::spawn(move || {
            let mut told = other.0.lock();
            while !*told {
                told = other.1.wait_timeout(told, Duration::from_secs(60));
            }
        });
        *pair.0.lock() = true;
        pair.1.notify_all();
        waiter.join().unwrap();
        let began = std::time::Instant::now();
        drop(pair.1.wait_timeout(pair.0.lock(), Duration::from_millis(2)));
        assert!(began.elapsed() >= Duration::from_millis(2));
    }
}
