//! One client's connection, as far as every thread of the server may touch it: answering, and reply memory.
//!
//! How reply memory is made is in `room`. What only the worker touches (the chain of requests, the client's regions) is in `worker`.

mod last_reply;
mod room;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, compiler_fence};

use callgate_proto::arena::{Block, Outgoing, Placing, REGION_MIN};
use callgate_proto::body::{Content, ReplyHead};
use callgate_proto::cell::Turn;
use callgate_proto::chain::Deferred;
use callgate_proto::layout::Cell;
use callgate_proto::wire::Message;
use callgate_sys::process::{self, Identity};
use callgate_sys::shm::page_size;
use callgate_sys::socket::Socket;
use callgate_sys::sync::{Condvar, LateFlag, Mutex, MutexGuard};

use self::last_reply::LastReply;
use self::room::Region;
use super::shared::Shared;
use crate::error::ReplyError;
use crate::region::{ControlView, block_bytes};
use crate::wait::SLEEPERS_MAX;

/// A client's connection.
pub(crate) struct Connection {
    pub(super) id: u64,
    pub(super) control: ControlView,
    pub(super) socket: Socket,
    pub(super) caller: Identity,
    pub(super) deferred: Deferred,
    /// Deferred calls whose answers are not out yet; for draining.
    unanswered: AtomicU32,
    pub(super) shared: Arc<Shared>,
    /// Which worker serves it; that one is told when the last answer of a drain was given.
    pub(super) worker: usize,
    /// Connections that the worker polls (low 16 bits) and its CPU plus one (high 32 bits). Relaxed: hints.
    hints: AtomicU64,
    generation: u32,
    gone: LateFlag,
    last_reply: LastReply,
    /// For each cell, whether its last reply was published and lies in far memory, to be given back. `out` has the truth.
    pinned: Box<[AtomicBool]>,
    /// Bytes on this connection's account.
    account: Arc<AtomicU64>,
    /// Bytes of reply memory that are mapped. Relaxed: `out` has the truth; who serves others asks here, without its lock.
    mapped: AtomicU64,
    out: Mutex<Out>,
    /// Told when `Out::making` has become less.
    made: Condvar,
}

/// What a caller gets.
#[derive(Clone, Copy)]
pub(super) struct Answer<'a> {
    /// Whether `word` is a failure's code; else it is the handler's status.
    pub(super) failure: bool,
    pub(super) word: u32,
    pub(super) content: Content<'a>,
}

struct Out {
    outgoing: Outgoing<Region>,
    /// The far answer of each cell, placed or published.
    replies: Vec<Option<(Turn, Block)>>,
    unsent_retires: Vec<u32>,
    unread: u32,
    /// Bytes of regions that are on the account and not announced: threads make them.
    making: u64,
}

impl Out {
    /// Keeps a block for a cell's answer. A region with a live block is never retired.
    #[inline]
    fn placed(&mut self, cell: usize, turn: Turn, block: Block) -> (Block, *mut [u8]) {
        if self.replies.len() <= cell {
            self.replies.resize(cell + 1, None);
        }
        self.replies[cell] = Some((turn, block));
        (block, block_bytes(&self.outgoing.region(block).memory, block.place))
    }
}

impl Connection {
    pub(super) fn new(
        id: u64,
        control: ControlView,
        socket: Socket,
        caller: Identity,
        quota: u64,
        shared: Arc<Shared>,
        worker: usize,
    ) -> Self {
        let cells = control.cells().len();
        let quota = quota.min(shared.limits.bytes_per_client);
        let out = Out {
            outgoing: Outgoing::new(quota, cells, page_size() as u64),
            replies: Vec::new(),
            unsent_retires: Vec::new(),
            unread: 0,
            making: 0,
        };
        Self {
            id,
            control,
            socket,
            caller,
            deferred: Deferred::default(),
            unanswered: AtomicU32::new(0),
            shared,
            worker,
            last_reply: LastReply::default(),
            hints: AtomicU64::new(0),
            generation: process::generation(),
            gone: LateFlag::new(),
            pinned: (0..cells).map(|_| AtomicBool::new(false)).collect(),
            account: Arc::default(),
            mapped: AtomicU64::new(0),
            out: Mutex::new(out),
            made: Condvar::new(),
        }
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock()
    }

    #[inline]
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_set()
    }

    /// Whether the connection belongs to this process, rather than to a parent of it, whose memory is not mapped here.
    #[inline]
    pub(super) fn is_ours(&self) -> bool {
        process::is_current(self.generation)
    }

    /// Whether the connection stands, and is this process's.
    #[inline]
    pub(super) fn is_usable(&self) -> bool {
        self.is_ours() && !self.is_gone()
    }

    /// Publishes that the handling of `turn` begins; false when the connection was ended meanwhile: do not handle it.
    #[inline]
    pub(super) fn take(&self, turn: Turn) -> bool {
        self.control.header().take(turn);
        // EDGE closing (other end: `Shared::close_connections`). We publish the turn, then look whether the connection ends; whoever ends it
        // sets the flag, makes every thread of this process pass a full barrier (membarrier), then hangs up, and the
        // client reads the turn after that. So either we see the flag, or the client sees the turn. The barrier of the
        // other end makes a compiler fence enough here.
        compiler_fence(Ordering::SeqCst);
        !self.is_gone()
    }

    /// What replies tell of the worker; see [`Connection::hints`].
    #[inline]
    pub(super) fn tell(&self, hints: u64) {
        // It is the same for long, and other threads read it.
        if self.hints.load(Ordering::Relaxed) != hints {
            self.hints.store(hints, Ordering::Relaxed);
        }
    }

    /// From any thread: no further call is taken once every thread has passed a barrier. Then hang up.
    pub(super) fn mark_gone(&self) {
        self.gone.set();
    }

    /// Ends the connection from the thread of its worker, which takes no further call.
    pub(super) fn close_by_worker(&self) {
        self.mark_gone();
        self.socket.shutdown();
    }

    /// An answer that was placed is complete: nobody writes there any more, and from here on its block goes back as the
    /// client says. To be called before [`Connection::undefer`], so that it is over before the cell is used again.
    #[inline]
    pub(super) fn pin(&self, cell: u16) {
        // EDGE pinned (other end: `is_pinned`): Release hands over the block with what was written there.
        self.pinned[usize::from(cell)].store(true, Ordering::Release);
    }

    /// Publishes an answer and wakes the caller if it sleeps. The connection was found usable.
    #[inline(always)]
    pub(super) fn publish(&self, cell: &Cell, turn: Turn, answer: Answer<'_>) {
        let Answer { failure, word, content } = answer;
        let hints = self.hints.load(Ordering::Relaxed);
        let head =
            ReplyHead { failure, active: hints as u16, cpu: ((hints >> 32) as u32).checked_sub(1) };
        if cell.publish_reply(turn, head, word, content) {
            self.wake(cell);
        }
    }

    #[cold]
    fn wake(&self, cell: &Cell) {
        self.control.wake(cell, SLEEPERS_MAX);
    }

    #[inline]
    fn is_pinned(&self, cell: usize) -> bool {
        // EDGE pinned (other end: `pin`): Acquire takes over the block.
        self.pinned[cell].load(Ordering::Acquire)
    }

    /// The client uses the cell again, so it has let go of the reply that lay behind it. To be called with an answer that is
    /// not placed, before the call after it can be taken; placing one does it, too.
    #[inline]
    pub(super) fn reuse(&self, cell: u16) {
        if self.is_pinned(cell.into()) {
            self.reclaim(&mut self.out(), cell.into());
        }
    }

    /// Gives the memory of a cell's last reply back, if it was published.
    fn reclaim(&self, out: &mut Out, cell: usize) {
        if self.is_pinned(cell) {
            // Relaxed: under the lock of `out`, and the cell's next answer comes later on this thread or one that it told.
            self.pinned[cell].store(false, Ordering::Relaxed);
            if let Some((_, block)) = out.replies.get_mut(cell).and_then(Option::take) {
                out.outgoing.give_back(block);
            }
        }
    }

    /// Finds room for a reply of `len` bytes, making more where the quotas allow. Also gives the room's address: it is the
    /// caller's alone until it answers or gives the block back, and mapped for as long as the connection lives.
    /// `is_worker`: who asks has other connections to serve.
    #[inline]
    pub(super) fn place(
        &self,
        cell: u16,
        turn: Turn,
        len: u64,
        is_worker: bool,
    ) -> Result<(Block, *mut [u8]), ReplyError> {
        let mut out = self.out();
        let placed = match self.place_again(&mut out, cell.into(), turn, len) {
            Some(placed) => placed,
            None => self.place_anew(out, cell.into(), turn, len, is_worker)?,
        };
        self.last_reply.say(cell.into(), placed.1);
        Ok(placed)
    }

    /// A far call was taken: its reply will be written soon.
    #[inline]
    pub(super) fn will_reply(&self, cell: u16) {
        self.last_reply.will_write(cell);
    }

    /// Finds it where the cell's last reply lies, which its client has let go of. Most replies are as long as the last one.
    #[inline]
    fn place_again(
        &self,
        out: &mut Out,
        cell: usize,
        turn: Turn,
        len: u64,
    ) -> Option<(Block, *mut [u8])> {
        if self.is_gone() || !self.is_pinned(cell) {
            return None;
        }
        let (_, block) = (*out.replies.get(cell)?)?;
        let block = block.again(len)?;
        // Relaxed: as in `reclaim`.
        self.pinned[cell].store(false, Ordering::Relaxed);
        Some(out.placed(cell, turn, block))
    }

    #[inline(never)]
    fn place_anew<'a>(
        &'a self,
        mut out: MutexGuard<'a, Out>,
        cell: usize,
        turn: Turn,
        len: u64,
        is_worker: bool,
    ) -> Result<(Block, *mut [u8]), ReplyError> {
        self.reclaim(&mut out, cell);
        if !self.is_gone()
            && let Placing::Placed(block) = out.outgoing.place(len)
        {
            return Ok(out.placed(cell, turn, block));
        }
        self.make_room(out, cell, turn, len, is_worker)
    }

    /// The client has read all descriptors, or its socket is gone and they with it.
    fn forget_unread(&self, out: &mut Out) {
        self.shared.ledger.has_read(self.caller.uid, std::mem::take(&mut out.unread));
    }

    /// Gives back a block that was placed for an answer which is not given.
    pub(super) fn give_back(&self, cell: u16, block: Block) {
        let mut out = self.out();
        out.replies[usize::from(cell)] = None;
        out.outgoing.give_back(block);
    }

    fn reclaim_released(&self, out: &mut Out) -> bool {
        let mut any = false;
        for (index, cell) in self.control.cells().iter().enumerate().take(out.replies.len()) {
            let Some((turn, _)) = out.replies[index] else { continue };
            // In this order: what is not published yet is not the client's to release.
            if self.is_pinned(index) && cell.is_released(turn) {
                self.reclaim(out, index);
                any = true;
            }
        }
        any
    }

    fn retire(&self, out: &mut Out, keep: u64) -> bool {
        let retired = out.outgoing.retire_unused(keep);
        let any = !retired.is_empty();
        self.mapped.store(out.outgoing.total(), Ordering::Relaxed);
        for (id, region) in retired {
            out.unsent_retires.push(id);
            self.shared.bury(region.memory.len() as u64, region);
        }
        self.flush_retires(out);
        any
    }

    fn flush_retires(&self, out: &mut Out) {
        while let Some(id) = out.unsent_retires.first() {
            match self.socket.send(Message::Retire { id: *id }.encode().as_bytes(), None) {
                Ok(()) => out.unsent_retires.remove(0),
                Err(_) => return,
            };
        }
    }

    /// Whether there is reply memory that a quiet connection should give back.
    pub(super) fn is_untidy(&self) -> bool {
        self.reply_bytes() > 0
    }

    /// Bytes of reply memory that are mapped.
    pub(super) fn reply_bytes(&self) -> u64 {
        self.mapped.load(Ordering::Relaxed)
    }

    /// Lets go of reply memory that a quiet connection does not need; returns whether to come again.
    pub(super) fn tidy(&self, keep_a_little: bool) -> bool {
        let mut out = self.out();
        self.reclaim_released(&mut out);
        self.retire(&mut out, if keep_a_little { REGION_MIN } else { 0 });
        out.outgoing.total() > 0 || !out.unsent_retires.is_empty()
    }

    /// A call leaves its handler.
    pub(super) fn defer(&self, cell: u16) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        self.deferred.insert(cell);
    }

    /// A deferred call is about to be answered: its cell may be named again once the answer is out.
    pub(super) fn undefer(&self, cell: u16) {
        self.deferred.remove(cell);
    }

    /// A deferred call's answer is out: tells the worker, if it waits for that.
    pub(super) fn deferred_ended(&self) {
        // EDGE drained (other end: `has_unanswered`). We count down, then look at the phase; a drain advances the phase,
        // then its worker looks at the count. SeqCst on all four, so that not both miss the other.
        self.unanswered.fetch_sub(1, Ordering::SeqCst);
        self.shared.deferred_ended(self.worker);
    }

    /// Whether answers of deferred calls are still to come.
    pub(super) fn has_unanswered(&self) -> bool {
        // EDGE drained (other end: `deferred_ended`).
        self.unanswered.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let unread = std::mem::take(&mut self.out().unread);
        self.shared.ledger.has_read(self.caller.uid, unread);
        self.shared.ledger.leave(self.caller.uid);
    }
}
