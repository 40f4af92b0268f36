//! Client and server in one process: what a call carries, and how it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use callgate::{
    Call, CallError, CallOptions, Client, ClientOptions, Deferred, Retry, Server, ServerOptions,
    Started, WhenFull, codes,
};

/// An endpoint in a directory of its own, which goes with it.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn name(&self) -> String {
        self.directory.path().join("s").to_str().expect("utf-8").to_owned()
    }
}

fn echo(call: Call<'_>) {
    let bytes = call.request().to_vec();
    let _ = call.reply(&bytes);
}

/// Defers all calls to whoever has the receiver.
fn deferring(place: &Place, options: ServerOptions) -> (Server, Receiver<Deferred>) {
    let (sender, receiver) = channel();
    let handler = move |call: Call<'_>| drop(sender.send(call.defer()));
    (Server::serve_with(place.name(), options, handler).expect("serve"), receiver)
}

/// As many calls as may be in flight, and one more; they are answered.
fn exactly(many: u32, client: &Client, deferred: &Receiver<Deferred>) {
    let submit = || client.submit(CallOptions::new(), b"x");
    let pending: Vec<_> = (0..many).map(|_| submit().expect("fits")).collect();
    let full = submit().expect_err("one too many");
    assert!(matches!(full, CallError::TooManyInFlight { limit } if limit == many), "{full:?}");
    for call in deferred.iter().take(many as usize) {
        call.reply(b"y").expect("the caller waits");
    }
    for pending in pending {
        assert_eq!(pending.wait().expect("a reply").to_vec(), b"y");
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + len) as u8).collect()
}

#[test]
fn all_sizes_come_back_whole() {
    let place = Place::new();
    let _server = Server::serve(place.name(), echo).expect("serve");
    let client = Client::connect(place.name()).expect("connect");
    for len in [0, 1, 7, 8, 47, 48, 49, 63, 64, 65, 4096, 65_535, 65_536, 1 << 20, (5 << 20) + 3] {
        let bytes = pattern(len);
        assert_eq!(client.call(&bytes).expect("a reply").to_vec(), bytes, "{len} bytes");
    }
}

#[test]
fn a_request_and_reply_of_256_mib_need_no_tuning() {
    let place = Place::new();
    let _server = Server::serve(place.name(), |call: Call<'_>| {
        let len = call.request().len();
        let mut loan = call.loan(len).expect("room");
        let (request, reply) = loan.split();
        request.copy_to(reply);
        loan.send().expect("sent");
    })
    .expect("serve");
    let client = Client::connect(place.name()).expect("connect");
    let mut loan = client.loan(256 << 20).expect("room");
    for (at, page) in loan.chunks_mut(4096).enumerate() {
        page[..8].copy_from_slice(&at.to_le_bytes());
    }
    let reply = loan.call(CallOptions::new()).expect("a reply");
    assert_eq!(reply.len(), 256 << 20);
    let mut word = [0; 8];
    for at in 0..(256 << 20) / 4096 {
        reply.payload().read_at(at * 4096, &mut word);
        assert_eq!(usize::from_le_bytes(word), at);
    }
    drop(reply);
    let too_large = client.call(&vec![0; (256 << 20) + 1]).expect_err("over the limit");
    assert!(matches!(too_large, CallError::TooLarge { limit, .. } if limit == 256 << 20));
    assert_eq!(client.call(b"still fine").expect("a reply").to_vec(), b"still fine");
}

#[test]
fn methods_statuses_and_failures_arrive() {
    let place = Place::new();
    let _server = Server::serve(place.name(), |call: Call<'_>| match call.method() {
        1 => drop(call.reply_status(42, b"with a status")),
        2 => drop(call.fail(7, "out of cheese, and the message is longer than one cell holds")),
        3 => panic!("on purpose"),
        4 => drop(call),
        _ => drop(call.reply(b"")),
    })
    .expect("serve");
    let client = Client::connect(place.name()).expect("connect");
    let call = |method| client.call_with(CallOptions::new().method(method), b"");
    let reply = call(1).expect("a reply");
    assert_eq!((reply.status(), reply.to_vec()), (42, b"with a status".to_vec()));
    let failure = |method| match call(method) {
        Err(CallError::Handler { code, message }) => (code, message),
        other => panic!("{other:?}"),
    };
    let (code, message) = failure(2);
    assert_eq!(code, 7);
    assert!(message.starts_with("out of cheese") && message.ends_with("holds"));
    assert_eq!(failure(3).0, codes::PANICKED);
    assert_eq!(failure(4).0, codes::DROPPED);
    assert_eq!(call(0).expect("serves on").status(), 0);
}

#[test]
fn deferred_calls_are_answered_in_any_order() {
    let place = Place::new();
    let (sender, receiver) = std::sync::mpsc::channel::<Deferred>();
    let _server = Server::serve(place.name(), move |call: Call<'_>| {
        sender.send(call.defer()).expect("the answering thread lives");
    })
    .expect("serve");
    let answering = std::thread::spawn(move || {
        let mut calls: Vec<Deferred> = receiver.iter().take(40).collect();
        calls.reverse();
        for call in calls {
            let bytes = call.request().to_vec();
            call.reply(&bytes).expect("the caller waits");
        }
    });
    let client = Client::connect(place.name()).expect("connect");
    let requests: Vec<_> = (0..40).map(|at| pattern(at * 50)).collect();
    let pending: Vec<_> = requests
        .iter()
        .map(|request| client.submit(CallOptions::new(), request).expect("submitted"))
        .collect();
    for (request, pending) in requests.iter().zip(pending).rev() {
        assert_eq!(pending.wait().expect("a reply").to_vec(), *request);
    }
    answering.join().expect("answered");
}

#[test]
fn sixty_four_calls_can_be_in_flight_and_no_more() {
    let place = Place::new();
    let (_server, deferred) = deferring(&place, ServerOptions::default());
    let client = Client::connect(place.name()).expect("connect");
    exactly(64, &client, &deferred);
    let pending = client.submit(CallOptions::new(), b"x").expect("room again");
    deferred.recv().expect("a call").reply(b"z").expect("sent");
    assert_eq!(pending.wait().expect("a reply").to_vec(), b"z");
}

#[test]
fn a_client_that_does_not_mind_gets_what_the_server_allows() {
    let place = Place::new();
    let mut options = ServerOptions::default();
    options.limits.in_flight = 10;
    let (_server, deferred) = deferring(&place, options);
    exactly(10, &Client::connect(place.name()).expect("connect"), &deferred);
}

#[test]
fn a_call_whose_time_is_over_is_not_sent() {
    let place = Place::new();
    let ran = Arc::new(AtomicU32::new(0));
    let counts = ran.clone();
    let _server = Server::serve(place.name(), move |call: Call<'_>| {
        counts.fetch_add(1, Ordering::Relaxed);
        let _ = call.reply(b"");
    })
    .expect("serve");
    let over =
        [CallOptions::new().timeout(Duration::ZERO), CallOptions::new().deadline(Instant::now())];
    let not_sent = |ended: Result<(), CallError>| match ended {
        Err(CallError::DeadlineExceeded { started: Started::NotStarted, waited }) => {
            assert!(waited < Duration::from_secs(20), "{waited:?}");
        }
        other => panic!("{other:?}"),
    };
    let mut sent = 0;
    for lazy in [true, false] {
        let client = Client::lazy(place.name(), ClientOptions::default()).expect("a good name");
        if !lazy {
            client.call(b"").expect("a reply");
            sent += 1;
        }
        for (options, len) in over.iter().flat_map(|it| [(*it, 0), (*it, 3_000)]) {
            not_sent(client.call_with(options, &pattern(len)).map(drop));
            not_sent(client.submit(options, &pattern(len)).map(drop));
            not_sent(client.loan(len).expect("room").call(options).map(drop));
            not_sent(client.loan(len).expect("room").submit(options).map(drop));
        }
        // What was refused took no place, and none of it arrives before this one.
        for _ in 0..100 {
            client.call(&pattern(3_000)).expect("a reply");
            sent += 1;
        }
    }
    assert_eq!(ran.load(Ordering::Relaxed), sent);
}

#[test]
fn back_pressure_waits_when_asked_to() {
    let place = Place::new();
    let _server = Server::serve(place.name(), echo).expect("serve");
    let mut options = ClientOptions::default();
    options.in_flight = Some(2);
    options.when_full = WhenFull::Wait;
    let client = Client::connect_with(place.name(), options).expect("connect");
    std::thread::scope(|scope| {
        for thread in 0..8usize {
            let client = &client;
            scope.spawn(move || {
                for at in 0..500 {
                    let request = pattern(thread * 13 + at % 90);
                    assert_eq!(client.call(&request).expect("a reply").to_vec(), request);
                }
            });
        }
    });
}

#[test]
fn a_passed_deadline_ends_the_call_and_its_late_reply_is_nobodys() {
    let place = Place::new();
    let (sender, receiver) = std::sync::mpsc::channel::<Deferred>();
    let sender = std::sync::Mutex::new(sender);
    let _server = Server::serve(place.name(), move |call: Call<'_>| match call.method() {
        0 => echo(call),
        _ => sender.lock().expect("lock").send(call.defer()).expect("received"),
    })
    .expect("serve");
    let client = Client::connect(place.name()).expect("connect");
    for _ in 0..100 {
        let slow = CallOptions::new().method(1).timeout(Duration::from_millis(1));
        let began = Instant::now();
        let pending = client.submit(slow, &pattern(100)).expect("sent");
        let call = receiver.recv().expect("it is taken, since nobody cancels it before the wait");
        let error = pending.wait().expect_err("nobody answers in time");
        assert!(matches!(error, CallError::DeadlineExceeded { .. }), "{error:?}");
        assert!(began.elapsed() >= Duration::from_millis(1));
        assert!(call.is_cancelled());
        assert_eq!(client.call(b"next").expect("a reply").to_vec(), b"next");
        let _ = call.reply(b"late");
        assert_eq!(client.call(b"after").expect("a reply").to_vec(), b"after");
    }
}

#[test]
fn a_handler_sees_caller_and_deadline() {
    let place = Place::new();
    let _server = Server::serve(place.name(), |call: Call<'_>| {
        let caller = call.caller();
        assert_eq!(caller.pid, Some(std::process::id()));
        let left = call.deadline().map(|deadline| deadline - Instant::now());
        let left = left.map_or(u64::MAX, |left| left.as_millis() as u64);
        let _ = call.reply(&left.to_le_bytes());
    })
    .expect("serve");
    let client = Client::connect(place.name()).expect("connect");
    let left = |options| {
        let reply = client.call_with(options, b"").expect("a reply").to_vec();
        u64::from_le_bytes(reply.try_into().expect("eight bytes"))
    };
    assert_eq!(left(CallOptions::new()), u64::MAX);
    let seen = left(CallOptions::new().timeout(Duration::from_secs(50)));
    assert!((40_000..=50_001).contains(&seen), "{seen} ms");
}

#[test]
fn dropped_calls_give_their_cells_back() {
    let place = Place::new();
    let _server = Server::serve(place.name(), echo).expect("serve");
    let client = Client::connect(place.name()).expect("connect");
    for round in 0..1_000usize {
        match client.submit(CallOptions::new(), &pattern(round % 200)) {
            Ok(pending) => pending.cancel(),
            Err(CallError::TooManyInFlight { .. }) => std::thread::yield_now(),
            Err(other) => panic!("{other:?}"),
        }
    }
    let mut options = CallOptions::new();
    options = options.timeout(Duration::from_secs(20));
    loop {
        match client.call_with(options, b"alive") {
            Ok(reply) => break assert_eq!(reply.to_vec(), b"alive"),
            Err(CallError::TooManyInFlight { .. }) => std::thread::yield_now(),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn client_before_server_and_a_restart() {
    let place = Place::new();
    let client = Client::lazy(place.name(), ClientOptions::default()).expect("a valid name");
    assert!(matches!(client.call(b"x"), Err(CallError::NotRunning { .. })));
    assert!(matches!(Client::connect(place.name()), Err(CallError::NotRunning { .. })));
    for _ in 0..5 {
        let server = Server::serve(place.name(), echo).expect("serve");
        assert_eq!(client.call(b"x").expect("it runs now").to_vec(), b"x");
        drop(server);
        assert!(matches!(client.call(b"x"), Err(CallError::NotRunning { .. })));
    }
}

#[test]
fn a_waiting_client_meets_a_late_server() {
    let place = Place::new();
    let mut options = ClientOptions::default();
    options.connect_timeout = Duration::from_secs(30);
    let name = place.name();
    let waiting = std::thread::spawn(move || {
        let client = Client::connect_with(name, options)?;
        client.call(b"x").map(|reply| reply.to_vec())
    });
    std::thread::yield_now();
    let _server = Server::serve(place.name(), echo).expect("serve");
    assert_eq!(waiting.join().expect("no panic").expect("it came"), b"x");
}

#[test]
fn stopping_ends_pending_calls_and_says_what_is_known() {
    let place = Place::new();
    let (sender, receiver) = std::sync::mpsc::channel::<Deferred>();
    let sender = std::sync::Mutex::new(sender);
    let server = Server::serve(place.name(), move |call: Call<'_>| {
        sender.lock().expect("lock").send(call.defer()).expect("received");
    })
    .expect("serve");
    let mut options = ClientOptions::default();
    options.retry = Retry::Never;
    let client = Client::connect_with(place.name(), options).expect("connect");
    let pending = client.submit(CallOptions::new(), b"x").expect("sent");
    let call = receiver.recv().expect("taken");
    server.stop();
    let error = pending.wait().expect_err("the server has stopped");
    let started = Started::MayHaveRun;
    assert!(matches!(error, CallError::Disconnected { started: s } if s == started), "{error:?}");
    assert!(call.is_cancelled());
    assert!(call.reply(b"too late").is_err());
    server.wait();
}

#[test]
fn draining_finishes_what_was_taken() {
    let place = Place::new();
    let (sender, receiver) = std::sync::mpsc::channel::<Deferred>();
    let sender = std::sync::Mutex::new(sender);
    let server = Server::serve(place.name(), move |call: Call<'_>| {
        sender.lock().expect("lock").send(call.defer()).expect("received");
    })
    .expect("serve");
    let client = Client::connect(place.name()).expect("connect");
    let pending = client.submit(CallOptions::new(), b"x").expect("sent");
    let call = receiver.recv().expect("taken");
    std::thread::scope(|scope| {
        let drained = scope.spawn(|| server.drain(Duration::from_secs(20)));
        call.reply(b"done").expect("still connected");
        assert!(drained.join().expect("no panic"), "all calls finished");
    });
    assert_eq!(pending.wait().expect("a reply").to_vec(), b"done");
    assert!(matches!(client.call(b"x"), Err(CallError::NotRunning { .. })));
}

#[test]
fn a_drain_does_not_wait_for_ever() {
    let place = Place::new();
    let (sender, receiver) = std::sync::mpsc::channel::<Deferred>();
    let sender = std::sync::Mutex::new(sender);
    let server = Server::serve(place.name(), move |call: Call<'_>| {
        sender.lock().expect("lock").send(call.defer()).expect("received");
    })
    .expect("serve");
    let client = Client::connect(place.name()).expect("connect");
    let pending = client.submit(CallOptions::new(), b"x").expect("sent");
    let _call = receiver.recv().expect("taken");
    assert!(!server.drain(Duration::from_millis(5)));
    assert!(matches!(pending.wait(), Err(CallError::Disconnected { .. })));
}

#[test]
fn a_handler_that_calls_its_own_server_is_told() {
    let place = Place::new();
    let name = place.name();
    let client = Client::lazy(name.as_str(), ClientOptions::default()).expect("a valid name");
    let inner = client.clone();
    let _server = Server::serve(name, move |call: Call<'_>| {
        let own = matches!(inner.call(b"again"), Err(CallError::WouldDeadlock));
        let _ = call.reply(&[u8::from(own)]);
    })
    .expect("serve");
    assert_eq!(client.call(b"x").expect("a reply").to_vec(), [1]);
}

#[test]
fn a_second_server_is_refused_with_the_pid_of_the_first() {
    let place = Place::new();
    let _server = Server::serve(place.name(), echo).expect("serve");
    let error = Server::serve(place.name(), echo).expect_err("the name is taken");
    let us = std::process::id();
    let found = matches!(error, callgate::ServeError::AddressInUse { pid, .. } if pid == Some(us));
    assert!(found, "{error:?}");
}

#[test]
fn idle_ticks_come_between_calls() {
    struct Ticking(std::sync::mpsc::Sender<()>);
    impl callgate::Handler for Ticking {
        fn handle(&self, call: Call<'_>) {
            echo(call);
        }
        fn idle(&self) {
            let _ = self.0.send(());
        }
    }
    let place = Place::new();
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut options = ServerOptions::default();
    options.idle_interval = Some(Duration::from_millis(2));
    let _server = Server::serve_with(place.name(), options, Ticking(sender)).expect("serve");
    let client = Client::connect(place.name()).expect("connect");
    for _ in 0..5 {
        receiver.recv_timeout(Duration::from_secs(20)).expect("a tick");
        assert_eq!(client.call(b"x").expect("a reply").to_vec(), b"x");
    }
}

#[test]
fn limits_are_refused_with_their_numbers() {
    let place = Place::new();
    let mut options = ServerOptions::default();
    options.limits.clients = 2;
    options.limits.in_flight = 10;
    let _server = Server::serve_with(place.name(), options, echo).expect("serve");
    let refusal = |result: Result<Client, CallError>| match result {
        Err(CallError::Refused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let asking = |in_flight| {
        let mut options = ClientOptions::default();
        options.in_flight = in_flight;
        Client::connect_with(place.name(), options)
    };
    let reason = refusal(asking(Some(11)));
    assert!(reason.contains("10 calls in flight"), "{reason}");
    assert!(reason.contains("asks for 11; lower ClientOptions::in_flight"), "{reason}");
    let connect = || asking(Some(10));
    let (_one, two) = (connect().expect("first"), connect().expect("second"));
    assert!(refusal(connect()).contains("2 clients"));
    drop(two);
    // The server learns of the second one's end from the kernel; then there is room again.
    while connect().is_err() {
        std::thread::yield_now();
    }
}

#[test]
fn options_with_which_no_call_can_succeed_are_refused() {
    let place = Place::new();
    type Set = fn(&mut callgate::Limits);
    let zeros: [(&str, Set); 6] = [
        ("limits.in_flight", |limits| limits.in_flight = 0),
        ("limits.clients", |limits| limits.clients = 0),
        ("limits.clients_per_uid", |limits| limits.clients_per_uid = 0),
        ("limits.bytes_per_client", |limits| limits.bytes_per_client = 0),
        ("limits.request_bytes", |limits| limits.request_bytes = 0),
        ("limits.handshake", |limits| limits.handshake = Duration::ZERO),
    ];
    for (name, set) in zeros {
        let mut options = ServerOptions::default();
        set(&mut options.limits);
        match Server::serve_with(place.name(), options, echo) {
            Err(callgate::ServeError::Option { option, given: 0, .. }) => assert_eq!(option, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let _server = Server::serve(place.name(), echo).expect("serve");
    let mut options = ClientOptions::default();
    options.handshake = Duration::ZERO;
    match Client::connect_with(place.name(), options) {
        Err(CallError::Option { option: "handshake", given: 0, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn status_tells_clients_and_calls() {
    let place = Place::new();
    let server = Server::serve(place.name(), echo).expect("serve");
    let client = Client::connect(place.name()).expect("connect");
    for _ in 0..3 {
        client.call(b"x").expect("a reply");
    }
    let status = callgate::status(place.name(), Duration::from_secs(20)).expect("it runs");
    assert_eq!((status.pid, status.clients, status.calls), (std::process::id(), 1, 3));
    assert_eq!(server.status().calls, 3);
}

#[test]
fn memory_comes_back_when_a_client_is_gone() {
    let place = Place::new();
    let server = Server::serve(place.name(), echo).expect("serve");
    let client = Client::connect(place.name()).expect("connect");
    let reply = client.call(&pattern(3 << 20)).expect("a reply");
    assert!(server.status().reply_bytes >= 3 << 20);
    drop(client);
    let _ = server.status();
    assert_eq!(reply.to_vec(), pattern(3 << 20), "a reply outlives its client");
    drop(reply);
    while server.status().reply_bytes > 0 || server.status().clients > 0 {
        std::thread::yield_now();
    }
}
