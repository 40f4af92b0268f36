//! The memory of a lone caller's last far request, kept for its next one, and used with the place of the next call: without
//! the lock.
//!
//! It is [`Submit::kept`], and who holds the lock may do with it what it likes, having recalled the place. A call that began
//! at the lent place and uses the memory says so in the lease; then it is that call's, and a recall makes it one of
//! [`Submit::blocks`], as if the call had been sent under the lock.

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::Relaxed};

use callgate_proto::arena::{Block, Placing};
use callgate_proto::body::{Content, Place};
use callgate_proto::cell::Deadline;
use callgate_proto::chain::{Lease, Left, Ticket};
use callgate_sys::{clock, process};

use super::{Connection, Sending, Sent, Submit};
use crate::client::sending::{fill, publish_lone};
use crate::region::block_bytes;

/// The longest request whose memory is kept, in bytes. It is copied after its call began, and other callers' calls come
/// after that one; for a longer one the lock is little beside the copy.
const KEPT_MAX: u64 = 4096;

/// Where [`Submit::kept`] lies, for who has the place of the next call; no room where nothing is kept. Written under the
/// lock, while the place is not lent; the lease orders it (EDGE lease, EDGE kept).
#[derive(Default)]
pub(super) struct KeptRoom {
    region: AtomicU32,
    offset: AtomicU64,
    room: AtomicU64,
    bytes: AtomicPtr<u8>,
}

impl KeptRoom {
    /// Where a request of that length has room; worth something only for a call that then begins.
    #[inline]
    fn look(&self, len: usize) -> Option<(Place, *mut u8)> {
        let len = len as u64;
        if len > self.room.load(Relaxed) {
            return None;
        }
        let (region, offset) = (self.region.load(Relaxed), self.offset.load(Relaxed));
        Some((Place { region, offset, len }, self.bytes.load(Relaxed)))
    }
}

impl Submit {
    /// Takes the place of the next call back.
    #[inline]
    pub(super) fn recall(&mut self, lease: &Lease, kept: &KeptRoom) {
        if self.submitter.is_lent() {
            self.recall_lent(lease, kept);
        }
    }

    #[inline(never)]
    fn recall_lent(&mut self, lease: &Lease, kept: &KeptRoom) {
        match self.submitter.recall(lease) {
            Left::Nothing => {}
            Left::Ended(cell) if self.kept.is_some() => self.unreleased = Some(cell),
            Left::Ended(_) => {}
            Left::InUse(cell) => {
                let block = self.take_kept(kept);
                self.keep_block(cell, block);
            }
        }
    }

    #[inline]
    fn take_kept(&mut self, kept: &KeptRoom) -> Option<Block> {
        kept.room.store(0, Relaxed);
        self.kept.take()
    }

    /// Finds room for a request, if there is any.
    #[inline]
    pub(super) fn place(&mut self, len: u64, kept: &KeptRoom) -> Placing {
        if let Some(block) = self.kept.and_then(|block| block.again(len)) {
            self.take_kept(kept);
            return Placing::Placed(block);
        }
        self.out.place(len)
    }

    /// Gives back what is kept.
    #[inline(never)]
    pub(super) fn let_go_of_kept(&mut self, kept: &KeptRoom) {
        if let Some(block) = self.take_kept(kept) {
            self.out.give_back(block);
        }
    }

    /// Lends the place of a far call that was drawn and published, and those after it; keeps the block of its request.
    /// Returns whether it is one of `blocks`, and whether it is `kept`.
    #[inline(never)]
    pub(super) fn lend_far(
        &mut self,
        lease: &Lease,
        kept: &KeptRoom,
        drawn: &Ticket,
        block: Block,
    ) -> (bool, bool) {
        let room = block.room();
        if room > KEPT_MAX {
            self.submitter.lend(lease, drawn);
        } else if self.submitter.lend_with_kept(lease, drawn) {
            self.let_go_of_kept(kept);
            let place = Place { len: room, ..block.place };
            kept.bytes.store(block_bytes(self.out.region(block), place).cast(), Relaxed);
            kept.region.store(place.region, Relaxed);
            kept.offset.store(place.offset, Relaxed);
            kept.room.store(room, Relaxed);
            self.kept = Some(block);
            return (false, true);
        }
        self.keep_block(drawn.cell, Some(block));
        (true, false)
    }
}

impl Connection {
    /// Sends a far request of a caller that is alone, if the place of the next call is lent and the request fits where the
    /// last one lay.
    #[inline]
    pub(in crate::client) fn send_kept(&self, sending: Sending, request: &[u8]) -> Option<Sent> {
        let deadline = match sending.deadline_ns {
            Some(deadline_ns) => Deadline::encode(deadline_ns, clock::now_ns()),
            None => Deadline::NONE,
        };
        let (lone, (place, bytes)) = self.lease.begin_with(|| self.kept.look(request.len()))?;
        let cell = self.control.cell(lone.cell());
        process::will_write(cell);
        // SAFETY: the kept block, which has room for as much (`look`), is this call's alone since it began, until it ends.
        // Its region has a live block, so it stays mapped as long as the connection, which is borrowed here.
        fill(unsafe { std::slice::from_raw_parts_mut(bytes, request.len()) }, request);
        let bell = publish_lone(cell, lone, sending.method, deadline, Content::Far(place));
        if let Some(bell) = bell {
            self.ring(bell.of(lone.cell()));
        }
        Some(Sent::lone(lone, bell.is_some(), request.len(), true))
    }
}
