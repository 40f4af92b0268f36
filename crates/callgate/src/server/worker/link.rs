//! One connection as its worker keeps it: taking its calls, and reading its socket.

use std::sync::Arc;

use callgate_proto::Violation;
use callgate_proto::arena::REGIONS_MAX;
use callgate_proto::body::{Body, Inline, Place};
use callgate_proto::cell::Doorbell;
use callgate_proto::chain::{Intake, Taken};
use callgate_proto::wire::{MESSAGE_MAX, Message};
use callgate_sys::process;
use callgate_sys::socket::RecvError;

use crate::error::codes;
use crate::region::{Incoming, Piece, Unusable};
use crate::server::Handler;
use crate::server::call::Call;
use crate::server::connection::Connection;
use crate::server::shared::Shared;

/// Messages read from one socket at a time.
const MESSAGES_PER_EVENT: usize = 16;

/// A connection on its way from admission to its worker.
pub(crate) struct Admitted {
    pub(in crate::server) connection: Arc<Connection>,
    pub(in crate::server) intake: Intake,
}

/// A connection as its worker keeps it.
pub(super) struct Link {
    pub(super) connection: Arc<Connection>,
    pub(super) intake: Intake,
    pub(super) incoming: Incoming,
    pub(super) active: bool,
    pub(super) quiet_passes: u32,
    /// Sleeps of the worker since its last call.
    pub(super) quiet_sleeps: u32,
    pub(super) in_tidy: bool,
}

impl Link {
    /// Stops polling: the client rings for its next call. `None` when there is one already.
    pub(super) fn arm(&self, bell: Doorbell) -> Option<u32> {
        let control = &self.connection.control;
        self.intake.arm(control.cells(), control.detour(), bell)
    }
}

/// Handles one call that was taken. Unwinds when the handler panics; its caller has been answered then.
#[inline]
pub(super) fn handle<H: Handler>(
    link: &mut Link,
    taken: &Taken,
    handler: &H,
    shared: &Shared,
) -> Result<(), Unusable> {
    process::will_write(link.connection.control.cell(taken.cell));
    if taken.request.body.len() > shared.limits.request_bytes {
        let (found, allowed) = (taken.request.body.len(), shared.limits.request_bytes);
        return Err(Violation::new("place.len", found, allowed).into());
    }
    if let Body::Far(place) = taken.request.body
        && link.incoming.find(place)?.is_none()
    {
        // It was announced before the call was published, so it is in the socket, if it is.
        read_regions(link)?;
    }
    let region: Option<Piece<'_>> = match &taken.request.body {
        Body::Inline(_) => None,
        Body::Far(place) => Some(found(link.incoming.find(*place)?, *place)?),
    };
    let connection = &link.connection;
    if taken.request.cancelled {
        let empty = Body::Inline(Inline::EMPTY);
        let _ = connection.answer(taken.cell, taken.turn, true, codes::CANCELLED, &empty);
        return Ok(());
    }
    if !connection.take(taken.turn) {
        return Ok(());
    }
    handler.handle(Call::new(connection, taken, region));
    Ok(())
}

fn found<T>(region: Option<T>, place: Place) -> Result<T, Violation> {
    region.ok_or(Violation::new("place.region", place.region.into(), 0))
}

/// Reads all that an honest client may have sent before the call at hand.
fn read_regions(link: &mut Link) -> Result<(), Unusable> {
    for _ in 0..4 * REGIONS_MAX {
        match read_message(link)? {
            Read::Message | Read::Region => {}
            Read::Empty | Read::Closed => break,
        }
    }
    Ok(())
}

/// Reads what the client sent over the socket; false when it has closed the connection.
pub(super) fn read_messages(link: &mut Link) -> Result<bool, Unusable> {
    for _ in 0..MESSAGES_PER_EVENT {
        match read_message(link)? {
            Read::Message => {}
            // Mapping takes long: others get their turn before the next message.
            Read::Region => return Ok(true),
            Read::Empty => return Ok(true),
            Read::Closed => return Ok(false),
        }
    }
    Ok(true)
}

enum Read {
    Message,
    Region,
    Empty,
    Closed,
}

fn read_message(link: &mut Link) -> Result<Read, Unusable> {
    let mut buffer = [0; MESSAGE_MAX];
    let received = match link.connection.socket.recv(&mut buffer) {
        Ok(received) => received,
        Err(RecvError::Empty) => return Ok(Read::Empty),
        Err(RecvError::Closed | RecvError::Os(_)) => return Ok(Read::Closed),
    };
    if received.lost_fd {
        return Err(Unusable::no_descriptors());
    }
    if received.truncated || received.extra_fds > 0 {
        return Err(Violation::new("message.size", received.len as u64, 16).into());
    }
    match Message::decode(&buffer[..received.len])? {
        Message::Region { id, size } => {
            link.incoming.add(id, size, received.fd)?;
            return Ok(Read::Region);
        }
        _ if received.fd.is_some() => {
            return Err(Violation::new("message.descriptors", 1, 0).into());
        }
        Message::Bell => {}
        Message::Retire { id } => {
            let region = link.incoming.retire(id)?;
            link.connection.shared.bury(region.len() as u64, region);
        }
    }
    Ok(Read::Message)
}
