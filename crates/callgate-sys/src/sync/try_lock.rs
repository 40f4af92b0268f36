//! A lock that nobody waits for; the word's protocol is `callgate_proto::lock`.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use callgate_proto::lock::TryWord;

/// A lock with what it guards, to be had at once or not at all.
#[derive(Default)]
pub struct TryLock<T> {
    word: TryWord,
    data: UnsafeCell<T>,
}

// SAFETY: the lock gives its content to one thread at a time.
unsafe impl<T: Send> Send for TryLock<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for TryLock<T> {}

/// The right to use what a [`TryLock`] holds. It stays on its thread.
pub struct TryGuard<'a, T> {
    lock: &'a TryLock<T>,
    _thread: PhantomData<*const ()>,
}

impl<T> TryLock<T> {
    /// Takes it if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<TryGuard<'_, T>> {
        // Made only then: a guard that is dropped gives the lock back, whoever has it.
        self.word.try_take().then(|| TryGuard { lock: self, _thread: PhantomData })
    }
}

impl<T> Deref for TryGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard is the only one while it lives.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for TryGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `&mut self` makes it exclusive.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for TryGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.word.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_at_a_time() {
        let lock = TryLock::<u32>::default();
        let mut guard = lock.try_lock().expect("free");
        *guard = 7;
        assert!(lock.try_lock().is_none());
        assert!(lock.try_lock().is_none(), "who did not get it does not give it back");
        drop(guard);
        assert_eq!(*lock.try_lock().expect("free again"), 7);
    }
}
