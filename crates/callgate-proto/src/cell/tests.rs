use super::*;
use crate::body::{Inline, Place, Think};
use proptest::prelude::*;

fn head() -> RequestHead {
    RequestHead { method: 9, next: 1, think: Think::UNKNOWN }
}

fn body(bytes: &[u8]) -> Body {
    Body::Inline(Inline::new(bytes).expect("short"))
}

#[test]
fn a_call_goes_there_and_back() {
    let (cell, turn) = (Cell::default(), Turn::START.next());
    assert!(!cell.has_request(turn, None).expect("blank"));
    assert_eq!(cell.publish_request(turn, head(), Deadline::NONE, (&body(b"ping")).into()), None);
    assert!(cell.has_request(turn, None).expect("valid"));
    let mut request = TakenRequest::default();
    cell.read_request(&mut request).expect("valid");
    assert_eq!((request.head, cell.was_given_up()), (head(), false));
    assert!(cell.poll_reply(turn).expect("still a request").is_none());
    assert!(!cell.publish_reply(turn, ReplyHead::default(), 5, &body(b"pong!")));
    let reply = cell.poll_reply(turn).expect("valid").expect("there");
    assert_eq!(reply.word, 5);
    let Body::Inline(inline) = reply.body else { panic!("inline") };
    assert_eq!(inline.bytes(), b"pong!");
    cell.release();
    assert!(cell.is_released(turn));
    assert!(!cell.is_released(turn.next()));
}

#[test]
fn a_request_is_short_or_far_or_a_violation() {
    let (cell, turn) = (Cell::default(), Turn::START.next());
    let place = Place { region: 3, offset: 64, len: 100 };
    let far = Body::Far(place);
    assert_eq!(cell.publish_request(turn, head(), Deadline::NONE, (&far).into()), None);
    let read = || {
        let mut request = TakenRequest::default();
        cell.read_request(&mut request).map(|()| request).map_err(|violation| violation.field)
    };
    let request = read().expect("far");
    let Body::Far(found) = request.body else { panic!("short") };
    assert_eq!((found, request.head), (place, head()));
    let good = cell.head.load(Ordering::Relaxed);
    let (length, zeros) = (1 << 16, 23..28);
    for bit in zeros {
        cell.head.store(good | 1 << bit, Ordering::Relaxed);
        assert_eq!(read().err(), Some("head.zero"), "bit {bit}");
    }
    cell.head.store(good | length, Ordering::Relaxed);
    assert_eq!(read().err(), Some("head.length"), "a far one with a length in the cell");
    let short = good & !(1 << 22);
    for (len, field) in
        [(0, None), (48, None), (49, Some("head.length")), (63, Some("head.length"))]
    {
        cell.head.store(short | (len * length), Ordering::Relaxed);
        assert_eq!(read().err(), field, "{len} bytes");
    }
}

#[test]
fn arming_makes_the_other_side_ring() {
    let (cell, turn) = (Cell::default(), Turn::START.next());
    assert!(cell.arm_request(turn, None, Doorbell::Word).is_some());
    assert!(cell.arm_request(turn, None, Doorbell::Socket).is_some(), "it can change its mind");
    let ring = cell.publish_request(turn, head(), Deadline::NONE, (&body(b"")).into());
    assert_eq!(ring, Some(Doorbell::Socket));
    assert!(cell.arm_request(turn, None, Doorbell::Word).is_none(), "a request is there");
    assert!(cell.arm_reply(turn).is_some());
    assert!(cell.publish_reply(turn, ReplyHead::default(), 0, &body(b"")), "must wake");
    assert!(cell.arm_reply(turn).is_none(), "the reply is there");
}

#[test]
fn a_cell_that_is_armed_while_its_call_is_unanswered_stays_armed() {
    let (cell, turn) = (Cell::default(), Turn::START.next());
    assert_eq!(cell.publish_request(turn, head(), Deadline::NONE, (&body(b"")).into()), None);
    assert!(!cell.has_request(turn.next(), Some(turn)).expect("the call before"));
    assert!(cell.has_request(turn.next(), None).is_err(), "unless it was answered");
    assert!(cell.arm_request(turn.next(), Some(turn), Doorbell::Word).is_some());
    assert!(!cell.publish_reply(turn, ReplyHead::default(), 0, &body(b"")));
    assert!(cell.poll_reply(turn).expect("valid").is_some());
    cell.release();
    assert!(cell.is_released(turn));
    let ring = cell.publish_request(turn.next(), head(), Deadline::NONE, (&body(b"")).into());
    assert_eq!(ring, Some(Doorbell::Word));
}

#[test]
fn who_disarms_rings() {
    let (cell, turn) = (Cell::default(), Turn::START.next());
    assert_eq!(cell.disarm(), None);
    assert!(cell.arm_request(turn, None, Doorbell::Socket).is_some());
    assert_eq!((cell.disarm(), cell.disarm()), (Some(Doorbell::Socket), None));
}

#[test]
fn cancelling_is_seen_and_does_not_spoil_a_reply() {
    let (cell, turn) = (Cell::default(), Turn::START.next());
    assert_eq!(cell.publish_request(turn, head(), Deadline::NONE, (&body(b"")).into()), None);
    assert!(!cell.is_cancelled(turn));
    cell.cancel(turn);
    assert!(cell.is_cancelled(turn));
    assert!(cell.has_request(turn, None).expect("valid"));
    cell.read_request(&mut TakenRequest::default()).expect("valid");
    assert!(cell.was_given_up());
    assert!(!cell.publish_reply(turn, ReplyHead::default(), 0, &body(b"")));
    cell.cancel(turn);
    assert!(cell.poll_reply(turn).expect("unspoilt").is_some());
}

#[test]
fn a_late_reply_is_no_other_calls() {
    let (cell, turn) = (Cell::default(), Turn::START.next());
    assert_eq!(cell.publish_request(turn, head(), Deadline::NONE, (&body(b"")).into()), None);
    assert!(!cell.publish_reply(turn, ReplyHead::default(), 0, &body(b"")));
    assert_eq!(cell.poll_reply(turn.next()).err().map(|v| v.field), Some("cell.state"));
}

#[test]
fn turns_wrap() {
    let last = Turn(u32::MAX >> TURN_SHIFT);
    assert_eq!(last.next(), Turn(0));
    assert!(last.next().is_after(last));
    assert!(!last.is_after(last.next()));
    assert!(!last.is_after(last));
}

#[test]
fn taken_is_read_back() {
    let header = Header::default();
    assert_eq!(header.last_taken(), Turn::START);
    header.take(Turn::START.next());
    assert_eq!(header.last_taken(), Turn::START.next());
}

proptest! {
    #[test]
    fn deadlines_round_up_by_less_than_two_ticks(now in 0u64..1 << 60, ahead in 0u64..1 << 46) {
        let back = Deadline::encode(now + ahead, now).decode(now).expect("within the horizon");
        prop_assert!(back + (1 << 16) > now + ahead, "never early by more than the tick");
        prop_assert!(back <= now + ahead + (2 << 16));
    }

    #[test]
    fn far_deadlines_are_none(now in 0u64..1 << 60) {
        prop_assert_eq!(Deadline::encode(now + (1 << 48), now), Deadline::NONE);
    }

    /// Whatever the peer wrote, each decoder ends with a value or a violation.
    #[test]
    fn scribbled_cells_never_panic(state: u32, word: u32, head: u64, body: [u64; 6], turn in 0u32..1 << 26) {
        let cell = Cell::default();
        cell.state.store(state, Ordering::Relaxed);
        cell.word.store(word, Ordering::Relaxed);
        cell.head.store(head, Ordering::Relaxed);
        for (slot, value) in cell.body.iter().zip(body) {
            slot.store(value, Ordering::Relaxed);
        }
        let _ = cell.has_request(Turn(turn), Some(Turn(turn ^ 1)));
        let _ = cell.read_request(&mut TakenRequest::default());
        let _ = cell.poll_reply(Turn(turn));
        let _ = cell.arm_reply(Turn(turn));
        cell.cancel(Turn(turn));
        let _ = cell.arm_request(Turn(turn), None, Doorbell::Socket);
        let _ = cell.disarm();
        let _ = cell.publish_reply(Turn(turn), ReplyHead::default(), 0, &self::body(b"x"));
    }
}

/// The bits are those of PROTOCOL.md, not only the same at both ends.
#[test]
fn the_state_word_is_as_the_protocol_says() {
    let (cell, turn) = (Cell::default(), Turn(5));
    let word = || cell.futex().load(Ordering::Relaxed);
    assert_eq!(cell.arm_request(turn, None, Doorbell::Word), Some(0b1100));
    assert_eq!((word(), cell.state.load(Ordering::Relaxed)), (0b1100, 0b1100));
    assert_eq!(cell.arm_request(turn, None, Doorbell::Socket), Some(0b0100), "BELL goes again");
    assert_eq!(
        cell.publish_request(turn, head(), Deadline::NONE, (&body(b"")).into()),
        Some(Doorbell::Socket)
    );
    assert_eq!(word(), 5 << 6 | 1 << 4);
    assert_eq!(cell.arm_request(turn.next(), Some(turn), Doorbell::Word), Some(5 << 6 | 0b1_1100));
    assert_eq!(cell.arm_reply(turn), Some(5 << 6 | 0b1_1101));
    assert_eq!(cell.arm_reply(turn), Some(5 << 6 | 0b1_1101), "once more");
    cell.cancel(turn);
    assert_eq!(word(), 5 << 6 | 0b1_1111);
    assert!(!cell.has_reply(turn).expect("a request, whatever flags it has"));
    assert!(cell.publish_reply(turn, ReplyHead::default(), 0, &body(b"")));
    assert_eq!(word(), 5 << 6 | 2 << 4 | 0b1100);
    cell.release();
    assert_eq!(word(), 5 << 6 | 3 << 4 | 0b1100);
    assert_eq!(cell.disarm(), Some(Doorbell::Word));
    assert_eq!(word(), 5 << 6 | 3 << 4);
    cell.state.store(0b1000, Ordering::Relaxed);
    assert_eq!(cell.disarm(), None, "BELL alone asks for nothing");
}

#[test]
fn only_the_request_before_may_stand_where_the_server_arms() {
    for (phase, turn, before, arms) in [
        (1, 4, Some(4), true),
        (1, 4, Some(3), false),
        (1, 4, None, false),
        (1, 5, Some(4), false),
        (1, 5, Some(5), false),
        (0, 0, None, true),
        (2, 4, None, true),
        (2, 4, Some(4), true),
        (2, 5, Some(4), true),
        (3, 4, None, true),
    ] {
        for flags in [0, 0b0011, 0b1100] {
            let cell = Cell::default();
            cell.state.store(turn << 6 | phase << 4 | flags, Ordering::Relaxed);
            let armed = cell.arm_request(Turn(5), before.map(Turn), Doorbell::Word);
            let expected = arms.then_some(turn << 6 | phase << 4 | flags | 0b1100);
            assert_eq!(armed, expected, "phase {phase}, turn {turn}, before {before:?}");
            let there = cell.has_request(Turn(5), before.map(Turn));
            match (phase, turn, before) {
                (1, 5, _) => assert_eq!(there, Ok(true)),
                (1, _, before) if before != Some(turn) => {
                    let found = u64::from(cell.state.load(Ordering::Relaxed));
                    let allowed = 5 << 6 | 1 << 4;
                    assert_eq!(there, Err(Violation::new("cell.state", found, allowed)));
                }
                _ => assert_eq!(there, Ok(false)),
            }
        }
    }
}

#[test]
fn a_reply_with_a_clients_flags_is_a_violation() {
    for (word, is_reply) in [
        (0b10_0000, true),
        (0b10_1100, true),
        (0b10_0001, false),
        (0b10_0010, false),
        (0b11_0000, false),
        (0, false),
    ] {
        let cell = Cell::default();
        cell.state.store(5 << 6 | word, Ordering::Relaxed);
        let violation = Violation::new("cell.state", (5 << 6 | word).into(), 5 << 6 | 2 << 4);
        let expected = if is_reply { Ok(true) } else { Err(violation) };
        assert_eq!(cell.has_reply(Turn(5)), expected, "{word:#b}");
    }
}

#[test]
fn a_short_reply_is_read_at_once_and_others_are_not() {
    let (cell, turn) = (Cell::default(), Turn::START.next());
    assert!(cell.publish_request(turn, head(), Deadline::NONE, (&body(b"")).into()).is_none());
    let says = ReplyHead { failure: false, active: 3, cpu: Some(1) };
    assert!(!cell.publish_reply(turn, says, 9, &body(b"pong")));
    let short = cell.read_short_reply().expect("short");
    assert_eq!((short.status, short.body.bytes(), short.hints.active()), (9, &b"pong"[..], 3));
    let (cell, failure) = (Cell::default(), ReplyHead { failure: true, ..says });
    assert!(cell.publish_request(turn, head(), Deadline::NONE, (&body(b"")).into()).is_none());
    assert!(!cell.publish_reply(turn, failure, 9, &body(b"pong")));
    assert!(cell.read_short_reply().is_none());
}

#[test]
fn turns_are_of_26_bits_and_half_of_them_come_after() {
    assert_eq!(Turn::of_number((1 << 26) + 5), Turn(5));
    assert_eq!(Turn::of_number((1 << 26) - 1), Turn((1 << 26) - 1));
    let half = 1 << 25;
    assert!(Turn(half - 1).is_after(Turn(0)) && !Turn(0).is_after(Turn(half - 1)));
    assert!(!Turn(half).is_after(Turn(0)), "too far to tell");
}

#[test]
fn a_deadline_is_the_end_of_its_tick() {
    assert_eq!(Deadline::encode(0, 0), Deadline(1));
    assert_eq!(Deadline::encode((1 << 16) - 1, 0), Deadline(1));
    assert_eq!(Deadline::encode(1 << 16, 0), Deadline(2));
    assert_eq!(
        Deadline::encode(((1 << 32) - 1) << 16, ((1 << 32) - 1) << 16),
        Deadline(1),
        "0 is none"
    );
}
