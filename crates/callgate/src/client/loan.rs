//! A request that is built where the server will read it.

use std::ops::{Deref, DerefMut};

use callgate_proto::body::{Content, INLINE_MAX, Place};

use super::connection::{Room, Sending, Sent, Shared};
use super::pending::{Pending, Reply, wait_for};
use super::sending::{check_caller, check_length, send_far, send_from};
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
    /// `None` once it was handed on.
    Far(Option<Room>),
}

impl Loan {
    pub(super) fn new(connection: Shared, len: usize, limit: &Limit) -> Result<Self, CallError> {
        check_length(&connection, len)?;
        let bytes = if len <= INLINE_MAX {
            Bytes::Short([0; INLINE_MAX], len)
        } else {
            // The room is this loan's alone, and the loan keeps the connection alive.
            let mut room = connection.on_spare().and_then(|mut spare| spare.take());
            connection.room(&mut room, len as u64, limit.deadline_ns)?;
            Bytes::Far(room)
        };
        Ok(Self { connection: Some(connection), bytes })
    }

    /// Sends the request and blocks until the call has ended.
    ///
    /// # Errors
    /// As [`Client::call`](super::Client::call), but it is never repeated by the library.
    pub fn call(mut self, options: CallOptions) -> Result<Reply, CallError> {
        let (connection, sending, limit) = self.part(options, true)?;
        if let Bytes::Far(room) = &mut self.bytes
            && let Some(mut spare) = connection.on_spare()
        {
            let place = put(&connection, room, &mut spare);
            let sent = send_from(&connection, sending, place, &mut spare)?;
            return wait_for(&connection, sent, Some(spare), &limit);
        }
        let sent = self.send(&connection, sending)?;
        wait_for(&connection, sent, None, &limit)
    }

    /// Sends the request; wait for the reply later.
    ///
    /// # Errors
    /// As [`Client::submit`](super::Client::submit).
    pub fn submit(mut self, options: CallOptions) -> Result<Pending, CallError> {
        let (connection, sending, limit) = self.part(options, false)?;
        let sent = self.send(&connection, sending)?;
        Ok(Pending::new(connection, sent, limit.deadline_ns, limit.began_ns))
    }

    /// Whether its memory is mapped here: not in a forked child.
    fn is_ours(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_ours())
    }

    /// Takes the connection, if the request can be sent over it.
    fn part(
        &mut self,
        options: CallOptions,
        alone: bool,
    ) -> Result<(Shared, Sending, Limit), CallError> {
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
        Ok((connection, sending, limit))
    }

    fn send(&mut self, connection: &Shared, sending: Sending) -> Result<Sent, CallError> {
        match &mut self.bytes {
            Bytes::Short(bytes, len) => {
                connection.send(sending, Content::Short(&bytes[..*len]), &mut None)
            }
            Bytes::Far(room) => {
                // Another call is under way, or nobody waits: the connection keeps the room.
                let sending = Sending { alone: false, ..sending };
                let place = of(room).place();
                send_far(connection, sending, place, room)
            }
        }
    }
}

/// Puts a loan's room where the spare one is, or was.
fn put(connection: &Shared, room: &mut Option<Room>, spare: &mut Option<Room>) -> Place {
    let place = of(room).place();
    std::mem::swap(room, spare);
    if let Some(room) = room.take() {
        connection.give_back(room);
    }
    place
}

fn of(room: &Option<Room>) -> &Room {
    let Some(room) = room else {
        unreachable!("only sending takes the room, and it consumes the loan")
    };
    room
}

impl Deref for Loan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Short(bytes, len) => &bytes[..*len],
            // SAFETY: valid and this loan's own (see `Loan::new`); no other process can write it.
            Bytes::Far(Some(room)) if self.is_ours() => unsafe { &*room.bytes() },
            Bytes::Far(_) => &[],
        }
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut [u8] {
        let is_ours = self.is_ours();
        match &mut self.bytes {
            Bytes::Short(bytes, len) => &mut bytes[..*len],
            // SAFETY: as in `deref`, and `&mut self` makes it exclusive.
            Bytes::Far(Some(room)) if is_ours => unsafe { &mut *room.bytes() },
            Bytes::Far(_) => &mut [],
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Bytes::Far(room) = &mut self.bytes
            && let Some(connection) = &self.connection
            && connection.is_ours()
            && let Some(room) = room.take()
        {
            connection.give_back(room);
        }
    }
}

impl std::fmt::Debug for Loan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loan({} bytes)", self.len())
    }
}
