//! The ways of a call: the straight one of a short call whose caller is alone, and the common one.

use callgate_points::at;
use callgate_proto::Violation;
use callgate_proto::body::{Content, INLINE_MAX, Place, RequestHead, Think};
use callgate_proto::cell::{Deadline, Doorbell};
use callgate_proto::chain::Lone;
use callgate_proto::layout as proto;
use callgate_proto::pace::SizeClass;
use callgate_sys::process;

use super::connection::{Connection, Room, Sending, Sent, Shared};
use super::lane::OnLane;
use super::pending::{Reply, wait_for, wait_on};
use super::{Client, Limit, SERVING};
use crate::error::CallError;
use crate::options::CallOptions;
use crate::wait::{cpus, first_looks};

impl Client {
    /// A call that its caller waits for.
    ///
    /// The straight way through is that of a short call whose caller is alone, and whose reply is there, and short, at one of
    /// the first looks; all else is behind calls of other functions. The reply is made by the last expression, where the
    /// caller wants it: it is never moved; see [`Reply::short`].
    pub(super) fn exchange(
        &self,
        options: &CallOptions,
        request: &[u8],
        limit: &Limit,
    ) -> Result<Reply, CallError> {
        if !process::is_current(self.inner.generation) {
            return Err(CallError::Forked);
        }
        let Some(lane) = self.inner.lane.try_enter() else {
            return self.exchange_beside(options, request, limit);
        };
        let Some(connection) = lane.as_ref().filter(|connection| !connection.has_ended()) else {
            return self.exchange_along(lane, options, request, limit);
        };
        if request.len() > INLINE_MAX
            || limit.deadline_ns.is_some()
            || check_caller(connection).is_err()
            || check_length(connection, request.len()).is_err()
        {
            return self.exchange_along(lane, options, request, limit);
        }
        let Some(lone) = connection.lease.begin() else {
            return self.exchange_along(lane, options, request, limit);
        };
        let (cell, turn) = (connection.control.cell(lone.cell()), lone.turn());
        process::will_write(cell);
        let content = Content::Short(request);
        let bell = publish_lone(cell, lone, options.method, Deadline::NONE, content);
        if let Some(bell) = bell {
            connection.ring(bell.of(lone.cell()));
        }
        let sent = Sent::lone(lone, bell.is_some(), request.len() as u64, false);
        let (pace, policy) = (&connection.pace, connection.options.wait);
        let looked = first_looks(cell, turn, pace, policy, bell.is_some(), SizeClass::SHORT);
        let Ok(true) = looked else {
            return self.exchange_on(lane, sent, options, request, looked);
        };
        let Some(reply) = cell.read_short_reply() else {
            return self.exchange_on(lane, sent, options, request, looked);
        };
        pace.note(reply.hints, cpus);
        pace.replied(0);
        if !connection.lease.end(lone) {
            connection.finish(sent, false, false);
        }
        Ok(Reply::short(reply.status, reply.body))
    }

    /// The rest of a lone call, after its first looks.
    #[inline(never)]
    fn exchange_on(
        &self,
        lane: OnLane<'_>,
        sent: Sent,
        options: &CallOptions,
        request: &[u8],
        looked: Result<bool, Violation>,
    ) -> Result<Reply, CallError> {
        let Some(connection) = &*lane else { unreachable!("the call went over it") };
        let reply = wait_on(connection, sent, None, &Limit::NONE, looked);
        self.leave(lane, options, request, &Limit::NONE, reply)
    }

    /// A call in the lane that takes the common way.
    #[inline(never)]
    fn exchange_along(
        &self,
        mut lane: OnLane<'_>,
        options: &CallOptions,
        request: &[u8],
        limit: &Limit,
    ) -> Result<Reply, CallError> {
        let kept = match lane.as_ref().filter(|connection| !connection.has_ended()) {
            Some(_) => Ok(()),
            None => self.fill(&mut lane, limit).map(drop),
        };
        if let Err(error) = kept {
            return self.leave(lane, options, request, limit, Err(error));
        }
        let Some(connection) = &*lane else { unreachable!("it was filled") };
        let reply = call_over(connection, options, request, limit);
        self.leave(lane, options, request, limit, reply)
    }

    /// Leaves the lane, other than by the straight way: lets go of a connection that has ended, and sees what becomes of a call
    /// that failed.
    #[inline]
    fn leave(
        &self,
        mut lane: OnLane<'_>,
        options: &CallOptions,
        request: &[u8],
        limit: &Limit,
        reply: Result<Reply, CallError>,
    ) -> Result<Reply, CallError> {
        if lane.as_ref().is_some_and(|connection| connection.has_ended()) {
            lane.clear();
        }
        drop(lane);
        match reply {
            Err(error) => self.failed(options, request, limit, error),
            reply => reply,
        }
    }

    /// A call while another one has the lane.
    #[inline(never)]
    fn exchange_beside(
        &self,
        options: &CallOptions,
        request: &[u8],
        limit: &Limit,
    ) -> Result<Reply, CallError> {
        self.exchange_once(options, request, limit)
            .or_else(|error| self.failed(options, request, limit, error))
    }

    /// A call without a lane, and without another try.
    pub(super) fn exchange_once(
        &self,
        options: &CallOptions,
        request: &[u8],
        limit: &Limit,
    ) -> Result<Reply, CallError> {
        let connection = self.connection(limit)?;
        call_over(&connection, options, request, limit)
    }
}

/// Publishes a call at a place that was lent; tells how to wake the server, where it must be.
#[inline(always)]
pub(super) fn publish_lone(
    cell: &proto::Cell,
    lone: Lone,
    method: u32,
    deadline: Deadline,
    content: Content<'_>,
) -> Option<Doorbell> {
    let head = RequestHead { method, next: lone.cell(), think: Think::UNKNOWN };
    cell.publish_request(lone.turn(), head, deadline, content)
}

/// A call over this connection, whose caller waits for it.
#[inline]
fn call_over(
    connection: &Shared,
    options: &CallOptions,
    request: &[u8],
    limit: &Limit,
) -> Result<Reply, CallError> {
    if request.len() > INLINE_MAX {
        return call_far(connection, options, request, limit);
    }
    let sent = send(connection, options, request, limit, true)?;
    wait_for(connection, sent, None, limit)
}

/// The same for a long request, which is written into the spare room, if no other call has that.
#[inline(never)]
fn call_far(
    connection: &Shared,
    options: &CallOptions,
    request: &[u8],
    limit: &Limit,
) -> Result<Reply, CallError> {
    let sending = check(connection, options, request, limit, true)?;
    let Some(mut spare) = connection.on_spare() else {
        // Another call is under way, so this one is not alone.
        let sent = send_behind(connection, Sending { alone: false, ..sending }, request)?;
        return wait_for(connection, sent, None, limit);
    };
    let room = connection.room(&mut spare, request.len() as u64, sending.deadline_ns)?;
    // SAFETY: the room is this call's alone, and the connection outlives this line, in the process that made it.
    fill(unsafe { &mut *room.bytes() }, request);
    let place = room.place();
    let sent = send_from(connection, sending, place, &mut spare)?;
    wait_for(connection, sent, Some(spare), limit)
}

/// Publishes the call of a caller that waits for it, whose request was written into the spare room: without the lock, if
/// the place of the next call is lent.
#[inline]
pub(super) fn send_from(
    connection: &Shared,
    sending: Sending,
    place: Place,
    spare: &mut Option<Room>,
) -> Result<Sent, CallError> {
    match connection.send_lone(sending, place) {
        Some(sent) => Ok(sent),
        None => send_far(connection, sending, place, spare),
    }
}

/// Publishes a call with the lock.
#[inline(never)]
pub(super) fn send(
    connection: &Shared,
    options: &CallOptions,
    request: &[u8],
    limit: &Limit,
    alone: bool,
) -> Result<Sent, CallError> {
    let sending = check(connection, options, request, limit, alone)?;
    if request.len() <= INLINE_MAX {
        return connection.send(sending, Content::Short(request), &mut None);
    }
    send_behind(connection, sending, request)
}

/// The same for a long request of a caller that is not alone: the connection keeps its room.
fn send_behind(connection: &Shared, sending: Sending, request: &[u8]) -> Result<Sent, CallError> {
    debug_assert!(!sending.alone, "nobody would keep the room");
    let mut room = None;
    let far = connection.room(&mut room, request.len() as u64, sending.deadline_ns)?;
    // SAFETY: as in `call_far`.
    fill(unsafe { &mut *far.bytes() }, request);
    let place = far.place();
    send_far(connection, sending, place, &mut room)
}

/// Publishes a call with the lock, whose request was written where `room` says.
#[inline(never)]
pub(super) fn send_far(
    connection: &Shared,
    sending: Sending,
    place: Place,
    room: &mut Option<Room>,
) -> Result<Sent, CallError> {
    connection.send(sending, Content::Far(place), room)
}

/// Whether this call may be sent at all.
#[inline]
fn check(
    connection: &Connection,
    options: &CallOptions,
    request: &[u8],
    limit: &Limit,
    alone: bool,
) -> Result<Sending, CallError> {
    check_caller(connection)?;
    check_length(connection, request.len())?;
    limit.check_at_start()?;
    Ok(Sending { method: options.method, deadline_ns: limit.deadline_ns, alone })
}

/// Copies a request to where the server will read it.
#[inline(always)]
pub(super) fn fill(place: &mut [u8], request: &[u8]) {
    at!("callgate.request.copy", place.copy_from_slice(request));
}

/// A worker that calls its own server would wait for itself.
#[inline]
pub(super) fn check_caller(connection: &Connection) -> Result<(), CallError> {
    let epoch = SERVING.get();
    if epoch != 0 && epoch == connection.welcome.epoch {
        return Err(CallError::WouldDeadlock);
    }
    Ok(())
}

#[inline]
pub(super) fn check_length(connection: &Connection, len: usize) -> Result<(), CallError> {
    let limit = connection.welcome.request_max;
    if len as u64 > limit {
        return Err(CallError::TooLarge { len: len as u64, limit });
    }
    Ok(())
}
