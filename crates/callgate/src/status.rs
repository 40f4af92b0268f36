//! How a server does, as it tells whoever may connect to it.

use std::time::Duration;

use callgate_proto::wire::Status;
use callgate_sys::clock;

use crate::endpoint::ToEndpoint;
use crate::error::CallError;

/// How a server does.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Its process id; 0 where the kernel cannot tell.
    pub pid: u32,
    /// How long it has served.
    pub uptime: Duration,
    /// Clients connected now.
    pub clients: u64,
    /// Calls taken since it began.
    pub calls: u64,
    /// Clients turned away since it began.
    pub refused: u64,
    /// Connections and handshakes ended because the client broke the protocol, since it began.
    pub violations: u64,
    /// Bytes of reply memory handed out and not yet proven released.
    pub reply_bytes: u64,
}

impl ServerStatus {
    pub(crate) fn new(pid: u32, status: Status) -> Self {
        Self {
            pid,
            uptime: Duration::from_nanos(status.uptime_ns),
            clients: status.clients,
            calls: status.calls,
            refused: status.refused,
            violations: status.violations,
            reply_bytes: status.reply_bytes,
        }
    }
}

/// Asks a server how it does; does not count as a client. Blocks for at most `timeout`.
///
/// # Errors
/// [`CallError::NotRunning`], [`CallError::DeadlineExceeded`], [`CallError::Refused`], [`CallError::Endpoint`] and the
/// others of a connection.
pub fn status(endpoint: impl ToEndpoint, timeout: Duration) -> Result<ServerStatus, CallError> {
    let endpoint = endpoint.to_endpoint()?;
    let (status, server) = crate::client::status(&endpoint, Some(clock::deadline_ns(timeout)))?;
    Ok(ServerStatus::new(server.pid, status))
}
