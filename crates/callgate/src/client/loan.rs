//! A request that is built where the server will read it.

use std::ops::{Deref, DerefMut};

use callgate_proto::arena::Block;
use callgate_proto::body::{Content, INLINE_MAX};

use super::connection::{Sending, Sent, Shared};
use super::pending::{Pending, Reply, wait_for};
use super::sending::{check_caller, check_length};
use super::{Limit, time_limit};
use crate::error::CallError;
use crate::options::CallOptions;

/// A request buffer in shared memory: fill it in place, then send it with [`Loan::call`] or [`Loan::submit`].
///
/// Its bytes are initialised, but not to anything in particular. Dropping it gives the memory back; nothing is sent.
/// It belongs to one connection: when the server goes away before it is sent, sending ends with
/// [`CallError::Disconnected`]. In a forked child it is empty and cannot be sent.
pub struct Loan {
    /// `None` once it was sent.
    connection: Option<Shared>,
    bytes: Bytes,
}

enum Bytes {
    /// Short requests travel in the cell itself and are built in private memory.
    Short([u8; INLINE_MAX], usize),
    /// The block is `None` once it was handed on.
    Far(Option<Block>, *mut [u8]),
}

// SAFETY: the pointer leads to a block that this loan has for itself, in memory that its connection keeps mapped (see
// `Loan::new`); access needs `&self` or `&mut self` as for a `Vec<u8>`.
unsafe impl Send for Loan {}
// SAFETY: as above; through `&self` the bytes are only read, and this process alone can write them.
unsafe impl Sync for Loan {}

impl Loan {
    pub(super) fn new(connection: Shared, len: usize, limit: &Limit) -> Result<Self, CallError> {
        check_length(&connection, len)?;
        let bytes = if len <= INLINE_MAX {
            Bytes::Short([0; INLINE_MAX], len)
        } else {
            // The block is this loan's alone, and the loan keeps the connection alive.
            let (block, bytes) = connection.place(len as u64, limit.deadline_ns)?;
            Bytes::Far(Some(block), bytes)
        };
        Ok(Self { connection: Some(connection), bytes })
    }

    /// Sends the request and blocks until the call has ended.
    ///
    /// # Errors
    /// As [`Client::call`](super::Client::call), but it is never repeated by the library.
    pub fn call(self, options: CallOptions) -> Result<Reply, CallError> {
        let (connection, sent, limit) = self.send(options, true)?;
        wait_for(&connection, sent, &limit)
    }

    /// Sends the request; wait for the reply later.
    ///
    /// # Errors
    /// As [`Client::submit`](super::Client::submit).
    pub fn submit(self, options: CallOptions) -> Result<Pending, CallError> {
        let (connection, sent, limit) = self.send(options, false)?;
        Ok(Pending::new(connection, sent, limit.deadline_ns, limit.began_ns))
    }

    /// Whether its memory is mapped here: not in a forked child.
    fn is_ours(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_ours())
    }

    fn send(
        mut self,
        options: CallOptions,
        alone: bool,
    ) -> Result<(Shared, Sent, Limit), CallError> {
        let Some(connection) = &self.connection else {
            unreachable!("only sending takes the connection, and it consumes the loan")
        };
        if !connection.is_ours() {
            return Err(CallError::Forked);
        }
        check_caller(connection)?;
        if connection.has_ended() {
            return Err(connection.not_started());
        }
        let limit = time_limit(&options, connection.options.timeout);
        limit.check_at_start()?;
        let Some(connection) = self.connection.take() else { unreachable!("it was there above") };
        let sending = Sending { method: options.method, deadline_ns: limit.deadline_ns, alone };
        let sent = match &mut self.bytes {
            Bytes::Short(bytes, len) => {
                connection.send(sending, Content::Short(&bytes[..*len]), None)?
            }
            Bytes::Far(block, _) => match block.take() {
                Some(block) => connection.send(sending, Content::Far(block.place), Some(block))?,
                None => unreachable!("only sending takes the block, and it consumes the loan"),
            },
        };
        Ok((connection, sent, limit))
    }
}

impl Deref for Loan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Short(bytes, len) => &bytes[..*len],
            // SAFETY: valid and this loan's own (see `Loan::new`); no other process can write it.
            Bytes::Far(_, bytes) if self.is_ours() => unsafe { &**bytes },
            Bytes::Far(..) => &[],
        }
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut [u8] {
        let is_ours = self.is_ours();
        match &mut self.bytes {
            Bytes::Short(bytes, len) => &mut bytes[..*len],
            // SAFETY: as in `deref`, and `&mut self` makes it exclusive.
            Bytes::Far(_, bytes) if is_ours => unsafe { &mut **bytes },
            Bytes::Far(..) => &mut [],
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Bytes::Far(block, _) = &mut self.bytes
            && let Some(connection) = &self.connection
            && connection.is_ours()
        {
            connection.give_back(block.take());
        }
    }
}

impl std::fmt::Debug for Loan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loan({} bytes)", self.len())
    }
}
