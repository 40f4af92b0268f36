//! What is too large, too many or unwelcome: told with an error of its own, before anything is sent.

use std::time::{Duration, Instant};

use callgate::{CallError, CallOptions, Client, Pending, WhenFull, codes};
use callgate_tests::data::{method as m, request};
use callgate_tests::{Place, until, within};

use crate::endings::check;
use crate::{LONGEST, PEER, method, strict};

#[test]
fn too_large_is_told_before_anything_is_sent() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &["request_bytes=5000", "reply_bytes=6000"]);
        let client = Client::connect(place.name()).expect("connect");
        check(&client, 1, 5_000, 6_000);
        match client.call_with(method(m::CHECKED), &request(1, 5_001, 10)) {
            Err(CallError::TooLarge { len: 5_001, limit: 5_000 }) => {}
            other => panic!("{other:?}"),
        }
        let loan = client.loan(5_001).expect_err("too large");
        assert!(matches!(loan, CallError::TooLarge { len: 5_001, limit: 5_000 }), "{loan:?}");
        match client.call_with(method(m::CHECKED), &request(1, 20, 6_001)) {
            Err(CallError::Handler { code: codes::REPLY_TOO_LARGE, .. }) => {}
            other => panic!("{other:?}"),
        }
        check(&client, 2, 5_000, 6_000);
        assert_eq!(server.ask("status").number("calls"), 3, "two were never sent");
    });
}

#[test]
fn too_many_in_flight() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let mut options = strict();
        options.in_flight = Some(3);
        let failing = Client::connect_with(place.name(), options.clone()).expect("connect");
        options.when_full = WhenFull::Wait;
        let waiting = Client::connect_with(place.name(), options).expect("connect");
        let hold = |client: &Client| -> Vec<Pending> {
            let held: Vec<_> =
                (0..3).map(|_| client.submit(method(m::HOLD), b"x").expect("room")).collect();
            for _ in 0..3 {
                server.expect("held");
            }
            held
        };
        let (held, held_too) = (hold(&failing), hold(&waiting));
        let error = failing.call(b"x").expect_err("full");
        assert!(matches!(error, CallError::TooManyInFlight { limit: 3 }), "{error:?}");
        let timeout = Duration::from_millis(40);
        let began = Instant::now();
        let error = waiting.call_with(CallOptions::new().timeout(timeout), b"x");
        assert!(matches!(error, Err(CallError::DeadlineExceeded { .. })), "{error:?}");
        assert!(began.elapsed() >= timeout);
        assert_eq!(server.ask("status").number("calls"), 6, "nothing was sent");
        let waiter = {
            let waiting = waiting.clone();
            std::thread::spawn(move || check(&waiting, 1, 100, 100))
        };
        assert_eq!(server.ask("release").number("sent"), 6);
        for pending in held.into_iter().chain(held_too) {
            assert_eq!(pending.wait().expect("a reply").to_vec(), b"x");
        }
        waiter.join().expect("room came");
        check(&failing, 2, 100, 100);
    });
}

#[test]
fn request_memory_has_a_limit() {
    within(LONGEST, || {
        let place = Place::new();
        let _server = place.server(PEER, &[]);
        let mut options = strict();
        options.bytes = 256 << 10;
        let client = Client::connect_with(place.name(), options).expect("connect");
        let loans: Vec<_> = (0..2).map(|_| client.loan(100_000).expect("room")).collect();
        let error = client.loan(100_000).expect_err("no room");
        assert!(matches!(error, CallError::NoMemory { len: 100_000, .. }), "{error:?}");
        let error = client.call(&vec![0; 300_000]).expect_err("never room");
        assert!(matches!(error, CallError::NoMemory { .. }), "{error:?}");
        check(&client, 1, 40, 40);
        drop(loans);
        check(&client, 2, 200_000, 200_000);
        // Replies are the server's memory, of which this client wants no more.
        match client.call_with(method(m::CHECKED), &request(3, 20, 300_000)) {
            Err(CallError::Handler { code: codes::NO_MEMORY, .. }) => {}
            other => panic!("{other:?}"),
        }
        check(&client, 4, 200_000, 200_000);
    });
}

#[test]
fn refused_with_the_reason() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &["clients=2", "in_flight=8"]);
        let reason = |result: Result<Client, CallError>| match result {
            Err(CallError::Refused { reason, path }) => {
                assert_eq!(path, place.path());
                reason
            }
            other => panic!("{other:?}"),
        };
        let mut options = strict();
        options.in_flight = Some(9);
        let greedy = Client::connect_with(place.name(), options.clone());
        assert!(reason(greedy).contains("8 calls in flight"));
        options.in_flight = Some(8);
        let connect = || Client::connect_with(place.name(), options.clone());
        let (one, two) = (connect().expect("first"), connect().expect("second"));
        assert!(reason(connect()).contains("2 clients"));
        check(&one, 1, 100, 100);
        drop(two);
        let three = until("room again", || connect().ok());
        check(&three, 2, 100, 100);
        check(&one, 3, 100, 100);
        assert!(server.ask("status").number("refused") >= 2);
    });
}
