//! What is known of each call, from both sides, outside of the simulated world.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use callgate_sys::sim::fail;

static ENDINGS: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// How often calls ended how, in all scenarios of this program.
pub fn endings() -> BTreeMap<&'static str, u64> {
    ENDINGS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

static LONGEST_NS: AtomicU64 = AtomicU64::new(0);

/// The longest call of all scenarios of this program, in nanoseconds of their virtual time.
pub fn longest_ns() -> u64 {
    LONGEST_NS.load(Ordering::Relaxed)
}

/// Notes how long a call lasted.
pub(crate) fn lasted(ns: u64) {
    LONGEST_NS.fetch_max(ns, Ordering::Relaxed);
}

/// Counts an ending.
pub(crate) fn count(how: &'static str) {
    *ENDINGS.lock().unwrap_or_else(PoisonError::into_inner).entry(how).or_default() += 1;
}

/// Remembers calls by their identity. It is never locked across a scheduling point.
#[derive(Default)]
pub(crate) struct Oracle {
    calls: Mutex<BTreeMap<u64, Known>>,
}

#[derive(Clone, Copy, Default)]
struct Known {
    runs: u32,
    repeatable: bool,
    told_not_started: bool,
}

impl Oracle {
    fn calls(&self) -> MutexGuard<'_, BTreeMap<u64, Known>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A caller allows that this call runs more than once.
    pub(crate) fn repeatable(&self, id: u64) {
        self.calls().entry(id).or_default().repeatable = true;
    }

    /// A handler begins with a call.
    pub(crate) fn runs(&self, id: u64) {
        let mut calls = self.calls();
        let known = calls.entry(id).or_default();
        known.runs += 1;
        let Known { runs, repeatable, told_not_started } = *known;
        drop(calls);
        // Not by a panic: the library catches those of handlers.
        if runs > 1 && !repeatable {
            fail(&format!("call {id:#x} runs once more, {runs} times now"));
        }
        if told_not_started {
            fail(&format!("call {id:#x} runs, and its caller was told that it won't"));
        }
    }

    /// A caller was told that its call did not start, and never will.
    pub(crate) fn not_started(&self, id: u64) {
        let mut calls = self.calls();
        let known = calls.entry(id).or_default();
        let Known { runs, repeatable, .. } = *known;
        if repeatable {
            return;
        }
        known.told_not_started = true;
        drop(calls);
        assert!(runs == 0, "call {id:#x} ran, and its caller was told that it did not start");
    }

    /// A caller got an answer of the handler's.
    pub(crate) fn answered(&self, id: u64) {
        let runs = self.calls().get(&id).map_or(0, |known| known.runs);
        assert!(runs > 0, "call {id:#x} was answered and never ran");
    }
}
