//! The process-local lock that stands before each Free. Knows no system: threads of one process only.
//!
//! A Win32 mutex belongs to a thread, and lets it in again: two clients in one thread could both be in an exchange.
//! This lock tells such a thread, and saves the others a wait in the kernel.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use crate::exchange::Memory;
use crate::names::{Names, Object, key};

/// The locks that clients use, or that know of something left behind, by the key of Free's name.
static GATES: Mutex<Option<HashMap<String, Arc<Gate>>>> = Mutex::new(None);

/// The lock before one Free, shared by all clients of this process that use it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    inside: Mutex<Option<ThreadId>>,
    left: Condvar,
    /// What this process has left, and where. Written and read by who is inside.
    debts: Mutex<Vec<Debt>>,
}

/// What was left at one of the endpoints that have this Free: most often there is one only.
#[derive(Debug)]
struct Debt {
    memory: String,
    done: String,
    owed: bool,
    suspect: bool,
}

impl Debt {
    /// Whether it is this endpoint's own.
    fn is_of(&self, names: &Names) -> bool {
        self.memory == key(names.of(Object::Memory)) && self.done == key(names.of(Object::Done))
    }

    /// Whether a late answer would meet exchanges of this endpoint: by its bytes, or by its Done.
    fn meets(&self, names: &Names) -> bool {
        self.memory == key(names.of(Object::Memory)) || self.done == key(names.of(Object::Done))
    }
}

/// What this process has left where it meets the exchanges of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) memory: Memory,
    /// Some of it at another endpoint with the same memory or the same Done, of whose server this one's says nothing.
    pub(crate) elsewhere: bool,
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
        gates.retain(|_, gate| Arc::strong_count(gate) > 1 || !lock(&gate.debts).is_empty());
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

    /// What this process has left that an exchange of this endpoint could meet; for who is inside.
    pub(crate) fn left_behind(&self, names: &Names) -> Left {
        let mut left = Left { memory: Memory::default(), elsewhere: false };
        for debt in lock(&self.debts).iter().filter(|debt| debt.meets(names)) {
            left.memory.owed |= debt.owed;
            left.memory.suspect |= debt.suspect;
            left.elsewhere |= !debt.is_of(names);
        }
        left
    }

    /// Notes what is left after an exchange of this endpoint, which has settled all that it could meet; for who is
    /// inside.
    pub(crate) fn leave_behind(&self, names: &Names, memory: Memory) {
        let mut debts = lock(&self.debts);
        debts.retain(|debt| !debt.meets(names));
        let Memory { owed, suspect, .. } = memory;
        if owed || suspect {
            let name = |object| key(names.of(object)).to_owned();
            let (memory, done) = (name(Object::Memory), name(Object::Done));
            debts.push(Debt { memory, done, owed, suspect });
        }
    }

    /// The memory is not there any more in which something could have been left; for who is inside.
    pub(crate) fn forget(&self, names: &Names) {
        lock(&self.debts).retain(|debt| debt.memory != key(names.of(Object::Memory)));
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

    fn names(memory: &str, done: &str) -> Names {
        Names::new(memory, "exec", done, "gate-left").unwrap()
    }

    const OWED: Memory = Memory { owed: true, suspect: false, abandoned: 0, late: 0, withdrawn: 0 };
    const NOTHING: Memory = Memory { owed: false, ..OWED };

    #[test]
    fn what_was_left_meets_who_has_the_memory_or_done() {
        let gate = Gate::default();
        let first = names("m", "d");
        gate.leave_behind(&first, OWED);
        for (memory, done, met, elsewhere) in [
            ("m", "d", OWED, false),
            (r"Local\m", "d", OWED, false),
            ("m", "d2", OWED, true),
            ("m2", "d", OWED, true),
            ("m2", "d2", NOTHING, false),
        ] {
            let left = gate.left_behind(&names(memory, done));
            assert_eq!(left, Left { memory: met, elsewhere }, "{memory} {done}");
        }
        // Others' memories and exchanges are nothing to it.
        gate.forget(&names("m2", "d"));
        gate.leave_behind(&names("m2", "d2"), NOTHING);
        assert_eq!(gate.left_behind(&first).memory, OWED);
        // Who has met it has settled it.
        gate.leave_behind(&names("m", "d2"), NOTHING);
        assert_eq!(gate.left_behind(&first).memory, NOTHING);
        assert!(lock(&gate.debts).is_empty());
    }

    #[test]
    fn what_was_left_behind_outlives_the_clients() {
        let names = names("m", "d");
        Gate::of("gate-left").leave_behind(&names, OWED);
        let _other = Gate::of("gate-other");
        assert_eq!(Gate::of("gate-left").left_behind(&names).memory, OWED);
        Gate::of("gate-left").forget(&names);
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
