//! Calls between real processes: how they end, and what nobody can do to others.
//!
//! One program, so that tests which wait leave the processor to the others.

#[cfg(not(windows))] // Other users: there are none under Wine, and modes and groups are Linux's.
mod access;
mod chaos;
mod endings;
mod fairness;
#[cfg(not(windows))] // There is no fork.
mod forks;
#[cfg(not(windows))] // Sockets and memfds by hand; for pipes and sections: `hostile_pipes`.
mod hostile_client;
#[cfg(windows)]
mod hostile_pipes;
#[cfg(not(windows))] // As above; for pipes and sections: `lying_pipes`.
mod hostile_server;
mod limits;
#[cfg(windows)]
mod lying_pipes;
mod quiet;
mod restart;
mod stress;

use std::time::Duration;

/// The other process.
pub const PEER: &str = env!("CARGO_BIN_EXE_testpeer");

/// No test takes longer, by far.
pub const LONGEST: Duration = Duration::from_secs(120);

/// Options of a client that wants to be told of everything.
pub fn strict() -> callgate::ClientOptions {
    let mut options = callgate::ClientOptions::default();
    options.retry = callgate::Retry::Never;
    options
}

/// A call of some method, with a time limit that is no part of the test.
pub fn method(method: u32) -> callgate::CallOptions {
    callgate::CallOptions::new().method(method).timeout(callgate_tests::BOUND)
}
