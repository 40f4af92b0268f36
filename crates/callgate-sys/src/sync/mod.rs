//! Locks and condition variables of one process.
//!
//! Unlike those of `std` they know no poison, for which each of those asks whether its thread panics, at both ends: a short
//! call takes two or three locks, and nothing here panics while it holds one. A simulated system puts its own in their place: a task that blocks in a
//! lock would block the scheduler too.

#[cfg(not(callgate_sim))]
mod flag;
#[cfg(not(callgate_sim))]
mod futex;
#[cfg(callgate_sim)]
mod sim;
mod try_lock;

#[cfg(not(callgate_sim))]
pub use flag::LateFlag;
#[cfg(not(callgate_sim))]
pub use futex::{Condvar, Mutex, MutexGuard};
#[cfg(callgate_sim)]
pub use sim::{Condvar, LateFlag, Mutex, MutexGuard};
pub use try_lock::{TryGuard, TryLock};
