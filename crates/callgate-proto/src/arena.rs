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
    /// A new region of this many bytes is needed; make it, [`Outgoing::add`] it, and place again.
    Grow(u64),
    /// Neither room nor quota. Unused regions may be taken out first, or a call must end.
    Full,
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
    quota: u64,
    live_max: usize,
    page: u64,
}

impl<R> Outgoing<R> {
    /// Starts with no region. `quota` bounds the bytes of all regions, `live_max` the payloads at a time, `page` is the
    /// granularity of region sizes.
    #[must_use]
    pub fn new(quota: u64, live_max: usize, page: u64) -> Self {
        Self { slots: std::array::from_fn(|_| None), next_id: 0, total: 0, quota, live_max, page }
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
        let room = self.quota.saturating_sub(self.total) / self.page * self.page;
        if need > room || self.slots.iter().all(Option::is_some) {
            return Placing::Full;
        }
        let wanted = need.max(REGION_MIN).max(self.total.min(GROWTH_MAX));
        Placing::Grow(wanted.next_multiple_of(self.page).min(room))
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Live blocks never overlap, are aligned, and all room comes back.
        #[test]
        fn blocks_never_overlap(
            steps in proptest::collection::vec((any::<bool>(), 0u64..5_000, any::<prop::sample::Index>()), 1..300),
        ) {
            let size = 64 << 10;
            let mut arena = Arena::new(size, 40);
            let mut live: Vec<(u64, u64)> = Vec::new();
            for (take, len, pick) in steps {
                if take {
                    if let Some(start) = arena.take(len) {
                        prop_assert!(start % 64 == 0 && start + len <= size);
                        for (other, other_len) in &live {
                            let apart = start + len.max(1) <= *other || *other + (*other_len).max(1) <= start;
                            prop_assert!(apart, "{start}+{len} meets {other}+{other_len}");
                        }
                        live.push((start, len));
                    }
                } else if !live.is_empty() {
                    let (start, len) = live.swap_remove(pick.index(live.len()));
                    arena.give_back(start, len);
                }
                prop_assert!(live.len() <= 40);
                prop_assert_eq!(arena.is_unused(), live.is_empty());
            }
            for (start, len) in live.drain(..) {
                arena.give_back(start, len);
            }
            prop_assert_eq!(arena.take(size), Some(0));
        }
    }

    fn grown(outgoing: &mut Outgoing<()>, len: u64) -> Block {
        match outgoing.place(len) {
            Placing::Placed(block) => block,
            Placing::Grow(size) => {
                outgoing.add(size, ());
                let Placing::Placed(block) = outgoing.place(len) else {
                    panic!("fits after growing")
                };
                block
            }
            Placing::Full => panic!("full"),
        }
    }

    #[test]
    fn a_block_serves_again_where_the_room_is_the_same() {
        let mut outgoing = Outgoing::new(1 << 20, 64, 4096);
        let block = grown(&mut outgoing, 100);
        assert_eq!(block.room(), 128);
        let again = block.again(128).expect("two lines, too");
        assert_eq!((again.place.offset, again.place.len), (block.place.offset, 128));
        for len in [0, 64, 129, u64::MAX] {
            assert_eq!(block.again(len), None);
        }
        outgoing.give_back(again);
        assert!(outgoing.is_unused());
    }

    #[test]
    fn it_starts_small_grows_and_gives_back() {
        let mut outgoing = Outgoing::new(1 << 30, 64, 4096);
        let small = grown(&mut outgoing, 100);
        assert_eq!(outgoing.total(), REGION_MIN);
        let large = grown(&mut outgoing, 256 << 20);
        assert_eq!(outgoing.total(), REGION_MIN + (256 << 20));
        outgoing.give_back(large);
        let retired = outgoing.retire_unused(REGION_MIN);
        assert_eq!(retired, [(1, ())]);
        assert!(outgoing.retire_unused(0).is_empty(), "the small one is in use");
        outgoing.give_back(small);
        assert_eq!(outgoing.retire_unused(0), [(0, ())]);
    }

    #[test]
    fn the_quota_is_kept() {
        let mut outgoing = Outgoing::new(1 << 20, 64, 4096);
        grown(&mut outgoing, 900 << 10);
        assert_eq!(outgoing.place(200 << 10), Placing::Full);
        assert_eq!(outgoing.place(100 << 10), Placing::Grow(124 << 10), "what the quota leaves");
        assert_eq!(outgoing.place(u64::MAX), Placing::Full);
    }

    #[test]
    fn what_the_quota_leaves_is_used_to_the_last_page() {
        let mut outgoing = Outgoing::new(1 << 20, 64, 4096);
        assert_eq!(outgoing.place(1 << 20), Placing::Grow(1 << 20));
        assert_eq!(outgoing.place((1 << 20) + 1), Placing::Full);
        let whole = grown(&mut outgoing, 1 << 20);
        assert_eq!((outgoing.total(), outgoing.place(1)), (1 << 20, Placing::Full));
        outgoing.give_back(whole);
        assert_eq!(outgoing.retire_unused(1 << 20), [], "as much may stay");
        assert_eq!(outgoing.retire_unused((1 << 20) - 1), [(0, ())]);
        assert_eq!((outgoing.total(), outgoing.place(1 << 20)), (0, Placing::Grow(1 << 20)));
    }

    #[test]
    fn ids_count_and_use_is_told() {
        let mut outgoing = Outgoing::new(u64::MAX, 2, 4096);
        assert!(outgoing.is_unused());
        for id in 0..3 {
            assert_eq!(outgoing.next_id(), id);
            let block = grown(&mut outgoing, 1 << 20);
            assert_eq!((block.place.region, outgoing.is_unused()), (id, false));
            outgoing.give_back(block);
            assert!(outgoing.is_unused());
            assert_eq!(outgoing.retire_unused(0), [(id, ())], "an id is used once");
        }
    }

    #[test]
    #[should_panic(expected = "a block of this region")]
    fn giving_back_what_is_outside_is_caught() {
        Arena::new(4096, 4).give_back(4096, 64);
    }

    #[test]
    fn there_are_never_more_regions_than_the_table_holds() {
        let mut outgoing = Outgoing::new(u64::MAX, 1, 4096);
        for _ in 0..REGIONS_MAX {
            grown(&mut outgoing, 10);
        }
        assert_eq!(outgoing.place(10), Placing::Full);
    }

    #[test]
    #[should_panic(expected = "free already")]
    fn giving_back_twice_is_caught() {
        let mut arena = Arena::new(4096, 4);
        let (a, _b) = (arena.take(64).expect("room"), arena.take(64).expect("room"));
        arena.give_back(a, 64);
        arena.give_back(a, 64);
    }
}
