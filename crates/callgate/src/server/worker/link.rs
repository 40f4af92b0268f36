//! One connection as its worker keeps it: taking its calls, and reading its socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use callgate_proto::Violation;
use callgate_proto::arena::REGIONS_MAX;
use callgate_proto::body::{Body, Place};
use callgate_proto::cell::Doorbell;
use callgate_proto::chain::{Intake, Taken};
use callgate_proto::wire::{MESSAGE_MAX, Message};
use callgate_sys::process;
use callgate_sys::socket::{MEMORY_GOES_WITH_ITS_SENDER, RecvError};

use crate::region::{Incoming, Piece, Unusable};
use crate::server::Handler;
use crate::server::call::{Call, Running};
use crate::server::connection::Connection;

/// Most calls taken from one connection before the next one's turn.
pub(super) const BATCH: u32 = 16;
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
    /// Calls of its next turn, at most. Below [`BATCH`] the turn is timed from its beginning: it starts with one call, grows
    /// by one with each turn that keeps its time, and falls back with one that does not.
    pub(super) batch: u32,
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

    /// Whether there is a call to take; a look only.
    pub(super) fn is_waiting(&self) -> Result<bool, Violation> {
        let control = &self.connection.control;
        self.intake.is_waiting(control.cells(), control.detour())
    }

    /// Learns how long a timed turn of `count` calls took, where `limit_ns` are allowed.
    pub(super) fn took(&mut self, took_ns: u64, count: u32, limit_ns: u64) {
        self.batch = match took_ns <= limit_ns {
            true => self.batch + 1,
            // As many as would have kept the time.
            false => (u64::from(count) * limit_ns / took_ns).max(1) as u32,
        };
    }
}

/// Takes and handles the next call; false: there is none. Unwinds when the handler panics; its caller has been answered
/// then, and `handling` says whose call it was.
#[inline(always)]
pub(super) fn handle_next<H: Handler>(
    link: &mut Link,
    taken: &mut Taken,
    handler: &H,
    calls: &AtomicU64,
    handling: &mut Option<u32>,
) -> Result<bool, Unusable> {
    let Link { connection, intake, incoming, .. } = link;
    let connection = &*connection;
    let (cells, detour) = (connection.control.cells(), connection.control.detour());
    let Some(cell) = intake.take_into(cells, detour, &connection.deferred, taken)? else {
        return Ok(false);
    };
    process::will_write(cell);
    calls.store(calls.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    let (len, limit) = (taken.request.body.len(), connection.shared.limits.request_bytes);
    if len > limit {
        return Err(Violation::new("place.len", len, limit).into());
    }
    let region = match &taken.request.body {
        Body::Inline(_) => None,
        Body::Far(place) => {
            let (region, range) = find(connection, incoming, *place)?;
            // All these lines are with the client: asked for now, and not one after the other.
            process::will_read_bytes(region.as_ptr().wrapping_add(range.start), range.len());
            connection.will_reply(taken.cell);
            Some((region, range))
        }
    };
    let running = Running { connection, cell, taken, region };
    if cell.was_given_up() {
        running.cancel();
        return Ok(true);
    }
    if !connection.take(taken.turn) {
        return Ok(true);
    }
    let blame = Blame { handling, connection };
    handler.handle(Call::new(&running));
    std::mem::forget(blame);
    Ok(true)
}

/// Finds where a far request lies.
#[inline(never)]
fn find<'a>(
    connection: &Connection,
    incoming: &'a mut Incoming,
    place: Place,
) -> Result<Piece<'a>, Unusable> {
    if !incoming.knows(place) {
        // It was announced before the call was published, so it is in the socket, if it is.
        read_regions(connection, incoming)?;
    }
    let found = incoming.find(place)?;
    Ok(found.ok_or(Violation::new("place.region", place.region.into(), 0))?)
}

/// Notes whose call the handler had, if it panics.
struct Blame<'a> {
    handling: &'a mut Option<u32>,
    connection: &'a Connection,
}

impl Drop for Blame<'_> {
    fn drop(&mut self) {
        *self.handling = Some(self.connection.caller.pid);
    }
}

/// Reads all that an honest client may have sent before the call at hand.
#[cold]
fn read_regions(connection: &Connection, incoming: &mut Incoming) -> Result<(), Unusable> {
    connection.socket.catch_up();
    for _ in 0..4 * REGIONS_MAX {
        match read_message(connection, incoming)? {
            Read::Message | Read::Region => {}
            // The announcement may have come, and its memory not.
            Read::Closed if MEMORY_GOES_WITH_ITS_SENDER => return Err(Unusable::Gone),
            Read::Empty | Read::Closed => break,
        }
    }
    Ok(())
}

/// Reads what the client sent over the socket, some of it; tells what came last. Mapping takes long: others get their turn
/// before the message after that.
pub(super) fn read_messages(link: &mut Link) -> Result<Read, Unusable> {
    for _ in 0..MESSAGES_PER_EVENT {
        match read_message(&link.connection, &mut link.incoming)? {
            Read::Message => {}
            last => return Ok(last),
        }
    }
    Ok(Read::Message)
}

pub(super) enum Read {
    Message,
    Region,
    Empty,
    Closed,
}

fn read_message(connection: &Connection, incoming: &mut Incoming) -> Result<Read, Unusable> {
    let mut buffer = [0; MESSAGE_MAX];
    let received = match connection.socket.recv(&mut buffer) {
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
            incoming.add(id, size, received.fd)?;
            return Ok(Read::Region);
        }
        _ if received.fd.is_some() => {
            return Err(Violation::new("message.descriptors", 1, 0).into());
        }
        Message::Bell => {}
        Message::Retire { id } => {
            let region = incoming.retire(id)?;
            connection.shared.bury(region.len() as u64, region);
        }
    }
    Ok(Read::Message)
}
