//! Many threads of many processes, all sizes, all ways to call, every byte of every reply checked.

use std::time::{Duration, Instant};

use callgate_tests::{Peer, Place, Rng, until, within};

use crate::{LONGEST, PEER};

#[test]
fn many_threads_of_many_processes() {
    within(LONGEST, || {
        let mut rng = Rng::printed("many_threads_of_many_processes");
        let place = Place::new();
        let mut server = place.server(PEER, &["workers=2"]);
        let mut clients: Vec<Peer> = (1..7)
            .map(|number| {
                let words = [
                    &format!("number={number}"),
                    &format!("seed={}", rng.next() >> 1),
                    ["threads=1", "threads=3", "threads=6"][number % 3],
                    "mode=mixed",
                    "max=307200",
                    "timeout_ms=60000",
                ];
                let mut client = place.peer(PEER, "load", &words);
                client.expect("ready");
                client.ask("run");
                client
            })
            .collect();
        let began = Instant::now();
        let enough = |client: &mut Peer| client.ask("count").number("ok") >= 300;
        until("some time passed, and everybody was served", || {
            let long = began.elapsed() >= Duration::from_millis(3_000);
            (long && clients.iter_mut().all(enough)).then_some(())
        });
        let mut calls = 0;
        for client in &mut clients {
            let counted = client.ask("pause");
            eprintln!("{}", counted.text());
            let (ok, cancelled) = (counted.number("ok"), counted.number("cancelled"));
            let words = counted.text().split(' ').count();
            assert!(ok > 0 && cancelled > 0 && words == 2, "{}", counted.text());
            calls += ok + cancelled;
        }
        let status = server.ask("status");
        assert_eq!(status.number("violations"), 0);
        assert!(status.number("calls") <= calls);
        for client in clients {
            client.end();
        }
        until("everything is given back", || {
            let status = server.ask("status");
            (status.number("clients") == 0 && status.number("reply_bytes") == 0).then_some(())
        });
        until("no mapping is left", || (server.usage().shared == 0).then_some(()));
    });
}
