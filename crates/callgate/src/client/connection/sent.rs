//! A call on its way, as the rest of the client knows it.

use callgate_proto::cell::{Deadline, Turn};
use callgate_proto::chain::{Era, Lone};
use callgate_sys::clock;

/// A call that was published. Small, since it is moved about; what it holds is in `Submit`.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) turn: Turn,
    pub(super) era: Era,
    pub(crate) cell: u16,
    /// The cell that the call after it gets.
    pub(super) next: u16,
    /// Whether its request lies in payload memory.
    pub(super) is_far: bool,
    /// Whether that is a block of `Submit::blocks`. Otherwise its caller has the room.
    pub(super) has_block: bool,
    pub(crate) rang: bool,
    /// Length of the request; the largest there is stands for what is above it.
    pub(crate) bytes: u32,
}

impl Sent {
    /// A call at a place that was lent.
    #[inline]
    pub(in crate::client) fn lone(lone: Lone, rang: bool, bytes: u64, is_far: bool) -> Self {
        Self {
            turn: lone.turn(),
            era: Era::of(lone.number()),
            cell: lone.cell(),
            next: lone.cell(),
            is_far,
            has_block: false,
            rang,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        }
    }
}

/// What a call carries besides its payload.
#[derive(Clone, Copy)]
pub(crate) struct Sending {
    pub(crate) method: u32,
    pub(crate) deadline_ns: Option<u64>,
    /// Whether its caller does nothing else until it has ended.
    pub(crate) alone: bool,
}

impl Sending {
    /// The deadline, as it is told to the server.
    #[inline(always)]
    pub(super) fn deadline(&self) -> Deadline {
        match self.deadline_ns {
            Some(deadline_ns) => Deadline::encode(deadline_ns, clock::now_ns()),
            None => Deadline::NONE,
        }
    }
}
