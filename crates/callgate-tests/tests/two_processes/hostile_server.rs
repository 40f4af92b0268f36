//! A hostile server can spoil its clients' calls, and nothing else: they end with a typed error, never with a panic, a
//! hang or a fault, and the next call over a new connection is a call like any other.

use std::time::{Duration, Instant};

use callgate::{CallError, CallOptions, Client, ClientOptions, Reply, Side, Started};
use callgate_proto::wire::{Answer, Message, Reason, Status, Versions, Welcome};
use callgate_tests::memory::{impostors, payload_seals};
use callgate_tests::roles::hostile_server::{REGION, REPLY_MAX};
use callgate_tests::roles::kind;
use callgate_tests::{BOUND, Peer, Place, Rng, until, within};

use crate::{LONGEST, PEER, method, strict};

/// A hostile server, and what a client that knows nothing of that sees.
struct Stage {
    place: Place,
    server: Peer,
}

impl Stage {
    fn new() -> Self {
        let place = Place::new();
        let server = place.peer(PEER, "hostile-server", &["seed=5"]);
        server.expect("serving");
        Self { place, server }
    }

    fn mode(&mut self, mode: &str) {
        self.server.tell(&format!("mode {mode}"));
        self.server.expect("mode");
    }

    fn connect(&self) -> Result<Client, CallError> {
        let mut options = strict();
        options.timeout = Some(BOUND / 2);
        Client::connect_with(self.place.name(), options)
    }

    /// Connects in `mode`.
    fn connect_in(&mut self, mode: &str) -> Result<Client, CallError> {
        self.mode(mode);
        self.connect()
    }

    /// Connects and calls in `mode`; then all is well again for the same client.
    fn call_in(&mut self, mode: &str) -> Result<Reply, CallError> {
        self.mode(mode);
        let client = self.connect()?;
        let began = Instant::now();
        let ended = client.call_with(method(0), b"hello");
        assert!(began.elapsed() < BOUND / 2, "{mode}: it took {:?}", began.elapsed());
        if !matches!(ended, Ok(_) | Err(CallError::Handler { .. })) {
            self.mode("echo");
            let reply = client.call_with(method(0), b"again");
            let reply = reply.unwrap_or_else(|error| panic!("after {mode}: {error:?}"));
            assert_eq!(reply.to_vec(), b"again", "after {mode}");
        }
        assert!(self.server.is_alive(), "{}", self.server.errors());
        ended
    }

    /// The field that the client says was wrong.
    fn violation_in(&mut self, mode: &str) -> &'static str {
        violation(mode, self.call_in(mode))
    }
}

fn violation<T: std::fmt::Debug>(mode: &str, ended: Result<T, CallError>) -> &'static str {
    match ended {
        Err(CallError::ProtocolViolation { guilty: Side::Server, violation }) => violation.field,
        other => panic!("{mode}: {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    // A dash, so that no bytes are a word too.
    bytes.iter().fold("-".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

#[test]
fn it_closes_at_every_step() {
    within(LONGEST, || {
        let mut stage = Stage::new();
        for _ in 0..20 {
            for mode in ["close-at-once", "close-after-hello"] {
                match stage.connect_in(mode) {
                    Err(CallError::NotRunning { path }) => assert_eq!(path, stage.place.path()),
                    other => panic!("{mode}: {other:?}"),
                }
            }
            for mode in ["close-after-welcome", "close-at-request"] {
                match stage.call_in(mode) {
                    Err(CallError::Disconnected { started: Started::NotStarted }) => {}
                    other => panic!("{mode}: {other:?}"),
                }
            }
        }
    });
}

/// What it says it had taken decides what the client is told; it can lie, but only to its own clients.
#[test]
fn it_lies_about_what_it_took() {
    within(LONGEST, || {
        let mut stage = Stage::new();
        for (taken, expected) in [
            (0u32, Started::NotStarted),
            (1, Started::MayHaveRun),
            (2, Started::MayHaveRun),
            (1 << 27, Started::MayHaveRun),
            (0x0fff_ffff, Started::NotStarted),
            (1 << 28, Started::NotStarted),
            (u32::MAX, Started::NotStarted),
        ] {
            match stage.call_in(&format!("taken {taken}")) {
                Err(CallError::Disconnected { started }) => {
                    assert_eq!(started, expected, "{taken}")
                }
                other => panic!("{taken}: {other:?}"),
            }
        }
    });
}

#[test]
fn it_never_answers() {
    within(LONGEST, || {
        let mut stage = Stage::new();
        let mut options = strict();
        options.timeout = Some(Duration::from_millis(50));
        stage.mode("silent");
        let began = Instant::now();
        match Client::connect_with(stage.place.name(), options) {
            Err(CallError::DeadlineExceeded { .. }) => {}
            other => panic!("{other:?}"),
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(50) && took < BOUND / 2, "{took:?}");
        match callgate::status(stage.place.name(), Duration::from_millis(50)) {
            Err(CallError::DeadlineExceeded { .. }) => {}
            other => panic!("{other:?}"),
        }
        stage.mode("hang");
        let client = stage.connect().expect("connected");
        let short = CallOptions::new().timeout(Duration::from_millis(50));
        for _ in 0..10 {
            let error = client.call_with(short, b"x").expect_err("no answer");
            assert!(matches!(error, CallError::DeadlineExceeded { .. }), "{error:?}");
        }
        stage.mode("unread");
        let client = stage.connect().expect("connected");
        let mut seen = std::collections::HashSet::new();
        let mut loans = Vec::new();
        for round in 0..40usize {
            // Each needs memory of its own, which nobody takes over.
            let deadline = CallOptions::new().timeout(Duration::from_millis(20));
            let error = client.call_with(deadline, &vec![1; 1_000 * round]).expect_err("no answer");
            seen.insert(kind(&error));
            loans.extend(client.loan(100_000).ok());
        }
        assert!(seen.contains("deadline"), "{seen:?}");
        for kind in seen {
            assert!(["deadline", "too-many", "no-memory"].contains(&kind), "{kind}");
        }
    });
}

#[test]
fn its_answer_is_garbage() {
    within(LONGEST, || {
        let mut rng = Rng::printed("its_answer_is_garbage");
        let mut stage = Stage::new();
        for len in (0..=66).chain([100, 1_000, 60_000]) {
            let fds = if len % 7 == 3 { rng.below(200) } else { 0 };
            let mode = format!("answer {} {fds}", hex(&rng.bytes(len)));
            if len > 2_000 {
                // Too long for a line of commands to be quick, but not for this.
                violation("long", stage.connect_in(&mode));
                continue;
            }
            violation(&mode, stage.connect_in(&mode));
        }
        let welcome = Welcome { epoch: 1, request_max: 9, reply_max: 9, quota: 9, in_flight: 64 };
        let good = Answer::Welcome(welcome).encode(Versions::OURS).as_bytes().to_vec();
        for at in 0..16 {
            let mut bytes = good.clone();
            bytes[at] ^= 0x50;
            let mode = format!("answer {} 0", hex(&bytes));
            violation(&mode, stage.connect_in(&mode));
        }
        for len in [0, 1, 8, 15, 16, 24, 63, 65, 128] {
            let mut bytes = good.clone();
            bytes.resize(len, 0);
            let mode = format!("answer {} 0", hex(&bytes));
            violation(&mode, stage.connect_in(&mode));
        }
        // More calls in flight than 32 bits.
        let mut bytes = good.clone();
        bytes[16 + 4 * 8 + 5] = 1;
        let mode = format!("answer {} 0", hex(&bytes));
        assert_eq!(violation(&mode, stage.connect_in(&mode)), "answer.in_flight");
        // Fewer calls than asked for.
        for in_flight in [0, 1, 63] {
            let answer = Answer::Welcome(Welcome { in_flight, ..welcome }).encode(Versions::OURS);
            let mode = format!("answer {} 0", hex(answer.as_bytes()));
            assert_eq!(violation(&mode, stage.connect_in(&mode)), "answer.in_flight");
        }
        // The answer to another question.
        let answer = Answer::Status(Status::default()).encode(Versions::OURS);
        let mode = format!("answer {} 0", hex(answer.as_bytes()));
        assert_eq!(violation(&mode, stage.connect_in(&mode)), "answer.kind");
        stage.mode(&format!("answer {} 0", hex(&good)));
        let status = callgate::status(stage.place.name(), BOUND);
        assert_eq!(violation("status", status), "answer.kind");
        stage.mode("echo");
        stage.connect().expect("connected").call(b"x").expect("a reply");
    });
}

#[test]
fn its_refusals_are_told_in_words() {
    within(LONGEST, || {
        let mut stage = Stage::new();
        for reason in [
            Some(Reason::Denied),
            Some(Reason::Clients),
            Some(Reason::ClientsOfUser),
            Some(Reason::InFlight),
            Some(Reason::Malformed),
            Some(Reason::Exhausted),
            None,
        ] {
            let answer = Answer::Refusal { reason, limit: u64::MAX }.encode(Versions::OURS);
            match stage.connect_in(&format!("answer {} 0", hex(answer.as_bytes()))) {
                Err(CallError::Refused { reason: words, .. }) => assert!(!words.is_empty()),
                other => panic!("{reason:?}: {other:?}"),
            }
        }
        let mut unknown = Answer::Refusal { reason: None, limit: 0 }.encode(Versions::OURS);
        let _ = &mut unknown;
        let mut bytes = unknown.as_bytes().to_vec();
        bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        match stage.connect_in(&format!("answer {} 0", hex(&bytes))) {
            Err(CallError::Refused { .. }) => {}
            other => panic!("{other:?}"),
        }
        let theirs = Versions { low: 7, high: 9 };
        let version = Answer::Refusal { reason: Some(Reason::Version), limit: 0 }.encode(theirs);
        match stage.connect_in(&format!("answer {} 0", hex(version.as_bytes()))) {
            Err(CallError::Version { ours: (1, 1), theirs: (7, 9) }) => {}
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn it_welcomes_with_absurd_numbers() {
    within(LONGEST, || {
        let mut stage = Stage::new();
        let max = u64::MAX;
        let mode = format!("welcome {max} {max} {max} {}", u32::MAX);
        let client = stage.connect_in(&mode).expect("it may allow more than is asked for");
        assert_eq!(client.call(b"x").expect("a reply").to_vec(), b"x");
        // The client's own limits hold.
        match client.loan(usize::MAX) {
            Err(CallError::NoMemory { .. }) => {}
            other => panic!("{other:?}"),
        }
        match client.loan((1 << 30) + 1) {
            Err(CallError::NoMemory { .. }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(client.call(&[1; 5_000]).expect("a reply").len(), 0);
        let held: Vec<_> = (0..64)
            .map(|_| client.submit(method(0), b"x").expect("64 are what the client asked for"))
            .collect();
        drop(held);

        let client = stage.connect_in("welcome 0 0 0 64").expect("connected");
        assert_eq!(client.call(b"").expect("a reply").len(), 0);
        match client.call(b"x") {
            Err(CallError::TooLarge { len: 1, limit: 0 }) => {}
            other => panic!("{other:?}"),
        }
        let client = stage.connect_in("welcome 9999999 9999999 0 64").expect("connected");
        match client.call(&[1; 49]) {
            Err(CallError::NoMemory { quota: 0, .. }) => {}
            other => panic!("{other:?}"),
        }
        let client = stage.connect_in("welcome 9999999 9999999 4097 64").expect("connected");
        client.call(&[1; 4_000]).expect("a reply");
        match client.call(&[1; 5_000]) {
            Err(CallError::NoMemory { quota: 4_097, .. }) => {}
            other => panic!("{other:?}"),
        }
        let welcomed_twice = stage.call_in("welcome-twice");
        match &welcomed_twice {
            Ok(_) | Err(CallError::ProtocolViolation { guilty: Side::Server, .. }) => {}
            other => panic!("{other:?}"),
        }
    });
}

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
        for at in 0..impostors(REGION, payload_seals()).len() {
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

/// The default options trust no further than these tests do.
#[test]
fn the_defaults_are_bounded() {
    let options = ClientOptions::default();
    assert_eq!((options.in_flight, options.bytes), (64, 1 << 30));
}
