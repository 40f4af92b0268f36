//! The situations in which victims are killed.

use std::time::Duration;

use callgate::{Access, ClientOptions, Retry, ServerOptions, WaitPolicy, WhenFull};

/// One situation. Client bodies are in [`crate::client`], the server's part in [`crate::server`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Lone calls, one after another, and nothing else in flight.
    Empty,
    /// Half of the cells are taken by calls that the handler has put off.
    Half,
    /// All cells are taken; callers wait for room, or are turned away.
    Full,
    /// Payloads of all sizes in both directions, copied and in place; memory grows.
    Large,
    /// Calls are given up: dropped, or timed out.
    Cancel,
    /// Both sides sleep between calls and during them.
    Sleep,
    /// More clients than a worker sleeps on words for.
    Crowd,
    /// Several threads, so that calls take detours.
    Detour,
    /// The server stops in the middle, and starts again.
    Stop,
    /// The server drains in the middle, and starts again.
    Drain,
    /// As [`Scenario::Stop`], with calls that may be repeated.
    Repeat,
    /// Endpoints by name and with long paths, a name in use, questions for status and listings.
    Names,
    /// Clients that are turned away, half-open handshakes.
    Refuse,
    /// A server whose queue of connections is full.
    Queue,
    /// A kernel that has none of the newer calls.
    Old,
    /// A system that refuses what a server needs when it begins.
    Broken,
    /// Many connections with replies that are kept, so that their memory grows while much is unread.
    Many,
    /// A client that scribbles over the word of each answer.
    Scribble,
    /// A connection goes quiet and gives memory back; then a call takes long. Takes seconds.
    Quiet,
}

use Scenario::*;

impl Scenario {
    /// All of them. Those that take longest begin first, so that lanes end together.
    pub const ALL: [Self; 19] = [
        Quiet, Many, Refuse, Large, Full, Crowd, Cancel, Half, Empty, Sleep, Detour, Stop, Drain,
        Repeat, Names, Queue, Old, Broken, Scribble,
    ];

    /// Its name for reports and arguments.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The one with that name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name)
    }

    /// Whether a client is killed in it.
    pub fn kills_clients(self) -> bool {
        !matches!(self, Broken | Scribble)
    }

    /// Whether a server is killed in it.
    pub fn kills_servers(self) -> bool {
        !matches!(self, Queue)
    }

    /// Whether it takes seconds, most of them asleep.
    pub fn is_slow(self) -> bool {
        self == Quiet
    }

    /// Whether the server goes away in it by itself.
    pub fn restarts(self) -> bool {
        matches!(self, Stop | Drain | Repeat)
    }

    /// Whether passages count from a mark in the middle only.
    pub fn is_armed_late(self) -> bool {
        self == Quiet
    }

    /// Whether old system calls are all there are, for the victim.
    pub fn is_old(self) -> bool {
        self == Old
    }

    /// The server's options.
    pub fn server_options(self) -> ServerOptions {
        let mut options = ServerOptions::default();
        options.limits.handshake = Duration::from_secs(20);
        match self {
            Sleep | Crowd | Old | Quiet => options.wait = WaitPolicy::LowestCpu,
            Names => options.access = Access::Group(callgate_sys::process::gid()),
            // A quarter of them is less than the least number of unread descriptors that counts as many.
            Many => options.limits.clients = 100,
            Refuse => {
                options.limits.in_flight = 10;
                options.limits.handshake = Duration::from_millis(10);
            }
            _ => {}
        }
        options
    }

    /// The options of its clients, in the order in which [`crate::client::Caller::run`] uses them.
    pub fn client_options(self) -> Vec<ClientOptions> {
        let mut usual = ClientOptions::default();
        usual.timeout = Some(crate::kin::BOUND / 2);
        // Also for a server that is stopped, or does not run for a while.
        usual.handshake = crate::kin::BOUND;
        // The straight way of a call has no deadline.
        let mut plain = ClientOptions::default();
        plain.handshake = usual.handshake;
        match self {
            Empty | Detour => vec![plain],
            Half => {
                plain.in_flight = Some(8);
                vec![plain]
            }
            Full => {
                usual.in_flight = Some(4);
                usual.when_full = WhenFull::Wait;
                let mut failing = usual.clone();
                failing.in_flight = Some(2);
                failing.when_full = WhenFull::Fail;
                vec![usual, failing]
            }
            Sleep | Old => {
                usual.wait = WaitPolicy::LowestCpu;
                vec![usual]
            }
            Quiet => {
                usual.wait = WaitPolicy::LowestCpu;
                vec![usual]
            }
            Many => vec![usual; 24],
            Crowd => {
                usual.wait = WaitPolicy::LowestCpu;
                vec![usual; 6]
            }
            Repeat => {
                usual.retry = Retry::Idempotent;
                let mut never = usual.clone();
                never.retry = Retry::Never;
                vec![usual, never]
            }
            _ => vec![usual],
        }
    }
}
