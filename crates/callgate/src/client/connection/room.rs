//! Waiting for room: for a cell, or for memory, where the user wants to wait, and telling those who do.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use callgate_proto::chain::Ticket;
use callgate_sys::clock;
use callgate_sys::sync::MutexGuard;

use super::{Connection, Submit};
use crate::error::{CallError, Started};
use crate::options::WhenFull;

/// How long a caller that waits for room sleeps at most before it looks for what nobody announces: late replies, and a
/// spare room that was not to be looked at.
const ROOM_SLICE_LATE: Duration = Duration::from_millis(1);
/// The same when there are none to come: then whoever ends a call announces it.
const ROOM_SLICE: Duration = Duration::from_millis(100);

/// Counts a caller among those who wait for room, as long as it lives.
pub(super) struct Waits<'a>(&'a AtomicU32);

impl<'a> Waits<'a> {
    pub(super) fn new(waiters: &'a AtomicU32) -> Self {
        waiters.fetch_add(1, Ordering::Relaxed);
        Self(waiters)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    /// No cell is free: collects late replies, and where the user wants it waits for a call to end.
    #[cold]
    pub(super) fn wait_for_cell<'a>(
        &'a self,
        mut submit: MutexGuard<'a, Submit>,
        deadline_ns: Option<u64>,
    ) -> Result<(MutexGuard<'a, Submit>, Ticket), CallError> {
        let began_ns = clock::now_ns();
        // From before it looks until it need not wait any more.
        let _waits = Waits::new(&self.room_waiters);
        loop {
            self.collect_late_replies(&mut submit);
            if let Some(ticket) = submit.submitter.draw(false) {
                return Ok((submit, ticket));
            }
            if self.has_ended() {
                drop(submit);
                return Err(self.not_started());
            }
            if self.options.when_full == WhenFull::Fail {
                // Of all cells one is always free.
                let limit = self.control.cells().len() as u32 - 1;
                return Err(CallError::TooManyInFlight { limit });
            }
            if deadline_ns.is_some_and(|deadline| clock::now_ns() >= deadline) {
                return Err(CallError::DeadlineExceeded {
                    waited: crate::wait::since(began_ns),
                    started: Started::NotStarted,
                });
            }
            submit = self.wait_for_room(submit, deadline_ns, false);
        }
    }

    /// Waits until somebody makes room, but no longer than a slice; shorter when late replies are to come, or where
    /// there may be room `soon` of which nobody tells.
    pub(super) fn wait_for_room<'a>(
        &self,
        submit: MutexGuard<'a, Submit>,
        deadline_ns: Option<u64>,
        soon: bool,
    ) -> MutexGuard<'a, Submit> {
        let slice = if submit.given_up.is_empty() && !soon { ROOM_SLICE } else { ROOM_SLICE_LATE };
        let slice = match deadline_ns {
            Some(deadline) => {
                slice.min(Duration::from_nanos(deadline.saturating_sub(clock::now_ns())))
            }
            None => slice,
        };
        let mut submit = self.room.wait_timeout(submit, slice);
        submit.recall(&self.lease);
        submit
    }

    /// Whether somebody waits for room.
    #[inline]
    pub(super) fn is_waited_for(&self) -> bool {
        self.room_waiters.load(Ordering::Relaxed) > 0
    }

    #[inline]
    pub(super) fn tell_room(&self) {
        if self.is_waited_for() {
            self.room.notify_all();
        }
    }
}
