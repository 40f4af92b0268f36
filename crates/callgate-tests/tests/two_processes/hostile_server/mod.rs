//! A hostile server can spoil its clients' calls, and nothing else: they end with a typed error, never with a panic, a
//! hang or a fault, and the next call over a new connection is a call like any other.

mod connected;

use std::time::{Duration, Instant};

use callgate::{CallError, CallOptions, Client, Reply, Side, Started};
use callgate_proto::wire::{Answer, Message, Reason, Status, Versions, Welcome};
use callgate_tests::memory::{held_seals, impostors};
use callgate_tests::roles::hostile_server::{CROWD, REGION, REPLY_MAX};
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
            (1 << 25, Started::MayHaveRun),
            (0x03ff_ffff, Started::NotStarted),
            (1 << 26, Started::NotStarted),
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
        // A client that does not mind how many asks for fewer, once.
        for limit in [0, 1, 63, 64] {
            let reason = Some(Reason::InFlight);
            let answer = Answer::Refusal { reason, limit }.encode(Versions::OURS);
            let words = match stage.connect_in(&format!("answer {} 0", hex(answer.as_bytes()))) {
                Err(CallError::Refused { reason: words, .. }) => words,
                other => panic!("{limit}: {other:?}"),
            };
            let asked = if (1..64).contains(&limit) { limit } else { 64 };
            assert!(words.contains(&format!("asks for {asked};")), "{limit}: {words}");
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
