//! A call on its way, and the reply that ends it.

use callgate_proto::Violation;
use callgate_proto::body::{Body, Inline, Place};
use callgate_proto::cell::TakenReply;
use callgate_proto::pace::SizeClass;
use callgate_sys::clock;

use super::Limit;
use super::connection::{OnSpare, Sent, Shared};
use crate::error::{CallError, Started};
use crate::payload::Payload;
use crate::region::SharedBytes;
use crate::wait::{Ended, Wait, cpus, first_looks};

/// A call that was sent and not yet waited for. Dropping it cancels the call; until the server has answered or dropped
/// it, it goes on counting against the calls in flight.
///
/// Can be waited for on any thread, and in any order among others.
#[must_use = "dropping a pending call cancels it"]
pub struct Pending {
    /// `None` once it was waited for.
    call: Option<(Shared, Sent)>,
    deadline_ns: Option<u64>,
    began_ns: u64,
}

impl Pending {
    #[inline]
    pub(super) fn new(
        connection: Shared,
        sent: Sent,
        deadline_ns: Option<u64>,
        began_ns: u64,
    ) -> Self {
        Self { call: Some((connection, sent)), deadline_ns, began_ns }
    }

    /// Blocks until the reply is there, the call's deadline has passed, or the server is gone.
    ///
    /// # Errors
    /// [`CallError::Handler`], [`CallError::DeadlineExceeded`], [`CallError::Disconnected`],
    /// [`CallError::ProtocolViolation`], and [`CallError::Forked`] in a forked child.
    #[inline]
    pub fn wait(mut self) -> Result<Reply, CallError> {
        let Some((connection, sent)) = self.call.take() else {
            unreachable!("only waiting takes the call, and it consumes the pending one")
        };
        if !connection.is_ours() {
            return Err(CallError::Forked);
        }
        let limit = Limit { deadline_ns: self.deadline_ns, began_ns: self.began_ns };
        wait_for(&connection, sent, None, &limit)
    }

    /// Whether [`Pending::wait`] would return at once. Never blocks.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let Some((connection, sent)) = &self.call else { return true };
        if !connection.is_ours() || connection.has_ended() {
            return true;
        }
        if self.deadline_ns.is_some_and(|deadline| clock::now_ns() >= deadline) {
            return true;
        }
        let cell = connection.control.cell(sent.cell);
        !matches!(cell.has_reply(sent.turn), Ok(false))
    }

    /// Cancels the call; the same as dropping it. The handler can see it, and a late reply is discarded.
    pub fn cancel(self) {}
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some((connection, sent)) = self.call.take()
            && connection.is_ours()
            && !connection.has_ended()
        {
            connection.give_up(sent, None);
        }
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("done", &self.is_done()).finish_non_exhaustive()
    }
}

/// Blocks until a call that was sent has ended. `spare`: if its request lies there.
#[inline]
pub(super) fn wait_for(
    connection: &Shared,
    sent: Sent,
    spare: Option<OnSpare<'_>>,
    limit: &Limit,
) -> Result<Reply, CallError> {
    let cell = connection.control.cell(sent.cell);
    let policy = connection.options.wait;
    let class = SizeClass::of(sent.bytes.into());
    let looked = first_looks(cell, sent.turn, &connection.pace, policy, sent.rang, class);
    wait_on(connection, sent, spare, limit, looked)
}

/// The same, after the first looks.
#[inline]
pub(super) fn wait_on(
    connection: &Shared,
    sent: Sent,
    mut spare: Option<OnSpare<'_>>,
    limit: &Limit,
    looked: Result<bool, Violation>,
) -> Result<Reply, CallError> {
    let slept = match looked {
        Ok(true) => false,
        Ok(false) => await_on(connection, sent, &mut spare, limit)?,
        Err(violation) => {
            return Err(without_reply(connection, sent, spare.as_mut(), limit, Err(violation)));
        }
    };
    if let Some(spare) = spare {
        // The server has read what lies there (EDGE reply).
        connection.leave_spare(spare);
    }
    let Some(reply) = connection.control.cell(sent.cell).read_short_reply() else {
        return receive(connection, sent, slept);
    };
    connection.pace.note(reply.hints, cpus);
    connection.pace.replied(0);
    connection.finish(sent, slept, false);
    Ok(Reply::short(reply.status, reply.body))
}

/// The rest of a wait that was not over at once.
#[cold]
fn await_on(
    connection: &Shared,
    sent: Sent,
    spare: &mut Option<OnSpare<'_>>,
    limit: &Limit,
) -> Result<bool, CallError> {
    let wait = Wait {
        control: &connection.control,
        cell: connection.control.cell(sent.cell),
        turn: sent.turn,
        life: &connection.life,
        pace: &connection.pace,
        policy: connection.options.wait,
        rang: sent.rang,
        bytes: sent.bytes.into(),
        deadline_ns: limit.deadline_ns,
        look_around: &|| connection.look_around(),
    };
    match wait.run() {
        Ok(Ended::Reply { slept }) => Ok(slept),
        ended => Err(without_reply(connection, sent, spare.as_mut(), limit, ended)),
    }
}

#[cold]
fn without_reply(
    connection: &Shared,
    sent: Sent,
    spare: Option<&mut OnSpare<'_>>,
    limit: &Limit,
    ended: Result<Ended, Violation>,
) -> CallError {
    // The server may read it yet: it is nobody's.
    let room = spare.and_then(|spare| spare.take());
    match ended {
        Ok(Ended::TimedOut) => {
            connection.give_up(sent, room);
            let waited = crate::wait::since(limit.began_ns);
            return CallError::DeadlineExceeded { waited, started: Started::MayHaveRun };
        }
        Ok(Ended::Reply { .. } | Ended::Gone) => {}
        Err(violation) => connection.violated(violation),
    }
    connection.end_error(sent)
}

/// Turns what stands in the cell into a reply or a failure, where that is no short reply.
#[inline(never)]
fn receive(connection: &Shared, sent: Sent, slept: bool) -> Result<Reply, CallError> {
    let TakenReply { head, word: status, body } =
        match connection.control.cell(sent.cell).read_reply() {
            Ok(taken) => taken,
            Err(violation) => {
                return Err(without_reply(connection, sent, None, &Limit::NONE, Err(violation)));
            }
        };
    connection.pace.note(head.hints(), cpus);
    connection.pace.replied(if let Body::Far(place) = body { place.len } else { 0 });
    match body {
        Body::Inline(inline) => {
            connection.finish(sent, slept, false);
            if head.failure {
                Err(failure(status, inline))
            } else {
                Ok(Reply::short(status, inline))
            }
        }
        Body::Far(place) => receive_far(connection, sent, slept, status, place, head.failure),
    }
}

fn receive_far(
    connection: &Shared,
    sent: Sent,
    slept: bool,
    status: u32,
    place: Place,
    failed: bool,
) -> Result<Reply, CallError> {
    match connection.find(place) {
        Ok(bytes) => {
            let hold = Hold { connection: connection.clone(), sent, slept };
            let reply = Reply { status, bytes: ReplyBytes::Far { bytes, _hold: hold } };
            if failed { Err(far_failure(&reply)) } else { Ok(reply) }
        }
        Err(unusable) => {
            connection.cannot_go_on(unusable);
            Err(connection.end_error(sent))
        }
    }
}

#[cold]
fn failure(code: u32, message: Inline) -> CallError {
    CallError::Handler { code, message: String::from_utf8_lossy(message.bytes()).into_owned() }
}

#[cold]
fn far_failure(reply: &Reply) -> CallError {
    let message = String::from_utf8_lossy(&reply.to_vec()).into_owned();
    CallError::Handler { code: reply.status, message }
}

/// A server's answer.
///
/// A reply of up to 48 bytes was copied out of shared memory; a longer one is read where it lies, and keeps its memory
/// there, and one of the client's calls in flight, until it is dropped.
pub struct Reply {
    status: u32,
    bytes: ReplyBytes,
}

enum ReplyBytes {
    Inline(Inline),
    Far { bytes: SharedBytes, _hold: Hold },
}

/// Keeps a far reply's memory; gives it back when dropped.
struct Hold {
    connection: Shared,
    sent: Sent,
    slept: bool,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.connection.is_ours() {
            self.connection.finish(self.sent, self.slept, true);
        }
    }
}

impl Reply {
    /// Makes a short one, where its caller wants it. Moved about, its words, stored one by one, would be loaded in wider
    /// pieces, which processors do not forward from their store buffers.
    #[inline(always)]
    pub(super) fn short(status: u32, inline: Inline) -> Self {
        Self { status, bytes: ReplyBytes::Inline(inline) }
    }

    /// The status that the handler gave; 0 unless it chose another.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.status
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.payload().len()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, to be read in place.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> Payload<'_> {
        match &self.bytes {
            ReplyBytes::Inline(inline) => Payload::private(inline),
            ReplyBytes::Far { bytes, .. } => Payload::shared(&bytes.region, bytes.range.clone()),
        }
    }

    /// Copies the bytes into a new vector.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.payload().to_vec()
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).field("len", &self.len()).finish()
    }
}
