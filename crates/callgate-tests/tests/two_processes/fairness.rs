//! The slow and the greedy beside the others.

#[cfg(not(windows))]
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
#[cfg(not(windows))]
use std::time::Instant;

use callgate::{CallError, CallOptions, Client, ClientOptions};
use callgate_tests::data::{is_reply, method as m, request};
use callgate_tests::{Peer, Place, within};
#[cfg(not(windows))]
use callgate_tests::{hostile::Raw, until};

use crate::{LONGEST, PEER, method};

/// Makes `calls` calls; the test's own time limit is the bound.
fn calls(client: &Client, calls: u64) {
    for id in 0..calls {
        let (len, reply_len) = (12 + id as usize * 7 % 300, id as usize * 11 % 300);
        let reply = client.call_with(method(m::CHECKED), &request(id, len, reply_len));
        let reply = reply.unwrap_or_else(|error| panic!("call {id}: {error:?}"));
        assert!(is_reply(&reply.to_vec(), id, reply_len));
    }
}

#[test]
fn a_slow_client_beside_a_fast_one() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        // One keeps its replies, one lets its calls lie, one is stopped in the middle of it all.
        let keeper = Client::connect(place.name()).expect("connect");
        let kept: Vec<_> = (0..60)
            .map(|at| {
                let options = method(m::CHECKED);
                (at, keeper.call_with(options, &request(at, 100, 5_000)).expect("a reply"))
            })
            .collect();
        let lazy = Client::connect(place.name()).expect("connect");
        let lying: Vec<_> = (0..60)
            .map(|at| {
                let options = method(m::CHECKED);
                (at, lazy.submit(options, &request(at, 100, 5_000)).expect("sent"))
            })
            .collect();
        let mut stopped: Vec<Peer> = (1..4)
            .map(|number| {
                let words = [&format!("number={number}"), "threads=2", "mode=mixed", "max=50000"];
                let mut client = place.peer(PEER, "load", &words);
                client.expect("ready");
                client.ask("once");
                client.ask("run");
                client.freeze();
                client
            })
            .collect();
        let fast = Client::connect(place.name()).expect("connect");
        calls(&fast, 3_000);
        for (id, reply) in kept {
            assert!(is_reply(&reply.to_vec(), id, 5_000), "a reply that was kept");
        }
        for (id, pending) in lying {
            assert!(is_reply(&pending.wait().expect("a reply").to_vec(), id, 5_000));
        }
        for client in &mut stopped {
            client.thaw();
            let counted = client.ask("pause");
            for kind in ["deadline", "violation", "handler", "may-have-run", "other"] {
                assert_eq!(counted.number(kind), 0, "{}", counted.text());
            }
        }
        assert_eq!(server.ask("status").number("violations"), 0);
    });
}

/// A client that does not run for a while, as happens on a busy machine, loses nothing: replies that need new memory
/// wait for it, however many there are.
#[test]
fn a_client_that_is_not_scheduled() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        for len in [100_000, 300_000] {
            let mut client = place.peer(PEER, "submit", &["calls=40", &format!("len={len}")]);
            client.expect("submitted");
            for _ in 0..40 {
                server.expect("held");
            }
            client.freeze();
            assert_eq!(server.ask("release").number("sent"), 40);
            client.thaw();
            let ended = client.ask("wait");
            assert_eq!(ended.number("ok"), 40, "{}", ended.text());
        }
    });
}

/// The kernel has one account of descriptors on their way for all of a server. A user whose clients read nothing has its
/// share of it, and another user's client that does not run for a while loses nothing.
#[cfg(not(windows))]
#[test]
fn a_user_that_reads_nothing_beside_another() {
    const OTHER: u32 = 23_456;
    if callgate_sys::process::uid() != 0 {
        return eprintln!("not root: there is no other user to be");
    }
    within(LONGEST, || {
        let place = Place::new();
        let mode = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(place.directory(), mode).expect("permitted");
        let mut server = place.server(PEER, &["access=everyone", "clients=200"]);
        let mut hostile: Vec<Raw> =
            (0..24).map(|_| Raw::connect(&place.path(), 65, 8 << 20)).collect();
        let mut failures = 0;
        for raw in &mut hostile {
            for _ in 0..60 {
                let ticket = raw.publish_bytes(m::ZEROS, &60_000u64.to_le_bytes());
                let reply = raw.wait(ticket).expect("still connected");
                failures += u32::from(reply.head.failure);
            }
        }
        assert!(failures > 0, "they may leave no more unread");
        let words = ["calls=40", "len=100000", &format!("uid={OTHER}"), &format!("gid={OTHER}")];
        let mut client = place.peer(PEER, "submit", &words);
        client.expect("submitted");
        for _ in 0..40 {
            server.expect("held");
        }
        client.freeze();
        assert_eq!(server.ask("release").number("sent"), 40);
        client.signal(libc::SIGCONT);
        let ended = client.ask("wait");
        assert_eq!(ended.number("ok"), 40, "{}", ended.text());
    });
}

#[test]
fn a_flooding_client_beside_an_honest_one() {
    within(LONGEST, || {
        for workers in ["workers=1", "workers=2"] {
            let place = Place::new();
            let _server = place.server(PEER, &[workers]);
            let mut flood: Vec<Peer> = (1..3)
                .map(|number| {
                    let words =
                        [&format!("number={number}"), "threads=4", "mode=mixed", "max=100000"];
                    let mut client = place.peer(PEER, "load", &words);
                    client.expect("ready");
                    client.ask("once");
                    client.ask("run");
                    client
                })
                .collect();
            let honest = Client::connect(place.name()).expect("connect");
            calls(&honest, 500);
            for client in &mut flood {
                let counted = client.ask("pause");
                assert!(counted.number("ok") > 0, "{}", counted.text());
            }
        }
    });
}

/// A handler that takes long keeps its own worker's clients waiting; the ways out are more workers, and deferring.
#[test]
fn a_slow_handler_beside_quick_ones() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let slow = Client::connect(place.name()).expect("connect");
        let quick = Client::connect(place.name()).expect("connect");
        let blocked = slow.submit(method(m::BLOCK), b"slow").expect("sent");
        server.expect("blocked");
        let short = CallOptions::new().timeout(Duration::from_millis(30));
        let error = quick.call_with(short, b"x").expect_err("one worker, and it is busy");
        assert!(matches!(error, CallError::DeadlineExceeded { .. }), "{error:?}");
        server.ask("unblock");
        assert_eq!(blocked.wait().expect("a reply").to_vec(), b"slow");
        calls(&quick, 10);
        server.end();

        // Another worker.
        let mut server = place.server(PEER, &["workers=2"]);
        let slow = Client::connect(place.name()).expect("connect");
        let quick = Client::connect(place.name()).expect("connect");
        let blocked = slow.submit(method(m::BLOCK), b"slow").expect("sent");
        server.expect("blocked");
        calls(&quick, 300);
        assert!(!blocked.is_done());
        // New clients are let in meanwhile, and known to nobody else's worker.
        let one = Client::connect(place.name()).expect("connect");
        drop(one);
        server.ask("unblock");
        assert_eq!(blocked.wait().expect("a reply").to_vec(), b"slow");
        server.end();

        // One worker that defers.
        let mut server = place.server(PEER, &[]);
        let slow = Client::connect_with(place.name(), ClientOptions::default()).expect("connect");
        let quick = Client::connect(place.name()).expect("connect");
        let aside: Vec<_> = (0..10)
            .map(|at| slow.submit(method(m::BLOCK_ASIDE), &[at; 3_000]).expect("sent"))
            .collect();
        for _ in 0..10 {
            server.expect("blocked");
        }
        calls(&quick, 300);
        calls(&slow, 300);
        assert!(aside.iter().all(|pending| !pending.is_done()));
        server.ask("unblock");
        for (at, pending) in aside.into_iter().enumerate() {
            assert_eq!(pending.wait().expect("a reply").to_vec(), vec![at as u8; 3_000]);
        }
    });
}

#[cfg(not(windows))]
/// CPU time of all threads of a process, in nanoseconds.
fn cpu_ns(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let files = tasks.map(|task| task.expect("a task").path().join("schedstat"));
    let ran = |text: String| text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
    files.filter_map(|file| std::fs::read_to_string(file).ok().and_then(ran)).sum()
}

/// However busy its clients kept it, a server sleeps once they have stopped calling.
///
/// Not under Wine, which does not tell the time of another process.
#[cfg(not(windows))]
#[test]
fn a_server_goes_quiet_after_busy_clients() {
    within(LONGEST, || {
        let place = Place::new();
        let server = place.server(PEER, &[]);
        let mut clients = Vec::new();
        for count in [1, 2, 3, 8] {
            clients.resize_with(count, || Client::connect(place.name()).expect("connect"));
            std::thread::scope(|scope| {
                for client in &clients {
                    scope.spawn(|| calls(client, 500));
                }
            });
            let (mut seen, mut since) = (0, Instant::now());
            until("a quarter of a second of sleep", || {
                let now = cpu_ns(server.pid());
                if now != seen {
                    (seen, since) = (now, Instant::now());
                }
                (since.elapsed() > Duration::from_millis(250)).then_some(())
            });
        }
    });
}
