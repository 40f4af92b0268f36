//! Threads of this process.
//!
//! They are those of `std` on every system; a simulated system has its own.

#[cfg(callgate_sim)]
mod sim;

#[cfg(callgate_sim)]
pub use sim::{Builder, JoinHandle, current, sleep};
#[cfg(not(callgate_sim))]
pub use std::thread::{Builder, JoinHandle, current, sleep};
