//! Locks and condition variables of one process.
//!
//! They are those of `std` on every system. They stand here so that a simulated system can put its
//! own in their place: a task that blocks in a lock of `std` would block the scheduler too.

#[cfg(callgate_sim)]
mod sim;

#[cfg(callgate_sim)]
pub use sim::{Condvar, Mutex, MutexGuard, WaitTimeoutResult};
#[cfg(not(callgate_sim))]
pub use std::sync::{Condvar, Mutex, MutexGuard, WaitTimeoutResult};
