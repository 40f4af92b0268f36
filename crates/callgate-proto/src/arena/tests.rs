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
        Placing::Grow(Growth { whole, .. }) => {
            outgoing.add(whole, ());
            let Placing::Placed(block) = outgoing.place(len) else { panic!("fits after growing") };
            block
        }
        Placing::Promised | Placing::Full => panic!("full"),
    }
}

/// A region that is not to be split.
fn grow(size: u64) -> Placing {
    Placing::Grow(Growth { whole: size, now: size })
}

/// Adds what was promised, if something was.
fn keep(outgoing: &mut Outgoing<()>) -> bool {
    let promised = outgoing.promised();
    if promised > 0 {
        outgoing.promise(0);
        outgoing.add(promised, ());
    }
    promised > 0
}

/// What growth is asked for while payloads of `len` bytes come and stay, where the rest of each step comes so many
/// payloads later.
fn growths(quota: u64, live_max: usize, len: u64, lateness: u32) -> (Vec<Growth>, u64) {
    let mut outgoing = Outgoing::new(quota, live_max, 4096);
    let (mut growths, mut placed, mut late) = (Vec::new(), 0, 0);
    while placed < live_max as u64 {
        match outgoing.place(len) {
            Placing::Placed(_) => placed += 1,
            Placing::Grow(growth) => {
                assert!(growth.now >= len && growth.now <= growth.whole);
                outgoing.add(growth.now, ());
                let rest = growth.whole - growth.now;
                if rest > 0 {
                    outgoing.promise(rest);
                    late = 0;
                }
                growths.push(growth);
            }
            Placing::Promised => assert!(keep(&mut outgoing)),
            Placing::Full => break,
        }
        // Some payloads later it comes.
        late += 1;
        if late > lateness {
            keep(&mut outgoing);
        }
        assert!(outgoing.total() + outgoing.promised() <= quota);
    }
    (growths, placed)
}

#[test]
fn little_is_needed_at_once_however_much_there_is() {
    let (growths, placed) = growths(64 << 20, 300, 40_000, 0);
    assert_eq!(placed, 300);
    let split = growths.iter().map(|Growth { whole, now }| (whole >> 10, now >> 10));
    let small = [64, 64, 128, 256].map(|size| (size, size));
    let large = [512, 1_024, 2_048, 4_096, 8_192].map(|size| (size, 256));
    assert_eq!(split.collect::<Vec<_>>(), [&small[..], &large].concat());
}

#[test]
fn a_long_payload_is_needed_at_once() {
    let (growths, _) = growths(64 << 20, 8, 3 << 20, 0);
    assert!(growths.iter().all(|growth| growth.now >= 3 << 20), "{growths:?}");
    assert!(growths.iter().any(|growth| growth.now == 3 << 20 && growth.whole > growth.now));
}

#[test]
fn what_was_promised_keeps_its_place_and_its_bytes() {
    let mut outgoing = Outgoing::new(1 << 20, 64, 4096);
    outgoing.promise(1 << 19);
    assert_eq!(outgoing.place(1 << 19), grow(1 << 19));
    assert_eq!(outgoing.place((1 << 19) + 1), Placing::Promised);
    outgoing.promise(0);
    assert_eq!(outgoing.place((1 << 19) + 1), grow((1 << 19) + 4096));
    for _ in 1..REGIONS_MAX {
        outgoing.add(4096, ());
    }
    assert!(matches!(outgoing.place(5_000), Placing::Grow(_)), "the last place");
    outgoing.promise(4096);
    assert_eq!(outgoing.place(5_000), Placing::Promised);
    assert!(keep(&mut outgoing));
    assert_eq!(outgoing.place(5_000), Placing::Full);
}

proptest! {
    /// That growth may be split, and the rest late, keeps no payload from its place that would have had one else, but for
    /// those that would lie over the end of a region.
    #[test]
    fn places_suffice_for_growth_in_two_parts(
        quota in 1u64..1 << 30, live_max in 1usize..4_000, len in 1u64..1 << 20, lateness in 0u32..100,
    ) {
        let whole = {
            let mut outgoing = Outgoing::new(quota, live_max, 4096);
            let mut placed = 0;
            while placed < live_max as u64 {
                match outgoing.place(len) {
                    Placing::Placed(_) => placed += 1,
                    Placing::Grow(growth) => {
                        outgoing.add(growth.whole, ());
                    }
                    Placing::Promised | Placing::Full => break,
                }
            }
            placed
        };
        let (growths, split) = growths(quota, live_max, len, lateness);
        prop_assert!(split + REGIONS_MAX as u64 >= whole, "{split} of {whole}: {growths:?}");
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
    assert_eq!(outgoing.place(100 << 10), grow(124 << 10), "what the quota leaves");
    assert_eq!(outgoing.place(u64::MAX), Placing::Full);
}

#[test]
fn what_the_quota_leaves_is_used_to_the_last_page() {
    let mut outgoing = Outgoing::new(1 << 20, 64, 4096);
    assert_eq!(outgoing.place(1 << 20), grow(1 << 20));
    assert_eq!(outgoing.place((1 << 20) + 1), Placing::Full);
    let whole = grown(&mut outgoing, 1 << 20);
    assert_eq!((outgoing.total(), outgoing.place(1)), (1 << 20, Placing::Full));
    outgoing.give_back(whole);
    assert_eq!(outgoing.retire_unused(1 << 20), [], "as much may stay");
    assert_eq!(outgoing.retire_unused((1 << 20) - 1), [(0, ())]);
    assert_eq!((outgoing.total(), outgoing.place(1 << 20)), (0, grow(1 << 20)));
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
