//! The process-local lock that stands before each Free. Knows no system: threads of one process only.
//!
//! A Win32 mutex belongs to a thread, and lets it in again: two clients in one thread could both be in an exchange.
//! This lock tells such a thread, and saves the others a wait in the kernel.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use crate::exchange::Memory;
use crate::names::key;

/// The locks that clients use, or that know of something left behind, by the key of Free's name.
static GATES: Mutex<Option<HashMap<String, Arc<Gate>>>> = Mutex::new(None);

/// The lock before one Free, shared by all clients of this process that use it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    inside: Mutex<Option<ThreadId>>,
    left: Condvar,
    /// What this process has left in the memory. Written and read by who is inside.
    owed: AtomicBool,
    suspect: AtomicBool,
}

/// Why nobody gets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// This thread is inside already.
    Inside,
    TimedOut,
}

/// Being inside. Bound to its thread, as Free is.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    gate: &'a Gate,
    of_one_thread: PhantomData<*const ()>,
}

impl Gate {
    /// Finds the lock before this Free, or makes it.
    pub(crate) fn of(free: &str) -> Arc<Self> {
        let mut gates = lock(&GATES);
        let gates = gates.get_or_insert_default();
        gates.retain(|_, gate| {
            Arc::strong_count(gate) > 1 || gate.left_behind() != Memory::default()
        });
        gates.entry(key(free).to_owned()).or_default().clone()
    }

    /// Waits until no other thread of this process is inside.
    pub(crate) fn enter(&self, limit: Duration) -> Result<Inside<'_>, Closed> {
        let here = std::thread::current().id();
        let began = Instant::now();
        let mut inside = lock(&self.inside);
        while let Some(thread) = *inside {
            if thread == here {
                return Err(Closed::Inside);
            }
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(Closed::TimedOut);
            }
            let woken = self.left.wait_timeout(inside, left);
            inside = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        *inside = Some(here);
        Ok(Inside { gate: self, of_one_thread: PhantomData })
    }

    /// What this process has left in the memory; for who is inside.
    pub(crate) fn left_behind(&self) -> Memory {
        let (owed, suspect) = (self.owed.load(Relaxed), self.suspect.load(Relaxed));
        Memory { owed, suspect, ..Memory::default() }
    }

    /// Notes what this process has left; for who is inside.
    pub(crate) fn leave_behind(&self, memory: Memory) {
        self.owed.store(memory.owed, Relaxed);
        self.suspect.store(memory.suspect, Relaxed);
    }

    /// No memory is there any more in which anything could have been left; for who is inside.
    pub(crate) fn forget(&self) {
        self.leave_behind(Memory::default());
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        *lock(&self.gate.inside) = None;
        self.gate.left.notify_one();
    }
}

/// Nothing panics with one of these locks taken.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gate_for_one_name() {
        let gate = Gate::of("gate-test");
        assert!(Arc::ptr_eq(&gate, &Gate::of(r"Local\gate-test")));
        assert!(!Arc::ptr_eq(&gate, &Gate::of(r"Global\gate-test")));
    }

    #[test]
    fn what_was_left_behind_outlives_the_clients() {
        let left = Memory { owed: true, ..Memory::default() };
        Gate::of("gate-left").leave_behind(left);
        assert_eq!(Gate::of("gate-left").left_behind(), left);
        Gate::of("gate-left").forget();
        let _other = Gate::of("gate-other");
        assert!(!lock(&GATES).as_ref().unwrap().contains_key("gate-left"));
    }

    #[test]
    fn one_thread_at_a_time_and_not_twice() {
        let gate = Gate::default();
        let inside = gate.enter(Duration::ZERO).unwrap();
        assert_eq!(gate.enter(Duration::MAX).unwrap_err(), Closed::Inside);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| gate.enter(Duration::from_millis(1)).map(drop));
            assert_eq!(other.join().unwrap(), Err(Closed::TimedOut));
            let other = scope.spawn(|| gate.enter(Duration::from_secs(60)).map(drop));
            drop(inside);
            assert_eq!(other.join().unwrap(), Ok(()));
        });
        assert!(gate.enter(Duration::ZERO).is_ok());
    }
}
