//! What a user can choose. Every option has a default that is meant for production.

use std::time::{Duration, Instant};

pub use callgate_proto::pace::Policy as WaitPolicy;

/// Options of a server. Start from `ServerOptions::default()` and set fields.
///
/// ```
/// let mut options = callgate::ServerOptions::default();
/// options.workers = 2;
/// options.limits.clients = 100;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Threads that run the handler. Clients are shared out between them for as long as they stay connected. Default 1.
    pub workers: usize,
    /// How the workers wait. Default [`WaitPolicy::Balanced`].
    pub wait: WaitPolicy,
    /// What one client, and one user, may use.
    pub limits: Limits,
    /// How often [`Handler::idle`](crate::Handler::idle) is called, between calls. Default: never.
    pub idle_interval: Option<Duration>,
    /// Who may connect. Default [`Access::Owner`].
    pub access: Access,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            workers: 1,
            wait: WaitPolicy::default(),
            limits: Limits::default(),
            idle_interval: None,
            access: Access::Owner,
        }
    }
}

/// What a server grants. Whoever asks for more gets a typed error; nobody else notices.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Clients connected at a time. Default 16,384. Each takes one file descriptor of the server.
    pub clients: u32,
    /// Clients of one user connected at a time. Default 16,384.
    pub clients_per_uid: u32,
    /// Calls that one client may have in flight, 1..=1023. Default 1,023; clients ask for fewer (64) by default.
    ///
    /// A client that asks for more by [`ClientOptions::in_flight`] is refused; one that leaves it unset gets as many.
    pub in_flight: u32,
    /// Bytes of payload memory of one client, counted for each direction by itself. Default 1 GiB.
    pub bytes_per_client: u64,
    /// Bytes of reply memory that all clients of one user may hold. Default 8 GiB.
    pub bytes_per_uid: u64,
    /// Longest request in bytes; never more than `bytes_per_client`. Default 256 MiB.
    pub request_bytes: u64,
    /// Longest reply in bytes; never more than `bytes_per_client`. Default 256 MiB.
    pub reply_bytes: u64,
    /// How long a client may take to say what it wants once it has connected. Default 1 s.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 16_384,
            clients_per_uid: 16_384,
            in_flight: 1_023,
            bytes_per_client: 1 << 30,
            bytes_per_uid: 8 << 30,
            request_bytes: 256 << 20,
            reply_bytes: 256 << 20,
            handshake: Duration::from_secs(1),
        }
    }
}

/// Who may connect to a server.
///
/// A name ([`Endpoint::named`](crate::Endpoint::named)) lies in a directory of the user's own, where no other user can reach
/// it, whatever is said here: a server for others needs a path ([`Endpoint::at`](crate::Endpoint::at)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// The server's own user, and root (on Windows the system's account).
    #[default]
    Owner,
    /// These, and every member of the group with this id; the kernel checks it by the socket's mode (0660). Not on
    /// Windows: a server with it cannot be made there.
    Group(u32),
    /// Every user who can reach the path (0666); on Windows every authenticated user of this machine.
    Everyone,
}

/// Options of a client. Start from `ClientOptions::default()` and set fields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// How long to wait for a server to appear, at connecting and at reconnecting. Default zero: an absent server is
    /// reported at once.
    pub connect_timeout: Duration,
    /// How long a server that was reached may take to answer the handshake, where no time limit of a call is shorter.
    /// Default 5 s: one that is stopped, or swapped out, is then reported with `DeadlineExceeded`.
    pub handshake: Duration,
    /// Default time limit of a call; see [`CallOptions::timeout`] for its clock. Default: none.
    pub timeout: Option<Duration>,
    /// How callers wait for replies. Default [`WaitPolicy::Balanced`].
    pub wait: WaitPolicy,
    /// Calls in flight at a time, 1..=1023, over all threads. Default `None`: 64, or as many as the server allows
    /// ([`Limits::in_flight`]) where those are fewer: it asks again then, and the server counts one refusal.
    ///
    /// A server that allows fewer than a number given here refuses the client
    /// ([`CallError::Refused`](crate::CallError::Refused)) rather than grant less than was asked for.
    pub in_flight: Option<u32>,
    /// What a call does when that many are in flight. Default [`WhenFull::Fail`].
    pub when_full: WhenFull,
    /// Which calls the library repeats by itself. Default [`Retry::NotStarted`].
    pub retry: Retry,
    /// Which users' servers are trusted. Default [`ServerIdentity::SameUserOrRoot`].
    pub server: ServerIdentity,
    /// Bytes of payload memory for all calls in flight and replies kept, for each direction by itself. Default 1 GiB.
    pub bytes: u64,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::ZERO,
            handshake: Duration::from_secs(5),
            timeout: None,
            wait: WaitPolicy::default(),
            in_flight: None,
            when_full: WhenFull::default(),
            retry: Retry::default(),
            server: ServerIdentity::default(),
            bytes: 1 << 30,
        }
    }
}

/// What a call does when as many calls as allowed are in flight, or the memory for requests is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// Fails at once; nothing was sent.
    #[default]
    Fail,
    /// Waits until another call has ended, or until the call's deadline. A thread that holds all the unfinished calls
    /// itself, and has set no deadline, waits forever.
    Wait,
}

/// Which calls the library repeats by itself, over a new connection, when the server went away.
///
/// It applies to calls whose bytes the library was given ([`Client::call`](crate::Client::call) and
/// [`Client::call_with`](crate::Client::call_with)), at most three times for each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retry {
    /// None: the error is the caller's to handle.
    Never,
    /// Those that the old server certainly did not start, which is always safe.
    #[default]
    NotStarted,
    /// Those, and calls marked [`CallOptions::idempotent`] that may have run.
    Idempotent,
}

/// Which users' servers a client trusts; the kernel tells who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerIdentity {
    /// The client's own user, and root.
    #[default]
    SameUserOrRoot,
    /// This user only. On Windows no number is a user's from one process to the next: all but 0, the system's account, are
    /// refused there ([`CallError::Refused`](crate::CallError::Refused)).
    Uid(u32),
    /// Anyone.
    Anyone,
}

/// Options of one call.
///
/// ```
/// use std::time::Duration;
/// let options = callgate::CallOptions::new().method(3).timeout(Duration::from_millis(250));
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct CallOptions {
    pub(crate) method: u32,
    pub(crate) limit: Option<TimeLimit>,
    pub(crate) idempotent: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum TimeLimit {
    Timeout(Duration),
    Deadline(Instant),
}

impl CallOptions {
    /// Method 0, the client's default time limit, not idempotent.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses which of the server's operations is called. 0 by default; the numbers are the application's.
    #[must_use]
    pub fn method(mut self, method: u32) -> Self {
        self.method = method;
        self
    }

    /// Limits the call's duration, connecting included.
    ///
    /// As all time limits here, of clients and servers, it is one of `CLOCK_MONOTONIC`: setting the wall clock does not
    /// move it, and time in which the machine is suspended does not count (on Windows it does).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.limit = Some(TimeLimit::Timeout(timeout));
        self
    }

    /// Ends the call at an instant of the monotonic clock; see [`CallOptions::timeout`].
    #[must_use]
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.limit = Some(TimeLimit::Deadline(deadline));
        self
    }

    /// Says that running the call twice does no harm; see [`Retry::Idempotent`].
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }
}
