//! The socket of a connection: messages that keep their boundaries, a descriptor with one, and the
//! doorbell of the client.
//!
//! No call but [`Socket::wait_readable`] blocks, whatever the peer does. The one who sits at the
//! other end is known from the kernel, not from what it says.

#[cfg(all(target_os = "linux", not(callgate_sim)))]
mod linux;
#[cfg(callgate_sim)]
mod sim;
#[cfg(all(windows, not(callgate_sim)))]
mod windows;

use std::io;

#[cfg(all(target_os = "linux", not(callgate_sim)))]
pub use linux::Socket;
#[cfg(callgate_sim)]
pub use sim::Socket;
#[cfg(all(windows, not(callgate_sim)))]
pub(crate) use windows::Side;
#[cfg(all(windows, not(callgate_sim)))]
pub use windows::Socket;

use crate::shm::MemFd;

/// Whether memory that was sent goes when its sender ends before it was received; on Linux it lies in the socket.
pub const MEMORY_GOES_WITH_ITS_SENDER: bool = cfg!(windows);

/// Why a message wasn't sent; nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The peer hasn't read what was sent before, and there is no room for more.
    #[error("the peer has not read earlier messages: the socket is full")]
    Full,
    /// The peer is gone, or has shut the connection down.
    #[error("the peer has closed the connection")]
    Closed,
    /// This user has too many descriptors under way, in all its sockets together, that nobody has
    /// read.
    #[error("too many descriptors of this user are under way unread")]
    TooManyDescriptors,
    /// The kernel refused for another reason.
    #[error("sending to the peer failed")]
    Os(#[source] io::Error),
}

/// Why nothing was received.
#[derive(Debug, thiserror::Error)]
pub enum RecvError {
    /// No message is there now.
    #[error("no message is waiting")]
    Empty,
    /// The peer is gone, and everything that it sent has been read.
    #[error("the peer has closed the connection")]
    Closed,
    /// The kernel refused for another reason.
    #[error("receiving from the peer failed")]
    Os(#[source] io::Error),
}

/// A message that was received.
#[derive(Debug)]
pub struct Received {
    /// Bytes that were put into the buffer.
    pub len: usize,
    /// Whether the message was longer than the buffer; the rest of it is lost.
    pub truncated: bool,
    /// The descriptor that came with it. Nothing is known of it: it may be of any kind.
    pub fd: Option<MemFd>,
    /// How many further descriptors came. They are closed, or will be, by a thread that does nothing else.
    pub extra_fds: usize,
    /// Whether a descriptor came that this process could not open, for lack of room in its table.
    pub lost_fd: bool,
}

/// Whether a doorbell could be rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// It was rung, or an earlier ring hasn't been read yet.
    Rung,
    /// The peer is gone.
    Gone,
}

#[cfg(all(test, target_os = "linux", not(callgate_sim)))]
mod tests;
