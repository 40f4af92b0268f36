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
fn the_next_calls_cell_is_told_before_it_is_drawn() {
    let mut submitter = Submitter::new(9);
    for count in [1, 3, 8, 2] {
        let drawn: Vec<u16> = (0..count)
            .map(|_| {
                let told = submitter.next_cell();
                let ticket = submitter.draw(false).expect("free");
                assert_eq!(ticket.cell, told);
                told
            })
            .collect();
        for cell in drawn {
            submitter.put_back(cell);
        }
    }
}

#[test]
fn who_is_unanswered_is_told_from_all_others() {
    let cells = [0, 1, 15, 16, 63, 64, 65, 127, 128, 959, 960, 1023];
    for cell in cells {
        let deferred = Deferred::default();
        deferred.insert(cell);
        let unanswered: Vec<u16> = (0..1024).filter(|other| deferred.contains(*other)).collect();
        assert_eq!((unanswered, deferred.count()), (vec![cell], 1));
        deferred.remove(cell);
        assert_eq!(deferred.count(), 0);
    }
}

#[test]
fn a_call_that_lies_far_behind_was_taken_whatever_its_turn_says() {
    // Numbers and turns go together here: none has wrapped.
    let at = |number: u64, next: u64, taken: u64| {
        may_have_run(Turn::of_number(number), Era::of(number), next, Turn::of_number(taken))
    };
    let turns = 1 << 26;
    for first in [1, turns - 5, 7 * turns - 1] {
        assert!(at(first, first + 1, first), "the last one, taken");
        assert!(!at(first, first + 1, first - 1), "the last one, not taken");
        assert!(!at(first + 1, first + 60, first), "in flight behind it");
        for distance in [2_000, 65_536, 131_072, turns / 2 + 1, turns / 2 + 9, turns, 3 * turns + 5]
        {
            let newest = first + distance;
            assert!(at(first, newest + 1, newest), "{distance} calls ago");
            assert!(at(first, newest + 1, newest - 50), "{distance} calls ago, 50 in flight");
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
        let found = Intake::new(4).take(&cells, &detour, &deferred).err();
        assert_eq!(found, Some(Violation::new(field, next.into(), 3)));
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

#[test]
fn numbers_go_round_without_0() {
    let last = u64::MAX >> NUMBER_SHIFT;
    assert_eq!((after(1), after(last - 1), after(last)), (2, last, 1));
    assert_eq!((before(2), before(last), before(1)), (1, last - 1, last));
}

#[test]
fn a_detour_says_who_waits_where_and_what_comes() {
    let (cells, detour, deferred) = (cells(4), Detour::default(), Deferred::default());
    let mut submitter = Submitter::new(4);
    assert_eq!(submitter.number(), 1);
    let lone = submitter.draw(true).expect("free");
    assert_eq!((lone.cell, lone.next, lone.detour(), submitter.number()), (0, 0, None, 2));
    let other = submitter.draw(true).expect("free");
    assert_ne!(other.next, other.cell, "it is not alone");
    assert_eq!(other.detour(), Some((0, 2 << 16 | u64::from(other.cell))));
    let mut intake = Intake::new(4);
    assert_eq!(intake.cell(), 0);
    for ticket in [lone, other] {
        let content = number(7);
        let _ =
            publish(&cells, &detour, ticket, 0, Think::UNKNOWN, Deadline::NONE, (&content).into());
    }
    for ticket in [lone, other] {
        let taken = intake.take(&cells, &detour, &deferred).expect("honest").expect("there");
        assert_eq!(
            (taken.turn, taken.cell, intake.cell()),
            (ticket.turn, ticket.cell, ticket.next)
        );
    }
    // The lone call's cell is the next one's no more.
    assert!(!submitter.put_back(lone.cell));
    assert!(!submitter.put_back(other.cell));
    assert_eq!((submitter.available(), submitter.number()), (3, 3));
}

#[test]
fn a_place_is_lent_once_and_comes_back_as_it_was_left() {
    // How often it is used, and whether the last one has ended.
    for (calls, ended) in [(1, false), (1, true), (2, false), (2, true), (5, true)] {
        let (mut submitter, lease) = (Submitter::new(4), Lease::default());
        assert!(lease.begin().is_none(), "nothing is lent");
        let first = submitter.draw(true).expect("free");
        assert!(!submitter.is_lent() && submitter.lend(&lease, &first) && submitter.is_lent());
        assert!(lease.begin().is_none() && lease.likely_cell().is_none(), "it is in use");
        assert!(!lease.end_of(first.turn.next(), first.cell), "another turn's");
        assert!(!lease.end_of(first.turn, first.cell + 1), "another cell's");
        let (mut turn, mut lone) = (first.turn, None);
        for call in 1..=calls {
            if call > 1 {
                assert_eq!(lease.likely_cell(), Some(first.cell));
                let begun = lease.begin().expect("lent");
                turn = turn.next();
                assert_eq!((begun.turn(), begun.cell()), (turn, first.cell));
                assert_eq!(begun.number(), call);
                assert!(lease.begin().is_none(), "it is in use");
                lone = Some(begun);
            }
            if call < calls || ended {
                let done = match lone {
                    Some(lone) => lease.end(lone),
                    None => lease.end_of(turn, first.cell),
                };
                assert!(done);
            }
        }
        assert_eq!(submitter.recall(&lease), ended.then_some(first.cell));
        assert_eq!(submitter.recall(&lease), None, "nothing is lent");
        assert!(lease.begin().is_none() && !lease.end_of(turn, first.cell), "it was recalled");
        assert_eq!(submitter.number(), calls + 1);
        assert_eq!(submitter.available(), if ended { 3 } else { 2 });
        let next = submitter.draw(true).expect("free");
        assert_eq!(next.turn, turn.next());
        assert_eq!(next.detour().is_some(), !ended);
        assert_eq!(next.cell == first.cell, ended);
        submitter.put_back(next.cell);
        if !ended {
            submitter.put_back(first.cell);
        }
        assert_eq!(submitter.available(), 3);
    }
}

#[test]
fn a_call_that_names_another_cell_lends_nothing() {
    let (mut submitter, lease) = (Submitter::new(4), Lease::default());
    let ticket = submitter.draw(false).expect("free");
    assert!(!submitter.lend(&lease, &ticket));
    assert!(!lease.end_of(ticket.turn, ticket.cell), "nothing is lent");
    // Nor does one whose number and turn have parted.
    let mut late = Submitter::new(4);
    late.turn = Turn::of_number(7);
    let ticket = late.draw(true).expect("free");
    assert!(!late.lend(&lease, &ticket) && !late.lent);
    assert!(!lease.end_of(ticket.turn, ticket.cell), "nothing is lent");
}

#[test]
fn a_server_arms_where_nothing_waits() {
    let (cells, detour) = (cells(4), Detour::default());
    let (mut submitter, intake) = (Submitter::new(4), Intake::new(4));
    assert_eq!(intake.is_waiting(&cells, &detour), Ok(false));
    assert_eq!(intake.arm(&cells, &detour, Doorbell::Socket), Some(0b0100));
    assert_eq!(intake.arm(&cells, &detour, Doorbell::Word), Some(0b1100));
    let ticket = submitter.draw(true).expect("free");
    let content = number(1);
    let ring =
        publish(&cells, &detour, ticket, 0, Think::UNKNOWN, Deadline::NONE, (&content).into());
    assert_eq!(ring, Ring::Word(0));
    assert_eq!(intake.is_waiting(&cells, &detour), Ok(true));
    assert_eq!(intake.arm(&cells, &detour, Doorbell::Socket), None);
}

#[test]
fn any_cell_can_be_lent_up_to_the_last_number() {
    let (mut submitter, lease) = (Submitter::new(4), Lease::default());
    let first = submitter.draw(false).expect("free");
    submitter.put_back(first.cell);
    let lone = submitter.draw(true).expect("free");
    assert!(lone.cell > 0 && lone.next == lone.cell);
    submitter.lend(&lease, &lone);
    assert!(submitter.lent && lease.end_of(lone.turn, lone.cell));
    let begun = lease.begin().expect("lent");
    assert_eq!((begun.turn(), begun.cell()), (lone.turn.next(), lone.cell));

    let last = u64::MAX >> NUMBER_SHIFT;
    assert!(lease::can_lend(last - 1, Turn::of_number(last - 1)));
    assert!(!lease::can_lend(last, Turn::of_number(last)), "the next one would be 0");
    assert!(!lease::can_lend(7, Turn::of_number(8)));
    for number in [100_000, 1 << 27, last - 2] {
        let (mut submitter, lease) = (Submitter::new(4), Lease::default());
        (submitter.number, submitter.turn) = (number, Turn::of_number(number));
        let lone = submitter.draw(true).expect("free");
        submitter.lend(&lease, &lone);
        assert!(lease.end_of(lone.turn, lone.cell));
        let begun = lease.begin().expect("lent");
        assert_eq!((begun.turn(), begun.number()), (lone.turn.next(), number + 1));
    }
    // The last call that is lent a place does not lend it on.
    let (mut submitter, lease) = (Submitter::new(4), Lease::default());
    (submitter.number, submitter.turn) = (last - 1, Turn::of_number(last - 1));
    let lone = submitter.draw(true).expect("free");
    submitter.lend(&lease, &lone);
    assert!(submitter.lent && lease.end_of(lone.turn, lone.cell));
    assert!(lease.begin().is_none());
    submitter.recall(&lease);
    assert_eq!((submitter.number(), submitter.available()), (last, 3));
}
