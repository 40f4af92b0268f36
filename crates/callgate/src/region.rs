//! Mapped memory as the protocol sees it: the control region's cells, and the peer's payload regions.
//!
//! This file owns the step from raw mapped bytes to typed references, and the receiver's table of regions. It does not
//! know who sends what, or why.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Weak};

use callgate_proto::Violation;
use callgate_proto::arena::REGIONS_MAX;
use callgate_proto::body::Place;
use callgate_proto::layout::{CELLS_OFFSET, Cell, DETOUR_OFFSET, Detour, Header, control_bytes};
use callgate_sys::futex::Waited;
use callgate_sys::shm::{Control, MemFd, PayloadReader, PayloadWriter, Rejected, page_size};

/// A control region with its number of cells, fixed at the handshake.
pub(crate) struct ControlView {
    map: Control,
    cells: u32,
}

/// Size in bytes of the memory of a control region with `cells` cells.
pub(crate) fn control_size(cells: u32) -> usize {
    control_bytes(cells).next_multiple_of(page_size())
}

impl ControlView {
    /// Takes a mapping that was created or accepted with exactly [`control_size`] bytes.
    pub(crate) fn new(map: Control, cells: u32) -> Self {
        assert_eq!(map.len(), control_size(cells), "mapped with its exact size");
        Self { map, cells }
    }

    pub(crate) fn header(&self) -> &Header {
        // SAFETY: the mapping holds at least one `Header` at its start (asserted in `new`), is aligned to a page and
        // lives as long as `self`. `Header` consists of atomics only, for which any bytes are valid, and both processes
        // access these bytes through atomics only.
        unsafe { &*self.map.as_ptr().cast::<Header>() }
    }

    #[inline]
    pub(crate) fn detour(&self) -> &Detour {
        // SAFETY: DETOUR_OFFSET lies between the header and the cells (layout), a multiple of its alignment. `Detour`
        // consists of atomics only; see `header`.
        unsafe { &*self.map.as_ptr().add(DETOUR_OFFSET).cast::<Detour>() }
    }

    #[inline]
    pub(crate) fn cells(&self) -> &[Cell] {
        // SAFETY: `control_size(cells)` bytes are mapped (asserted in `new`), of which the cells begin at CELLS_OFFSET,
        // a multiple of their alignment (layout's asserts). `Cell` consists of atomics only; see `header`.
        unsafe {
            let first = self.map.as_ptr().add(CELLS_OFFSET).cast::<Cell>();
            std::slice::from_raw_parts(first, self.cells as usize)
        }
    }

    #[inline]
    pub(crate) fn cell(&self, index: u16) -> &Cell {
        &self.cells()[usize::from(index)]
    }

    /// Sleeps until somebody wakes those who sleep at `cell`, as long as its state word is `value`, at most until
    /// `until_ns`. For the client; it may wake for nothing.
    #[inline]
    pub(crate) fn sleep_at(&self, cell: &Cell, value: u32, until_ns: u64) -> Waited {
        self.map.wait(cell.futex(), value, until_ns)
    }

    /// Wakes at most `count` of those who sleep at `cell`, whichever side they are on. Never blocks.
    #[inline]
    pub(crate) fn wake(&self, cell: &Cell, count: u32) {
        self.map.wake(cell.futex(), count);
    }

    /// Wakes all who sleep at any cell. Never blocks.
    pub(crate) fn wake_all(&self) {
        self.map.wake_all(self.cells().iter().map(Cell::futex));
    }
}

/// A checked piece of a region that the peer writes.
#[derive(Clone)]
pub(crate) struct SharedBytes {
    pub(crate) region: Arc<PayloadReader>,
    pub(crate) range: Range<usize>,
}

/// A region of the peer's, and a checked range in it.
pub(crate) type Piece<'a> = (&'a Arc<PayloadReader>, Range<usize>);

/// Retired regions in use at a time.
const LINGERING_MAX: usize = 4 * REGIONS_MAX;

/// Why what a peer sent cannot be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// The peer broke the protocol.
    Violation(Violation),
    /// This machine lacks memory or the like; the peer has no part in it.
    System(io::Error),
    /// The peer has ended, and what it had sent went with it.
    Gone,
}

impl Unusable {
    /// A descriptor came that this process has no room for.
    pub(crate) fn no_descriptors() -> Self {
        Self::System(io::Error::other("no file descriptor is left for the peer's memory"))
    }
}

impl From<Violation> for Unusable {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// The regions that the peer announced, as their receiver keeps them.
pub(crate) struct Incoming {
    regions: Vec<(u32, Arc<PayloadReader>)>,
    bytes: u64,
    quota: u64,
    /// Retired regions that calls still read from. An honest peer retires only what no call needs any more.
    lingering: Vec<(Weak<PayloadReader>, u64)>,
    accept: Accept,
}

/// How memory of the peer's is checked and mapped: a server may have a hold on its own, a client may not.
pub(crate) type Accept = fn(MemFd, usize) -> Result<PayloadReader, Rejected>;

impl Incoming {
    pub(crate) fn new(quota: u64, accept: Accept) -> Self {
        Self { regions: Vec::new(), bytes: 0, quota, lingering: Vec::new(), accept }
    }

    /// Checks and maps a region that the peer announced.
    pub(crate) fn add(&mut self, id: u32, size: u64, fd: Option<MemFd>) -> Result<(), Unusable> {
        let fd = fd.ok_or(Violation::new("region.descriptors", 0, 1))?;
        if self.regions.len() >= REGIONS_MAX {
            let most = REGIONS_MAX as u64;
            return Err(Violation::new("region.count", most + 1, most).into());
        }
        if self.regions.iter().any(|(known, _)| *known == id) {
            return Err(Violation::new("region.id", id.into(), id.wrapping_add(1).into()).into());
        }
        self.lingering.retain(|(region, _)| region.strong_count() > 0);
        let lingering: u64 = self.lingering.iter().map(|(_, size)| size).sum();
        if lingering > self.quota || self.lingering.len() > LINGERING_MAX {
            return Err(Violation::new("retire (in use)", lingering, self.quota).into());
        }
        let room = self.quota - self.bytes;
        if size == 0 || size > room {
            return Err(Violation::new("region.size", size, room).into());
        }
        let len = usize::try_from(size).map_err(|_| Violation::new("region.size", size, room))?;
        let region = (self.accept)(fd, len).map_err(|rejected| {
            tracing::warn!(%rejected, id, size, "a payload region was rejected");
            match rejected {
                Rejected::Os { source, .. } => Unusable::System(source),
                _ => Violation::new("region.memory", size, size).into(),
            }
        })?;
        self.bytes += size;
        self.regions.push((id, Arc::new(region)));
        Ok(())
    }

    /// Lets go of a region; calls that still read from it keep it mapped until they end.
    pub(crate) fn retire(&mut self, id: u32) -> Result<Arc<PayloadReader>, Violation> {
        let at = self.regions.iter().position(|(known, _)| *known == id);
        let at = at.ok_or(Violation::new("retire.id", id.into(), 0))?;
        let (_, region) = self.regions.swap_remove(at);
        let size = region.len() as u64;
        self.bytes -= size;
        if Arc::strong_count(&region) > 1 {
            self.lingering.push((Arc::downgrade(&region), size));
        }
        Ok(region)
    }

    /// Bytes of all regions.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the region of a place was announced.
    #[inline]
    pub(crate) fn knows(&self, place: Place) -> bool {
        self.regions.iter().any(|(id, _)| *id == place.region)
    }

    /// Finds the region of a place; `None` when it was not announced (yet).
    #[inline]
    pub(crate) fn find(&self, place: Place) -> Result<Option<Piece<'_>>, Violation> {
        let Some((_, region)) = self.regions.iter().find(|(id, _)| *id == place.region) else {
            return Ok(None);
        };
        Ok(Some((region, place.check(region.len() as u64)?)))
    }
}

/// Where a block lies in the sender's own region. Nobody but the block's owner may touch it, and only while the region
/// stays mapped.
///
/// Such memory is sealed against every other process (FUTURE_WRITE, set in `PayloadWriter::create` before anyone else
/// had it), so a `&mut [u8]` over it is sound for a block's owner.
///
/// # Panics
/// If the block is not inside the region, which is a bug of the arena's.
#[inline]
pub(crate) fn block_bytes(region: &PayloadWriter, place: Place) -> *mut [u8] {
    let range = place.check(region.len() as u64).expect("a block of this region");
    std::ptr::slice_from_raw_parts_mut(region.as_ptr().wrapping_add(range.start), range.len())
}

#[cfg(test)]
#[path = "region/tests.rs"] // Said, since callgate-fuzz includes this file from elsewhere.
mod tests;
