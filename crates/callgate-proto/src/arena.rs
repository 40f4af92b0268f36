//! Where a sender puts its payloads: private bookkeeping of its own regions, which the receiver never sees.
//!
//! A direction starts with no region and gets more, each larger, as calls need them. There are as many live payloads as
//! calls in flight, so a short list of free spans, first fit from the front, is both quick and kind to the cache.

use crate::body::Place;
use crate::layout::LINE;

/// Most regions of one direction of one connection at a time.
pub const REGIONS_MAX: usize = 16;

/// Smallest region, in bytes; what a direction starts with when first needed.
pub const REGION_MIN: u64 = 64 << 10;

/// A region that grows beside others adds at most this much above what the payload needs, in bytes.
const GROWTH_MAX: u64 = 64 << 20;

/// What is made in about 50 us, in bytes: who has others to serve makes no more at once than this, or than it needs.
const AT_ONCE: u64 = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u64,
    end: u64,
}

/// The free and used parts of one region. Never allocates after construction.
#[derive(Debug)]
pub struct Arena {
    free: Vec<Span>,
    live: usize,
    live_max: usize,
    size: u64,
}

impl Arena {
    /// Starts with a wholly free region of `size` bytes that never holds more than `live_max` payloads.
    #[must_use]
    pub fn new(size: u64, live_max: usize) -> Self {
        let mut free = Vec::with_capacity(live_max + 1);
        free.push(Span { start: 0, end: size });
        Self { free, live: 0, live_max, size }
    }

    /// Takes `len` bytes, aligned to a cache line; returns their offset, or `None` when no gap is large enough.
    pub fn take(&mut self, len: u64) -> Option<u64> {
        if self.live == self.live_max {
            return None;
        }
        let len = footprint(len)?;
        let at = self.free.iter().position(|span| span.end - span.start >= len)?;
        let span = &mut self.free[at];
        let start = span.start;
        span.start += len;
        if span.start == span.end {
            self.free.remove(at);
        }
        self.live += 1;
        Some(start)
    }

    /// Gives back what [`Arena::take`] returned for `len`.
    ///
    /// # Panics
    /// If those bytes are not taken, which is a bug of the caller's.
    pub fn give_back(&mut self, offset: u64, len: u64) {
        let end = footprint(len).and_then(|len| offset.checked_add(len));
        let end = end.filter(|end| *end <= self.size).expect("a block of this region");
        let at = self.free.partition_point(|span| span.start < offset);
        let before = at > 0 && self.free[at - 1].end == offset;
        let after = at < self.free.len() && self.free[at].start == end;
        assert!(at == 0 || self.free[at - 1].end <= offset, "block is free already");
        assert!(at == self.free.len() || self.free[at].start >= end, "block is free already");
        match (before, after) {
            (true, true) => {
                self.free[at - 1].end = self.free[at].end;
                self.free.remove(at);
            }
            (true, false) => self.free[at - 1].end = end,
            (false, true) => self.free[at].start = offset,
            (false, false) => self.free.insert(at, Span { start: offset, end }),
        }
        self.live -= 1;
    }

    /// Whether no payload is in it.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.live == 0
    }
}

/// Bytes that a payload of `len` occupies: whole lines, at least one.
#[inline]
fn footprint(len: u64) -> Option<u64> {
    const REST: u64 = LINE as u64 - 1;
    Some(len.max(1).checked_add(REST)? & !REST)
}

/// A payload's place together with what is needed to give it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    slot: usize,
    /// Where the payload lies, as it is told to the receiver.
    pub place: Place,
}

impl Block {
    /// How long a payload there can be.
    ///
    /// # Panics
    /// If there is no such block, which is a bug of the caller's.
    #[inline]
    #[must_use]
    pub fn room(self) -> u64 {
        footprint(self.place.len).expect("a block that was placed")
    }

    /// The same room for a payload of another length, if that takes exactly as much.
    #[inline]
    #[must_use]
    pub fn again(self, len: u64) -> Option<Self> {
        let fits = footprint(len).is_some_and(|room| Some(room) == footprint(self.place.len));
        fits.then_some(Self { place: Place { len, ..self.place }, ..self })
    }
}

/// What [`Outgoing::place`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Placing {
    /// There was room.
    Placed(Block),
    /// A new region is needed; make it, [`Outgoing::add`] it, and place again.
    Grow(Growth),
    /// There is no place, or no quota, beside the region that was [promised](Outgoing::promise): wait for that one, or take
    /// the promise back.
    Promised,
    /// Neither room nor quota. Unused regions may be taken out first, or a call must end.
    Full,
}

/// How many bytes a new region should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// As many as there are already, or as the payload needs where that is more.
    pub whole: u64,
    /// Those that cannot wait, where others may follow in a region of their own; else the whole.
    pub now: u64,
}

struct Slot<R> {
    id: u32,
    size: u64,
    arena: Arena,
    region: R,
}

/// All regions of one direction, as their sender keeps them. `R` is the sender's mapping of a region.
pub struct Outgoing<R> {
    slots: [Option<Slot<R>>; REGIONS_MAX],
    next_id: u32,
    total: u64,
    /// Bytes of a region that is going to be added; 0 for none.
    promised: u64,
    quota: u64,
    live_max: usize,
    page: u64,
}

impl<R> Outgoing<R> {
    /// Starts with no region. `quota` bounds the bytes of all regions, `live_max` the payloads at a time, `page` is the
    /// granularity of region sizes.
    #[must_use]
    pub fn new(quota: u64, live_max: usize, page: u64) -> Self {
        let slots = std::array::from_fn(|_| None);
        Self { slots, next_id: 0, total: 0, promised: 0, quota, live_max, page }
    }

    /// Finds room for a payload of `len` bytes.
    pub fn place(&mut self, len: u64) -> Placing {
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            if let Some(offset) = slot.arena.take(len) {
                let place = Place { region: slot.id, offset, len };
                return Placing::Placed(Block { slot: at, place });
            }
        }
        let Some(need) = footprint(len).and_then(|n| n.checked_next_multiple_of(self.page)) else {
            return Placing::Full;
        };
        // What was promised has its place and its part of the quota.
        let all = self.total + self.promised;
        let room = self.quota.saturating_sub(all) / self.page * self.page;
        let free = self.free();
        if need > room || free == 0 {
            return if self.promised > 0 { Placing::Promised } else { Placing::Full };
        }
        let now = need.max(AT_ONCE.next_multiple_of(self.page));
        if self.promised > 0 {
            let size = now.min(room);
            let suffices = self.suffices(all + size, free - 1, need);
            return if suffices {
                Placing::Grow(Growth { whole: size, now: size })
            } else {
                Placing::Promised
            };
        }
        let wanted = need.max(REGION_MIN).max(self.total.min(GROWTH_MAX));
        let whole = wanted.next_multiple_of(self.page).min(room);
        let splits = whole >= now.saturating_add(AT_ONCE)
            && free >= 2
            && self.suffices(all + whole, free - 2, need);
        Placing::Grow(Growth { whole, now: if splits { now } else { whole } })
    }

    /// Places that are neither taken nor promised.
    fn free(&self) -> usize {
        let free = self.slots.iter().filter(|slot| slot.is_none()).count();
        free.saturating_sub(usize::from(self.promised > 0))
    }

    /// Whether memory of so many bytes can grow to what as many payloads of `need` bytes take as there can be, or to the
    /// quota, if there are so many places left.
    fn suffices(&self, all: u64, free: usize, need: u64) -> bool {
        let grown = (0..free).fold(all, |all, _| all + all.min(GROWTH_MAX));
        grown >= self.quota.min(need.saturating_mul(self.live_max as u64))
    }

    /// A region of so many bytes is going to be added, and keeps its place and its part of the quota until then, if it still
    /// has them; says whether. 0 takes the promise back.
    pub fn promise(&mut self, size: u64) -> bool {
        self.promised = 0;
        let fits = size <= self.quota.saturating_sub(self.total) && self.free() > 0;
        if fits {
            self.promised = size;
        }
        fits
    }

    /// Bytes of the region that was promised and not added; 0 for none.
    #[must_use]
    pub fn promised(&self) -> u64 {
        self.promised
    }

    /// The id that the next region gets from [`Outgoing::add`].
    #[must_use]
    pub fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Adds a region that the sender made; returns the id under which to announce it.
    ///
    /// # Panics
    /// If there are [`REGIONS_MAX`] already; [`Outgoing::place`] asks for no more.
    pub fn add(&mut self, size: u64, region: R) -> u32 {
        let slot = self.slots.iter_mut().find(|slot| slot.is_none()).expect("a free slot");
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        *slot = Some(Slot { id, size, arena: Arena::new(size, self.live_max), region });
        self.total += size;
        id
    }

    /// The sender's mapping of the region that a block lies in.
    ///
    /// # Panics
    /// If the block is not of this direction.
    #[must_use]
    pub fn region(&self, block: Block) -> &R {
        &self.slots[block.slot].as_ref().expect("a live block's region is there").region
    }

    /// Gives a payload's room back.
    ///
    /// # Panics
    /// If the block was given back already.
    pub fn give_back(&mut self, block: Block) {
        let slot = self.slots[block.slot].as_mut().expect("a live block's region is there");
        slot.arena.give_back(block.place.offset, block.place.len);
    }

    /// Takes out unused regions, largest first, until at most `keep` bytes remain; returns their ids and mappings.
    pub fn retire_unused(&mut self, keep: u64) -> Vec<(u32, R)> {
        let mut out = Vec::new();
        while self.total > keep {
            let unused = self
                .slots
                .iter_mut()
                .filter(|slot| slot.as_ref().is_some_and(|slot| slot.arena.is_unused()));
            let Some(slot) = unused.max_by_key(|slot| slot.as_ref().map(|slot| slot.size)) else {
                break;
            };
            if let Some(slot) = slot.take() {
                self.total -= slot.size;
                out.push((slot.id, slot.region));
            }
        }
        out
    }

    /// Bytes of all regions.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether any payload lives in any region.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.slots.iter().flatten().all(|slot| slot.arena.is_unused())
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
