//! Clients before servers, a hundred restarts under load, and races for a dead server's name.

use callgate::{Client, ClientOptions};
use callgate_tests::data::{is_reply, method as m, request};
use callgate_tests::peer::Words;
use callgate_tests::{BOUND, Peer, Place, Rng, until, within};

use crate::{LONGEST, PEER, method};

#[test]
fn clients_come_before_their_server() {
    within(LONGEST, || {
        let place = Place::new();
        let start = |number: u64, connect: &str| {
            let client =
                place.peer(PEER, "load", &[&format!("number={number}"), connect, "threads=2"]);
            client.expect("ready");
            client
        };
        let mut waiting: Vec<Peer> = (1..3).map(|n| start(n, "connect_ms=30000")).collect();
        let mut asking: Vec<Peer> = (3..5).map(|n| start(n, "connect_ms=0")).collect();
        for client in waiting.iter_mut().chain(&mut asking) {
            client.ask("run");
        }
        for client in &mut asking {
            until("it is told that nobody runs", || {
                (client.ask("count").number("not-running") > 10).then_some(())
            });
        }
        for client in &mut waiting {
            assert_eq!(client.ask("count").text(), "", "it waits");
        }
        let _server = place.server(PEER, &[]);
        for client in waiting.iter_mut().chain(&mut asking) {
            until("its calls are answered", || {
                (client.ask("count").number("ok") > 10).then_some(())
            });
        }
        for client in &mut waiting {
            let counted = client.ask("pause");
            assert_eq!(counted.number("not-running"), 0, "{}", counted.text());
        }
    });
}

/// The lock says who serves, but not alone: the file may be removed, by a cleaner of old files for one.
#[cfg(not(windows))] // There is no lock file.
#[test]
fn a_server_whose_lock_file_is_gone_keeps_its_name() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        for _ in 0..3 {
            std::fs::remove_file(place.file("s.lock")).expect("a lock file");
            let second = place.peer(PEER, "server", &[]);
            let refused = Words::parse(&second.expect("refused"));
            assert_eq!((refused.number("in-use"), refused.number("pid")), (1, server.pid().into()));
        }
        let client = Client::connect(place.name()).expect("the first one serves");
        assert!(client.call(&request(1, 20, 20)).is_ok());
        drop(client);
        server.kill();
        // Its successor need not wait for anything.
        let _successor = place.server(PEER, &[]);
    });
}

#[test]
fn a_hundred_restarts_under_load() {
    within(LONGEST, || {
        let mut rng = Rng::printed("a_hundred_restarts_under_load");
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let mut clients: Vec<Peer> = (1..5)
            .map(|number| {
                let words = [
                    &format!("number={number}"),
                    &format!("seed={}", rng.next() >> 1),
                    ["connect_ms=0", "connect_ms=20000"][number % 2],
                    ["retry=never", "retry=not-started", "retry=idempotent"][number % 3],
                    "threads=2",
                    "mode=mixed",
                    "max=5000",
                ];
                let mut client = place.peer(PEER, "load", &words);
                client.expect("ready");
                client.ask("run");
                client
            })
            .collect();
        let mut options = ClientOptions::default();
        options.connect_timeout = BOUND;
        let own = Client::lazy(place.name(), options).expect("a valid name");
        for round in 0..100u64 {
            // Each life answers somebody, and every so often everybody.
            let reply = own.call_with(method(m::CHECKED).idempotent(), &request(round, 500, 500));
            let reply = reply.unwrap_or_else(|error| panic!("round {round}: {error:?}"));
            assert!(is_reply(&reply.to_vec(), round, 500));
            if round % 10 == 0 {
                let before: Vec<u64> =
                    clients.iter_mut().map(|client| client.ask("count").number("ok")).collect();
                for (client, before) in clients.iter_mut().zip(before) {
                    until("every client is answered", || {
                        (client.ask("count").number("ok") > before).then_some(())
                    });
                }
            }
            if rng.chance(50) {
                server.end();
            } else {
                // In good order, with the process living on for a while.
                server.ask("stop");
            }
            server = place.server(PEER, &[]);
        }
        for client in &mut clients {
            let counted = client.ask("pause");
            eprintln!("{}", counted.text());
            assert!(counted.number("ok") > 100, "{}", counted.text());
            for kind in ["handler", "deadline", "violation", "other", "refused", "too-large"] {
                assert_eq!(counted.number(kind), 0, "{}", counted.text());
            }
            let once = client.ask("once");
            assert_eq!((once.number("ok"), once.number("repeats")), (1, 0), "{}", once.text());
        }
        assert_eq!(server.ask("status").number("violations"), 0);
        assert_eq!(place.files(), Place::SERVED);
    });
}

/// Two servers that try at once for the name of one that was killed: exactly one gets it.
#[test]
fn races_for_a_dead_servers_name() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let client = Client::connect(place.name()).expect("connect");
        for round in 0..25u64 {
            let mut racers: Vec<Peer> =
                (0..2).map(|_| place.peer(PEER, "server", &["wait=1"])).collect();
            for racer in &racers {
                racer.expect("waiting");
            }
            // Every other round they try while it dies: one may be too early, or both.
            let early = round % 2 == 1;
            if early {
                racers.iter_mut().for_each(|racer| racer.tell("go"));
                server.kill();
                server.wait();
            } else {
                server.kill();
                server.wait();
                racers.iter_mut().for_each(|racer| racer.tell("go"));
            }
            let said: Vec<String> = racers.iter().map(Peer::line).collect();
            let winners: Vec<usize> =
                (0..2).filter(|at| said[*at].starts_with("serving")).collect();
            for (at, words) in said.iter().enumerate().filter(|(at, _)| !winners.contains(at)) {
                let words = Words::parse(words.strip_prefix("refused ").expect("refused"));
                assert_eq!(words.number("in-use"), 1, "{at}: {}", words.text());
                let holder = words.number("pid");
                let known = [u64::from(server.pid()), u64::from(racers[1 - at].pid())];
                assert!(known.contains(&holder), "{} of {known:?}", words.text());
            }
            server = match winners[..] {
                [winner] => racers.swap_remove(winner),
                [] if early => place.server(PEER, &[]),
                _ => panic!("round {round}: {said:?}"),
            };
            let reply = until("the next call reaches the winner", || {
                client.call_with(method(m::CHECKED), &request(round, 300, 300)).ok()
            });
            assert!(is_reply(&reply.to_vec(), round, 300));
            let serves = client.server().and_then(|server| server.pid);
            assert_eq!(serves, Some(server.pid()));
            assert_eq!(place.files(), Place::SERVED);
        }
    });
}
