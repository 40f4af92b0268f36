//! kill -9 at random moments under load from eight processes: nothing wrong, nothing twice, nothing left.

use std::collections::{HashMap, HashSet};
#[cfg(not(windows))]
use std::path::Path;
use std::time::{Duration, Instant};

use callgate_tests::data::read_event;
use callgate_tests::{Peer, Place, Rng, until, within};

use crate::{LONGEST, PEER};

const CLIENTS: u64 = 8;

/// Errors that the death of a server may cause.
const ALLOWED: [&str; 4] = ["ok", "not-running", "not-started", "may-have-run"];

/// A load client; `waits`: it waits for a server to appear.
fn client(place: &Place, number: u64, waits: bool, rng: &mut Rng) -> Peer {
    let seed = format!("seed={}", rng.next() >> 1);
    let number_word = format!("number={number}");
    let events = format!("events={}", place.file(&format!("events{number}")).display());
    let retry = ["retry=never", "retry=not-started"][number as usize % 2];
    let connect = if waits { "connect_ms=20000" } else { "connect_ms=0" };
    let words =
        [&number_word, &seed, &events, retry, connect, "threads=2", "max=20000", "record=1"];
    let client = place.peer(PEER, "load", &words);
    client.expect("ready");
    client
}

fn server(place: &Place) -> Peer {
    let record = format!("record={}", place.directory().join("record").display());
    place.server(PEER, &[&record, "workers=2"])
}

/// Holds the record of the handler against what the clients were told.
fn at_most_once(place: &Place) -> (usize, usize) {
    let read = |name: &str| std::fs::read_to_string(place.file(name)).expect("readable");
    let mut ran: HashSet<u64> = HashSet::new();
    for line in read("record").lines() {
        let (_, id) = read_event(line).unwrap_or_else(|| panic!("{line:?}"));
        assert!(ran.insert(id), "call {id} ran twice");
    }
    let mut told: HashMap<String, usize> = HashMap::new();
    let events = place.files().into_iter().filter(|name| name.starts_with("events"));
    for line in events.map(|name| read(&name)).collect::<String>().lines() {
        let (kind, id) = read_event(line).unwrap_or_else(|| panic!("{line:?}"));
        match kind {
            "ok" => assert!(ran.contains(&id), "call {id} was answered and never ran"),
            "not-started" | "not-running" => {
                assert!(!ran.contains(&id), "call {id} is said not to have run ({kind}), and ran");
            }
            _ => {}
        }
        *told.entry(kind.into()).or_default() += 1;
    }
    for kind in told.keys() {
        assert!(ALLOWED.contains(&kind.as_str()), "calls ended with {kind}: {told:?}");
    }
    eprintln!("{} ran; told: {told:?}", ran.len());
    (ran.len(), told.get("ok").copied().unwrap_or(0))
}

fn is_record(name: &str) -> bool {
    name == "record" || name.starts_with("events")
}

fn nothing_but_one_socket_and_one_lock(place: &Place) {
    let directory: Vec<_> = place.files().into_iter().filter(|name| !is_record(name)).collect();
    assert_eq!(directory, Place::SERVED);
}

#[cfg(not(windows))]
fn socket_of(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

/// Clients are killed at random; the server is the survivor.
#[test]
fn clients_are_killed_at_random() {
    within(LONGEST, || {
        let mut rng = Rng::printed("clients_are_killed_at_random");
        let place = Place::new();
        let mut server = server(&place);
        let mut number = 0;
        let mut fresh = |rng: &mut Rng| {
            number += 1;
            let mut client = client(&place, number, true, rng);
            client.ask("once");
            client
        };
        // One client has come and gone, so that what is made once is made.
        fresh(&mut rng).end();
        until("it is gone", || (server.ask("status").number("clients") == 0).then_some(()));
        let before = server.usage_at_rest();

        let mut clients: Vec<Peer> = (0..CLIENTS).map(|_| fresh(&mut rng)).collect();
        for client in &mut clients {
            client.ask("run");
        }
        let began = Instant::now();
        let mut killed = 0;
        while began.elapsed() < Duration::from_millis(2_500) {
            let victim = rng.below(clients.len());
            // A random moment of its work: it is killed once so many more calls have run.
            let calls = server.ask("status").number("calls") + rng.next() % 300;
            until("calls go on", || (server.ask("status").number("calls") >= calls).then_some(()));
            let mut next = fresh(&mut rng);
            next.ask("run");
            std::mem::replace(&mut clients[victim], next).end();
            killed += 1;
        }
        for client in &mut clients {
            client.ask("pause");
        }
        for client in clients {
            client.end();
        }
        let (ran, ok) = at_most_once(&place);
        eprintln!("{killed} clients killed, {ran} calls ran, {ok} were answered");
        until("the server forgets them all", || {
            let status = server.ask("status");
            assert_eq!(status.number("violations"), 0, "{}", status.text());
            let forgotten = status.number("clients") == 0 && status.number("reply_bytes") == 0;
            (forgotten && server.usage().is_back_to(&before)).then_some(())
        });
        nothing_but_one_socket_and_one_lock(&place);
    });
}

/// Both are killed at random; four clients survive it all.
#[test]
fn clients_and_server_are_killed_at_random() {
    within(LONGEST, || {
        let mut rng = Rng::printed("clients_and_server_are_killed_at_random");
        let place = Place::new();
        let mut serving = server(&place);
        let mut number = 100;
        let mut fresh = |rng: &mut Rng| {
            number += 1;
            client(&place, number, number % 4 < 2, rng)
        };
        let mut clients: Vec<Peer> = (0..CLIENTS).map(|_| fresh(&mut rng)).collect();
        let survivors = clients.len() / 2;
        for client in &mut clients {
            assert_eq!(client.ask("once").number("ok"), 1);
        }
        let before: Vec<_> = clients[..survivors].iter().map(Peer::usage).collect();
        for client in &mut clients {
            client.ask("run");
        }
        let began = Instant::now();
        let (mut servers, mut killed) = (0, 0);
        while began.elapsed() < Duration::from_millis(3_000) {
            let calls = serving.ask("status").number("calls") + 1 + rng.next() % 500;
            until("calls go on", || (serving.ask("status").number("calls") >= calls).then_some(()));
            if rng.chance(60) {
                serving.end();
                serving = server(&place);
                servers += 1;
            } else {
                let victim = survivors + rng.below(clients.len() - survivors);
                let mut next = fresh(&mut rng);
                next.ask("run");
                std::mem::replace(&mut clients[victim], next).end();
                killed += 1;
            }
        }
        for client in &mut clients {
            client.ask("pause");
        }
        // Once more, so that the survivors have nothing but a new connection.
        serving.end();
        serving = server(&place);
        for client in &mut clients {
            let once = client.ask("once");
            assert_eq!(once.number("ok"), 1, "{}", once.text());
        }
        let (ran, ok) = at_most_once(&place);
        eprintln!("{servers} servers and {killed} clients killed, {ran} ran, {ok} were answered");
        for (client, before) in clients[..survivors].iter().zip(&before) {
            until("a survivor is as it was", || {
                let usage = client.usage();
                let back = usage.is_back_to(before);
                if !back {
                    eprintln!("{usage:?} against {before:?}");
                }
                back.then_some(())
            });
        }
        let status = serving.ask("status");
        assert_eq!((status.number("reply_bytes"), status.number("violations")), (0, 0));
        assert_eq!(status.number("clients"), CLIENTS);

        // Everybody dies at once. The next server takes the name over.
        serving.kill();
        for client in &mut clients {
            client.kill();
        }
        serving.wait();
        for client in &mut clients {
            client.wait();
        }
        nothing_but_one_socket_and_one_lock(&place);
        #[cfg(not(windows))]
        assert!(socket_of(&place.path()));
        let _next = server(&place);
        nothing_but_one_socket_and_one_lock(&place);
        let mut client = fresh(&mut rng);
        assert_eq!(client.ask("once").number("ok"), 1);
    });
}
