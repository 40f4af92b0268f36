//! How things end when they do not end well: one enum for each verb, with the numbers, and what the caller can do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use callgate_proto::Violation;

/// Codes of failures that the library itself reports in [`CallError::Handler`]. Applications use codes below
/// [`codes::RESERVED`].
pub mod codes {
    /// The first code that applications must not use.
    pub const RESERVED: u32 = 0xffff_ff00;
    /// The handler dropped the call without an answer.
    pub const DROPPED: u32 = RESERVED;
    /// The handler panicked.
    pub const PANICKED: u32 = RESERVED + 1;
    /// The handler's reply was longer than the server's limit.
    pub const REPLY_TOO_LARGE: u32 = RESERVED + 2;
    /// The server had no memory left for the reply, within this client's and this user's quotas.
    pub const NO_MEMORY: u32 = RESERVED + 3;
    /// The caller had given up before the handler began; nobody waits for this reply.
    pub const CANCELLED: u32 = RESERVED + 4;
}

/// A side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The caller's process.
    Client,
    /// The answering process.
    Server,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// What is known of a call whose server went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// Its handler certainly never began: repeating the call is safe.
    NotStarted,
    /// Its handler began, and may have run to its end.
    MayHaveRun,
}

impl std::fmt::Display for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "not started, safe to repeat",
            Self::MayHaveRun => "may have run",
        })
    }
}

/// An unusable endpoint name or path.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The name breaks the rules.
    #[error(
        "endpoint name {name:?}: {problem}; a name is 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter, a digit or _"
    )]
    Name {
        /// The name as given.
        name: String,
        /// Which rule.
        problem: &'static str,
    },
    /// The path cannot be a socket's.
    #[error("endpoint path \"{}\": {problem}", path.display())]
    Path {
        /// The path as given.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The directory for this user's endpoints cannot be used.
    #[error("the directory for endpoints cannot be used: {0}")]
    Directory(String),
}

/// Why a server could not begin to serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A live server has this name; stop it, or choose another name.
    #[error("\"{}\" is served already{}", path.display(), pid.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    AddressInUse {
        /// The socket path.
        path: PathBuf,
        /// The process that serves it, where the kernel tells.
        pid: Option<u32>,
    },
    /// The endpoint's name or path is unusable.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// An option is out of its range.
    #[error("option {option} is {given}; allowed: {allowed}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Its value.
        given: u64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The operating system refused.
    #[error("cannot serve \"{}\": {what}", path.display())]
    Os {
        /// The socket path.
        path: PathBuf,
        /// What was tried.
        what: String,
        /// What the system said, where it was a system call.
        #[source]
        source: Option<io::Error>,
    },
}

/// Why a call, or a connection, ended without a reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nobody serves that name. Nothing was sent. The next call tries again.
    #[error("no server is running at \"{}\"", path.display())]
    NotRunning {
        /// The socket path that was tried.
        path: PathBuf,
    },
    /// The server turned this client away. Nothing was sent.
    #[error("the server at \"{}\" refused the connection: {reason}", path.display())]
    Refused {
        /// The socket path.
        path: PathBuf,
        /// Why, in words.
        reason: String,
    },
    /// The handler answered with a failure, panicked, or gave no answer.
    #[error("the handler failed with code {code}: {message}")]
    Handler {
        /// The application's code, or one of [`codes`].
        code: u32,
        /// The message that came with it.
        message: String,
    },
    /// The deadline passed. A request that was sent may still run; its late reply is discarded. One whose deadline has passed
    /// already, as with a time limit of zero, is not sent.
    #[error("no reply within {waited:?}; the call {}", if *started == Started::NotStarted { "was not sent" } else { "may still run" })]
    DeadlineExceeded {
        /// How long the caller waited in this call, as far as measured.
        waited: Duration,
        /// Whether the request was sent, and so may run.
        started: Started,
    },
    /// The server died, stopped or ended the connection before it answered. The next call connects afresh.
    #[error("the server went away; the call {started}")]
    Disconnected {
        /// Whether the call may have run.
        started: Started,
    },
    /// The request is longer than the server allows. Nothing was sent.
    #[error("a request of {len} bytes is too large; the limit is {limit}")]
    TooLarge {
        /// Length of the request in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// As many calls as allowed are in flight. Nothing was sent. A call that was given up counts until the server has
    /// answered or dropped it.
    #[error("{limit} calls are in flight already, which is this client's limit")]
    TooManyInFlight {
        /// The limit.
        limit: u32,
    },
    /// No memory for the request, within the quota or of the machine. Nothing was sent.
    #[error("no memory for a request of {len} bytes; the quota is {quota}")]
    NoMemory {
        /// Length of the request in bytes.
        len: u64,
        /// Bytes that all requests of this client may use.
        quota: u64,
        /// What the system said, where it was the machine that had none.
        #[source]
        source: Option<io::Error>,
    },
    /// A peer broke the protocol; the connection was ended.
    #[error("the {guilty} broke the protocol: {violation}")]
    ProtocolViolation {
        /// Who broke it.
        guilty: Side,
        /// The field, the value found and the bound.
        violation: Violation,
    },
    /// A handler called the server that it belongs to, from a worker thread of it, which would wait for itself.
    #[error(
        "a handler called its own server from a worker thread; defer the call and use another thread"
    )]
    WouldDeadlock,
    /// The client was made before this process was forked; make a new one.
    #[error("this client belongs to the parent process; connect again after fork")]
    Forked,
    /// The server's user is not one that this client trusts.
    #[error("the server at \"{}\" runs as user {uid}, which this client does not trust", path.display())]
    UntrustedServer {
        /// The socket path.
        path: PathBuf,
        /// The server's user.
        uid: u32,
    },
    /// Client and server share no version of the protocol.
    #[error("no common protocol version: this side speaks {ours:?}, the server {theirs:?}")]
    Version {
        /// Oldest and newest version of this side.
        ours: (u16, u16),
        /// Oldest and newest version of the server.
        theirs: (u16, u16),
    },
    /// The endpoint's name or path is unusable.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// An option is out of its range.
    #[error("option {option} is {given}; allowed: {allowed}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Its value.
        given: u64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The operating system refused.
    #[error("{what}")]
    Os {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl CallError {
    /// What to say of a call when its last try ended so, and an earlier one may have run: nothing that reads as if the call
    /// had not been sent.
    pub(crate) fn of_a_repeated_call(self) -> Self {
        match self {
            Self::DeadlineExceeded { waited, .. } => {
                Self::DeadlineExceeded { waited, started: Started::MayHaveRun }
            }
            Self::Handler { .. } | Self::ProtocolViolation { .. } | Self::Forked => self,
            _ => Self::Disconnected { started: Started::MayHaveRun },
        }
    }
}

/// Why a handler's answer was not delivered as given. The call has ended all the same.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// Longer than the server's limit; the caller got a failure with [`codes::REPLY_TOO_LARGE`].
    #[error("a reply of {len} bytes is too large; the limit is {limit}")]
    TooLarge {
        /// Length of the reply in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// No memory within the caller's quotas; the caller got a failure with [`codes::NO_MEMORY`].
    #[error("no memory for a reply of {len} bytes: {why}")]
    NoMemory {
        /// Length of the reply in bytes.
        len: u64,
        /// Which quota, or what the system said.
        why: String,
    },
    /// The caller is gone.
    #[error("the caller is gone")]
    Disconnected,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_as_they_are_typed() {
        let path = || PathBuf::from(r"\\.\pipe\an endpoint");
        let messages = [
            EndpointError::Path { path: path(), problem: "" }.to_string(),
            ServeError::AddressInUse { path: path(), pid: Some(7) }.to_string(),
            ServeError::Os { path: path(), what: String::new(), source: None }.to_string(),
            CallError::NotRunning { path: path() }.to_string(),
            CallError::Refused { path: path(), reason: String::new() }.to_string(),
            CallError::UntrustedServer { path: path(), uid: 7 }.to_string(),
        ];
        for message in messages {
            assert!(message.contains(r#""\\.\pipe\an endpoint""#), "{message}");
        }
    }
}
