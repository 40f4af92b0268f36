//! What it can do to a client that has connected.

use super::*;

/// Everything that a reply's cell can say and must not.
#[test]
fn nonsense_in_the_cells() {
    const FAR: u64 = 1 << 22;
    within(LONGEST, || {
        let mut stage = Stage::new();
        let max = u64::MAX;
        let last = (1u64 << 28) - 1;
        for (what, phase, turn, head, body, field) in [
            ("blank", 0, 0, 0, [0, 0, 0], "cell.state"),
            ("all zero", 0, last, 0, [0, 0, 0], "cell.state"),
            ("released", 3, 0, 0, [0, 0, 0], "cell.state"),
            ("the reply to the call before", 2, last, 0, [0, 0, 0], "cell.state"),
            ("the reply to the next call", 2, 1, 0, [0, 0, 0], "cell.state"),
            ("the request of the next call", 1, 1, 0, [0, 0, 0], "cell.state"),
            ("49 bytes inline", 2, 0, 49 << 16, [0, 0, 0], "head.length"),
            ("63 bytes inline", 2, 0, 63 << 16, [0, 0, 0], "head.length"),
            ("far and a length", 2, 0, FAR | 1 << 16, [0, 0, 1], "head.length"),
            ("bit 24", 2, 0, 1 << 24, [0, 0, 0], "head.zero"),
            ("bit 31", 2, 0, 1 << 31, [0, 0, 0], "head.zero"),
            ("all bits", 2, 0, max, [max, max, max], "head.zero"),
            ("an unknown region", 2, 0, FAR, [1, 0, 1], "place.region"),
            ("a region id of 33 bits", 2, 0, FAR, [1 << 32, 0, 1], "place.region"),
            ("an offset past the end", 2, 0, FAR, [0, REGION + 1, 0], "place.offset"),
            ("an offset of 64 bits", 2, 0, FAR, [0, max, 1], "place.offset"),
            ("a byte past the end", 2, 0, FAR, [0, REGION, 1], "place.len"),
            ("bytes past the end", 2, 0, FAR, [0, REGION - 10, 11], "place.len"),
            ("a sum that wraps", 2, 0, FAR, [0, max - 5, 10], "place.offset"),
            ("more than it said", 2, 0, FAR, [0, 0, REPLY_MAX + 1], "place.len"),
            ("a length of 64 bits", 2, 0, FAR, [0, 0, max], "place.len"),
            ("a failure with a bad message", 2, 0, FAR | 1 << 23, [9, 0, 1], "place.region"),
        ] {
            let [b0, b1, b2] = body;
            let mode = format!("cell {phase} {turn} {head} {b0} {b1} {b2}");
            assert_eq!(stage.violation_in(&mode), field, "{what}");
        }
        // Exactly at the limits.
        for (offset, len) in [(0, REPLY_MAX), (REGION, 0), (REGION - 1, 1), (3, 5)] {
            let reply = stage.call_in(&format!("cell 2 0 {FAR} 0 {offset} {len}")).expect("valid");
            assert_eq!(reply.to_vec(), vec![0; len as usize]);
        }
        // A failure whose message is no text.
        let head = 1 << 23 | 8 << 16;
        match stage.call_in(&format!("cell 2 0 {head} {max} 0 0")) {
            Err(CallError::Handler { message, .. }) => assert_eq!(message.chars().count(), 8),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn nonsense_over_the_socket() {
    within(LONGEST, || {
        let mut stage = Stage::new();
        let region = |id, size| hex(Message::Region { id, size }.encode().as_bytes());
        let retire = |id| hex(Message::Retire { id }.encode().as_bytes());
        for (message, fds) in [
            (region(0, REGION), 0),
            (region(0, REGION), 2),
            (region(0, REGION), 10),
            (region(0, REGION), 253),
            (region(0, 0), 1),
            (region(0, REGION - 1), 1),
            (region(0, REGION + 4_096), 1),
            (region(0, 4_096), 1),
            (region(0, (1 << 30) + 1), 1),
            (region(0, u64::MAX), 1),
            (retire(0), 0),
            (retire(u32::MAX), 0),
            (retire(0), 5),
            (hex(&[0]), 0),
            (hex(&[0]), 3),
            (hex(&[1]), 0),
            (hex(&[]), 0),
            (hex(b"R\0\0\0"), 0),
            (hex(b"R\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0"), 1),
            (hex(&[b'X'; 8]), 0),
            (hex(&[0xff; 64]), 0),
            (hex(&[0; 65]), 0),
            (hex(&[7; 1_000]), 100),
        ] {
            stage.violation_in(&format!("message {message} {fds}"));
        }
        for at in 0..impostors(REGION, held_seals()).len() {
            let field = stage.violation_in(&format!("impostor {at}"));
            assert_eq!(field, "region.memory");
        }
    });
}

/// It takes the control region's pages away: zeros are no fault, and the caller sleeps no longer than it must.
#[test]
fn it_punches_the_control_region() {
    within(LONGEST, || {
        let mut stage = Stage::new();
        for _ in 0..10 {
            assert_eq!(stage.violation_in("punch"), "cell.state");
        }
    });
}

#[test]
fn it_scribbles_over_the_control_region() {
    within(LONGEST, || {
        let mut stage = Stage::new();
        let began = Instant::now();
        let (mut calls, mut ends) = (0, std::collections::HashMap::new());
        while began.elapsed() < Duration::from_millis(1_500) {
            stage.mode("scribble");
            let Ok(client) = stage.connect() else { continue };
            std::thread::scope(|scope| {
                let callers: Vec<_> = (0..3)
                    .map(|_| {
                        scope.spawn(|| {
                            let short = CallOptions::new().timeout(Duration::from_millis(100));
                            let mut ended = Vec::new();
                            for round in 0..50 {
                                let bytes = vec![1; round % 3 * 40];
                                match client.call_with(short, &bytes) {
                                    Ok(_) => ended.push("ok"),
                                    Err(error) => ended.push(kind(&error)),
                                }
                            }
                            ended
                        })
                    })
                    .collect();
                for caller in callers {
                    for kind in caller.join().expect("no panic") {
                        calls += 1;
                        *ends.entry(kind).or_insert(0) += 1;
                    }
                }
            });
        }
        eprintln!("{calls} calls: {ends:?}");
        assert!(ends.contains_key("violation"), "{ends:?}");
    });
}

/// It moves a sleeping caller to a word that nobody wakes, and goes: the caller asks the kernel itself, after a second.
#[test]
fn a_caller_that_is_moved_finds_out_by_itself() {
    within(LONGEST, || {
        let mut stage = Stage::new();
        match stage.call_in("moved") {
            Err(CallError::Disconnected { .. }) => {}
            other => panic!("{other:?}"),
        }
    });
}

/// It parks many on the word that its client rings: the client wakes two, and does not pay for the rest.
#[test]
fn a_crowd_where_it_is_rung_is_not_woken() {
    within(LONGEST, || {
        let mut stage = Stage::new();
        stage.mode("crowd");
        let client = stage.connect().expect("connected");
        assert_eq!(client.call(b"x").expect("a reply").to_vec(), b"x");
        stage.server.expect("parked");
        let first = client.submit(method(0), b"rings").expect("sent");
        let asleep = client.call(b"does not ring").expect("a reply").to_vec();
        assert_eq!(asleep, [CROWD - 2], "asleep after a ring");
        drop(first);
    });
}

/// Replies whose bytes go on changing, or whose memory is retired while they are held.
#[test]
fn replies_that_move() {
    within(LONGEST, || {
        let mut stage = Stage::new();
        let reply = stage.call_in("moving").expect("a reply");
        assert_eq!(reply.len() as u64, REPLY_MAX);
        for _ in 0..100 {
            assert_eq!(reply.to_vec().len() as u64, REPLY_MAX);
            let mut sum = 0u64;
            reply.payload().for_each_chunk(|bytes| sum += u64::from(bytes[0]));
            let mut some = [0; 100];
            assert_eq!(reply.payload().read_at(REPLY_MAX as usize - 50, &mut some), 50);
        }
        drop(reply);
        stage.mode("retire");
        let client = stage.connect().expect("connected");
        let reply = client.call(b"x").expect("a reply");
        for _ in 0..10 {
            assert_eq!(client.call(b"more").expect("a reply").to_vec(), b"more");
        }
        assert_eq!(reply.to_vec(), vec![0; 1_000], "a reply outlives its region's retirement");
    });
}

/// It sends announcement after announcement: other servers' deaths are noticed all the same, and deadlines are kept.
#[test]
fn a_flood_of_announcements() {
    within(LONGEST, || {
        let mut stage = Stage::new();
        stage.mode("flood");
        let flooded = stage.connect().expect("connected");
        let pending = flooded.submit(method(0), b"x").expect("sent");

        let honest_place = Place::new();
        for _ in 0..3 {
            let mut honest = honest_place.server(PEER, &[]);
            let client = Client::connect_with(honest_place.name(), strict()).expect("connect");
            let held = CallOptions::new().method(callgate_tests::data::method::HOLD);
            let held = client.submit(held, b"x").expect("sent");
            honest.expect("held");
            honest.kill();
            let began = Instant::now();
            let error = held.wait().expect_err("it died");
            assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        }
        let began = Instant::now();
        let short = CallOptions::new().timeout(Duration::from_millis(50));
        let error = flooded.call_with(short, b"x").expect_err("it never answers");
        let kinds = ["deadline", "violation", "not-running", "not-started"];
        assert!(kinds.contains(&kind(&error)), "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        drop(pending);
    });
}

/// A client process that met every kind of hostile server is as it was before.
#[test]
fn nothing_is_left_in_the_client() {
    within(LONGEST, || {
        let mut rng = Rng::printed("nothing_is_left_in_the_client");
        let place = Place::new();
        let honest = place.server(PEER, &[]);
        let seed = format!("seed={}", rng.next() >> 1);
        let words = ["mode=mixed", "threads=2", "timeout_ms=200", "unchecked=1", &seed];
        let mut client = place.peer(PEER, "load", &words);
        client.expect("ready");
        assert_eq!(client.ask("once").number("ok"), 1);
        let before = client.usage();
        honest.end();
        let mut hostile = place.peer(PEER, "hostile-server", &[&seed]);
        hostile.expect("serving");
        hostile.tell("mode random");
        hostile.expect("mode");
        client.ask("run");
        // The client meets them all: some hundred connections.
        until("calls ended in many ways", || {
            let counted = client.ask("count");
            let kinds = ["ok", "violation", "not-running", "not-started"];
            kinds.iter().all(|kind| counted.number(kind) > 20).then_some(())
        });
        let counted = client.ask("pause");
        eprintln!("{}", counted.text());
        assert_eq!(counted.number("other"), 0, "{}", counted.text());
        assert!(hostile.is_alive(), "{}", hostile.errors());
        hostile.end();
        let _honest = place.server(PEER, &[]);
        assert_eq!(client.ask("once").number("ok"), 1);
        until("the client is as it was", || {
            let usage = client.usage();
            if !usage.is_back_to(&before) {
                eprintln!("{usage:?} against {before:?}");
            }
            usage.is_back_to(&before).then_some(())
        });
        assert!(!client.errors().contains("panicked"), "{}", client.errors());
    });
}
