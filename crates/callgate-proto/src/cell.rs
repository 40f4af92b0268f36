//! The life of one call, decided in one word: the cell's state, and every access to a cell.
//!
//! ```text
//! state word   bits  0      ASLEEP  the client sleeps on this word: who answers must wake it
//!              bit   1      CANCEL  the client gave the call up; the server need not start it
//!              bit   2      ARMED   the server polls no more, and waits for the next request here: who sends it must ring
//!              bit   3      BELL    how to ring: 0 over the socket, 1 by a wake of this word
//!              bits  4..6   phase   0 blank, 1 request, 2 reply, 3 released
//!              bits  6..32  turn    26 bits, counts the calls of a connection from 1 and wraps
//!
//! from                     to                        by      how     then
//! -----------------------  ------------------------  ------  ------  ---------------------------------------
//! any but request(turn)    same | ARMED (| BELL)     server  CAS     it polls this cell no more
//! any but request(turn)    request(turn)             client  swap    the old word had ARMED: ring
//! any                      same - ARMED - BELL       client  and     a detour (see `chain`); it had ARMED: ring
//! request                  request | ASLEEP          client  CAS     it sleeps on this word
//! request                  request | CANCEL          client  CAS     the late reply is discarded
//! request                  reply(turn), ARMED kept   server  CAS     the old word had ASLEEP: wake the client
//! reply                    released(turn), same      client  or      the reply's memory goes back to the server
//! ```
//!
//! "Publish, then see whether the peer sleeps" and "say that I sleep, then look again" are each ONE atomic
//! read-modify-write of the same word. All such operations on one word are totally ordered (C++20 [intro.races]
//! modification order; an RMW reads the value just before its own in that order, [atomics.order]). So either the
//! sleeper's operation comes first, and the publisher's returns its flag; or the publisher's comes first, and the
//! sleeper's fails because the word is another. A missed wake-up would need both to miss. No fence takes part, which is
//! why none is here. The loom tests `no_lost_reply_wake` and `no_lost_request_ring` check exactly this code.
//!
//! A peer can write anything at any time, zeros included (the region can be punched): each reader loads the word once
//! and decides on the copy.

mod deadline;

pub use deadline::Deadline;

use crate::Violation;
use crate::body::{Body, Content, Hints, Inline, ReplyHead, RequestHead, load};
use crate::layout::{Cell, Detour, Header};
use crate::sync::{AtomicU32, Ordering, fence};
use callgate_points::at;

const ASLEEP: u32 = 1;
const CANCEL: u32 = 1 << 1;
const ARMED: u32 = 1 << 2;
const BELL: u32 = 1 << 3;
const FLAGS: u32 = ASLEEP | CANCEL | ARMED | BELL;
const PHASE_SHIFT: u32 = 4;
const PHASE_MASK: u32 = 0b11 << PHASE_SHIFT;
const REQUEST: u32 = 1 << PHASE_SHIFT;
const REPLY: u32 = 2 << PHASE_SHIFT;
const RELEASED: u32 = 3 << PHASE_SHIFT;
const TURN_SHIFT: u32 = 6;

/// Tries to change a word that a peer may be changing all the time; an honest one changes it a few times at most. Fewer where
/// loom tries all that a peer can do meanwhile.
const TRIES: u32 = if cfg!(loom) { 3 } else { 16 };

/// What a client owes a server after it published: how to wake it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Nothing: the server polls.
    No,
    /// A message over the socket.
    Socket,
    /// A wake of the state word of this cell, by the system's futex.
    Word(u16),
}

/// How a server wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doorbell {
    /// It sleeps in its poller.
    Socket,
    /// It sleeps on the word.
    Word,
}

impl Doorbell {
    /// What a client does that finds the server waiting so at this cell.
    #[must_use]
    pub fn of(self, cell: u16) -> Ring {
        match self {
            Self::Socket => Ring::Socket,
            Self::Word => Ring::Word(cell),
        }
    }
}

/// The number of a call on its connection: 26 bits, wrapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn(u32);

impl Turn {
    /// The turn before the first call, which is what a fresh `taken` word holds.
    pub const START: Self = Self(0);

    /// The turn after this one.
    #[must_use]
    #[inline]
    pub fn next(self) -> Self {
        Self((self.0 + 1) & (u32::MAX >> TURN_SHIFT))
    }

    /// Whether this call comes after `other` in the order of calls; right while they are less than 2^25 apart. Where they may
    /// not be, see [`may_have_run`](crate::chain::may_have_run).
    #[must_use]
    pub fn is_after(self, other: Self) -> bool {
        let distance = self.0.wrapping_sub(other.0) << TURN_SHIFT;
        distance != 0 && distance < 1 << 31
    }

    /// The turn of a call with this number, as long as no number has wrapped.
    #[inline]
    pub(crate) fn of_number(number: u64) -> Self {
        Self(number as u32 & (u32::MAX >> TURN_SHIFT))
    }

    #[inline]
    pub(crate) fn bits(self) -> u32 {
        self.0 << TURN_SHIFT
    }
}

/// A request as the server took it: private copies only.
#[derive(Clone, Copy, Default)]
pub struct TakenRequest {
    /// The decoded head word.
    pub head: RequestHead,
    /// The caller's deadline.
    pub deadline: Deadline,
    /// The payload or its place, unchecked against any region.
    pub body: Body,
}

/// A short answer as the client took it: private copies only.
#[derive(Clone, Copy)]
pub struct ShortReply {
    /// What the server said of itself.
    pub hints: Hints,
    /// Status that the handler gave.
    pub status: u32,
    /// The payload.
    pub body: Inline,
}

/// A reply as the client took it: private copies only.
#[derive(Clone, Copy)]
pub struct TakenReply {
    /// The decoded head word.
    pub head: ReplyHead,
    /// Status of a reply, or code of a failure.
    pub word: u32,
    /// The payload or its place, unchecked against any region.
    pub body: Body,
}

/// Client side.
impl Cell {
    /// Publishes a request. Tells whether the server has stopped polling this cell, and how to ring.
    #[inline(always)]
    #[must_use]
    pub fn publish_request(
        &self,
        turn: Turn,
        head: RequestHead,
        deadline: Deadline,
        content: Content<'_>,
    ) -> Option<Doorbell> {
        at!("proto.cell.fill_request", {
            self.word.store(deadline.0, Ordering::Relaxed);
            self.head.store(head.encode(content), Ordering::Relaxed);
            content.store(&self.body);
        });
        // EDGE request (other end: `has_request`): Release hands over the line and the payload's memory.
        // ARMED is read by the same operation; see the module's argument.
        let old =
            at!("proto.cell.request", self.state.swap(turn.bits() | REQUEST, Ordering::Release));
        doorbell(old)
    }

    /// Takes over the duty to ring a server that waits at this cell for a request which is elsewhere.
    #[must_use]
    pub fn disarm(&self) -> Option<Doorbell> {
        // EDGE detour (other end: `arm_request`): Release hands over the word of the detour, written before. Replies and
        // releases that come between are RMWs too, and carry it on (C++20 [intro.races] release sequence).
        let old =
            at!("proto.cell.disarm", self.state.fetch_and(!(ARMED | BELL), Ordering::Release));
        doorbell(old)
    }

    /// Whether the reply to `turn` is there. Then [`Cell::read_reply`] may be called, by whoever saw that.
    ///
    /// # Errors
    /// [`Violation`] when the word is neither this call's request nor its reply.
    #[inline(always)]
    pub fn has_reply(&self, turn: Turn) -> Result<bool, Violation> {
        // EDGE reply (other end: `publish_reply`): Acquire takes over the line and the payload's memory.
        let state = self.state.load(Ordering::Acquire);
        if state & !FLAGS == turn.bits() | REQUEST {
            return Ok(false);
        }
        if state & !(ARMED | BELL) != turn.bits() | REPLY {
            return Err(not_a_reply(state, turn));
        }
        Ok(true)
    }

    /// Reads the reply that [`Cell::has_reply`] saw.
    ///
    /// # Errors
    /// [`Violation`] when it makes no sense.
    #[inline(always)]
    pub fn read_reply(&self) -> Result<TakenReply, Violation> {
        let (head, words) = (self.head.load(Ordering::Relaxed), load(&self.body));
        Ok(TakenReply {
            head: ReplyHead::decode(head)?,
            word: self.word.load(Ordering::Relaxed),
            body: Body::from_words(head, words)?,
        })
    }

    /// Reads a reply that [`Cell::has_reply`] saw, if it is what most are: `None` if it is far, a failure, or makes no sense,
    /// which [`Cell::read_reply`] tells.
    #[inline(always)]
    #[must_use]
    pub fn read_short_reply(&self) -> Option<ShortReply> {
        let (head, words) = (self.head.load(Ordering::Relaxed), load(&self.body));
        let body = Inline::from_answer(head, words)?;
        Some(ShortReply { hints: Hints::of(head), status: self.word.load(Ordering::Relaxed), body })
    }

    /// Looks for the reply to `turn`; `None` while there is none.
    ///
    /// # Errors
    /// [`Violation`] as for [`Cell::has_reply`] and [`Cell::read_reply`].
    pub fn poll_reply(&self, turn: Turn) -> Result<Option<TakenReply>, Violation> {
        if self.has_reply(turn)? { self.read_reply().map(Some) } else { Ok(None) }
    }

    /// Says that the client is about to sleep for the reply to `turn`.
    ///
    /// Returns the word's value to sleep on, or `None` when the word has changed meanwhile: look again.
    pub fn arm_reply(&self, turn: Turn) -> Option<u32> {
        let mut seen = self.state.load(Ordering::Relaxed);
        for _ in 0..TRIES {
            if seen & !FLAGS != turn.bits() | REQUEST {
                break;
            }
            let asleep = seen | ASLEEP;
            if seen == asleep {
                return Some(asleep);
            }
            // Relaxed: nothing is handed over by going to sleep; the order with `publish_reply` is the word's own.
            match at!(
                "proto.cell.arm_reply",
                self.state.compare_exchange(seen, asleep, Ordering::Relaxed, Ordering::Relaxed)
            ) {
                Ok(_) => return Some(asleep),
                Err(now) => seen = now,
            }
        }
        None
    }

    /// Gives the call up. The cell and its memory stay taken until its reply is there and was discarded.
    pub fn cancel(&self, turn: Turn) {
        let mut seen = self.state.load(Ordering::Relaxed);
        for _ in 0..TRIES {
            if seen & !FLAGS != turn.bits() | REQUEST || seen & CANCEL != 0 {
                return;
            }
            // Relaxed: the flag carries no data. A CAS, so that a reply that is there already is not spoilt.
            match at!(
                "proto.cell.cancel",
                self.state.compare_exchange(
                    seen,
                    seen | CANCEL,
                    Ordering::Relaxed,
                    Ordering::Relaxed
                )
            ) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Gives the memory of the reply that was read back to the server.
    #[inline(always)]
    pub fn release(&self) {
        // EDGE release (other end: `is_released`): Release orders our reads of the reply before its reuse.
        // It turns the phase of a reply into that of a released one, and keeps what the server set besides.
        at!("proto.cell.release", self.state.fetch_or(RELEASED, Ordering::Release));
    }
}

/// Server side.
impl Cell {
    /// Whether the request of `turn` is there. Then [`Cell::read_request`] may be called. `before`: the cell's present
    /// request, which may still stand there because it has not been answered.
    ///
    /// # Errors
    /// [`Violation`] when another request stands there.
    #[inline(always)]
    pub fn has_request(&self, turn: Turn, before: Option<Turn>) -> Result<bool, Violation> {
        // EDGE request (other end: `publish_request`): Acquire takes over the line and the payload's memory.
        let state = self.state.load(Ordering::Acquire);
        if state & !FLAGS == turn.bits() | REQUEST {
            return Ok(true);
        }
        if state & PHASE_MASK != REQUEST
            || before.is_some_and(|before| state & !FLAGS == before.bits() | REQUEST)
        {
            return Ok(false);
        }
        Err(not_this_request(state, turn))
    }

    /// Reads the request that [`Cell::has_request`] saw to where it is wanted.
    ///
    /// # Errors
    /// [`Violation`] when it makes no sense; then `into` is worth nothing.
    #[inline(always)]
    pub fn read_request(&self, into: &mut TakenRequest) -> Result<(), Violation> {
        let head = self.head.load(Ordering::Relaxed);
        into.head = RequestHead::of(head);
        into.deadline = Deadline(self.word.load(Ordering::Relaxed));
        if !into.body.read_short(head, &self.body) {
            return self.read_long_request(head, into);
        }
        Ok(())
    }

    #[inline(never)]
    fn read_long_request(&self, head: u64, into: &mut TakenRequest) -> Result<(), Violation> {
        into.head = RequestHead::decode(head)?;
        into.body = Body::from_words(head, load(&self.body))?;
        Ok(())
    }

    /// Whether the caller of the request that was read has given up already.
    #[inline(always)]
    #[must_use]
    pub fn was_given_up(&self) -> bool {
        // Relaxed: a hint, it carries no data.
        self.state.load(Ordering::Relaxed) & CANCEL != 0
    }

    /// Says that the server stops polling this cell for the request of `turn`, and how to ring it.
    ///
    /// Returns the word's value to sleep on, or `None` when the request is there, or something that `has_request` rejects.
    #[must_use]
    pub fn arm_request(&self, turn: Turn, before: Option<Turn>, bell: Doorbell) -> Option<u32> {
        let flags = match bell {
            Doorbell::Socket => ARMED,
            Doorbell::Word => ARMED | BELL,
        };
        let mut seen = self.state.load(Ordering::Relaxed);
        for _ in 0..TRIES {
            let old_request = before.is_some_and(|old| seen & !FLAGS == old.bits() | REQUEST);
            if seen & !FLAGS == turn.bits() | REQUEST
                || (seen & PHASE_MASK == REQUEST && !old_request)
            {
                return None;
            }
            let armed = seen & !(ARMED | BELL) | flags;
            // EDGE detour (other end: `disarm`): Acquire takes over the word of a detour whose client came first.
            match at!(
                "proto.cell.arm_request",
                self.state.compare_exchange(seen, armed, Ordering::Acquire, Ordering::Relaxed)
            ) {
                Ok(_) => return Some(armed),
                Err(now) => seen = now,
            }
        }
        None
    }

    /// Whether the caller of `turn` gave up.
    #[must_use]
    pub fn is_cancelled(&self, turn: Turn) -> bool {
        // Relaxed: a hint, it carries no data.
        let state = self.state.load(Ordering::Relaxed);
        state & !(FLAGS & !CANCEL) != turn.bits() | REQUEST
    }

    /// Publishes a reply. Returns true when the caller sleeps on the state word and must be woken.
    #[inline(always)]
    #[must_use]
    pub fn publish_reply<'a>(
        &self,
        turn: Turn,
        head: ReplyHead,
        word: u32,
        content: impl Into<Content<'a>>,
    ) -> bool {
        let content = content.into();
        // Relaxed: the change of the state word that follows publishes all of it.
        at!("proto.cell.fill", {
            self.word.store(word, Ordering::Relaxed);
            self.head.store(head.encode(content), Ordering::Relaxed);
            content.store(&self.body);
        });
        // A CAS, not a swap: this server's worker may have armed the cell meanwhile, for the call after this one.
        let mut seen = turn.bits() | REQUEST;
        for _ in 0..TRIES {
            let reply = turn.bits() | REPLY | seen & (ARMED | BELL);
            // EDGE reply (other end: `has_reply`): Release hands over the line, the reply's memory and the request's.
            match at!(
                "proto.cell.reply",
                self.state.compare_exchange(seen, reply, Ordering::Release, Ordering::Relaxed)
            ) {
                Ok(_) => return seen & ASLEEP != 0,
                Err(now) => seen = now,
            }
        }
        // The client scribbles. What it loses is its own.
        let old =
            at!("proto.cell.reply_anyway", self.state.swap(turn.bits() | REPLY, Ordering::Release));
        old & ASLEEP != 0
    }

    /// Whether the client has given back the memory of the reply to `turn`.
    #[must_use]
    pub fn is_released(&self, turn: Turn) -> bool {
        // EDGE release (other end: `release`): Acquire orders the client's reads before our reuse.
        self.state.load(Ordering::Acquire) & !FLAGS == turn.bits() | RELEASED
    }
}

/// Both sides.
impl Cell {
    /// The word that either side sleeps on: the client for a reply, the server for a request.
    #[must_use]
    pub fn futex(&self) -> &AtomicU32 {
        &self.state
    }
}

impl Detour {
    /// Says where a call stands.
    pub(crate) fn lead(&self, word: u64) {
        // EDGE led (other end: `word`): Release, so that who sees the detour sees the request that it leads to, and does not
        // arm that cell instead. For a server that sleeps see EDGE detour.
        at!("proto.detour.lead", self.word.store(word, Ordering::Release));
    }

    /// What was said last.
    #[inline(always)]
    pub(crate) fn word(&self) -> u64 {
        // EDGE led (other end: `lead`).
        self.word.load(Ordering::Acquire)
    }
}

#[inline(always)]
fn doorbell(old: u32) -> Option<Doorbell> {
    match old & (ARMED | BELL) {
        0 | BELL => None,
        ARMED => Some(Doorbell::Socket),
        _ => Some(Doorbell::Word),
    }
}

#[cold]
fn not_a_reply(state: u32, turn: Turn) -> Violation {
    Violation::new("cell.state", state.into(), (turn.bits() | REPLY).into())
}

#[cold]
fn not_this_request(state: u32, turn: Turn) -> Violation {
    Violation::new("cell.state", state.into(), (turn.bits() | REQUEST).into())
}

impl Header {
    /// Publishes that the handling of `turn` begins; all earlier turns were taken before it.
    #[inline]
    pub fn take(&self, turn: Turn) {
        at!("proto.header.taken", self.taken.store(turn.0, Ordering::Relaxed));
        // EDGE taken (other end: the kernel's word that this process is dead, then `last_taken`). The fence keeps the
        // store ahead of the handler's own stores; a dead process's stores are all visible once its death is.
        fence(Ordering::Release);
    }

    /// The last turn whose handling began. Final only once the server's death or its closing is known.
    #[must_use]
    pub fn last_taken(&self) -> Turn {
        // Relaxed: EDGE taken goes through the kernel.
        Turn(self.taken.load(Ordering::Relaxed) & (u32::MAX >> TURN_SHIFT))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
