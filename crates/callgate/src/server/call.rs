//! A call as its handler sees it, and the ways to answer it.

use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;
use std::time::Instant;

use callgate_points::at;
use callgate_proto::arena::Block;
use callgate_proto::body::{Body, INLINE_MAX, Inline};
use callgate_proto::cell::{Deadline, Turn};
use callgate_proto::chain::Taken;
use callgate_sys::clock;
use callgate_sys::shm::PayloadReader;

use super::connection::Connection;
use crate::caller::Caller;
use crate::error::{ReplyError, codes};
use crate::payload::Payload;
use crate::region::Piece;

/// A call that waits for its answer.
///
/// Every way out answers the caller: [`Call::reply`] and its kin with what the handler wants to say, dropping it (also by
/// a panic of the handler) with a failure. To answer later, from any thread, take it away with [`Call::defer`].
pub struct Call<'a> {
    connection: Held<'a, Connection>,
    request: Request<'a>,
    method: u32,
    deadline: Deadline,
    turn: Turn,
    cell: u16,
    answered: bool,
    deferred: bool,
}

/// A call that was taken away from its handler, to be answered from any thread.
pub type Deferred = Call<'static>;

enum Request<'a> {
    /// Where the worker took it; a copy of its own would only be moved about.
    Inline(&'a Inline),
    Kept(Box<Inline>),
    Far(Held<'a, PayloadReader>, Range<usize>),
}

/// Borrowed while the handler runs, owned once the call is deferred.
enum Held<'a, T> {
    Borrowed(&'a Arc<T>),
    Owned(Arc<T>),
}

impl<T> Deref for Held<'_, T> {
    type Target = Arc<T>;

    #[inline]
    fn deref(&self) -> &Arc<T> {
        match self {
            Self::Borrowed(value) => value,
            Self::Owned(value) => value,
        }
    }
}

impl<T> Held<'_, T> {
    fn own(&self) -> Held<'static, T> {
        Held::Owned((**self).clone())
    }
}

impl<'a> Call<'a> {
    /// `region` holds the request's bytes when they are far; the range was checked against it.
    #[inline]
    pub(super) fn new(
        connection: &'a Arc<Connection>,
        taken: &'a Taken,
        region: Option<Piece<'a>>,
    ) -> Self {
        let request = match (&taken.request.body, region) {
            (Body::Inline(inline), _) => Request::Inline(inline),
            (Body::Far(_), Some((region, range))) => Request::Far(Held::Borrowed(region), range),
            (Body::Far(_), None) => unreachable!("the worker found the region of a far request"),
        };
        Self {
            connection: Held::Borrowed(connection),
            request,
            method: taken.request.head.method,
            deadline: taken.request.deadline,
            turn: taken.turn,
            cell: taken.cell,
            answered: false,
            deferred: false,
        }
    }

    /// The method number that the caller chose; 0 by default.
    #[must_use]
    #[inline]
    pub fn method(&self) -> u32 {
        self.method
    }

    /// The request's bytes.
    #[must_use]
    #[inline]
    pub fn request(&self) -> Payload<'_> {
        match &self.request {
            Request::Inline(inline) => Payload::private(inline),
            Request::Kept(inline) => Payload::private(inline),
            Request::Far(region, range) => Payload::shared(region, range.clone()),
        }
    }

    /// Who calls, as the kernel tells.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller::new(self.connection.caller)
    }

    /// When the caller stops waiting, to about 0.1 ms; `None` when it set no limit, or one more than a day off.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.decode(clock::now_ns()).map(clock::to_instant)
    }

    /// Whether the caller has given up or is gone: nobody waits for the answer. It still has to be given, or dropped.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        !self.connection.is_usable()
            || self.connection.control.cell(self.cell).is_cancelled(self.turn)
    }

    /// Answers with status 0.
    ///
    /// # Errors
    /// [`ReplyError`]; the call has ended all the same.
    #[inline]
    pub fn reply(self, bytes: &[u8]) -> Result<(), ReplyError> {
        self.reply_status(0, bytes)
    }

    /// Answers with a status of the application's own.
    ///
    /// # Errors
    /// As [`Call::reply`].
    #[inline]
    pub fn reply_status(mut self, status: u32, bytes: &[u8]) -> Result<(), ReplyError> {
        self.answer(false, status, bytes)
    }

    /// Answers with a failure: the caller gets [`CallError::Handler`](crate::CallError::Handler) with this code and
    /// message. Codes from [`codes::RESERVED`] on are the library's.
    ///
    /// # Errors
    /// As [`Call::reply`].
    pub fn fail(mut self, code: u32, message: &str) -> Result<(), ReplyError> {
        self.answer(true, code, message.as_bytes())
    }

    /// Borrows a reply buffer of `len` bytes in shared memory, to be filled in place.
    ///
    /// # Errors
    /// [`ReplyError`]; the call has ended: the caller got a failure that says why.
    pub fn loan(mut self, len: usize) -> Result<ReplyLoan<'a>, ReplyError> {
        if len <= INLINE_MAX {
            let bytes = Bytes::Short([0; INLINE_MAX], len);
            return Ok(ReplyLoan { call: self, bytes });
        }
        match self.place(len) {
            // The block is this loan's alone, and the loan's call keeps the connection alive.
            Ok((block, bytes)) => {
                Ok(ReplyLoan { call: self, bytes: Bytes::Far(Some(block), bytes) })
            }
            Err(error) => Err(self.cannot_answer(error)),
        }
    }

    /// Takes the call away from the handler, which may return before it is answered. It can go to any thread.
    #[must_use = "dropping the call answers it with a failure"]
    pub fn defer(mut self) -> Deferred {
        if !self.deferred {
            self.connection.reuse(self.cell);
            self.connection.defer(self.cell);
        }
        // What is left behind here answers nothing, and counts for nothing.
        self.answered = true;
        self.deferred = false;
        Call {
            connection: self.connection.own(),
            request: match &self.request {
                Request::Inline(inline) => Request::Kept(Box::new(**inline)),
                Request::Kept(inline) => Request::Kept(inline.clone()),
                Request::Far(region, range) => Request::Far(region.own(), range.clone()),
            },
            method: self.method,
            deadline: self.deadline,
            turn: self.turn,
            cell: self.cell,
            answered: false,
            deferred: true,
        }
    }

    #[inline]
    fn answer(&mut self, failure: bool, word: u32, bytes: &[u8]) -> Result<(), ReplyError> {
        if bytes.len() > INLINE_MAX {
            return self.answer_long(failure, word, bytes);
        }
        let Some(inline) = Inline::new(bytes) else { unreachable!("it is short enough") };
        if !self.connection.is_ours() {
            return Err(ReplyError::Disconnected);
        }
        self.leave();
        self.connection.answer(self.cell, self.turn, failure, word, &Body::Inline(inline))
    }

    fn answer_long(&mut self, failure: bool, word: u32, bytes: &[u8]) -> Result<(), ReplyError> {
        if !self.connection.is_ours() {
            return Err(ReplyError::Disconnected);
        }
        match self.place(bytes.len()) {
            Ok((block, place)) => {
                // SAFETY: the block was just placed, for this answer alone, and the connection outlives this line.
                let place = unsafe { &mut *place };
                at!("callgate.reply.copy", place.copy_from_slice(bytes));
                self.answer_far(failure, word, block)
            }
            // A failure keeps its code, and of its message what a cell holds.
            Err(ReplyError::TooLarge { .. } | ReplyError::NoMemory { .. }) if failure => {
                self.answer(true, word, &bytes[..INLINE_MAX])
            }
            Err(error) => Err(self.cannot_answer(error)),
        }
    }

    fn answer_far(&mut self, failure: bool, word: u32, block: Block) -> Result<(), ReplyError> {
        self.connection.pin(self.cell);
        self.leave();
        self.connection.answer_far(self.cell, self.turn, failure, word, block.place)
    }

    fn place(&self, len: usize) -> Result<(Block, *mut [u8]), ReplyError> {
        let limit = self.connection.shared.limits.reply_bytes;
        if len as u64 > limit {
            return Err(ReplyError::TooLarge { len: len as u64, limit });
        }
        self.connection.place(self.cell, self.turn, len as u64)
    }

    /// The answer cannot be given as wanted: the caller gets a short failure instead.
    fn cannot_answer(&mut self, error: ReplyError) -> ReplyError {
        let failure = match &error {
            ReplyError::TooLarge { .. } => Some((codes::REPLY_TOO_LARGE, "the reply is too large")),
            ReplyError::NoMemory { .. } => Some((codes::NO_MEMORY, "no memory for the reply")),
            ReplyError::Disconnected => None,
        };
        if let Some((code, message)) = failure {
            let _ = self.answer(true, code, message.as_bytes());
        }
        error
    }

    /// The call is about to be answered: nothing more happens when it is dropped.
    #[inline]
    fn leave(&mut self) {
        self.answered = true;
        if self.deferred {
            self.connection.undefer(self.cell);
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let (code, message) = if std::thread::panicking() {
                (codes::PANICKED, "the handler panicked")
            } else {
                (codes::DROPPED, "the handler gave no answer")
            };
            let _ = self.answer(true, code, message.as_bytes());
        }
        if self.deferred {
            self.connection.deferred_ended();
        }
    }
}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method())
            .field("request", &self.request())
            .field("caller", &self.caller())
            .finish_non_exhaustive()
    }
}

/// A reply that is built where the caller will read it. Fill it, then [`ReplyLoan::send`] it.
///
/// Its bytes are initialised, but not to anything in particular. Dropped, the caller gets a failure.
pub struct ReplyLoan<'a> {
    call: Call<'a>,
    bytes: Bytes,
}

enum Bytes {
    /// Short replies travel in the cell itself and are built in private memory.
    Short([u8; INLINE_MAX], usize),
    /// The block is `None` once it was handed on.
    Far(Option<Block>, *mut [u8]),
}

// SAFETY: the pointer leads to a block that this loan has for itself, in memory that its call's connection keeps mapped
// (see `Call::loan`); access needs `&self` or `&mut self` as for a `Vec<u8>`.
unsafe impl Send for Bytes {}
// SAFETY: as above; through `&self` the bytes are only read, and this process alone can write them.
unsafe impl Sync for Bytes {}

impl<'a> ReplyLoan<'a> {
    /// Answers with status 0.
    ///
    /// # Errors
    /// [`ReplyError::Disconnected`] when the caller is gone.
    pub fn send(self) -> Result<(), ReplyError> {
        self.send_status(0)
    }

    /// Answers with a status of the application's own.
    ///
    /// # Errors
    /// As [`ReplyLoan::send`].
    pub fn send_status(mut self, status: u32) -> Result<(), ReplyError> {
        match &mut self.bytes {
            Bytes::Short(bytes, len) => {
                let (bytes, len) = (*bytes, *len);
                self.call.answer(false, status, &bytes[..len])
            }
            Bytes::Far(block, _) => match block.take() {
                Some(block) => self.call.answer_far(false, status, block),
                None => unreachable!("only sending takes the block, and it consumes the loan"),
            },
        }
    }

    /// The call that this will answer: its request can still be read.
    #[must_use]
    pub fn call(&self) -> &Call<'a> {
        &self.call
    }

    /// The request's bytes and the reply's, to compute one from the other.
    pub fn split(&mut self) -> (Payload<'_>, &mut [u8]) {
        let bytes = match &mut self.bytes {
            Bytes::Short(bytes, len) => &mut bytes[..*len],
            // SAFETY: valid and this loan's own (see `Call::loan`), and `&mut self` makes it exclusive.
            Bytes::Far(_, bytes) if self.call.connection.is_ours() => unsafe { &mut **bytes },
            Bytes::Far(..) => &mut [],
        };
        (self.call.request(), bytes)
    }
}

impl Deref for ReplyLoan<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Short(bytes, len) => &bytes[..*len],
            // SAFETY: valid and this loan's own (see `Call::loan`); no other process can write it.
            Bytes::Far(_, bytes) if self.call.connection.is_ours() => unsafe { &**bytes },
            Bytes::Far(..) => &[],
        }
    }
}

impl DerefMut for ReplyLoan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.split().1
    }
}

impl Drop for ReplyLoan<'_> {
    fn drop(&mut self) {
        if let Bytes::Far(block, _) = &mut self.bytes
            && let Some(block) = block.take()
            && self.call.connection.is_ours()
        {
            self.call.connection.give_back(self.call.cell, block);
        }
    }
}

impl std::fmt::Debug for ReplyLoan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReplyLoan({} bytes)", self.len())
    }
}
