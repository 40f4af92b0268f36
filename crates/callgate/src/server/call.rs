//! A call as its handler sees it, and the ways to answer it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use callgate_points::at;
use callgate_proto::arena::Block;
use callgate_proto::body::{Body, Content, INLINE_MAX};
use callgate_proto::chain::Taken;
use callgate_proto::layout::Cell;
use callgate_sys::clock;

use super::connection::{Answer, Connection};
use crate::caller::Caller;
use crate::error::{ReplyError, codes};
use crate::payload::Payload;
use crate::region::{Piece, SharedBytes};

/// A call that waits for its answer.
///
/// Every way out answers the caller: [`Call::reply`] and its kin with what the handler wants to say, dropping it (also by
/// a panic of the handler) with a failure. To answer later, from any thread, take it away with [`Call::defer`].
pub struct Call<'a>(Held<'a>);

/// A call that was taken away from its handler, to be answered from any thread.
pub type Deferred = Call<'static>;

/// Two words, so that a call goes in registers from hand to hand: what it is about stays where it is.
enum Held<'a> {
    /// Its handler has it.
    Running(&'a Running<'a>),
    /// It was taken away from its handler.
    Kept(Box<Kept>),
    Answered,
}

/// A call as its worker keeps it while the handler runs.
pub(super) struct Running<'a> {
    pub(super) connection: &'a Arc<Connection>,
    pub(super) cell: &'a Cell,
    pub(super) taken: &'a Taken,
    /// Where the request's bytes are when they are far; the range was checked against the region.
    pub(super) region: Option<Piece<'a>>,
}

/// A call that was deferred. Once it is dropped, its answer is out.
struct Kept {
    connection: Arc<Connection>,
    taken: Taken,
    region: Option<SharedBytes>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.connection.deferred_ended();
    }
}

impl Running<'_> {
    /// Ends a call that nobody waits for.
    #[cold]
    pub(super) fn cancel(&self) {
        let content = Content::Short(&[]);
        let _ = self.publish(Answer { failure: true, word: codes::CANCELLED, content });
    }

    /// Publishes an answer: a short one, or one that was placed and pinned.
    #[inline(always)]
    fn publish(&self, answer: Answer<'_>) -> Result<(), ReplyError> {
        let Self { connection, taken, .. } = self;
        if !connection.is_usable() {
            return Err(ReplyError::Disconnected);
        }
        connection.publish(self.cell, taken.turn, answer);
        if answer.content.is_short() {
            // Only now, when nobody waits for it: until the worker goes on nothing else is placed for this cell.
            connection.reuse(taken.cell);
        }
        Ok(())
    }
}

impl Kept {
    fn publish(&mut self, answer: Answer<'_>) -> Result<(), ReplyError> {
        // Nobody reads the request any more. Let go of before the client may use its memory for something else, or retire
        // it: what it retires in use counts against it.
        drop(self.region.take());
        let Self { connection, taken, .. } = self;
        if !connection.is_ours() {
            return Err(ReplyError::Disconnected);
        }
        if answer.content.is_short() {
            connection.reuse(taken.cell);
        }
        connection.undefer(taken.cell);
        if connection.is_gone() {
            return Err(ReplyError::Disconnected);
        }
        connection.publish(connection.control.cell(taken.cell), taken.turn, answer);
        Ok(())
    }
}

impl<'a> Call<'a> {
    #[inline]
    pub(super) fn new(running: &'a Running<'a>) -> Self {
        Self(Held::Running(running))
    }

    #[inline]
    fn taken(&self) -> &Taken {
        match &self.0 {
            Held::Running(running) => running.taken,
            Held::Kept(kept) => &kept.taken,
            Held::Answered => answered(),
        }
    }

    #[inline]
    fn connection(&self) -> &Arc<Connection> {
        match &self.0 {
            Held::Running(running) => running.connection,
            Held::Kept(kept) => &kept.connection,
            Held::Answered => answered(),
        }
    }

    /// The method number that the caller chose; 0 by default.
    #[must_use]
    #[inline]
    pub fn method(&self) -> u32 {
        self.taken().request.head.method
    }

    /// The request's bytes.
    #[must_use]
    #[inline]
    pub fn request(&self) -> Payload<'_> {
        match &self.taken().request.body {
            Body::Inline(inline) => Payload::private(inline),
            Body::Far(_) => self.far_request(),
        }
    }

    fn far_request(&self) -> Payload<'_> {
        let (region, range) = match &self.0 {
            Held::Running(Running { region: Some((region, range)), .. }) => (*region, range),
            Held::Kept(kept) => match &kept.region {
                Some(bytes) => (&bytes.region, &bytes.range),
                None => no_region(),
            },
            _ => no_region(),
        };
        Payload::shared(region, range.clone())
    }

    /// Who calls, as the kernel tells.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller::new(self.connection().caller)
    }

    /// When the caller stops waiting, to about 0.1 ms; `None` when it set no limit, or one more than a day off.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.taken().request.deadline.decode(clock::now_ns()).map(clock::to_instant)
    }

    /// Whether the caller has given up or is gone: nobody waits for the answer. It still has to be given, or dropped.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let (connection, taken) = (self.connection(), self.taken());
        !connection.is_usable() || connection.control.cell(taken.cell).is_cancelled(taken.turn)
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
    pub fn reply_status(self, status: u32, bytes: &[u8]) -> Result<(), ReplyError> {
        // Most answers: here, so that no function is called.
        if let Held::Running(running) = self.0
            && bytes.len() <= INLINE_MAX
        {
            // Nothing is left to drop.
            std::mem::forget(self);
            let content = Content::Short(bytes);
            return running.publish(Answer { failure: false, word: status, content });
        }
        self.answer(false, status, bytes)
    }

    /// Answers with a failure: the caller gets [`CallError::Handler`](crate::CallError::Handler) with this code and
    /// message. Codes from [`codes::RESERVED`] on are the library's.
    ///
    /// # Errors
    /// As [`Call::reply`].
    pub fn fail(self, code: u32, message: &str) -> Result<(), ReplyError> {
        self.answer(true, code, message.as_bytes())
    }

    /// Borrows a reply buffer of `len` bytes in shared memory, to be filled in place.
    ///
    /// # Errors
    /// [`ReplyError`]; the call has ended: the caller got a failure that says why.
    #[inline]
    pub fn loan(self, len: usize) -> Result<ReplyLoan<'a>, ReplyError> {
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
        Call(match self.take() {
            Held::Running(Running { connection, taken, region, .. }) => {
                connection.defer(taken.cell);
                let region = region.as_ref().map(|(region, range)| SharedBytes {
                    region: Arc::clone(region),
                    range: range.clone(),
                });
                Held::Kept(Box::new(Kept {
                    connection: Arc::clone(connection),
                    taken: **taken,
                    region,
                }))
            }
            Held::Kept(kept) => Held::Kept(kept),
            Held::Answered => answered(),
        })
    }

    #[inline(never)]
    fn answer(self, failure: bool, word: u32, bytes: &[u8]) -> Result<(), ReplyError> {
        if bytes.len() <= INLINE_MAX {
            return self.finish(Answer { failure, word, content: Content::Short(bytes) });
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

    #[inline]
    fn answer_far(self, failure: bool, word: u32, block: Block) -> Result<(), ReplyError> {
        self.connection().pin(self.taken().cell);
        self.finish(Answer { failure, word, content: Content::Far(block.place) })
    }

    /// Publishes an answer: a short one of a deferred call, or one that was placed and pinned.
    #[inline]
    fn finish(mut self, answer: Answer<'_>) -> Result<(), ReplyError> {
        match self.take() {
            Held::Running(running) => running.publish(answer),
            Held::Kept(mut kept) => kept.publish(answer),
            Held::Answered => answered(),
        }
    }

    /// What is left behind answers nothing.
    #[inline]
    fn take(&mut self) -> Held<'a> {
        std::mem::replace(&mut self.0, Held::Answered)
    }

    fn place(&self, len: usize) -> Result<(Block, *mut [u8]), ReplyError> {
        let (connection, taken) = (self.connection(), self.taken());
        if !connection.is_ours() {
            // Before any lock: whoever held it may not be in this process.
            return Err(ReplyError::Disconnected);
        }
        let limit = connection.shared.limits.reply_bytes;
        if len as u64 > limit {
            return Err(ReplyError::TooLarge { len: len as u64, limit });
        }
        let is_worker = matches!(self.0, Held::Running(_));
        connection.place(taken.cell, taken.turn, len as u64, is_worker)
    }

    /// The answer cannot be given as wanted: the caller gets a short failure instead.
    #[cold]
    fn cannot_answer(self, error: ReplyError) -> ReplyError {
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

    #[cold]
    fn was_dropped(&mut self) {
        let (code, message) = if std::thread::panicking() {
            (codes::PANICKED, "the handler panicked")
        } else {
            (codes::DROPPED, "the handler gave no answer")
        };
        let _ = Call(self.take()).answer(true, code, message.as_bytes());
    }
}

#[cold]
fn no_region() -> ! {
    unreachable!("the worker found the region of a far request")
}

#[cold]
fn answered() -> ! {
    unreachable!("answering consumes the call")
}

impl Drop for Call<'_> {
    #[inline]
    fn drop(&mut self) {
        if !matches!(self.0, Held::Answered) {
            self.was_dropped();
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
    #[inline]
    pub fn send(self) -> Result<(), ReplyError> {
        self.send_status(0)
    }

    /// Answers with a status of the application's own.
    ///
    /// # Errors
    /// As [`ReplyLoan::send`].
    #[inline]
    pub fn send_status(mut self, status: u32) -> Result<(), ReplyError> {
        let call = Call(self.call.take());
        match &mut self.bytes {
            Bytes::Short(bytes, len) => call.answer(false, status, &bytes[..*len]),
            Bytes::Far(block, _) => match block.take() {
                Some(block) => call.answer_far(false, status, block),
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
            Bytes::Far(_, bytes) if self.call.connection().is_ours() => unsafe { &mut **bytes },
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
            Bytes::Far(_, bytes) if self.call.connection().is_ours() => unsafe { &**bytes },
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
            && self.call.connection().is_ours()
        {
            self.call.connection().give_back(self.call.taken().cell, block);
        }
    }
}

impl std::fmt::Debug for ReplyLoan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReplyLoan({} bytes)", self.len())
    }
}
