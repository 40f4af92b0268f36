use super::*;

fn page() -> u64 {
    page_size() as u64
}

/// Memory as an honest peer makes it.
fn memory(size: u64) -> Option<MemFd> {
    let (_, fd) = PayloadWriter::create(usize::try_from(size).expect("small")).expect("memory");
    Some(fd)
}

/// A table with this quota and regions of one page each with the ids from 0.
fn table(quota: u64, regions: u32) -> Incoming {
    let mut incoming = Incoming::new(quota, PayloadReader::accept);
    for id in 0..regions {
        incoming.add(id, page(), memory(page())).expect("honest");
    }
    incoming
}

/// Holds a region as a call does that reads from it.
fn hold(incoming: &Incoming, region: u32) -> Arc<PayloadReader> {
    let place = Place { region, offset: 0, len: 1 };
    Arc::clone(incoming.find(place).expect("inside").expect("announced").0)
}

fn violation<T>(result: Result<T, Unusable>) -> Violation {
    match result {
        Err(Unusable::Violation(violation)) => violation,
        Err(unusable) => panic!("nobody's fault: {unusable:?}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn each_field_of_an_announcement_is_checked() {
    let quota = 4 * page();
    let mut incoming = table(quota, 1);
    assert_eq!(
        violation(incoming.add(1, page(), None)),
        Violation::new("region.descriptors", 0, 1)
    );
    assert_eq!(
        violation(incoming.add(0, page(), memory(page()))),
        Violation::new("region.id", 0, 1)
    );
    assert_eq!(
        violation(incoming.add(1, 0, memory(page()))),
        Violation::new("region.size", 0, 3 * page())
    );
    assert_eq!(
        violation(incoming.add(1, 4 * page(), memory(4 * page()))),
        Violation::new("region.size", 4 * page(), 3 * page())
    );
    assert_eq!(
        violation(incoming.add(1, 2 * page(), memory(page()))),
        Violation::new("region.memory", 2 * page(), 2 * page())
    );
    assert_eq!(incoming.bytes(), page(), "what was rejected counts for nothing");
    incoming.add(1, 3 * page(), memory(3 * page())).expect("the quota to the byte");
    assert_eq!(incoming.bytes(), quota);
}

#[test]
fn there_are_sixteen_regions_and_no_more() {
    let mut incoming = table(100 * page(), 16);
    assert_eq!(
        violation(incoming.add(16, page(), memory(page()))),
        Violation::new("region.count", 17, 16)
    );
    incoming.retire(3).expect("known");
    incoming.add(16, page(), memory(page())).expect("sixteen again");
}

#[test]
fn what_is_retired_is_known_and_gives_its_room_back() {
    let mut incoming = table(3 * page(), 3);
    assert_eq!(incoming.retire(3).err(), Some(Violation::new("retire.id", 3, 0)));
    drop(incoming.retire(1).expect("known"));
    assert_eq!(incoming.bytes(), 2 * page());
    assert_eq!(incoming.retire(1).err(), Some(Violation::new("retire.id", 1, 0)));
    let gone = Place { region: 1, offset: 0, len: 1 };
    assert!(!incoming.knows(gone));
    assert!(incoming.find(gone).expect("no violation").is_none());
    for left in [0, 2] {
        hold(&incoming, left);
    }
    incoming.add(1, page(), memory(page())).expect("the id is free, and so is the room");
}

#[test]
fn a_place_is_found_in_its_own_region() {
    let (writer, fd) = PayloadWriter::create(2 * page_size()).expect("memory");
    let mut incoming = table(9 * page(), 1);
    incoming.add(7, 2 * page(), Some(fd)).expect("honest");
    let place = Place { region: 7, offset: page() + 64, len: page() - 64 };
    assert!(incoming.knows(place));
    let (region, range) = incoming.find(place).expect("inside").expect("announced");
    assert_eq!(range, page_size() + 64..2 * page_size());
    assert_eq!(region.len(), writer.len());
    let beyond = Place { len: page() - 63, ..place };
    assert_eq!(
        incoming.find(beyond).err(),
        Some(Violation::new("place.len", page() - 63, page() - 64))
    );
    let smaller = Place { region: 0, ..place };
    assert_eq!(
        incoming.find(smaller).err(),
        Some(Violation::new("place.offset", page() + 64, page())),
        "measured by its own region, not by another"
    );
    let unknown = Place { region: 1, ..place };
    assert!(!incoming.knows(unknown) && incoming.find(unknown).expect("no violation").is_none());

    let bytes = block_bytes(&writer, place);
    assert_eq!(bytes.cast::<u8>(), writer.as_ptr().wrapping_add(page_size() + 64));
    assert_eq!(bytes.len(), page_size() - 64);
}

#[test]
fn retired_regions_in_use_are_bounded_by_the_quota() {
    let mut incoming = Incoming::new(2 * page(), PayloadReader::accept);
    incoming.add(0, 2 * page(), memory(2 * page())).expect("honest");
    let first = hold(&incoming, 0);
    incoming.retire(0).expect("known");
    incoming.add(1, page(), memory(page())).expect("as much as the quota may be in use");
    let second = hold(&incoming, 1);
    incoming.retire(1).expect("known");
    assert_eq!(
        violation(incoming.add(2, page(), memory(page()))),
        Violation::new("retire (in use)", 3 * page(), 2 * page())
    );
    drop(first);
    incoming.add(2, page(), memory(page())).expect("what was let go of counts no more");
    drop(second);
}

#[test]
fn retired_regions_in_use_are_bounded_in_number() {
    let mut incoming = Incoming::new(1_000 * page(), PayloadReader::accept);
    let mut held = Vec::new();
    for id in 0..65 {
        incoming.add(id, page(), memory(page())).expect("64 may be in use");
        held.push(hold(&incoming, id));
        incoming.retire(id).expect("known");
    }
    let found = violation(incoming.add(65, page(), memory(page())));
    assert_eq!(found, Violation::new("retire (in use)", 65 * page(), 1_000 * page()));
    held.clear();
    for id in 65..200 {
        incoming.add(id, page(), memory(page())).expect("honest");
        drop(incoming.retire(id).expect("known"));
    }
}

#[test]
fn a_control_region_is_laid_out_as_the_protocol_says() {
    for cells in [2u32, 63, 1024] {
        let size = control_size(cells);
        let exact = 128 + 64 * cells as usize;
        assert!(size >= exact && size < exact + page_size() && size.is_multiple_of(page_size()));
        let (map, _) = Control::create(size).expect("memory");
        let view = ControlView::new(map, cells);
        let base = std::ptr::from_ref(view.header()) as usize;
        assert_eq!(base % page_size(), 0);
        assert_eq!(std::ptr::from_ref(view.detour()) as usize, base + 64);
        assert_eq!(view.cells().len(), cells as usize);
        for index in [0, cells as u16 - 1] {
            let cell = std::ptr::from_ref(view.cell(index)) as usize;
            assert_eq!(cell, base + 128 + 64 * usize::from(index));
        }
    }
}

#[test]
fn lack_of_memory_or_descriptors_blames_nobody() {
    assert!(matches!(Unusable::no_descriptors(), Unusable::System(_)));
}
