//! Threads of this process.
//!
//! They are those of `std` on every system; a simulated system has its own.

pub use std::thread::{Builder, JoinHandle, current, sleep};
