//! The situations that peers are compared in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the clients of a situation do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// One call after another, with a pause before each.
    Calls(Duration),
    /// Many calls in flight from one thread: the oldest is awaited, then another sent.
    Window(usize),
    /// Connects, makes a first call, and disconnects, again and again.
    Connect,
    /// Makes a call that is not answered while the server is killed.
    Killed,
}

/// Where processes may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpus {
    /// Anywhere.
    Free,
    /// The server on one CPU, clients on another.
    Apart,
    /// All on one CPU.
    Together,
}

/// The figure that a situation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Nanoseconds, of which fewer are better.
    Time,
    /// Calls a second, of which more are better.
    Rate,
}

/// One situation.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// Its name in tables and on the command line.
    pub name: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    /// Bytes of request and of reply.
    pub size: usize,
    /// Clients, each a process.
    pub clients: usize,
    /// What they do.
    pub work: Work,
    /// Where they and the server run.
    pub cpus: Cpus,
    /// Processes that only burn time beside them, anywhere.
    pub foreign: usize,
}

impl Situation {
    /// Calls in flight of one client.
    pub fn window(&self) -> usize {
        if let Work::Window(window) = self.work { window } else { 1 }
    }

    /// What it is compared by.
    pub fn figure(&self) -> Figure {
        let rate = self.clients > 1 || self.window() > 1;
        if rate { Figure::Rate } else { Figure::Time }
    }
}

const BUSY: Situation = Situation {
    name: "busy/32",
    about: "32 B echo, closed loop, client and server each on a CPU of its own",
    size: 32,
    clients: 1,
    work: Work::Calls(Duration::ZERO),
    cpus: Cpus::Apart,
    foreign: 0,
};

/// All situations, in the order of the report.
pub const ALL: &[Situation] = &[
    BUSY,
    Situation { name: "busy/4k", about: "4 KiB echo, as busy/32", size: 4 << 10, ..BUSY },
    Situation { name: "busy/1m", about: "1 MiB echo, as busy/32", size: 1 << 20, ..BUSY },
    Situation { name: "busy/16m", about: "16 MiB echo, as busy/32", size: 16 << 20, ..BUSY },
    Situation {
        name: "gap/1ms",
        about: "32 B, the client sleeps 1 ms before each call, not pinned",
        work: Work::Calls(Duration::from_millis(1)),
        cpus: Cpus::Free,
        ..BUSY
    },
    Situation {
        name: "gap/10ms",
        about: "32 B, the client sleeps 10 ms before each call, not pinned",
        work: Work::Calls(Duration::from_millis(10)),
        cpus: Cpus::Free,
        ..BUSY
    },
    Situation {
        name: "onecpu",
        about: "32 B echo, closed loop, client and server on the same CPU",
        cpus: Cpus::Together,
        ..BUSY
    },
    Situation {
        name: "crowd/4",
        about: "4 client processes, 32 B echo, closed loop, not pinned",
        clients: 4,
        cpus: Cpus::Free,
        ..BUSY
    },
    Situation {
        name: "crowd/16",
        about: "16 client processes, 32 B echo, closed loop, not pinned",
        clients: 16,
        cpus: Cpus::Free,
        ..BUSY
    },
    Situation {
        name: "loaded",
        about: "1 client, 32 B echo, closed loop, beside two processes that burn CPU, not pinned",
        cpus: Cpus::Free,
        foreign: 2,
        ..BUSY
    },
    Situation {
        name: "window/64",
        about: "64 calls of 32 B in flight from one thread, not pinned",
        work: Work::Window(64),
        cpus: Cpus::Free,
        ..BUSY
    },
    Situation {
        name: "connect",
        about: "connect and first call, in a process that has connected before, not pinned",
        work: Work::Connect,
        cpus: Cpus::Free,
        ..BUSY
    },
    Situation {
        name: "killed",
        about: "from SIGKILL for the server to the error of a call in flight, not pinned",
        work: Work::Killed,
        cpus: Cpus::Free,
        ..BUSY
    },
];
