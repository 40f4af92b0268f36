//! Locks and condition variables of one process.
//!
//! They are those of `std` on every system. They stand here so that a simulated system can put its
//! own in their place: a task that blocks in a lock of `std` would block the scheduler too.

pub use std::sync::{Condvar, Mutex, MutexGuard};
