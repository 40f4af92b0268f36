//! Each row of the table "how a call ends" (design section 6), with the server in a process of its own. Limits and
//! refusals are in `limits`, broken protocol in `hostile_client` and `hostile_server`.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use callgate::{CallError, CallOptions, Client, ClientOptions, Pending, Retry, Started, codes};
use callgate_tests::data::{is_reply, method as m, request};
use callgate_tests::{BOUND, Peer, Place, until, within};

use crate::{LONGEST, PEER, method, strict};

/// What "at once" and "promptly" mean on a machine that has other things to do.
const SOON: Duration = Duration::from_secs(5);

pub fn check(client: &Client, id: u64, len: usize, reply_len: usize) {
    let reply = client.call_with(method(m::CHECKED), &request(id, len, reply_len));
    let reply = reply.unwrap_or_else(|error| panic!("call {id}: {error:?}"));
    assert_eq!(reply.status(), 0);
    assert!(is_reply(&reply.to_vec(), id, reply_len), "reply {id}");
}

fn started(error: CallError) -> Started {
    match error {
        CallError::Disconnected { started } => started,
        other => panic!("Disconnected was expected: {other:?}"),
    }
}

fn ends(pending: Pending) -> CallError {
    pending.wait().expect_err("no reply")
}

#[test]
fn answered() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let client = Client::connect(place.name()).expect("connect");
        let seen = client.server().expect("connected");
        assert_eq!(seen.pid, Some(server.pid()));
        for (id, len) in [12, 20, 47, 48, 49, 64, 4_096, 65_536, 300_000].into_iter().enumerate() {
            for reply_len in [0, 1, 48, 49, 4_095, 65_537, 500_000] {
                check(&client, id as u64, len, reply_len);
            }
        }
        assert_eq!(client.call(b"").expect("a reply").len(), 0);
        let with_status = client.call_with(method(m::STATUS), b"").expect("a reply");
        assert_eq!((with_status.status(), with_status.to_vec()), (42, b"with a status".to_vec()));
        assert_eq!(server.ask("status").number("clients"), 1);
    });
}

#[test]
fn nobody_listens() {
    within(LONGEST, || {
        let place = Place::new();
        let client = Client::lazy(place.name(), ClientOptions::default()).expect("a valid name");
        let began = Instant::now();
        match client.call(b"x") {
            Err(CallError::NotRunning { path }) => assert_eq!(path, place.path()),
            other => panic!("{other:?}"),
        }
        assert!(began.elapsed() < SOON, "at once");
        assert!(matches!(Client::connect(place.name()), Err(CallError::NotRunning { .. })));
        let server = place.server(PEER, &[]);
        check(&client, 1, 100, 100);
        server.end();
        // The name that a dead server left is no server.
        until("the client notices", || client.call(b"x").err()).to_string();
        assert!(matches!(client.call(b"x"), Err(CallError::NotRunning { .. })));
        assert!(matches!(Client::connect(place.name()), Err(CallError::NotRunning { .. })));
    });
}

#[test]
fn connect_timeout_waits_as_long_as_asked() {
    within(LONGEST, || {
        let place = Place::new();
        let mut options = ClientOptions::default();
        options.connect_timeout = Duration::from_millis(60);
        let began = Instant::now();
        let error = Client::connect_with(place.name(), options.clone()).expect_err("nobody");
        assert!(matches!(error, CallError::NotRunning { .. }), "{error:?}");
        let took = began.elapsed();
        assert!((Duration::from_millis(60)..SOON).contains(&took), "{took:?}");

        // The call's own deadline comes first.
        options.connect_timeout = BOUND;
        let client = Client::lazy(place.name(), options).expect("a valid name");
        let short = CallOptions::new().timeout(Duration::from_millis(30));
        let error = client.call_with(short, b"x").expect_err("nobody");
        assert!(matches!(error, CallError::DeadlineExceeded { .. }), "{error:?}");

        let (sender, receiver) = channel();
        let waiting = std::thread::spawn(move || {
            sender.send(()).expect("received");
            check(&client, 7, 1_000, 1_000);
        });
        receiver.recv().expect("it begins to wait");
        let _server = place.server(PEER, &[]);
        waiting.join().expect("it was answered");
    });
}

#[test]
fn a_handler_fails_or_panics_and_the_server_serves_on() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let client = Client::connect(place.name()).expect("connect");
        let other = Client::connect(place.name()).expect("connect");
        let failure = |number| match client.call_with(method(number), b"x") {
            Err(CallError::Handler { code, message }) => (code, message),
            other => panic!("{other:?}"),
        };
        for round in 0..20 {
            let (code, message) = failure(m::FAIL);
            assert_eq!((code, message), (7, format!("on purpose {}", "x".repeat(100))));
            assert_eq!(failure(m::PANIC).0, codes::PANICKED);
            assert_eq!(failure(m::DROP).0, codes::DROPPED);
            assert_eq!(failure(1_000_000).0, 99);
            check(&client, round, 700, 90);
            check(&other, round, 90, 700);
        }
        assert!(server.is_alive());
        assert_eq!(server.ask("status").number("clients"), 2);
    });
}

#[test]
fn the_deadline_passes_and_the_late_reply_is_nobodys() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let client = Client::connect(place.name()).expect("connect");
        for round in 0..30u64 {
            let timeout = Duration::from_millis(1 + round % 7);
            let began = Instant::now();
            let slow = CallOptions::new().method(m::HOLD).timeout(timeout);
            let bytes = vec![round as u8; if round % 2 == 0 { 30 } else { 3_000 }];
            let pending = client.submit(slow, &bytes).expect("sent");
            // Nobody gives up before `wait`.
            server.expect("held");
            assert_eq!(server.ask("cancelled").number("cancelled"), 0);
            match pending.wait() {
                Err(CallError::DeadlineExceeded { waited, .. }) => assert!(waited >= timeout),
                other => panic!("{other:?}"),
            }
            assert!(began.elapsed() >= timeout);
            let held = server.ask("cancelled");
            assert_eq!((held.number("held"), held.number("cancelled")), (1, 1), "it can see it");
            check(&client, round, 200, 300);
            // In flight while the late reply comes.
            let early = client
                .submit(method(m::CHECKED), &request(1_000 + round, 60, 5_000))
                .expect("sent");
            assert_eq!(server.ask("release").number("sent"), 1);
            let reply = early.wait().expect("a reply").to_vec();
            assert!(is_reply(&reply, 1_000 + round, 5_000));
            check(&client, round, 3_000, 3_000);
        }
        // A deadline that has passed already.
        let past = CallOptions::new().method(m::HOLD).deadline(Instant::now());
        let error = client.call_with(past, b"x").expect_err("too late");
        assert!(matches!(error, CallError::DeadlineExceeded { .. }), "{error:?}");
        check(&client, 1, 20, 20);
    });
}

#[test]
fn a_hang_of_the_server_is_no_death() {
    within(LONGEST, || {
        let place = Place::new();
        let server = place.server(PEER, &[]);
        let client = Client::connect_with(place.name(), strict()).expect("connect");
        check(&client, 1, 20, 20);
        server.freeze();
        let short = CallOptions::new().timeout(Duration::from_millis(50));
        let error = client.call_with(short, b"x").expect_err("it is stopped");
        assert!(matches!(error, CallError::DeadlineExceeded { .. }), "{error:?}");
        let pending = client.submit(method(m::CHECKED), &request(2, 100, 100)).expect("sent");
        assert!(!pending.is_done());
        server.thaw();
        assert!(is_reply(&pending.wait().expect("a reply").to_vec(), 2, 100));
    });
}

/// Which calls a killed server had begun is known exactly.
#[test]
fn the_server_is_killed() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        for round in 0..10 {
            let client = Client::connect_with(place.name(), strict()).expect("connect");
            let other = Client::connect_with(place.name(), strict()).expect("connect");
            check(&client, round, 20, 5_000);
            check(&other, round, 5_000, 20);
            let bytes = vec![3; 10 + 400 * round as usize];
            let held = client.submit(method(m::HOLD), &bytes).expect("sent");
            server.expect("held");
            let blocked = client.submit(method(m::BLOCK), &bytes).expect("sent");
            server.expect("blocked");
            let behind = client.submit(method(m::CHECKED), &request(round, 20, 20)).expect("sent");
            let behind_far =
                client.submit(method(m::CHECKED), &request(round, 900, 20)).expect("sent");
            let elsewhere =
                other.submit(method(m::CHECKED), &request(round, 20, 20)).expect("sent");
            server.kill();
            let began = Instant::now();
            assert_eq!(started(ends(held)), Started::MayHaveRun);
            assert_eq!(started(ends(blocked)), Started::MayHaveRun);
            assert_eq!(started(ends(behind)), Started::NotStarted);
            assert_eq!(started(ends(behind_far)), Started::NotStarted);
            assert_eq!(started(ends(elsewhere)), Started::NotStarted);
            assert!(began.elapsed() < SOON, "promptly: {:?}", began.elapsed());
            assert!(!client.is_connected());
            let gone = client.call(b"x").expect_err("dead");
            assert!(matches!(gone, CallError::NotRunning { .. }), "{gone:?}");
            server = place.server(PEER, &[]);
            check(&client, round, 20, 20);
            check(&other, round, 2_000, 2_000);
        }
    });
}

/// A caller that sleeps without a deadline is woken by the server's death.
#[test]
fn the_server_is_killed_under_sleeping_callers() {
    within(LONGEST, || {
        let place = Place::new();
        for _ in 0..10 {
            let mut server = place.server(PEER, &[]);
            let client = Client::connect_with(place.name(), strict()).expect("connect");
            let callers: Vec<_> = (0..6)
                .map(|_| {
                    let client = client.clone();
                    let held = CallOptions::new().method(m::HOLD);
                    std::thread::spawn(move || client.call_with(held, b"x").map(|_| ()))
                })
                .collect();
            for _ in 0..6 {
                server.expect("held");
            }
            server.kill();
            for caller in callers {
                let error = caller.join().expect("no panic").expect_err("it died");
                assert_eq!(started(error), Started::MayHaveRun);
            }
        }
    });
}

#[test]
fn the_server_stops() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let client = Client::connect_with(place.name(), strict()).expect("connect");
        let held = client.submit(method(m::HOLD), b"x").expect("sent");
        server.expect("held");
        server.ask("stop");
        assert_eq!(started(ends(held)), Started::MayHaveRun);
        assert!(matches!(client.call(b"x"), Err(CallError::NotRunning { .. })));
        assert_eq!(place.files(), Place::STOPPED, "a server that stops takes its socket away");
        let _next = place.server(PEER, &[]);
        check(&client, 1, 100, 100);
    });
}

#[test]
fn the_server_drains() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let client = Client::connect_with(place.name(), strict()).expect("connect");
        let aside = client.submit(method(m::BLOCK_ASIDE), &[9; 2_000]).expect("sent");
        server.expect("blocked");
        server.tell("drain 20000");
        // Once the name is free, the drain has begun.
        until("the name is free", || match Client::connect(place.name()) {
            Err(CallError::NotRunning { .. }) => Some(()),
            // It is told so later.
            Ok(_) => None,
            Err(error) => panic!("{error:?}"),
        });
        // The server lets nobody in a moment before it takes its socket away.
        until("its socket is gone", || (place.files() == Place::STOPPED).then_some(()));
        assert!(!aside.is_done());
        let _next = place.server(PEER, &[]);
        server.tell("unblock");
        server.expect_all(&["unblock", "drain all=1"]);
        assert_eq!(aside.wait().expect("taken calls finish").to_vec(), [9; 2_000]);
        // A call before it notices would be told that it was not started.
        until("the client knows", || (!client.is_connected()).then_some(()));
        check(&client, 1, 100, 100);
    });
}

/// A drain ends at its time limit, and calls that it did not take were not started.
#[test]
fn a_drain_that_takes_too_long() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let client = Client::connect_with(place.name(), strict()).expect("connect");
        let aside = client.submit(method(m::BLOCK_ASIDE), b"x").expect("sent");
        server.expect("blocked");
        let other = Client::connect_with(place.name(), strict()).expect("connect");
        let blocked = other.submit(method(m::BLOCK), b"x").expect("sent");
        server.expect("blocked");
        let behind = client.submit(method(m::CHECKED), &request(1, 20, 20)).expect("sent");
        assert_eq!(server.ask("drain 10").number("all"), 0);
        assert_eq!(started(ends(aside)), Started::MayHaveRun);
        assert_eq!(started(ends(blocked)), Started::MayHaveRun);
        assert_eq!(started(ends(behind)), Started::NotStarted);
        let _next = place.server(PEER, &[]);
        check(&client, 1, 100, 100);
    });
}

/// Which calls the library repeats, over a server's death.
#[test]
fn retries_follow_the_policy() {
    within(LONGEST, || {
        for (retry, idempotent, repeated) in [
            (Retry::Never, true, false),
            (Retry::NotStarted, true, false),
            (Retry::Idempotent, false, false),
            (Retry::Idempotent, true, true),
        ] {
            let place = Place::new();
            let server = place.server(PEER, &[]);
            let mut options = ClientOptions::default();
            options.retry = retry;
            options.connect_timeout = BOUND;
            let client = Client::connect_with(place.name(), options).expect("connect");
            let caller = std::thread::spawn(move || {
                let options = method(m::HOLD);
                let options = if idempotent { options.idempotent() } else { options };
                client.call_with(options, b"begun").map(|reply| reply.to_vec())
            });
            server.expect("held");
            server.end();
            if !repeated {
                let error = caller.join().expect("no panic").expect_err("not repeated");
                assert_eq!(started(error), Started::MayHaveRun, "{retry:?}");
                continue;
            }
            // The caller waits for it: it may be quicker than the server's own word.
            let mut next = place.peer(PEER, "server", &[]);
            next.expect_all(&["serving", "held"]);
            assert_eq!(next.ask("release").number("sent"), 1);
            assert_eq!(caller.join().expect("no panic").expect("repeated"), b"begun");
        }
    });
}

/// A call that may have run, and whose repetition finds nobody, is not said to be unsent.
#[test]
fn a_repetition_that_fails_does_not_hide_that_the_call_may_have_run() {
    within(LONGEST, || {
        for waits in [false, true] {
            let place = Place::new();
            let server = place.server(PEER, &[]);
            let mut options = ClientOptions::default();
            options.retry = Retry::Idempotent;
            options.connect_timeout = if waits { BOUND } else { Duration::ZERO };
            let client = Client::connect_with(place.name(), options).expect("connect");
            let caller = std::thread::spawn(move || {
                let options = CallOptions::new().method(m::HOLD).idempotent();
                client.call_with(options.timeout(Duration::from_secs(2)), b"begun").err()
            });
            server.expect("held");
            server.end();
            match (caller.join().expect("no panic"), waits) {
                (Some(CallError::Disconnected { started: Started::MayHaveRun }), false) => {}
                (Some(CallError::DeadlineExceeded { started: Started::MayHaveRun, .. }), true) => {}
                (other, _) => panic!("waits for the next server: {waits}: {other:?}"),
            }
        }
    });
}

#[test]
fn a_call_that_was_not_started_is_repeated_by_itself() {
    within(LONGEST, || {
        for retry in [Retry::NotStarted, Retry::Idempotent] {
            let place = Place::new();
            let server = place.server(PEER, &[]);
            let mut options = ClientOptions::default();
            options.retry = retry;
            options.connect_timeout = BOUND;
            let client = Client::connect_with(place.name(), options).expect("connect");
            let blocked = client.submit(method(m::BLOCK), b"").expect("sent");
            server.expect("blocked");
            let (sender, receiver) = channel();
            let caller = {
                let client = client.clone();
                std::thread::spawn(move || {
                    sender.send(()).expect("received");
                    check(&client, 5, 3_000, 3_000);
                })
            };
            receiver.recv().expect("it begins");
            server.end();
            assert_eq!(started(ends(blocked)), Started::MayHaveRun);
            let _next = place.server(PEER, &[]);
            caller.join().expect("repeated");
        }
    });
}

#[test]
fn a_second_server_is_told_who_serves() {
    within(LONGEST, || {
        let place = Place::new();
        let server = place.server(PEER, &[]);
        for _ in 0..5 {
            let second = place.peer(PEER, "server", &[]);
            let told = callgate_tests::peer::Words::parse(&second.expect("refused"));
            assert_eq!(told.number("in-use"), 1, "{}", told.text());
            assert_eq!(told.number("pid"), u64::from(server.pid()));
        }
        check(&Client::connect(place.name()).expect("connect"), 1, 100, 100);
        assert_eq!(place.files(), Place::SERVED);
    });
}

#[test]
fn a_handler_that_calls_its_own_server_is_told() {
    within(LONGEST, || {
        let place = Place::new();
        let _server = place.server(PEER, &[]);
        let client = Client::connect(place.name()).expect("connect");
        for _ in 0..3 {
            let reply = client.call_with(method(m::SELF), b"").expect("a reply");
            assert_eq!(reply.to_vec(), [1]);
        }
    });
}

/// Cancelling frees what the call held once it is safe, and not before.
#[test]
fn cancelled_calls_are_seen_and_their_memory_is_safe() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server: Peer = place.server(PEER, &[]);
        let client = Client::connect(place.name()).expect("connect");
        for round in 0..20u64 {
            for kept in 0..5 {
                let pending = client.submit(method(m::HOLD), &[kept; 2_000]).expect("sent");
                server.expect("held");
                if kept % 2 == 0 {
                    pending.cancel();
                } else {
                    drop(pending);
                }
            }
            let held = server.ask("cancelled");
            assert_eq!((held.number("held"), held.number("cancelled")), (5, 5));
            for id in 0..5 {
                check(&client, round * 10 + id, 2_000, 2_000);
            }
            assert_eq!(server.ask("release").number("sent"), 5);
            check(&client, round, 2_000, 2_000);
        }
    });
}
