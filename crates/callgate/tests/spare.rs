//! The memory of a far request is spare when its reply is there, for the next one: it never holds two requests at a time, and
//! gives way to whoever needs the room.

use std::sync::mpsc;
use std::time::Duration;

use callgate::{Call, CallError, CallOptions, Client, ClientOptions, Deferred, Server, WhenFull};

const REGION: usize = 64 << 10;

/// Defers calls of method 1 to whoever has the receiver, and echoes all others.
fn serve(path: &str) -> (Server, mpsc::Receiver<Deferred>) {
    let (sender, receiver) = mpsc::channel();
    let server = Server::serve(path, move |call: Call<'_>| {
        if call.method() == 1 {
            let _ = sender.send(call.defer());
        } else {
            let bytes = call.request().to_vec();
            let _ = call.reply(&bytes);
        }
    });
    (server.expect("serve"), receiver)
}

fn pattern(len: usize, salt: u64) -> Vec<u8> {
    (0..len as u64).map(|at| (at * 31 + salt * 7 + 1) as u8).collect()
}

fn path(place: &tempfile::TempDir) -> String {
    place.path().join("s").to_str().expect("utf-8").to_owned()
}

fn echoes(client: &Client, len: usize, salt: u64) {
    let bytes = pattern(len, salt);
    assert_eq!(client.call(&bytes).expect("a reply").to_vec(), bytes, "{len} bytes");
}

/// A client with room for one region, which fails or waits when that is full.
fn small(path: &str, when_full: WhenFull) -> Client {
    let mut options = ClientOptions::default();
    options.bytes = REGION as u64;
    options.when_full = when_full;
    Client::connect_with(path, options).expect("connect")
}

fn fits(client: &Client, len: usize) -> bool {
    match client.loan(len) {
        Ok(_) => true,
        Err(CallError::NoMemory { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_is_spare_gives_way_to_a_request_that_needs_the_room() {
    let place = tempfile::tempdir().expect("a directory");
    let (_server, deferred) = serve(&path(&place));
    let client = small(&path(&place), WhenFull::Fail);
    for salt in 0..4 {
        echoes(&client, 4096, salt);
    }
    assert!(fits(&client, REGION), "nothing is in flight");
    echoes(&client, 3000, 5);
    echoes(&client, 3000, 6);
    let request = pattern(3000, 9);
    std::thread::scope(|scope| {
        // A lone call that does not use what is spare.
        let short = scope.spawn(|| client.call_with(CallOptions::new().method(1), b"short"));
        let waiting = deferred.recv().expect("it came");
        assert!(fits(&client, REGION), "nothing far is in flight");
        waiting.reply(b"done").expect("its caller waits");
        assert_eq!(short.join().expect("no panic").expect("a reply").to_vec(), b"done");
        echoes(&client, 3000, 7);
        echoes(&client, 3000, 8);
        // One that does.
        let far = scope.spawn(|| client.call_with(CallOptions::new().method(1), &request));
        let waiting = deferred.recv().expect("it came");
        assert!(!fits(&client, REGION), "a request lies there");
        assert!(fits(&client, REGION - 3008), "but no more than that");
        // Others do not touch it.
        for salt in 10..14 {
            echoes(&client, 3000, salt);
        }
        assert_eq!(waiting.request().to_vec(), request);
        waiting.reply(b"done").expect("its caller waits");
        assert_eq!(far.join().expect("no panic").expect("a reply").to_vec(), b"done");
    });
    assert!(fits(&client, REGION), "all of it came back");
}

#[test]
fn a_large_room_is_not_used_for_a_short_request() {
    let place = tempfile::tempdir().expect("a directory");
    let (_server, deferred) = serve(&path(&place));
    let client = small(&path(&place), WhenFull::Fail);
    echoes(&client, REGION - 64, 1);
    std::thread::scope(|scope| {
        let short = scope
            .spawn(|| client.call_with(CallOptions::new().method(1), &pattern(100, 2)).map(drop));
        let waiting = deferred.recv().expect("it came");
        assert!(fits(&client, REGION - 128), "two lines are in use");
        waiting.reply(b"done").expect("its caller waits");
        short.join().expect("no panic").expect("a reply");
    });
}

#[test]
fn who_waits_for_room_gets_what_a_lone_call_has_when_that_ends() {
    let place = tempfile::tempdir().expect("a directory");
    let (_server, deferred) = serve(&path(&place));
    let client = small(&path(&place), WhenFull::Wait);
    for round in 0..20 {
        // Lent, and with memory that is spare.
        echoes(&client, 3000, round);
        echoes(&client, 3000, round);
        std::thread::scope(|scope| {
            let request = pattern(3000, round);
            let far = scope.spawn({
                let client = &client;
                move || {
                    client.call_with(CallOptions::new().method(1), &request).map(|it| it.to_vec())
                }
            });
            let waiting = deferred.recv().expect("it came");
            let waits = scope.spawn(|| client.loan(REGION).map(|loan| loan.len()));
            // Sometimes before it waits, sometimes after.
            for _ in 0..round * 20 {
                std::thread::yield_now();
            }
            waiting.reply(&pattern(2000, round)).expect("its caller waits");
            assert_eq!(far.join().expect("no panic").expect("a reply"), pattern(2000, round));
            assert_eq!(waits.join().expect("no panic").expect("room"), REGION);
        });
    }
}

#[test]
fn a_request_whose_caller_gave_up_stays_as_it_was() {
    let place = tempfile::tempdir().expect("a directory");
    let (_server, deferred) = serve(&path(&place));
    let client = small(&path(&place), WhenFull::Fail);
    for round in 0..4 {
        echoes(&client, 1000, round);
        echoes(&client, 1000, round + 1);
        let request = pattern(1000, 100 + round);
        let mut timeout = Duration::from_millis(5);
        let waiting = loop {
            let options = CallOptions::new().method(1).timeout(timeout);
            let error = client.call_with(options, &request).expect_err("nobody answers");
            assert!(matches!(error, CallError::DeadlineExceeded { .. }), "{error}");
            // Calls are taken in their order. On a loaded machine it may have been given up before it was begun.
            echoes(&client, 1000, round);
            match deferred.try_recv() {
                Ok(waiting) => break waiting,
                Err(_) => timeout *= 2,
            }
        };
        for salt in 0..5 {
            echoes(&client, 1000, salt);
        }
        assert_eq!(waiting.request().to_vec(), request);
        assert!(!fits(&client, REGION), "the server may read it still");
        let _ = waiting.reply(b"too late");
        let mut tries = 0;
        while !fits(&client, REGION) {
            echoes(&client, 10, round);
            tries += 1;
            assert!(tries < 100_000, "its memory never came back");
        }
    }
}

#[test]
fn replies_that_are_held_keep_their_bytes() {
    let place = tempfile::tempdir().expect("a directory");
    let (_server, _) = serve(&path(&place));
    let client = Client::connect(path(&place)).expect("connect");
    for round in 0..50 {
        let held: Vec<_> = (0..round % 7)
            .map(|salt| (salt, client.call(&pattern(300, salt)).expect("a reply")))
            .collect();
        echoes(&client, 260, round);
        for (salt, reply) in held {
            assert_eq!(reply.to_vec(), pattern(300, salt));
        }
    }
}

/// Threads that call alone, beside each other, with loans and without waiting, at random.
#[test]
fn far_calls_of_all_kinds_beside_each_other_get_their_own_bytes() {
    let seed = u64::from(std::process::id()) << 20 | 1;
    println!("seed {seed}");
    let place = tempfile::tempdir().expect("a directory");
    let (_server, _) = serve(&path(&place));
    let client = Client::connect(path(&place)).expect("connect");
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let client = &client;
            scope.spawn(move || {
                let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15 + 2 * thread) | 1;
                let mut random = move |below: u64| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state % below
                };
                for salt in 0..1500 {
                    let len =
                        [16, 48, 49, 64, 256, 256, 300, 4096, 4097, 9000][random(10) as usize];
                    let bytes = pattern(len, salt * 3 + thread);
                    // Alone on its thread for a while: then the place of the next call is lent.
                    match random(8) {
                        0 => {
                            let mut loan = client.loan(len).expect("room");
                            loan.copy_from_slice(&bytes);
                            let reply = loan.call(CallOptions::new()).expect("a reply");
                            assert_eq!(reply.to_vec(), bytes);
                        }
                        1 => drop(client.loan(len).expect("room")),
                        2 => {
                            let options = CallOptions::new();
                            let pending = client.submit(options, &bytes).expect("sent");
                            assert_eq!(pending.wait().expect("a reply").to_vec(), bytes);
                        }
                        3 => drop(client.submit(CallOptions::new(), &bytes).expect("sent")),
                        _ => assert_eq!(client.call(&bytes).expect("a reply").to_vec(), bytes),
                    }
                }
            });
        }
    });
}
