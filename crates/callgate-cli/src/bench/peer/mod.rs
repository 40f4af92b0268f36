//! The other processes of `bench` that use callgate, through its public API and with default options:
//! a server that answers, clients that measure, clients that idle, clients that are fresh.
//!
//! Each takes commands as lines on standard input and ends with it.

pub mod client;
pub mod server;
mod trips;

use serde::{Deserialize, Serialize};

use super::sample::{Pace, Sample};

/// What a helper says once it is ready, and after each command to idlers.
#[derive(Serialize, Deserialize)]
pub struct Ready {
    /// Connections it holds.
    pub connections: u64,
    /// Connects that the server refused since the last time, and that were tried again.
    #[serde(default)]
    pub refused: u64,
    /// What the server said to the last of them.
    #[serde(default)]
    pub reason: Option<String>,
}

impl Ready {
    /// Nothing was refused.
    pub fn with(connections: u64) -> Ready {
        Ready { connections, refused: 0, reason: None }
    }
}

/// What a client is to measure.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A message of 32 bytes, or of 48, there and back; the handler works for `handler_ns`.
    Small {
        /// 32 or 48.
        size: usize,
        /// Nanoseconds; 0: it answers at once.
        handler_ns: u32,
    },
    /// A large message, built and read where it lies.
    InPlace {
        /// Whole 8-byte words.
        size: usize,
    },
    /// A large message from and into private buffers.
    Copied {
        /// Whole 8-byte words.
        size: usize,
    },
    /// 48 bytes, that many in flight from one thread.
    Flight {
        /// Calls in flight.
        window: usize,
    },
    /// 32 bytes, from that many threads through one client.
    Threads {
        /// How many.
        threads: usize,
    },
    /// A new client and its first call with 32 bytes, again and again.
    Connect,
}

/// A round for a client.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Order {
    /// What to do.
    pub work: Work,
    /// How often and how long.
    pub pace: Pace,
}

/// What a client says after an order: what it measured, or what went wrong.
pub type Measured = Result<Sample, String>;

/// Methods of the server: up to this one, nanoseconds of work before the answer.
const METHOD_WORK_MAX: u32 = 1_000_000_000;
/// Answered with nothing.
const METHOD_NOTHING: u32 = METHOD_WORK_MAX + 1;
