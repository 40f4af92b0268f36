//! Payload memory: places, the sender's books, and the receiver's table over real descriptors.

use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};

use callgate_proto::arena::{Block, Outgoing, Placing, REGIONS_MAX};
use callgate_proto::body::Place;
use callgate_sys::shm::{MemFd, PayloadReader, PayloadWriter, page_size};

use crate::region::{Incoming, Unusable, block_bytes};
use crate::{Source, assert_named};

/// A place against a size, then a sender's and a receiver's books through whatever comes.
///
/// # Panics
/// When a range leaves its region, when two live payloads overlap, or when a quota is not kept.
pub fn regions(bytes: &[u8]) {
    let mut source = Source(bytes);
    let place = Place { region: source.u32(), offset: source.u64(), len: source.u64() };
    check_place(place, source.u64());
    check_place(place, source.u16().into());
    if source.u8().is_multiple_of(2) { outgoing(&mut source) } else { incoming(&mut source) }
}

fn check_place(place: Place, size: u64) {
    let inside = u128::from(place.offset) + u128::from(place.len) <= u128::from(size);
    match place.check(size) {
        Ok(range) => {
            assert!(inside && range.end as u64 <= size);
            assert_eq!((range.start as u64, range.len() as u64), (place.offset, place.len));
        }
        Err(violation) => {
            assert!(!inside, "{place:?} lies inside of {size}");
            assert_named(violation);
        }
    }
}

/// The sender's books. What a receiver does to them is to give back late, or not at all.
fn outgoing(source: &mut Source<'_>) {
    let quota = source.u32().into();
    let live_max = 1 + usize::from(source.u8() % 8);
    let mut out = Outgoing::<u64>::new(quota, live_max, 4_096);
    let mut live: Vec<(Block, u64)> = Vec::new();
    for _ in 0..200 {
        if source.is_empty() {
            return;
        }
        match source.u8() % 4 {
            0 | 1 => {
                let len = u64::from(source.u32()) >> (source.u8() % 32);
                // A region holds as many payloads as there can be calls, and nobody asks for more.
                if live.len() == live_max {
                    continue;
                }
                match out.place(len) {
                    Placing::Placed(block) => placed(&out, &mut live, block, len),
                    Placing::Grow(size) => {
                        assert!(
                            size >= len
                                && size.is_multiple_of(4_096)
                                && out.total() + size <= quota
                        );
                        out.add(size, size);
                    }
                    Placing::Full => {}
                }
            }
            2 => {
                if !live.is_empty() {
                    let (block, _) = live.swap_remove(usize::from(source.u8()) % live.len());
                    out.give_back(block);
                }
            }
            _ => {
                let keep = source.u32().into();
                for (id, _) in out.retire_unused(keep) {
                    let used = live.iter().any(|(block, _)| block.place.region == id);
                    assert!(!used, "region {id} was taken away under a payload");
                }
            }
        }
        assert!(out.total() <= quota);
        assert_eq!(out.is_unused(), live.is_empty());
    }
}

fn placed(out: &Outgoing<u64>, live: &mut Vec<(Block, u64)>, block: Block, len: u64) {
    let place = block.place;
    assert!(place.len == len && place.offset.is_multiple_of(64));
    assert!(place.check(*out.region(block)).is_ok(), "outside of its region");
    for (other, len) in live.iter().filter(|(other, _)| other.place.region == place.region) {
        let (a, b) = (place.offset, other.place.offset);
        assert!(a + place.len.max(1) <= b || b + len.max(&1) <= a, "two payloads overlap");
    }
    live.push((block, len));
}

/// Good memory of one, two and three pages.
fn memory() -> &'static [(PayloadWriter, MemFd); 3] {
    static MEMORY: OnceLock<[(PayloadWriter, MemFd); 3]> = OnceLock::new();
    MEMORY.get_or_init(|| {
        [1, 2, 3].map(|pages| PayloadWriter::create(pages * page_size()).expect("memory"))
    })
}

/// The receiver's table, told of regions that are there, and not, and not so large.
fn incoming(source: &mut Source<'_>) {
    let quota = u64::from(source.u8()) << 12;
    let mut table = Incoming::new(quota, PayloadReader::accept);
    let mut known: Vec<(u32, u64)> = Vec::new();
    let mut held: Vec<Arc<PayloadReader>> = Vec::new();
    for _ in 0..40 {
        if source.is_empty() {
            return;
        }
        let (what, id) = (source.u8(), u32::from(source.u8() % 24));
        match what % 4 {
            0 | 1 => {
                let which = usize::from(source.u8());
                let (_, fd) = &memory()[which % 3];
                let real = ((1 + which % 3) * page_size()) as u64;
                let size = if what & 0x80 == 0 { real } else { source.u64() };
                let fd = (what & 0x40 == 0)
                    .then(|| MemFd::from(fd.as_fd().try_clone_to_owned().expect("a descriptor")));
                let fits = known.iter().map(|(_, size)| size).sum::<u64>().checked_add(size);
                let allowed = fd.is_some()
                    && size == real
                    && fits.is_some_and(|bytes| bytes <= quota)
                    && known.len() < REGIONS_MAX
                    && known.iter().all(|(other, _)| *other != id);
                match table.add(id, size, fd) {
                    Ok(()) => {
                        assert!(allowed, "region {id} of {size} bytes was taken");
                        known.push((id, size));
                    }
                    Err(Unusable::Violation(violation)) => {
                        assert!(!allowed || violation.field == "retire (in use)", "{violation}");
                        return assert_named(violation);
                    }
                    Err(unusable) => panic!("{unusable:?}"),
                }
            }
            2 => match table.retire(id) {
                Ok(region) => {
                    let at = known.iter().position(|(other, _)| *other == id).expect("known");
                    assert_eq!(known.swap_remove(at).1, region.len() as u64);
                }
                Err(violation) => {
                    assert!(known.iter().all(|(other, _)| *other != id));
                    return assert_named(violation);
                }
            },
            _ => {
                let place =
                    Place { region: id, offset: source.u16().into(), len: source.u16().into() };
                let size = known.iter().find(|(other, _)| *other == id).map(|(_, size)| *size);
                match table.find(place) {
                    Ok(Some((region, range))) => {
                        assert!(size.is_some_and(|size| range.end as u64 <= size));
                        held.push(region.clone());
                    }
                    Ok(None) => assert_eq!(size, None),
                    Err(violation) => return assert_named(violation),
                }
            }
        }
        assert_eq!(table.bytes(), known.iter().map(|(_, size)| size).sum::<u64>());
    }
    // The sender's own view of what it sent, for the whole of it.
    let (writer, _) = &memory()[0];
    let whole = Place { region: 0, offset: 0, len: page_size() as u64 };
    assert_eq!(block_bytes(writer, whole).len(), page_size());
}
