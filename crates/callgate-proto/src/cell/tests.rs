use super::*;
use crate::body::{Inline, Think};
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
