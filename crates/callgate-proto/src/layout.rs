//! Where the bytes of a control region lie. Offsets and sizes only; meaning is in `cell` and `chain`.
//!
//! ```text
//! byte     0  +--------------------------------------------------+
//!             | Header: server line                              |  written by the server only
//!         64  +--------------------------------------------------+
//!             | Detour: client line                              |  written by the client only
//!        128  +--------------------------------------------------+
//!             | Cell 0: state | deadline | head | body[6]        |  64 bytes, one cache line
//!        192  +--------------------------------------------------+
//!             | Cell 1                                           |
//!             | ...                                              |
//!             | Cell n-1                                         |
//! 128 + 64 n  +--------------------------------------------------+
//!
//! Cell:  0        4         8                 16                                              64
//!        | state  | deadline| head            | body: 48 bytes of payload, or the place of one |
//!        | u32    | u32     | u64             | [u64; 6]                                       |
//! ```
//!
//! Both sides map a control region for writing, and a peer may scribble over all of it, or punch it back to zeros.
//! So it is touched through atomics only, and it holds no configuration: the number of cells is fixed in the handshake.

use crate::sync::{AtomicU32, AtomicU64};

/// Bytes of a cache line, and the alignment of cells and payloads.
pub const LINE: usize = 64;

/// Offset of the client's [`Detour`] line, in bytes.
pub const DETOUR_OFFSET: usize = LINE;

/// Offset of the first cell from the start of a control region, in bytes.
pub const CELLS_OFFSET: usize = 2 * LINE;

/// Fewest cells of a connection: one in flight, one named as next.
pub const CELLS_MIN: u32 = 2;

/// Most cells of a connection.
pub const CELLS_MAX: u32 = 1024;

/// Most payload bytes that travel inside a cell.
pub const INLINE_MAX: usize = 48;

/// Bytes of a control region with `cells` cells, before rounding up to pages.
#[must_use]
pub const fn control_bytes(cells: u32) -> usize {
    CELLS_OFFSET + cells as usize * LINE
}

/// The server's line at the start of a control region.
#[repr(C, align(64))]
pub struct Header {
    /// Turn of the last call whose handling the server began; counts as the turns do, and wraps with them.
    ///
    /// Writer: server, before the handler of that call runs. Reader: client, once, after the server's death is known.
    pub(crate) taken: AtomicU32,
    #[cfg(not(loom))]
    pub(crate) spare: [AtomicU32; 15],
}

/// The client's line after the server's: where a call stands that did not come where it was expected.
#[repr(C, align(64))]
pub struct Detour {
    /// Number of a call (48 bits, counted from 1) and the cell where its request stands (low 16 bits); see
    /// [`crate::chain`]. Writer: client. Reader: server.
    pub(crate) word: AtomicU64,
    #[cfg(not(loom))]
    pub(crate) spare: [AtomicU64; 7],
}

/// One call: a cache line that client and server hand to each other.
///
/// All accesses are in [`crate::cell`].
#[repr(C, align(64))]
pub struct Cell {
    /// Phase, turn and flags; see [`crate::cell`] for the table. Writers: both, in turns. It is also the futex word.
    pub(crate) state: AtomicU32,
    /// Request: the deadline in ticks ([`crate::cell::Deadline`]), 0 for none. Reply: the status or the failure's code.
    pub(crate) word: AtomicU32,
    /// Request: method, next cell, length, flags. Reply: hints for waiting, length, flags ([`crate::body`]).
    pub(crate) head: AtomicU64,
    /// Payload bytes, or the place of a payload in a region ([`crate::body`]).
    pub(crate) body: [AtomicU64; 6],
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Header>() == LINE && align_of::<Header>() == LINE);
    assert!(size_of::<Detour>() == LINE && align_of::<Detour>() == LINE);
    assert!(size_of::<Cell>() == LINE && align_of::<Cell>() == LINE);
    assert!(core::mem::offset_of!(Header, taken) == 0);
    assert!(core::mem::offset_of!(Cell, state) == 0);
    assert!(core::mem::offset_of!(Cell, word) == 4);
    assert!(core::mem::offset_of!(Cell, head) == 8);
    assert!(core::mem::offset_of!(Cell, body) == 16);
    assert!(control_bytes(CELLS_MAX) == 65_664);
};

impl Default for Header {
    fn default() -> Self {
        Self {
            taken: AtomicU32::new(0),
            #[cfg(not(loom))]
            spare: Default::default(),
        }
    }
}

impl Default for Detour {
    fn default() -> Self {
        Self {
            word: AtomicU64::new(0),
            #[cfg(not(loom))]
            spare: Default::default(),
        }
    }
}

impl Default for Cell {
    fn default() -> Self {
        Self {
            state: AtomicU32::new(0),
            word: AtomicU32::new(0),
            head: AtomicU64::new(0),
            body: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}
