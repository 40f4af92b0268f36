//! The control region, all of which a client can write, at any time.

use super::{QUOTA, Stage, scribble};
use crate::{LONGEST, PEER};
use callgate::Client;
use callgate_proto::body::{Body, Inline};
use callgate_proto::layout::DETOUR_OFFSET;
use callgate_sys::futex;
use callgate_tests::data::method as m;
use callgate_tests::hostile::{Raw, control_size, park, requeue, state, wait_closed};
use callgate_tests::memory::punch;
use callgate_tests::usage::cpu_ticks;
use callgate_tests::{Place, Rng, until, within};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Everything that a call's cell can say and must not.
#[test]
fn nonsense_in_the_cells() {
    const FAR: u64 = 1 << 22;
    const SIZE: u64 = 5 << 16;
    within(LONGEST, || {
        let mut stage = Stage::new(&["request_bytes=250000"]);
        let request = |turn| state::word(turn, 1);
        // (what, state, head, first body words), for the first call in cell 0; its honest head names cell 2.
        let place = |region: u64, offset: u64, len: u64| [region, offset, len];
        let none = [0, 0, 0];
        let cases: Vec<(&str, u32, u64, [u64; 3])> = vec![
            ("turn 0", request(0), 2, none),
            ("turn 2", request(2), 2, none),
            ("the last turn", request((1 << 26) - 1), 2, none),
            ("cell 65 of 65 as the next", request(1), 65, none),
            ("cell 1024 as the next", request(1), 1_024, none),
            ("cell 65535 as the next", request(1), 65_535, none),
            ("49 bytes inline", request(1), 2 | 49 << 16, none),
            ("63 bytes inline", request(1), 2 | 63 << 16, none),
            ("far and a length", request(1), 2 | FAR | 1 << 16, none),
            ("bit 23", request(1), 2 | 1 << 23, none),
            ("bit 27", request(1), 2 | 1 << 27, none),
            ("all bits of the head", request(1), u64::MAX, none),
            ("an unknown region", request(1), 2 | FAR, place(9, 0, 10)),
            ("a region id of 33 bits", request(1), 2 | FAR, place(1 << 32, 0, 10)),
            ("an offset past the end", request(1), 2 | FAR, place(0, SIZE + 1, 0)),
            ("an offset of 64 bits", request(1), 2 | FAR, place(0, u64::MAX, 1)),
            ("a length past the end", request(1), 2 | FAR, place(0, SIZE, 1)),
            ("one byte past the end", request(1), 2 | FAR, place(0, SIZE - 5_536, 5_537)),
            ("a sum that wraps", request(1), 2 | FAR, place(0, u64::MAX - 10, 20)),
            ("a length of 64 bits", request(1), 2 | FAR, place(0, 0, u64::MAX)),
            ("more than a request may have", request(1), 2 | FAR, place(0, 0, 250_001)),
        ];
        for (what, state, head, body) in cases {
            stage.attack(what, 1, |stage| {
                let mut raw = stage.raw();
                raw.add_region(0, SIZE as usize);
                for (at, word) in body.into_iter().enumerate() {
                    raw.words.body(0, at).store(word, Ordering::Relaxed);
                }
                raw.words.head(0).store(head, Ordering::Relaxed);
                raw.words.state(0).store(state, Ordering::SeqCst);
                let _ = raw.socket.ring();
                wait_closed(&raw.socket);
            });
        }
        stage.attack("the cell of an unanswered call as the next", 1, |stage| {
            let mut raw = stage.raw();
            let held = raw.publish_bytes(m::HOLD, b"held");
            stage.server.expect("held");
            let ticket = raw.submitter.draw(false).expect("a cell");
            assert_eq!(ticket.cell, held.next);
            raw.words.head(ticket.cell).store(u64::from(held.cell), Ordering::Relaxed);
            let turn = state::number(ticket.turn);
            raw.words.state(ticket.cell).store(state::word(turn, 1), Ordering::SeqCst);
            let _ = raw.socket.ring();
            wait_closed(&raw.socket);
        });
        stage.attack("a request over its own unanswered one", 1, |stage| {
            let mut raw = stage.raw();
            let ticket = raw.submitter.draw(true).expect("a cell");
            raw.publish_as(ticket, m::HOLD, Body::Inline(Inline::new(b"held").expect("short")));
            stage.server.expect("held");
            let turn = state::number(ticket.turn) + 1;
            raw.words.state(ticket.cell).store(state::word(turn, 1), Ordering::SeqCst);
            let _ = raw.socket.ring();
            wait_closed(&raw.socket);
        });
        for (what, cell) in [("itself", 0u64), ("cell 65 of 65", 65), ("cell 65535", 65_535)] {
            stage.attack(&format!("a detour to {what}"), 1, |stage| {
                let mut raw = stage.raw();
                let ticket = raw.submitter.draw(true).expect("a cell");
                raw.publish_as(ticket, m::ECHO, Body::Inline(Inline::new(b"").expect("short")));
                raw.wait(ticket).expect("an answer");
                raw.words.words32()[DETOUR_OFFSET / 4 + 1].store(0, Ordering::SeqCst);
                let word = (2 << 16 | cell) as u32;
                raw.words.words32()[DETOUR_OFFSET / 4].store(word, Ordering::SeqCst);
                let _ = raw.socket.ring();
                wait_closed(&raw.socket);
            });
        }
        stage.server.ask("release");
        stage.attack("exactly at the limits, which is allowed", 0, |stage| {
            let mut raw = stage.raw();
            raw.add_region(0, SIZE as usize);
            for (offset, len) in
                [(0, 250_000), (SIZE, 0), (SIZE - 1, 1), (1, 1), (SIZE - 250_000, 250_000)]
            {
                let ticket = raw.publish_far(m::ECHO, 0, offset, len);
                let reply = raw.wait(ticket).expect("still connected");
                assert!(!reply.head.failure, "{offset} {len}");
                assert_eq!(reply.body.len(), len);
                raw.put_back(ticket);
            }
        });
        stage.finish();
    });
}

/// States that mean nothing to the server are no request: it goes on waiting, without burning the processor.
#[test]
fn states_that_are_no_request() {
    within(LONGEST, || {
        let mut stage = Stage::new(&[]);
        stage.attack("states without a request", 0, |stage| {
            let raw = stage.raw();
            for phase in [0, 2, 3] {
                for turn in [0, 1, 2, 77, (1 << 26) - 1] {
                    for flags in 0..16 {
                        let word = state::word(turn, phase) | flags;
                        raw.words.state(0).store(word, Ordering::SeqCst);
                        let _ = raw.socket.ring();
                    }
                }
            }
            stage.honest_goes_on(50);
            // The connection lives: a true call is answered.
            let mut raw = raw;
            let ticket = raw.publish_bytes(m::ECHO, b"hello");
            match raw.wait(ticket).expect("still connected").body {
                Body::Inline(inline) => assert_eq!(inline.bytes(), b"hello"),
                Body::Far(place) => panic!("{place:?}"),
            }
        });
        stage.finish();
    });
}

/// Random and chosen words anywhere in the control region, while calls run on that very connection.
#[test]
fn scribbles_over_the_control_region() {
    within(LONGEST, || {
        let mut rng = Rng::printed("scribbles_over_the_control_region");
        let mut stage = Stage::new(&["echo=1"]);
        let before = stage.violations();
        let began = Instant::now();
        let mut connections = 0;
        while began.elapsed() < Duration::from_millis(1_500) {
            let mut raw = stage.raw();
            raw.add_region(0, 65_536);
            connections += 1;
            let style = rng.below(5);
            for _ in 0..50_000 {
                if raw.socket.is_closed() {
                    break;
                }
                if rng.chance(20) {
                    match raw.submitter.draw(rng.chance(50)) {
                        Some(ticket) => {
                            let body = if rng.chance(50) {
                                Body::Inline(Inline::new(b"some bytes").expect("short"))
                            } else {
                                let (offset, len) = (rng.next() % 70_000, rng.next() % 10_000);
                                Body::Far(callgate_proto::body::Place { region: 0, offset, len })
                            };
                            let think = callgate_proto::body::Think::UNKNOWN;
                            let deadline = callgate_proto::cell::Deadline::NONE;
                            let (cells, detour) = (raw.words.cells(), raw.words.detour());
                            let _ = callgate_proto::chain::publish(
                                cells,
                                detour,
                                ticket,
                                0,
                                think,
                                deadline,
                                (&body).into(),
                            );
                            raw.put_back(ticket);
                        }
                        None => break,
                    }
                }
                scribble(&mut rng, &raw, style);
                if rng.chance(30) {
                    let _ = raw.socket.ring();
                }
            }
        }
        assert!(stage.server.is_alive(), "{}", stage.server.errors());
        let violations = stage.violations() - before;
        eprintln!("{connections} connections, {violations} violations");
        assert!(violations > 0 && violations <= connections);
        stage.finish();
    });
}

/// The control region's pages are taken away, again and again, while calls run.
#[test]
fn the_control_region_is_punched() {
    within(LONGEST, || {
        let mut rng = Rng::printed("the_control_region_is_punched");
        let mut stage = Stage::new(&["echo=1"]);
        for _ in 0..40 {
            let mut raw = stage.raw();
            let size = control_size(65) as u64;
            for round in 0..20 {
                raw.publish_bytes(0, b"bytes");
                if rng.chance(60) || round == 19 {
                    punch(&raw.fd, 0, size);
                }
            }
        }
        assert!(stage.server.is_alive(), "{}", stage.server.errors());
        stage.finish();
    });
}

/// Idle again after all that, a server sleeps.
#[test]
fn an_armed_connection_full_of_nonsense_costs_no_time() {
    within(LONGEST, || {
        let place = Place::new();
        let server = place.server(PEER, &[]);
        let raws: Vec<Raw> = (0..20).map(|_| Raw::connect(&place.path(), 65, QUOTA)).collect();
        for (raw, phase) in raws.iter().zip([0u32, 2, 3].into_iter().cycle()) {
            raw.words.state(0).store(state::word(3, phase), Ordering::SeqCst);
            let _ = raw.socket.ring();
        }
        // An honest call shows that the bells were met.
        let client = Client::connect(place.name()).expect("connect");
        client.call(b"x").expect("a reply");
        let ticks = cpu_ticks(server.pid());
        let began = Instant::now();
        until("some time passes", || (began.elapsed() >= Duration::from_millis(500)).then_some(()));
        let used = cpu_ticks(server.pid()) - ticks;
        assert!(used <= 10, "{used} ticks of processor time in half a second of nothing");
    });
}

/// A client that moves the sleeping worker off its own word (FUTEX_REQUEUE) takes away its own doorbell, and no other.
#[test]
fn a_sleeper_that_is_moved_hears_the_others() {
    // Where the system cannot sleep on several words, workers sleep on none.
    if futex::wait_any(&[], Some(0)).is_none() {
        return;
    }
    within(LONGEST, || {
        let place = Place::new();
        let _server = place.server(PEER, &[]);
        let mut raw = Raw::connect(&place.path(), 65, QUOTA);
        let honest = Client::connect(place.name()).expect("connect");
        for round in 0..20u8 {
            let ticket = raw.publish_bytes(m::ECHO, &[round]);
            raw.wait(ticket).expect("still connected");
            raw.put_back(ticket);
            let (from, to) = (raw.words.state(ticket.next), raw.words.unused());
            let moved = until("the worker sleeps on our word", || {
                Some(requeue(from, to)).filter(|moved| *moved > 0)
            });
            assert_eq!(moved, 1);
            // In turns by its word and, the first time, by its socket.
            let options = crate::method(m::ECHO).timeout(Duration::from_secs(10));
            assert_eq!(honest.call_with(options, &[round]).expect("served").to_vec(), [round]);
        }
    });
}

/// A client that parks many on the word of its call loses its own wakes: the reply wakes two, the caller and the worker
/// that an honest connection has there, and the thread that answers does not pay for the rest.
#[test]
fn a_crowd_of_sleepers_is_not_woken() {
    const CROWD: u32 = 8;
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let mut raw = Raw::connect(&place.path(), 65, QUOTA);
        let ticket = raw.publish_bytes(m::HOLD, b"held");
        server.expect("held");
        let cell = &raw.words.cells()[usize::from(ticket.cell)];
        let value = cell.arm_reply(ticket.turn).expect("not answered");
        let (word, aside) = (cell.futex(), raw.words.unused());
        std::thread::scope(|scope| {
            park(scope, word, value, aside, CROWD);
            assert_eq!(server.ask("release").number("sent"), 1);
            assert_eq!(futex::wake(word, u32::MAX), CROWD - 2, "asleep after the reply");
        });
        assert!(!raw.wait(ticket).expect("still connected").head.failure);
    });
}
