//! Memory for a connection's requests: finding room, making more, giving it back.

use std::time::Duration;

use callgate_proto::arena::{Block, Placing, REGION_MIN};
use callgate_proto::chain::Lease;
use callgate_proto::wire::Message;
use callgate_sys::shm::{MemFd, PayloadWriter};
use callgate_sys::socket::SendError;
use callgate_sys::sync::MutexGuard;
use callgate_sys::{clock, process};

use super::room::Waits;
use super::{Connection, End, Room, Submit};
use crate::error::{CallError, Started};
use crate::options::WhenFull;

/// Quiet seconds after which a connection keeps no payload memory at all.
const QUIET_ROUNDS_MAX: u32 = 10;

/// A region that was made and not announced.
type Fresh = (PayloadWriter, MemFd);

impl Submit {
    /// Takes the place of the next call back.
    #[inline]
    pub(super) fn recall(&mut self, lease: &Lease) {
        if self.submitter.is_lent() {
            self.recall_lent(lease);
        }
    }

    #[inline(never)]
    fn recall_lent(&mut self, lease: &Lease) {
        let ended = self.submitter.recall(lease);
        // See `finish`: that last reply may have been a far one to a far request.
        if ended.is_some() && self.out.total() > 0 {
            self.unreleased = ended;
        }
    }

    /// A block that was just placed.
    #[inline]
    fn room(&self, block: Block) -> Room {
        Room::new(self.out.region(block), block)
    }

    /// Keeps the block of a request until its call has ended.
    #[inline]
    pub(super) fn keep_block(&mut self, cell: u16, block: Block) {
        let cell = usize::from(cell);
        if self.blocks.len() <= cell {
            self.blocks.resize(cell + 1, None);
        }
        self.blocks[cell] = Some(block);
    }

    /// Gives the block of a cell's request back, if there is one.
    #[inline]
    pub(super) fn give_back_block(&mut self, cell: u16) {
        if let Some(block) = self.blocks.get_mut(usize::from(cell)).and_then(Option::take) {
            self.out.give_back(block);
        }
    }
}

impl Connection {
    /// Finds room for a request in all memory there is, with the spare one, which did not serve; makes more when there is
    /// none.
    pub(super) fn place(
        &self,
        len: u64,
        misfit: Option<Room>,
        deadline_ns: Option<u64>,
    ) -> Result<Room, CallError> {
        let mut submit = self.submit();
        if let Some(room) = misfit {
            submit.out.give_back(room.block());
            self.tell_room();
        }
        if self.has_ended() {
            return Err(self.not_started());
        }
        if let Placing::Placed(block) = submit.out.place(len) {
            // Now, so that it comes while the payload is written.
            process::will_write(self.control.cell(submit.submitter.next_cell()));
            return Ok(submit.room(block));
        }
        drop(submit);
        self.make_room(len, deadline_ns)
    }

    #[cold]
    fn make_room(&self, len: u64, deadline_ns: Option<u64>) -> Result<Room, CallError> {
        let began_ns = clock::now_ns();
        let mut submit = self.submit();
        let mut fresh: Option<Fresh> = None;
        let mut has_yielded = false;
        // From before it looks until it need not wait any more.
        let _waits = Waits::new(&self.room_waiters);
        loop {
            if self.has_ended() {
                return Err(self.not_started());
            }
            let has_looked = self.let_go_of_spare(&mut submit);
            match submit.out.place(len) {
                Placing::Placed(block) => {
                    let room = submit.room(block);
                    if let Some(fresh) = fresh {
                        // Another thread made room meanwhile; ours was never announced.
                        drop(submit);
                        drop(fresh);
                    }
                    return Ok(room);
                }
                Placing::Grow(size) => match fresh.take() {
                    Some((region, fd)) if region.len() as u64 <= size.max(len) => {
                        (submit, fresh) = self.announce(submit, region, fd, deadline_ns)?;
                    }
                    _ => {
                        // Populating takes long; other callers go on meanwhile.
                        drop(submit);
                        fresh = Some(self.make_region(len, size)?);
                        submit = self.submit();
                    }
                },
                Placing::Full => {
                    self.collect_late_replies(&mut submit);
                    let freed = self.retire(&mut submit, 0);
                    if freed {
                        continue;
                    }
                    let timed_out = deadline_ns.is_some_and(|end| clock::now_ns() >= end);
                    if timed_out {
                        let waited = crate::wait::since(began_ns);
                        return Err(CallError::DeadlineExceeded {
                            waited,
                            started: Started::NotStarted,
                        });
                    }
                    let quota = self.welcome.quota.min(self.options.bytes);
                    let fails = self.options.when_full == WhenFull::Fail;
                    if !has_looked && fails && !std::mem::replace(&mut has_yielded, true) {
                        // Another caller may be about to give it back, for want of a larger one, or of a smaller one.
                        drop(submit);
                        process::yield_now();
                        submit = self.submit();
                        continue;
                    }
                    if fails || len > quota {
                        return Err(CallError::NoMemory { len, quota, source: None });
                    }
                    submit = self.wait_for_room(submit, deadline_ns, !has_looked);
                }
            }
        }
    }

    fn make_region(&self, len: u64, size: u64) -> Result<(PayloadWriter, MemFd), CallError> {
        let quota = self.welcome.quota.min(self.options.bytes);
        let made = usize::try_from(size)
            .map_err(|_| std::io::ErrorKind::OutOfMemory.into())
            .and_then(PayloadWriter::create);
        made.map_err(|source| CallError::NoMemory { len, quota, source: Some(source) })
    }

    /// Tells the server of a new region and adds it. Keeps the lock, so that ids and messages have one order; unless the
    /// server has first to read what was sent. Then the region comes back: another thread may have used the quota meanwhile.
    fn announce<'a>(
        &'a self,
        mut submit: MutexGuard<'a, Submit>,
        region: PayloadWriter,
        fd: MemFd,
        deadline_ns: Option<u64>,
    ) -> Result<(MutexGuard<'a, Submit>, Option<Fresh>), CallError> {
        let size = region.len() as u64;
        self.flush_retires(&mut submit);
        let message = Message::Region { id: submit.out.next_id(), size }.encode();
        let sent = if submit.unsent_retires.is_empty() {
            self.socket.send_memory(message.as_bytes(), &fd)
        } else {
            Err(SendError::Full)
        };
        match sent {
            Ok(()) => {
                submit.out.add(size, region);
                self.keep_tidy(&mut submit);
                Ok((submit, None))
            }
            Err(SendError::Full | SendError::TooManyDescriptors) => {
                // The server is busy; it reads when it comes round.
                drop(submit);
                let slice = clock::deadline_ns(Duration::from_millis(20));
                let until = deadline_ns.map_or(slice, |deadline| deadline.min(slice));
                let began_ns = clock::now_ns();
                let _ = self.socket.wait_writable(Some(until));
                process::yield_now();
                if deadline_ns.is_some_and(|deadline| clock::now_ns() >= deadline) {
                    let waited = crate::wait::since(began_ns);
                    return Err(CallError::DeadlineExceeded {
                        waited,
                        started: Started::NotStarted,
                    });
                }
                Ok((self.submit(), Some((region, fd))))
            }
            Err(SendError::Closed) => {
                drop(submit);
                self.end(End::Closed);
                Err(self.not_started())
            }
            Err(SendError::Os(source)) => {
                let what = "cannot send payload memory to the server".into();
                Err(CallError::Os { what, source })
            }
        }
    }

    pub(super) fn keep_tidy(&self, submit: &mut Submit) {
        if !submit.tidying {
            submit.tidying = true;
            super::super::watch::tidy_later(self.me.clone());
        }
    }

    /// A second of quiet has passed, or may have: collects late replies and lets go of memory that is not needed.
    /// Returns whether to come again in a second.
    pub(in crate::client) fn tidy(&self) -> bool {
        let mut submit = self.submit();
        self.collect_late_replies(&mut submit);
        if submit.submitter.number() == submit.tidied_at {
            if let Some(cell) = submit.unreleased.take() {
                self.control.cell(cell).release();
            }
            let _ = self.let_go_of_spare(&mut submit);
            submit.quiet_rounds += 1;
            let keep = if submit.quiet_rounds < QUIET_ROUNDS_MAX { REGION_MIN } else { 0 };
            self.retire(&mut submit, keep);
        } else {
            submit.tidied_at = submit.submitter.number();
            submit.quiet_rounds = 0;
        }
        self.flush_retires(&mut submit);
        submit.tidying = !self.has_ended()
            && (submit.out.total() > 0
                || submit.unreleased.is_some()
                || !submit.given_up.is_empty()
                || !submit.unsent_retires.is_empty());
        submit.tidying
    }

    /// Lets go of unused regions above `keep` bytes; returns whether there were any.
    fn retire(&self, submit: &mut Submit, keep: u64) -> bool {
        let retired = submit.out.retire_unused(keep);
        let any = !retired.is_empty();
        submit.unsent_retires.extend(retired.into_iter().map(|(id, _)| id));
        self.flush_retires(submit);
        any
    }

    fn flush_retires(&self, submit: &mut Submit) {
        while let Some(id) = submit.unsent_retires.first() {
            match self.socket.send(Message::Retire { id: *id }.encode().as_bytes(), None) {
                Ok(()) => submit.unsent_retires.remove(0),
                Err(_) => return,
            };
        }
    }
}
