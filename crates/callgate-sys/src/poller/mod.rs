//! Waiting for many descriptors at once, in time that grows with those that are ready, not with
//! those that are watched.

#[cfg(all(target_os = "linux", not(callgate_sim)))]
mod linux;
#[cfg(callgate_sim)]
mod sim;
#[cfg(all(windows, not(callgate_sim)))]
mod windows;

#[cfg(all(target_os = "linux", not(callgate_sim)))]
pub use linux::{Pollable, Poller, Waker};
#[cfg(callgate_sim)]
pub use sim::{Pollable, Poller, Waker};
#[cfg(all(windows, not(callgate_sim)))]
pub(crate) use windows::{Flag, Port, Readiness, RegisteredWait, Slot, Source};
#[cfg(all(windows, not(callgate_sim)))]
pub use windows::{Pollable, Poller, Waker};

/// The most events that one [`Poller::wait`] gives; the others come with the next.
pub const EVENTS_MAX: usize = 256;

/// A descriptor that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What [`Poller::add`] was given.
    pub token: u64,
    /// Something can be read or accepted.
    pub readable: bool,
    /// The other end is gone, or the descriptor has failed. What was sent before may still be
    /// readable.
    pub closed: bool,
}

#[cfg(all(test, not(callgate_sim)))]
mod tests;
