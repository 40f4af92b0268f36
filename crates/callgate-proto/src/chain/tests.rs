use super::*;
use crate::body::{Body, Inline, ReplyHead, Think};
use proptest::prelude::*;
use std::collections::HashSet;

fn cells(n: u32) -> Vec<Cell> {
    (0..n).map(|_| Cell::default()).collect()
}

fn number(n: u32) -> Body {
    Body::Inline(Inline::new(&n.to_le_bytes()).expect("short"))
}

fn value(body: Body) -> u32 {
    let Body::Inline(inline) = body else { panic!("inline") };
    u32::from_le_bytes(inline.bytes().try_into().expect("four bytes"))
}

#[test]
fn all_cells_but_one_can_be_in_flight() {
    for n in [2, 3, 62, 1024] {
        let mut submitter = Submitter::new(n);
        for alone in [true, false, true] {
            let drawn: HashSet<u16> =
                std::iter::from_fn(|| submitter.draw(alone)).map(|t| t.cell).collect();
            assert_eq!((drawn.len(), submitter.available()), (n as usize - 1, 0));
            for cell in drawn {
                submitter.put_back(cell);
            }
            assert_eq!(submitter.available(), n as usize - 1);
        }
    }
}

#[test]
fn the_first_cell_is_agreed() {
    for n in [2, 3, 64] {
        assert_eq!(Submitter::new(n).draw(true).expect("free").cell, Intake::new(n).cell);
    }
}

#[test]
fn a_lone_caller_stays_in_one_cell_and_others_in_two_that_are_not_neighbours() {
    for (alone, cells) in [(true, HashSet::from([0])), (false, HashSet::from([0, 2]))] {
        let mut submitter = Submitter::new(62);
        let mut used = HashSet::new();
        for _ in 0..100 {
            let ticket = submitter.draw(alone).expect("free");
            assert_eq!(ticket.detour(), None);
            used.insert(ticket.cell);
            submitter.put_back(ticket.cell);
        }
        assert_eq!(used, cells);
    }
}

#[test]
fn a_request_over_an_unanswered_one_is_a_violation() {
    let (cells, detour, deferred) = (cells(4), Detour::default(), Deferred::default());
    let (mut submitter, mut intake) = (Submitter::new(4), Intake::new(4));
    for _ in 0..2 {
        let ticket = submitter.draw(true).expect("free");
        submitter.put_back(ticket.cell);
        let _ = publish(
            &cells,
            &detour,
            ticket,
            0,
            Think::UNKNOWN,
            Deadline::NONE,
            (&number(1)).into(),
        );
        if let Ok(Some(taken)) = intake.take(&cells, &detour, &deferred) {
            deferred.insert(taken.cell);
        }
    }
    let found = intake.take(&cells, &detour, &deferred).err().map(|v| v.field);
    assert_eq!(found, Some("cell.state (unanswered)"));
}

#[test]
fn a_detour_to_nowhere_is_a_violation() {
    for (cell, field) in
        [(4u64, "detour.cell"), (0, "detour.cell"), (3, "detour.cell (unanswered)")]
    {
        let (cells, detour, deferred) = (cells(4), Detour::default(), Deferred::default());
        let (mut submitter, mut intake) = (Submitter::new(4), Intake::new(4));
        let ticket = submitter.draw(true).expect("free");
        let _ = publish(
            &cells,
            &detour,
            ticket,
            0,
            Think::UNKNOWN,
            Deadline::NONE,
            (&number(1)).into(),
        );
        assert!(intake.take(&cells, &detour, &deferred).expect("honest").is_some());
        deferred.insert(3);
        detour.lead(2 << NUMBER_SHIFT | cell);
        assert!(intake.is_waiting(&cells, &detour).expect("something"));
        assert!(intake.arm(&cells, &detour, Doorbell::Socket).is_none());
        let found = intake.take(&cells, &detour, &deferred).err().map(|v| v.field);
        assert_eq!(found, Some(field));
    }
}

#[test]
fn a_next_cell_out_of_range_busy_or_its_own_is_a_violation() {
    for (next, field) in
        [(4u16, "head.next"), (u16::MAX, "head.next"), (3, "head.next (unanswered)")]
    {
        let cells = cells(4);
        let deferred = Deferred::default();
        deferred.insert(3);
        let ticket = Ticket { turn: Turn::START.next(), cell: 0, next, detour: None };
        let detour = Detour::default();
        let _ = publish(
            &cells,
            &detour,
            ticket,
            0,
            Think::UNKNOWN,
            Deadline::NONE,
            (&number(1)).into(),
        );
        let found = Intake::new(4).take(&cells, &detour, &deferred).err().map(|v| v.field);
        assert_eq!(found, Some(field));
    }
}

proptest! {
    /// Calls drawn, answered and given back in any order arrive once each, in order, with their own bytes.
    #[test]
    fn calls_arrive_in_order_and_replies_find_their_calls(
        n in 2u32..20,
        steps in proptest::collection::vec((0u8..5, any::<prop::sample::Index>()), 1..400),
    ) {
        let (cells, detour) = (cells(n), Detour::default());
        let mut armed = false;
        let deferred = Deferred::default();
        let (mut submitter, mut intake) = (Submitter::new(n), Intake::new(n));
        let (mut sent, mut took) = (0u32, 0u32);
        let (mut waiting, mut taken): (Vec<(Ticket, u32)>, Vec<Taken>) = Default::default();
        for (step, pick) in steps {
            match step {
                0 | 1 => if let Some(ticket) = submitter.draw(step == 1) {
                    let ring = publish(&cells, &detour, ticket, 0, Think::UNKNOWN, Deadline::NONE, (&number(sent)).into());
                    if armed {
                        prop_assert!(ring != Ring::No, "who finds the server asleep must ring");
                        armed = false;
                    }
                    waiting.push((ticket, sent));
                    sent += 1;
                } else {
                    prop_assert_eq!(waiting.len() as u32, n - 1);
                },
                2 => armed = intake.arm(&cells, &detour, Doorbell::Word).is_some(),
                3 => if let Some(call) = intake.take(&cells, &detour, &deferred).expect("honest") {
                    prop_assert!(!armed, "asleep, and a call is there");
                    prop_assert_eq!(value(call.request.body), took);
                    took += 1;
                    deferred.insert(call.cell);
                    taken.push(call);
                } else {
                    prop_assert_eq!(took, sent);
                },
                _ => if !taken.is_empty() {
                    let call = taken.swap_remove(pick.index(taken.len()));
                    deferred.remove(call.cell);
                    let answer = number(value(call.request.body));
                    let _ = cells[usize::from(call.cell)].publish_reply(call.turn, ReplyHead::default(), 0, &answer);
                    let at = waiting.iter().position(|(t, _)| t.cell == call.cell).expect("was sent");
                    let (ticket, asked) = waiting.swap_remove(at);
                    let reply = cells[usize::from(ticket.cell)].poll_reply(ticket.turn).expect("honest").expect("there");
                    prop_assert_eq!(value(reply.body), asked);
                    submitter.put_back(ticket.cell);
                },
            }
        }
        prop_assert_eq!(deferred.count() as usize, taken.len());
    }
}
