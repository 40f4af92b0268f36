use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn inline_keeps_its_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..=48), room in 0usize..60) {
        let inline = Inline::new(&bytes).expect("fits");
        prop_assert_eq!(inline.bytes(), &bytes[..]);
        let mut out = vec![0xee; room];
        let count = inline.copy_to(&mut out);
        prop_assert_eq!(count, room.min(bytes.len()));
        prop_assert_eq!(&out[..count], &bytes[..count]);
        prop_assert!(out[count..].iter().all(|byte| *byte == 0xee), "no byte beyond");
        prop_assert!(inline.words[bytes.len().div_ceil(8)..].iter().all(|word| *word == 0));
    }

    /// Loom's atomics work inside of a model only.
    #[cfg(not(loom))]
    #[test]
    fn content_is_stored_as_it_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..=48)) {
        let slots: [AtomicU64; 6] = std::array::from_fn(|_| AtomicU64::new(u64::MAX));
        let content = Content::Short(&bytes);
        content.store(&slots);
        let words = slots.map(AtomicU64::into_inner);
        let back = Inline::from_answer(content.head_bits(), words).expect("an answer");
        prop_assert_eq!(back.bytes(), &bytes[..]);
    }

    #[test]
    fn request_heads_round_trip(method: u32, next: u16, ns: u64, len in 0usize..=48) {
        let body = Body::Inline(Inline::new(&vec![7; len]).expect("fits"));
        let head = RequestHead { method, next, think: Think::from_ns(ns) };
        let word = head.encode((&body).into());
        prop_assert_eq!(RequestHead::decode(word), Ok(head));
        let back = Body::from_words(word, [7; 6]).expect("own encoding");
        prop_assert_eq!(back.len(), len as u64);
    }

    /// The short way says the same as the long one.
    #[cfg(not(loom))]
    #[test]
    fn requests_are_short_where_the_long_way_says_so(
        head: u64,
        clear in any::<bool>(),
        words: [u64; 6],
    ) {
        let head = if clear { head & !(FAR | REQUEST_ZERO) } else { head };
        let mut short = Body::default();
        let is_short = short.read_short(head, &words.map(AtomicU64::new));
        let long = RequestHead::decode(head).and_then(|_| Body::from_words(head, words));
        match long {
            Ok(Body::Inline(inline)) => {
                let Body::Inline(short) = short else { panic!("short") };
                prop_assert!(is_short);
                prop_assert_eq!(short.bytes(), inline.bytes());
            }
            _ => prop_assert!(!is_short),
        }
    }

    #[test]
    fn reply_heads_round_trip(failure: bool, active: u16, cpu in proptest::option::of(0u32..u32::MAX)) {
        let body = Body::Far(Place { region: 3, offset: 64, len: 100 });
        let head = ReplyHead { failure, active, cpu };
        prop_assert_eq!(ReplyHead::decode(head.encode((&body).into())), Ok(head));
    }

    #[test]
    fn no_word_panics(head: u64, words: [u64; 6]) {
        let _ = RequestHead::decode(head);
        let _ = ReplyHead::decode(head);
        if let Ok(Body::Inline(inline)) = Body::from_words(head, words) {
            prop_assert!(inline.bytes().len() <= 48);
        }
    }

    #[test]
    fn a_checked_place_lies_inside(region: u32, offset: u64, len: u64, size in 0u64..1 << 40) {
        let place = Place { region, offset, len };
        if let Ok(range) = place.check(size) {
            prop_assert!(range.end as u64 <= size && range.len() as u64 == len);
        } else {
            prop_assert!(u128::from(offset) + u128::from(len) > u128::from(size));
        }
    }
}

/// Where it lies on the edge, inside and outside.
#[test]
fn a_place_is_checked_to_the_byte() {
    let check = |offset, len, size| Place { region: 1, offset, len }.check(size);
    assert_eq!(check(0, 100, 100), Ok(0..100));
    assert_eq!(check(64, 36, 100), Ok(64..100));
    assert_eq!(check(64, 10, 100), Ok(64..74));
    assert_eq!(check(100, 0, 100), Ok(100..100));
    assert_eq!(check(0, 0, 0), Ok(0..0));
    assert_eq!(check(64, 37, 100), Err(Violation::new("place.len", 37, 36)));
    assert_eq!(check(0, 101, 100), Err(Violation::new("place.len", 101, 100)));
    assert_eq!(check(101, 0, 100), Err(Violation::new("place.offset", 101, 100)));
    assert_eq!(check(u64::MAX, 2, 100), Err(Violation::new("place.offset", u64::MAX, 100)));
    assert_eq!(check(2, u64::MAX, 100), Err(Violation::new("place.len", u64::MAX, 98)));
}

/// The bits are those of PROTOCOL.md, not only the same at both ends.
#[test]
fn heads_lie_where_the_protocol_says() {
    let far = Body::Far(Place { region: 3, offset: 64, len: 100 });
    let near = Body::Inline(Inline::new(&[7; 48]).expect("fits"));
    let request = RequestHead { method: 0x1234_5678, next: 0xabcd, think: Think(0xf) };
    assert_eq!(request.encode((&near).into()), 0x1234_5678_f030_abcd);
    assert_eq!(request.encode((&far).into()), 0x1234_5678_f040_abcd);
    let reply = ReplyHead { failure: true, active: 0xabcd, cpu: Some(4) };
    assert_eq!(reply.encode((&near).into()), 0x0000_0005_00b0_abcd);
    assert_eq!(reply.encode((&far).into()), 0x0000_0005_00c0_abcd);
    assert_eq!(
        ReplyHead { cpu: None, failure: false, ..reply }.encode((&near).into()),
        0x0030_abcd
    );
}

#[test]
fn each_zero_bit_is_looked_at() {
    for bit in 0..64 {
        let head = 1u64 << bit;
        let (request, reply) = (RequestHead::decode(head), ReplyHead::decode(head));
        assert_eq!(request.is_err(), (23..28).contains(&bit), "request, bit {bit}");
        assert_eq!(reply.is_err(), (24..32).contains(&bit), "reply, bit {bit}");
        for (violation, there) in [(request.err(), 23..28), (reply.err(), 24..32)] {
            let expected = there.contains(&bit).then_some(Violation::new("head.zero", head, 0));
            assert_eq!(violation, expected, "bit {bit}");
        }
        // A short answer is neither far, nor a failure, nor wrong.
        let short = Inline::from_answer(head, [0; 6]);
        assert_eq!(short.is_some(), !(21..32).contains(&bit) || bit == 21, "bit {bit}");
    }
    let think = RequestHead::decode(0xa << 28).expect("allowed").think;
    assert_eq!(think, Think(0xa));
}

#[test]
fn lengths_are_looked_at() {
    let head = |len: u64, far: bool| len << 16 | u64::from(far) << 22;
    let words = [5, 64, 7, 8, 9, 10];
    for len in 0..64 {
        let near = Body::from_words(head(len, false), words);
        let far = Body::from_words(head(len, true), words);
        assert_eq!(Inline::from_answer(head(len, false), words).is_some(), len <= 48, "{len}");
        match near {
            Ok(body) => assert!(len <= 48 && body.len() == len && body.is_empty() == (len == 0)),
            Err(violation) => {
                assert!(len > 48);
                assert_eq!(violation, Violation::new("head.length", len, 48));
            }
        }
        match far {
            Ok(Body::Far(place)) => {
                assert_eq!((len, place), (0, Place { region: 5, offset: 64, len: 7 }));
            }
            Ok(Body::Inline(_)) => panic!("far"),
            Err(violation) => {
                assert!(len > 0);
                assert_eq!(violation, Violation::new("head.length", len, 0));
            }
        }
    }
    let most = u64::from(u32::MAX);
    let region =
        |id: u64| Body::from_words(head(0, true), [id, 0, 1, 0, 0, 0]).map(|body| body.len());
    assert_eq!(region(most), Ok(1));
    assert_eq!(region(most + 1), Err(Violation::new("place.region", most + 1, most)));
}

#[test]
fn lengths_are_told() {
    for len in 0..=48 {
        let bytes = vec![9; len];
        let inline = Inline::new(&bytes).expect("fits");
        assert_eq!((inline.len(), inline.is_empty()), (len, len == 0));
        let body = Body::Inline(inline);
        assert_eq!((body.len(), body.is_empty()), (len as u64, len == 0));
        let content = Content::from(&body);
        assert_eq!((content.len(), content.is_empty()), (len as u64, len == 0));
    }
    for len in [0, 1, u64::MAX] {
        let body = Body::Far(Place { region: 0, offset: 0, len });
        assert_eq!((body.len(), body.is_empty()), (len, len == 0));
        let content = Content::from(&body);
        assert_eq!((content.len(), content.is_empty()), (len, len == 0));
    }
    assert_eq!(Content::Short(&[1; 60]).head_bits(), 48 << 16, "what is beyond is not sent");
}

#[test]
fn hints_are_told() {
    let head = ReplyHead { failure: true, active: 0xfedc, cpu: Some(6) };
    let word = head.encode(Content::Short(&[1; 48]));
    assert_eq!(Hints::of(word), Hints(7 << 32 | 0xfedc));
    assert_eq!(head.hints(), Hints(7 << 32 | 0xfedc));
    assert_eq!(Hints::of(word).active(), 0xfedc);
    assert_eq!(ReplyHead::default().hints(), Hints(0));
}

/// All bytes, also those that share a word with others, and those of a slice whose end is in a word's middle.
#[test]
fn each_length_keeps_each_byte() {
    for len in 0..=48usize {
        let bytes: Vec<u8> = (0..len).map(|at| 0x81 + at as u8).collect();
        let inline = Inline::new(&bytes).expect("fits");
        assert_eq!(inline.bytes(), bytes);
        let mut out = vec![0; len];
        assert_eq!(inline.copy_to(&mut out), len);
        assert_eq!(out, bytes);
        if len % 8 != 0 {
            let mut word = [0; 8];
            word[..len % 8].copy_from_slice(&bytes[len / 8 * 8..]);
            assert_eq!(last_word(&bytes, len % 8), u64::from_le_bytes(word), "{len}");
        }
    }
}

#[test]
fn forty_nine_bytes_do_not_fit() {
    assert!(Inline::new(&[0; 49]).is_none());
}

#[test]
fn think_times_are_upper_bounds() {
    assert_eq!(Think::from_ns(0).ns_max(), Some(1_000));
    assert_eq!(Think::from_ns(999).ns_max(), Some(1_000));
    assert_eq!(Think::from_ns(1_000).ns_max(), Some(2_000));
    assert_eq!(Think::from_ns(50_000).ns_max(), Some(64_000));
    assert_eq!(Think::from_ns(u64::MAX).ns_max(), Some(u64::MAX));
    assert_eq!(Think::UNKNOWN.ns_max(), None);
}

/// Word by word, and no more words than the payload needs.
#[cfg(not(loom))]
#[test]
fn bodies_lie_where_the_protocol_says() {
    let stored = |content: Content<'_>| {
        let slots: [AtomicU64; 6] = std::array::from_fn(|_| AtomicU64::new(u64::MAX));
        content.store(&slots);
        slots.map(AtomicU64::into_inner)
    };
    let old = u64::MAX;
    assert_eq!(
        stored(Content::Far(Place { region: 3, offset: 64, len: 100 })),
        [3, 64, 100, old, old, old]
    );
    assert_eq!(stored(Content::Short(&[])), [old; 6]);
    assert_eq!(
        stored(Content::Short(&[1, 2, 3, 4, 5, 6, 7, 8, 9])),
        [0x0807_0605_0403_0201, 9, old, old, old, old]
    );
    assert_eq!(stored(Content::Short(&[1; 60])), [0x0101_0101_0101_0101; 6]);
    assert!(
        Content::Short(&[]).is_short()
            && !Content::Far(Place { region: 0, offset: 0, len: 1 }).is_short()
    );
}
