//! Locks that the scheduler of the world knows, and a flag that is seen late.

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::sim::{here, wait_address};

/// A lock as `std`'s, but never poisoned.
#[derive(Default)]
pub struct Mutex<T> {
    held: AtomicBool,
    waiters: AtomicU32,
    data: UnsafeCell<T>,
}

// SAFETY: as for std's: the lock gives its content to one thread at a time.
unsafe impl<T: Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Mutex<T> {}

/// The right to use what a [`Mutex`] holds.
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// As std's: it stays on its thread.
    _thread: PhantomData<*const ()>,
}

impl<T> Mutex<T> {
    /// Makes a free one.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex {
            held: AtomicBool::new(false),
            waiters: AtomicU32::new(0),
            data: UnsafeCell::new(value),
        }
    }

    /// Waits until it is free, and takes it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        if let Some(here) = here() {
            here.point("sync.lock", 20);
        }
        self.take();
        MutexGuard { mutex: self, _thread: PhantomData }
    }

    fn take(&self) {
        // Between a look and the sleep there is no scheduling point, so no wake is lost.
        while self.held.swap(true, Relaxed) {
            self.waiters.fetch_add(1, Relaxed);
            wait_address(self.address(), None);
            self.waiters.fetch_sub(1, Relaxed);
        }
    }

    fn address(&self) -> usize {
        (&raw const self.held).addr()
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").finish_non_exhaustive()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard is the only one while it lives.
        unsafe { &*self.mutex.data.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `&mut self` makes it exclusive.
        unsafe { &mut *self.mutex.data.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.mutex.held.store(false, Relaxed);
        if self.mutex.waiters.load(Relaxed) > 0 {
            wake(self.mutex.address(), 1);
        }
    }
}

fn wake(address: usize, count: u32) {
    if let Some(here) = here() {
        here.world.lock().wake_address(address, count);
    }
}

/// A condition variable as `std`'s.
#[derive(Debug, Default)]
pub struct Condvar(AtomicU32);

impl Condvar {
    /// Makes one that nobody waits for.
    pub const fn new() -> Condvar {
        Condvar(AtomicU32::new(0))
    }

    fn address(&self) -> usize {
        (&raw const self.0).addr()
    }

    fn sleep<T>(&self, guard: &MutexGuard<'_, T>, deadline_ns: Option<u64>) -> bool {
        let here = crate::sim::world::inside();
        here.point("sync.wait", 50);
        let signal = here.world.lock().rng.one_in(100);
        let mutex = guard.mutex;
        mutex.held.store(false, Relaxed);
        if mutex.waiters.load(Relaxed) > 0 {
            wake(mutex.address(), 1);
        }
        let woken = signal || wait_address(self.address(), deadline_ns);
        mutex.take();
        woken
    }

    /// Lets go of the lock, waits for a notification for at most that long, and takes the lock again. May return early.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> MutexGuard<'a, T> {
        self.sleep(&guard, Some(crate::clock::deadline_ns(limit)));
        guard
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.notify(u32::MAX);
    }

    fn notify(&self, count: u32) {
        if let Some(here) = here() {
            here.operation("sync.notify", 100, |state| {
                state.wake_address(self.address(), count);
            });
        }
    }
}

/// A flag that other tasks may miss until its process has passed a barrier.
#[derive(Debug, Default)]
pub struct LateFlag {
    /// The task that set it, plus one.
    setter: AtomicU64,
    /// Barriers that its process had passed by then.
    barriers: AtomicU64,
    seen: AtomicBool,
}

impl LateFlag {
    /// Makes one that is not set.
    pub const fn new() -> LateFlag {
        LateFlag {
            setter: AtomicU64::new(0),
            barriers: AtomicU64::new(0),
            seen: AtomicBool::new(false),
        }
    }

    /// Sets it for good.
    pub fn set(&self) {
        let here = crate::sim::world::inside();
        let state = here.world.lock();
        if self.setter.load(Relaxed) == 0 {
            self.barriers.store(state.processes[here.process].barriers, Relaxed);
            self.setter.store(here.task as u64 + 1, Relaxed);
        }
    }

    /// Whether it is set, as far as this task sees.
    pub fn is_set(&self) -> bool {
        let setter = self.setter.load(Relaxed);
        if setter == 0 || self.seen.load(Relaxed) {
            return setter != 0;
        }
        let here = crate::sim::world::inside();
        let state = here.world.lock();
        let barriers = state.processes[here.process].barriers;
        let must = setter == here.task as u64 + 1 || barriers > self.barriers.load(Relaxed);
        let sees = must || state.hash.is_multiple_of(3);
        self.seen.store(sees, Relaxed);
        sees
    }
}
