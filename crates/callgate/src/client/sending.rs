//! The ways of a call: the straight one of a short call whose caller is alone, and the common one.

use callgate_points::at;
use callgate_proto::Violation;
use callgate_proto::body::{Content, INLINE_MAX, RequestHead, Think};
use callgate_proto::cell::{Deadline, Doorbell};
use callgate_proto::chain::Lone;
use callgate_proto::layout as proto;
use callgate_proto::pace::SizeClass;
use callgate_sys::process;

use super::connection::{Sending, Sent, Shared};
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
        let sent = Sent::lone(lone, bell.is_some(), request.len(), false);
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
        let reply = wait_on(connection, sent, &Limit::NONE, looked);
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
        let reply = send_alone(connection, options, request, limit)
            .and_then(|sent| wait_for(connection, sent, limit));
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
        let sent = send(&connection, options, request, limit, true)?;
        wait_for(&connection, sent, limit)
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

/// As [`send`], for the caller in the lane: a far request goes without the lock where it can.
#[inline]
fn send_alone(
    connection: &Shared,
    options: &CallOptions,
    request: &[u8],
    limit: &Limit,
) -> Result<Sent, CallError> {
    if request.len() > INLINE_MAX
        && check_caller(connection).is_ok()
        && check_length(connection, request.len()).is_ok()
        && limit.check_at_start().is_ok()
    {
        let sending =
            Sending { method: options.method, deadline_ns: limit.deadline_ns, alone: true };
        if let Some(sent) = connection.send_kept(sending, request) {
            return Ok(sent);
        }
    }
    send(connection, options, request, limit, true)
}

#[inline(never)]
pub(super) fn send(
    connection: &Shared,
    options: &CallOptions,
    request: &[u8],
    limit: &Limit,
    alone: bool,
) -> Result<Sent, CallError> {
    check_caller(connection)?;
    check_length(connection, request.len())?;
    limit.check_at_start()?;
    let sending = Sending { method: options.method, deadline_ns: limit.deadline_ns, alone };
    if request.len() <= INLINE_MAX {
        connection.send(sending, Content::Short(request), None)
    } else {
        send_far(connection, sending, request)
    }
}

#[inline(never)]
fn send_far(connection: &Shared, sending: Sending, request: &[u8]) -> Result<Sent, CallError> {
    let (block, place) = connection.place(request.len() as u64, sending.deadline_ns)?;
    // SAFETY: the block was just placed, for this call alone, and the connection outlives this line.
    fill(unsafe { &mut *place }, request);
    connection.send(sending, Content::Far(block.place), Some(block))
}

/// Copies a request to where the server will read it.
#[inline(always)]
pub(super) fn fill(place: &mut [u8], request: &[u8]) {
    at!("callgate.request.copy", place.copy_from_slice(request));
}

/// A worker that calls its own server would wait for itself.
#[inline]
pub(super) fn check_caller(connection: &Shared) -> Result<(), CallError> {
    let epoch = SERVING.get();
    if epoch != 0 && epoch == connection.welcome.epoch {
        return Err(CallError::WouldDeadlock);
    }
    Ok(())
}

#[inline]
pub(super) fn check_length(connection: &Shared, len: usize) -> Result<(), CallError> {
    let limit = connection.welcome.request_max;
    if len as u64 > limit {
        return Err(CallError::TooLarge { len: len as u64, limit });
    }
    Ok(())
}
