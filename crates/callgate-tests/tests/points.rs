//! Deaths at each kill point on Windows: a client, or a server, is killed by TerminateProcess while one of its threads stands
//! before or after each system call and each store to shared memory that it makes; the other side goes on.
//!
//! Linux has `callgate-kills` for that, which does more. Built with `--cfg callgate_points`, or there is nothing here.
#![cfg(all(windows, callgate_points))]

use std::collections::BTreeSet;
use std::path::Path;

use callgate::{CallOptions, Client};
use callgate_tests::data::{is_reply, method, request};
use callgate_tests::peer::Words;
use callgate_tests::{BOUND, Peer, Place, Usage, until, within};

const PEER: &str = env!("CARGO_BIN_EXE_testpeer");
const LONGEST: std::time::Duration = std::time::Duration::from_secs(900);

/// Calls after which a victim is let go: it has done all by then that it does.
const ENOUGH: u64 = 60;

/// Passages at which a point is deadly: the first, and one when others have been passed often.
const PASSAGES: [u32; 2] = [1, 4];

/// What a handshake, an announcement, a call and a sleep are made of, on either side: they must be among what is struck.
const CLIENT: [&str; 14] = [
    "sys.endpoint.connect",
    "sys.endpoint.message_mode",
    "sys.socket.peer",
    "sys.process.open",
    "sys.shm.create_section",
    "sys.shm.map",
    "sys.win.create_event",
    "sys.win.write",
    "sys.win.read",
    "sys.win.query_object",
    "sys.win.query_security",
    "sys.win.duplicate_exchange",
    "sys.win.wait",
    "proto.cell.request",
];
const SERVER: [&str; 14] = [
    "sys.endpoint.take_mutex",
    "sys.endpoint.create_pipe",
    "sys.win.connect_pipe",
    "sys.process.impersonate",
    "sys.process.revert",
    "sys.win.duplicate_from_peer",
    "sys.win.duplicate_narrow",
    "sys.win.duplicate_to_peer",
    "sys.shm.query_section",
    "sys.shm.create_section",
    "sys.poller.bind",
    "sys.win.write",
    "sys.win.set_event",
    "proto.cell.reply",
];

fn load(place: &Place, number: u32, more: &str) -> Peer {
    let number = format!("number={number}");
    let words = ["mode=mixed", "max=200000", "threads=2", "connect_ms=20000", "retry=idempotent"];
    let all: Vec<&str> = [number.as_str(), more].into_iter().chain(words).collect();
    place.peer(PEER, "load", &all)
}

/// Has a client call until it has called enough, or either of the two is dead.
fn run(client: &mut Peer, mut is_over: impl FnMut() -> bool) {
    if client.try_ask("run").is_none() {
        return;
    }
    until("enough calls, or an end", || {
        let counted = client.try_ask("count");
        (counted.is_none_or(|counted| counted.number("ok") >= ENOUGH) || is_over()).then_some(())
    });
}

/// The points that are passed, as a log has them.
fn points(log: &Path, least: &[&str]) -> BTreeSet<String> {
    let text = std::fs::read_to_string(log).expect("the log");
    let points: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    for name in least {
        assert!(points.contains(&format!("{name}.after")), "{name} is not passed: {points:?}");
    }
    points
}

/// Looks that somebody has died before and after each of these.
fn are_struck(names: &[&str], struck: &[&str]) {
    let places: BTreeSet<&&str> = struck.iter().collect();
    eprintln!("{} deaths at {} places: {places:?}", struck.len(), places.len());
    for place in
        names.iter().flat_map(|name| [".before", ".after"].map(|end| format!("{name}{end}")))
    {
        assert!(places.contains(&place.as_str()), "nobody has died at {place}");
    }
}

fn check(client: &Client, id: u64) {
    let options = CallOptions::new().method(method::CHECKED).timeout(BOUND);
    for len in [20, 5_000] {
        let reply = client.call_with(options, &request(id, len, len)).expect("a reply");
        assert!(is_reply(&reply.to_vec(), id, len));
    }
}

fn is_rested(server: &mut Peer, before: &Usage) -> bool {
    server.ask("status").number("clients") == 1 && server.usage().is_back_to(before)
}

#[test]
fn a_client_dies_at_each_point() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let honest = Client::connect(place.name()).expect("connect");
        check(&honest, 0);
        let log = place.file("points");
        let mut model = load(&place, 1, &format!("points={}", log.display()));
        model.expect("ready");
        run(&mut model, || false);
        model.end();
        let points = points(&log, &CLIENT);
        until("it is forgotten", || (server.ask("status").number("clients") == 1).then_some(()));
        let before = server.usage_at_rest();
        let (mut tries, mut struck) = (0u64, Vec::new());
        for (point, nth) in points.iter().flat_map(|point| PASSAGES.map(|nth| (point, nth))) {
            tries += 1;
            let mut victim = load(&place, 2, &format!("kill={point}:{nth}"));
            if victim.try_expect("ready").is_some() {
                run(&mut victim, || false);
            }
            if !victim.is_alive() {
                struck.push(point.as_str());
            }
            victim.end();
            check(&honest, tries);
            let mut seen = None;
            until(&format!("the server is as before {point}:{nth}, was {before:?}"), || {
                let usage = server.usage();
                if seen.replace(usage) != Some(usage) {
                    eprintln!("{point}:{nth}: {usage:?}");
                }
                is_rested(&mut server, &before).then_some(())
            });
            assert_eq!(server.ask("status").number("violations"), 0, "{point}:{nth}");
        }
        are_struck(&CLIENT, &struck);
    });
}

#[test]
fn a_server_dies_at_each_point() {
    within(LONGEST, || {
        let place = Place::new();
        let log = place.file("points");
        let model = place.peer(PEER, "server", &[&format!("points={}", log.display())]);
        model.expect("serving");
        let mut client = load(&place, 1, "seed=7");
        client.expect("ready");
        run(&mut client, || false);
        client.end();
        model.end();
        let points = points(&log, &SERVER);
        let mut client = load(&place, 2, "seed=8");
        client.expect("ready");
        let mut struck = Vec::new();
        for (point, nth) in points.iter().flat_map(|point| PASSAGES.map(|nth| (point, nth))) {
            let mut victim = place.peer(PEER, "server", &[&format!("kill={point}:{nth}")]);
            client.ask("run");
            if victim.try_expect("serving").is_some() {
                let began = client.ask("count").number("ok");
                until(&format!("{point}:{nth} strikes, or enough calls"), || {
                    let calls = client.ask("count").number("ok") - began;
                    (!victim.is_alive() || calls >= ENOUGH).then_some(())
                });
            }
            if !victim.is_alive() {
                struck.push(point.as_str());
            }
            victim.end();
            let successor = place.server(PEER, &[]);
            let once = client.ask("once");
            assert_eq!(once.number("ok"), 1, "after {point}:{nth}: {}", once.text());
            is_honest(&client.ask("pause"), point);
            successor.end();
        }
        are_struck(&SERVER, &struck);
    });
}

/// What a client may be told when its server dies.
fn is_honest(counted: &Words, point: &str) {
    for kind in ["handler", "deadline", "violation", "other", "refused", "too-large"] {
        assert_eq!(counted.number(kind), 0, "{point}: {}", counted.text());
    }
}
