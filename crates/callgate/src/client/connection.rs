//! One connection of a client: sending calls, receiving what the server announces, and its end.
//!
//! The order of locks is `submit`, then `incoming`; neither is held while a caller waits for a reply.

mod memory;
mod room;
mod sent;
mod spare;

use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock, Weak};

use callgate_proto::Violation;
use callgate_proto::arena::{Block, Outgoing, REGIONS_MAX};
use callgate_proto::body::{Body, Content, Place};
use callgate_proto::cell::Ring;
use callgate_proto::chain::{Era, Lease, Submitter, Ticket, may_have_run, publish};
use callgate_proto::life::Life;
use callgate_proto::pace::{CallerPace, Thinking};
use callgate_proto::wire::{Message, Welcome};
use callgate_sys::process::{self, Identity, PidFd};
use callgate_sys::shm::{PayloadReader, PayloadWriter, page_size};
use callgate_sys::socket::{RecvError, Ring as Rung, Socket};
use callgate_sys::sync::{Condvar, Mutex, MutexGuard};
use callgate_sys::{clock, process as sys_process};

use crate::error::{CallError, Side, Started};
use crate::options::ClientOptions;
use crate::region::{ControlView, Incoming, SharedBytes, Unusable};
use crate::wait::{SLEEPERS_MAX, wake_sleepers};

use super::sending::publish_lone;

pub(crate) use sent::{Sending, Sent};
use spare::Spare;
pub(super) use spare::{OnSpare, Room};

/// Messages read from the socket at a time.
const MESSAGES_MAX: usize = 4 * REGIONS_MAX;

/// A connection to one life of a server.
pub(crate) struct Connection {
    pub(super) control: ControlView,
    pub(super) socket: Socket,
    pub(super) server_process: PidFd,
    pub(super) server: Identity,
    pub(super) welcome: Welcome,
    pub(super) life: Life,
    pub(super) pace: CallerPace,
    pub(super) path: PathBuf,
    pub(super) options: ClientOptions,
    me: Weak<Connection>,
    /// The client that keeps it for its next calls.
    owner: Weak<super::Inner>,
    /// Under which the watcher knows it.
    watch_token: OnceLock<u64>,
    generation: u32,
    end: OnceLock<End>,
    submit: Mutex<Submit>,
    /// The place of the next call, while it is lent. Who has the lock has the place: it was recalled.
    pub(super) lease: Lease,
    /// Room for the next far request, where the last one lay.
    spare: Spare,
    room: Condvar,
    room_waiters: AtomicU32,
    incoming: Mutex<Incoming>,
}

/// Why a connection ended.
enum End {
    /// The kernel says that the server has hung up, or is dead: it takes no further call.
    Closed,
    Violation(Violation),
    /// This process could not go on, for lack of memory or the like. The server may live, and take what was sent.
    System,
}

/// The sending side's private state.
struct Submit {
    submitter: Submitter,
    out: Outgoing<PayloadWriter>,
    unsent_retires: Vec<u32>,
    given_up: Vec<Sent>,
    /// Where the request of the call in each cell lies, if that is far and its caller does not keep the room; as long as
    /// need be.
    blocks: Vec<Option<Block>>,
    /// The cell of a far reply that was read and not released, since the next call goes there, which says the same. Or of
    /// one that was short: it is not known where the place was lent.
    unreleased: Option<u16>,
    thinking: Thinking,
    /// Number of the next call when it was tidied last.
    tidied_at: u64,
    quiet_rounds: u32,
    tidying: bool,
}

impl Connection {
    #[expect(clippy::too_many_arguments, reason = "the parts that `handshake` put together")]
    pub(super) fn new(
        me: Weak<Connection>,
        owner: Weak<super::Inner>,
        control: ControlView,
        socket: Socket,
        server_process: PidFd,
        server: Identity,
        welcome: Welcome,
        path: PathBuf,
        options: ClientOptions,
    ) -> Self {
        let cells = control.cells().len();
        #[expect(clippy::cast_possible_truncation, reason = "at most CELLS_MAX")]
        let submitter = Submitter::new(cells as u32);
        let quota = welcome.quota.min(options.bytes);
        let submit = Submit {
            submitter,
            out: Outgoing::new(quota, cells, page_size() as u64),
            unsent_retires: Vec::new(),
            given_up: Vec::new(),
            blocks: Vec::new(),
            unreleased: None,
            thinking: Thinking::default(),
            tidied_at: 0,
            quiet_rounds: 0,
            tidying: false,
        };
        Self {
            control,
            socket,
            server_process,
            server,
            welcome,
            life: Life::default(),
            pace: CallerPace::default(),
            path,
            me,
            owner,
            watch_token: OnceLock::new(),
            generation: process::generation(),
            end: OnceLock::new(),
            submit: Mutex::new(submit),
            lease: Lease::default(),
            spare: Spare::default(),
            room: Condvar::new(),
            room_waiters: AtomicU32::new(0),
            incoming: Mutex::new(Incoming::new(options.bytes, PayloadReader::accept_held)),
            options,
        }
    }

    pub(super) fn watched_as(&self, token: u64) {
        let _ = self.watch_token.set(token);
    }

    /// Whether this process made the connection, rather than a parent of it.
    #[inline]
    pub(super) fn is_ours(&self) -> bool {
        sys_process::is_current(self.generation)
    }

    #[inline]
    pub(super) fn has_ended(&self) -> bool {
        self.life.has_ended()
    }

    /// Takes the lock, and the place of the next call back.
    #[inline]
    fn submit(&self) -> MutexGuard<'_, Submit> {
        let mut submit = self.submit.lock();
        submit.recall(&self.lease);
        submit
    }

    /// Publishes a call whose request lies there, of a caller that is alone, if the place of the next call is lent: without
    /// the lock.
    #[inline]
    pub(super) fn send_lone(&self, sending: Sending, place: Place) -> Option<Sent> {
        let lone = self.lease.begin()?;
        let (cell, deadline) = (self.control.cell(lone.cell()), sending.deadline());
        let bell = publish_lone(cell, lone, sending.method, deadline, Content::Far(place));
        if let Some(bell) = bell {
            self.ring(bell.of(lone.cell()));
        }
        Some(Sent::lone(lone, bell.is_some(), place.len, true))
    }

    /// Publishes a call. Where its request lies in a room, that is still in `room` afterwards if its caller is to keep it
    /// until the reply is there, which a caller that is not alone never is. On an error nothing was sent, and the room has
    /// been given back.
    #[inline(always)]
    pub(super) fn send(
        &self,
        sending: Sending,
        content: Content<'_>,
        room: &mut Option<Room>,
    ) -> Result<Sent, CallError> {
        let deadline = sending.deadline();
        let mut submit = self.submit();
        let ticket = match submit.submitter.draw(sending.alone) {
            Some(ticket) => ticket,
            None => match self.wait_for_cell(submit, sending.deadline_ns) {
                Ok((guard, ticket)) => {
                    submit = guard;
                    ticket
                }
                Err(error) => {
                    if let Some(room) = room.take() {
                        self.give_back(room);
                    }
                    return Err(error);
                }
            },
        };
        let Ticket { turn, cell, next, .. } = ticket;
        sys_process::will_write(self.control.cell(cell));
        let era = Era::of(submit.submitter.number());
        // If there is one, it is this call's cell.
        submit.unreleased = None;
        let think = submit.thinking.ended(clock::now_ns);
        let (cells, detour) = (self.control.cells(), self.control.detour());
        let ring = publish(cells, detour, ticket, sending.method, think, deadline, content);
        let is_far = matches!(content, Content::Far(_));
        let is_lent = submit.submitter.lend(&self.lease, &ticket);
        if !is_lent && let Some(room) = room.take() {
            submit.keep_block(cell, room.block());
        }
        if !submit.given_up.is_empty() {
            self.collect_late_replies(&mut submit);
        }
        drop(submit);
        if ring != Ring::No {
            self.ring(ring);
        }
        let bytes = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let (is_far, has_block, rang) = (is_far, is_far && !is_lent, ring != Ring::No);
        Ok(Sent { turn, era, cell, next, is_far, has_block, rang, bytes })
    }

    /// Wakes the server.
    #[cold]
    pub(super) fn ring(&self, ring: Ring) {
        match ring {
            Ring::No => {}
            Ring::Word(cell) => {
                self.control.wake(self.control.cell(cell), SLEEPERS_MAX);
            }
            Ring::Socket if self.socket.ring() == Rung::Gone => {
                self.end(self.what_the_kernel_says());
            }
            Ring::Socket => {}
        }
    }

    /// A call has ended and its reply was consumed: its cell and memory are free. `far`: so is the reply's memory.
    ///
    /// The server learns the latter from *released* or from the next request in the same cell. Where that is known to be
    /// the next call's cell nothing is stored, since the server polls that line, and would lose it and fetch it back.
    /// No other call can need the memory before; if none comes at all, `tidy` releases it. It surely comes while there is
    /// memory for requests, as where a call has just used some: that is retired under the lock only, and who takes that
    /// recalls the place.
    #[inline]
    pub(super) fn finish(&self, sent: Sent, slept: bool, far: bool) {
        let cell = sent.cell;
        let may_be_next = sent.next == cell;
        let without_lock = !slept && !sent.has_block && (!far || sent.is_far);
        if may_be_next && without_lock && self.lease.end_of(sent.turn, cell) {
            return;
        }
        if far && !may_be_next {
            self.control.cell(cell).release();
        }
        let mut submit = self.submit();
        let is_next = submit.submitter.put_back(cell);
        if far && may_be_next {
            if is_next {
                submit.unreleased = Some(cell);
                self.keep_tidy(&mut submit);
            } else {
                // Under the lock: the cell is anybody's.
                self.control.cell(cell).release();
            }
        }
        if sent.has_block {
            submit.give_back_block(cell);
        }
        let number = submit.submitter.number();
        submit.thinking.answered(slept, number, clock::now_ns);
        drop(submit);
        self.tell_room();
    }

    /// Cancels a call that nobody waits for any more. Its cell and memory stay taken until its reply is there.
    pub(super) fn give_up(&self, sent: Sent, room: Option<Room>) {
        self.control.cell(sent.cell).cancel(sent.turn);
        let mut submit = self.submit();
        if let Some(room) = room {
            submit.keep_block(sent.cell, room.block());
        }
        submit.given_up.push(sent);
        self.collect_late_replies(&mut submit);
        self.keep_tidy(&mut submit);
    }

    fn collect_late_replies(&self, submit: &mut Submit) {
        let mut at = 0;
        while at < submit.given_up.len() {
            let sent = submit.given_up[at];
            let cell = self.control.cell(sent.cell);
            match cell.poll_reply(sent.turn) {
                Ok(None) => at += 1,
                Ok(Some(reply)) => {
                    if matches!(reply.body, Body::Far(_)) {
                        cell.release();
                    }
                    submit.submitter.put_back(sent.cell);
                    submit.give_back_block(sent.cell);
                    submit.given_up.swap_remove(at);
                }
                Err(violation) => {
                    self.violated(violation);
                    return;
                }
            }
        }
    }

    /// Finds the bytes of a far reply, taking new regions from the socket where need be.
    pub(super) fn find(&self, place: Place) -> Result<SharedBytes, Unusable> {
        if place.len > self.welcome.reply_max {
            return Err(Violation::new("place.len", place.len, self.welcome.reply_max).into());
        }
        let mut incoming = self.incoming.lock();
        if let Some((region, range)) = incoming.find(place)? {
            return Ok(SharedBytes { region: region.clone(), range });
        }
        // It was announced before the reply was published.
        self.socket.catch_up();
        self.receive_into(&mut incoming)?;
        match incoming.find(place)? {
            Some((region, range)) => Ok(SharedBytes { region: region.clone(), range }),
            None => Err(Violation::new("place.region", place.region.into(), 0).into()),
        }
    }

    /// Reads what the server sent over the socket.
    pub(super) fn receive(&self) {
        let mut incoming = self.incoming.lock();
        // Under the lock, so that nobody misses what was rejected here before the connection's end says why.
        if let Err(unusable) = self.receive_into(&mut incoming) {
            self.cannot_go_on(unusable);
        }
    }

    fn receive_into(&self, incoming: &mut Incoming) -> Result<(), Unusable> {
        let mut buffer = [0; callgate_proto::wire::MESSAGE_MAX];
        // However much a server sends, nobody is kept here for long; the poller tells of what is left.
        for _ in 0..MESSAGES_MAX {
            match self.socket.recv(&mut buffer) {
                Ok(received) => {
                    if received.lost_fd {
                        return Err(Unusable::no_descriptors());
                    }
                    if received.truncated || received.extra_fds > 0 {
                        return Err(Violation::new("message.size", received.len as u64, 16).into());
                    }
                    match Message::decode(&buffer[..received.len])? {
                        Message::Region { id, size } => incoming.add(id, size, received.fd)?,
                        _ if received.fd.is_some() => {
                            return Err(Violation::new("message.descriptors", 1, 0).into());
                        }
                        Message::Retire { id } => drop(incoming.retire(id)?),
                        Message::Bell => {
                            return Err(Violation::new("message.kind", 0, b'X'.into()).into());
                        }
                    }
                }
                Err(RecvError::Empty) => return Ok(()),
                Err(RecvError::Closed) => {
                    self.end(End::Closed);
                    return Ok(());
                }
                Err(RecvError::Os(_)) => {
                    self.end(self.what_the_kernel_says());
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// What the server sent cannot be used.
    pub(super) fn cannot_go_on(&self, unusable: Unusable) {
        match unusable {
            Unusable::Violation(violation) => self.violated(violation),
            Unusable::System(error) => {
                self.end(End::System);
                tracing::warn!(path = %self.path.display(), %error, "the server's memory cannot be mapped");
            }
            Unusable::Gone => self.closed(),
        }
    }

    /// The server broke the protocol.
    pub(super) fn violated(&self, violation: Violation) {
        self.end(End::Violation(violation));
        tracing::warn!(path = %self.path.display(), %violation, "the server broke the protocol");
    }

    /// The kernel says that the server is gone.
    pub(super) fn closed(&self) {
        self.end(End::Closed);
    }

    /// It has ended: the client need not keep it, nor its memory, until the next call. False when a caller keeps it at this
    /// moment, who may not let go: come again.
    pub(super) fn leave_owner(&self) -> bool {
        self.owner.upgrade().is_none_or(|owner| owner.let_go(self))
    }

    /// After a system call failed: whether that is because the server is gone.
    fn what_the_kernel_says(&self) -> End {
        if self.socket.is_closed() || self.server_process.is_dead() {
            End::Closed
        } else {
            End::System
        }
    }

    /// Wakes those who sleep on this connection, which has ended; false when some may sleep still.
    pub(super) fn wake_sleepers(&self) -> bool {
        wake_sleepers(&self.life, &self.control)
    }

    /// Asks the kernel whether the server lives.
    pub(super) fn look_around(&self) {
        if self.socket.is_closed() || self.server_process.is_dead() {
            self.end(End::Closed);
        }
    }

    fn end(&self, end: End) {
        let is_first = self.end.set(end).is_ok();
        self.socket.shutdown();
        self.life.end();
        if !self.wake_sleepers() {
            super::watch::wake_later(self.me.clone());
        }
        self.room.notify_all();
        // Last: it is the user's code, which may unwind.
        if is_first {
            tracing::info!(path = %self.path.display(), pid = self.server.pid, "disconnected from server");
        }
    }

    /// The error of a call that was sent when the connection ended.
    pub(super) fn end_error(&self, sent: Sent) -> CallError {
        match self.end.get() {
            Some(End::Violation(violation)) => {
                let violation = *violation;
                return CallError::ProtocolViolation { guilty: Side::Server, violation };
            }
            Some(End::System) => return CallError::Disconnected { started: Started::MayHaveRun },
            // The server takes no more calls, so the turn that it published last is final.
            Some(End::Closed) | None => {}
        }
        let taken = self.control.header().last_taken();
        let next = self.submit().submitter.number();
        let started = match may_have_run(sent.turn, sent.era, next, taken) {
            true => Started::MayHaveRun,
            false => Started::NotStarted,
        };
        CallError::Disconnected { started }
    }

    /// The error of a call that was not sent because the connection has ended.
    pub(super) fn not_started(&self) -> CallError {
        match self.end.get() {
            Some(End::Violation(violation)) => {
                CallError::ProtocolViolation { guilty: Side::Server, violation: *violation }
            }
            _ => CallError::Disconnected { started: Started::NotStarted },
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(token) = self.watch_token.get()
            && self.is_ours()
        {
            super::watch::forget(*token, self);
        }
    }
}

/// Shares a connection with its callers; the last one to let go unmaps everything.
pub(crate) type Shared = Arc<Connection>;
