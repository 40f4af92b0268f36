//! The memory of a request. While a caller waits for its call it is in that caller's hands, and then it is **spare**: the
//! next request of its size takes it without the lock.
//!
//! The spare room lies behind a lock at which nobody waits. A call has that lock from before its request is written until
//! its reply is there, and gives it back *before* it ends. So whoever holds `submit`, having recalled the place of the next
//! call, either finds the spare room (EDGE lease), or a call has the lock. That one ends under `submit`, and tells those who
//! wait for room; but a far reply may be held for long, so who waits for room looks again soon where the lock was taken.

use callgate_proto::arena::Block;
use callgate_proto::body::Place;
use callgate_sys::process;
use callgate_sys::shm::PayloadWriter;
use callgate_sys::sync::{TryGuard, TryLock};

use super::{Connection, Submit};
use crate::error::CallError;
use crate::region::block_bytes;

/// How much larger a room may be than its request, in bytes; or a quarter of the request.
const WASTE_MAX: u64 = 4 << 10;

/// Room for one request in the client's payload memory. Its bytes are its owner's alone, and mapped for as long as the
/// connection lives that gave it, to which its owner gives it back.
pub(in crate::client) struct Room {
    block: Block,
    bytes: *mut u8,
    /// Length of the request.
    len: u64,
}

// SAFETY: its bytes are of no thread in particular, and their owner's alone (`Room::new`).
unsafe impl Send for Room {}
// SAFETY: as above; through `&Room` nothing is written, and no other process can.
unsafe impl Sync for Room {}

/// The spare room, if there is one.
pub(super) type Spare = TryLock<Option<Room>>;

/// The right to the spare room, and to put another one there.
pub(in crate::client) type OnSpare<'a> = TryGuard<'a, Option<Room>>;

impl Room {
    /// A block that was just placed, with its bytes: a region with a live block is never retired.
    #[inline]
    pub(super) fn new(region: &PayloadWriter, block: Block) -> Self {
        let whole = Place { len: block.room(), ..block.place };
        Self { block, bytes: block_bytes(region, whole).cast(), len: block.place.len }
    }

    /// Where the request lies, as it is told to the server.
    #[inline]
    pub(in crate::client) fn place(&self) -> Place {
        Place { len: self.len, ..self.block.place }
    }

    /// The request's bytes. They are valid while the connection lives, and in the process that made it.
    #[inline]
    pub(in crate::client) fn bytes(&self) -> *mut [u8] {
        std::ptr::slice_from_raw_parts_mut(self.bytes, self.len as usize)
    }

    /// What is given back.
    #[inline]
    pub(super) fn block(self) -> Block {
        self.block
    }

    /// Serves for a request of that length, if it has the room, and not much more than that.
    #[inline]
    fn serves(&mut self, len: u64) -> bool {
        let room = self.block.room();
        let serves = len <= room && room - len <= WASTE_MAX.max(len / 4);
        if serves {
            self.len = len;
        }
        serves
    }
}

impl Connection {
    /// The right to the spare room, unless another call has it.
    #[inline]
    pub(in crate::client) fn on_spare(&self) -> Option<OnSpare<'_>> {
        self.spare.try_lock()
    }

    /// Finds room for a request of `len` bytes in shared memory, making more when there is none: the spare one, if that
    /// serves.
    #[inline]
    pub(in crate::client) fn room<'a>(
        &self,
        spare: &'a mut Option<Room>,
        len: u64,
        deadline_ns: Option<u64>,
    ) -> Result<&'a Room, CallError> {
        // A caller that unwound from a call left its room here, if its connection has ended.
        if !self.has_ended() && spare.as_mut().is_some_and(|room| room.serves(len)) {
            if let Some(cell) = self.lease.likely_cell() {
                // Now, so that it comes while the payload is written.
                process::will_write(self.control.cell(cell));
            }
        } else {
            let misfit = spare.take();
            *spare = Some(self.place(len, misfit, deadline_ns)?);
        }
        let Some(room) = spare else { unreachable!("it serves, or was placed") };
        Ok(room)
    }

    /// The reply is there to the call that had the spare room. Before that call ends.
    #[inline]
    pub(in crate::client) fn leave_spare(&self, mut spare: OnSpare<'_>) {
        if let Some(room) = &*spare {
            // For the next request: the server has read these lines, and they come while the reply is read.
            process::will_write_bytes(room.bytes, room.len as usize);
        }
        // Whoever waits for room now may have looked before.
        if self.is_waited_for()
            && let Some(room) = spare.take()
        {
            self.give_back(room);
        }
    }

    /// Gives back what was placed and is not, or no more, a request's.
    #[cold]
    pub(in crate::client) fn give_back(&self, room: Room) {
        let mut submit = self.submit();
        submit.out.give_back(room.block());
        drop(submit);
        self.tell_room();
    }

    /// Gives back the spare room, if there is one that no call has. Returns whether it could look.
    pub(super) fn let_go_of_spare(&self, submit: &mut Submit) -> bool {
        let Some(mut spare) = self.on_spare() else { return false };
        if let Some(room) = spare.take() {
            submit.out.give_back(room.block());
            self.tell_room();
        }
        true
    }
}
