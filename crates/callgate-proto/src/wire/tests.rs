use super::*;
use proptest::prelude::*;

#[test]
fn a_message_of_another_size_is_none() {
    for len in 1..24 {
        for (kind, right) in [(0, 1), (b'R', 16), (b'X', 8)] {
            let mut bytes = vec![0; len];
            bytes[0] = kind;
            let wrong = Violation::new("message.kind", kind.into(), b'X'.into());
            let decoded = Message::decode(&bytes);
            assert_eq!(decoded.err(), (len != right).then_some(wrong), "{kind}, {len} bytes");
        }
    }
    assert_eq!(Message::decode(&[]).err(), Some(Violation::new("message.size", 0, 1)));
}

#[test]
fn a_first_message_is_named_where_it_is_wrong() {
    let none = |bytes: &[u8]| {
        let hello = Hello::decode(bytes).err().map(|v| (v.field, v.found));
        (hello, Answer::decode(bytes).err().map(|v| (v.field, v.found)))
    };
    let both = |hello, answer, found| (Some((hello, found)), Some((answer, found)));
    let ours = prologue(Versions::OURS, KIND_STATUS);
    let mut bytes = ours.as_bytes().to_vec();
    assert_eq!(none(&bytes[..15]), both("hello.size", "answer.size", 15));
    assert_eq!(none(&bytes), both("hello.size", "answer.size", 16));
    bytes[0] = b'C';
    let magic = u64::from_le_bytes(*b"Callgate");
    assert_eq!(none(&bytes), both("hello.magic", "answer.magic", magic));
    let empty = prologue(Versions { low: 7, high: 6 }, KIND_STATUS);
    assert_eq!(none(empty.as_bytes()), both("hello.low", "answer.low", 7));
    // All that is of another version begins with 16 bytes, and may end there.
    let later = prologue(Versions { low: 900, high: 901 }, KIND_REFUSAL);
    assert_eq!(none(later.as_bytes()), (None, None));
}

#[test]
fn messages_round_trip() {
    for message in
        [Message::Bell, Message::Region { id: 7, size: 1 << 40 }, Message::Retire { id: u32::MAX }]
    {
        assert_eq!(Message::decode(message.encode().as_bytes()), Ok(message));
    }
    let hello = Hello {
        versions: Versions::OURS,
        ask: Some(Ask::Connect { cells: 126, control: 8192, quota: 1 << 30 }),
    };
    assert_eq!(hello.encode().as_bytes().len(), HELLO_BYTES);
    assert_eq!(Hello::decode(hello.encode().as_bytes()), Ok(hello));
    let status = Hello { versions: Versions::OURS, ask: Some(Ask::Status) };
    assert_eq!(Hello::decode(status.encode().as_bytes()), Ok(status));
}

#[test]
fn answers_round_trip() {
    let welcome = Welcome { epoch: 1, request_max: 2, reply_max: 3, quota: 4, in_flight: 5 };
    let refusal = Answer::Refusal { reason: Some(Reason::ClientsOfUser), limit: 12 };
    let status =
        Status { uptime_ns: 1, clients: 2, calls: 3, refused: 4, violations: 5, reply_bytes: 6 };
    for answer in [Answer::Welcome(welcome), refusal, Answer::Status(status)] {
        let encoded = answer.encode(Versions::OURS);
        assert_eq!(encoded.as_bytes().len(), ANSWER_BYTES);
        assert_eq!(Answer::decode(encoded.as_bytes()), Ok((answer, Versions::OURS)));
    }
}

#[test]
fn versions_meet_at_the_newest_common_one() {
    let range = |low, high| Versions { low, high };
    assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
    assert_eq!(range(2, 5).common(range(1, 3)), Some(3));
    assert_eq!(range(1, 1).common(range(2, 5)), None);
    assert_eq!(range(6, 9).common(range(2, 5)), None);
}

#[test]
fn a_hello_of_another_version_is_told_apart_whatever_follows() {
    let mut bytes = prologue(Versions { low: 900, high: 901 }, 77).as_bytes().to_vec();
    bytes.extend([9; 20]);
    let hello = Hello::decode(&bytes).expect("the prologue is for all versions");
    assert_eq!(hello, Hello { versions: Versions { low: 900, high: 901 }, ask: None });
}

#[test]
fn a_refusal_of_another_version_is_understood_whatever_follows() {
    let theirs = Versions { low: 900, high: 901 };
    let mut bytes = prologue(theirs, KIND_REFUSAL).as_bytes().to_vec();
    bytes.extend([9; 5]);
    let refusal = Answer::Refusal { reason: Some(Reason::Version), limit: 0 };
    assert_eq!(Answer::decode(&bytes), Ok((refusal, theirs)));
}

#[test]
fn an_unoffered_version_in_a_welcome_is_a_violation() {
    let welcome = Welcome { epoch: 1, request_max: 2, reply_max: 3, quota: 4, in_flight: 5 };
    let bytes = Answer::Welcome(welcome).encode(Versions { low: 9, high: 9 });
    assert_eq!(Answer::decode(bytes.as_bytes()).err().map(|v| v.field), Some("answer.high"));
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80), magic: bool) {
        let mut bytes = bytes;
        if magic && bytes.len() >= 8 {
            bytes[..8].copy_from_slice(&MAGIC);
        }
        let _ = Hello::decode(&bytes);
        let _ = Answer::decode(&bytes);
        let _ = Message::decode(&bytes);
    }
}
