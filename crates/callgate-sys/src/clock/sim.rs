//! Virtual time: it passes with each step, and jumps while everybody sleeps.

use crate::sim::here;

/// Reads the clock of the world, in nanoseconds.
pub fn now_ns() -> u64 {
    let Some(here) = here() else { return 0 };
    here.operation("sys.clock.now", 25, |state| state.now_ns)
}
