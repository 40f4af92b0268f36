//! A flag that is looked at often and set once.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A flag that other threads see late: a look costs a plain load, and orders nothing.
///
/// Who sets it and then calls [`barrier_all_threads`](crate::process::barrier_all_threads) knows that every look which
/// begins after that sees it. The simulated system lets looks before that miss it.
#[derive(Debug, Default)]
pub struct LateFlag(AtomicBool);

impl LateFlag {
    /// Makes one that is not set.
    pub const fn new() -> LateFlag {
        LateFlag(AtomicBool::new(false))
    }

    /// Sets it for good.
    pub fn set(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether it is set, as far as this thread sees.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}
