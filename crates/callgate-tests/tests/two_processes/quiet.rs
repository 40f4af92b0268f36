//! Connections that went quiet give their memory back, and dead ones at once.

use std::time::Duration;

use callgate::{Client, Retry};
use callgate_tests::bounded::until_for;
use callgate_tests::data::{is_reply, method as m, request};
use callgate_tests::{BOUND, Peer, Place, until, within};

use crate::{LONGEST, PEER, method};

fn large_calls(client: &mut Peer, server: &Peer) {
    client.ask("run");
    until("large calls were made", || {
        let counted = client.ask("count");
        (counted.number("ok") > 50 && client.usage().shared > 2 && server.usage().shared > 2)
            .then_some(())
    });
    client.ask("pause");
}

/// Memory of large calls is given back after a second or two, the last of it after ten or so.
#[test]
fn after_large_calls() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let words = ["threads=3", "mode=mixed", "max=1000000"];
        let mut client = place.peer(PEER, "load", &words);
        client.expect("ready");
        client.ask("once");
        let (client_before, server_before) = (client.usage(), server.usage());
        assert_eq!((client_before.shared, server_before.shared), (1, 1), "idle, it has one each");
        large_calls(&mut client, &server);
        let held = server.ask("status").number("reply_bytes");
        assert!(held >= 1_000_000, "{held}");
        until_for(BOUND, "most is given back soon", || {
            (server.ask("status").number("reply_bytes") <= 65_536).then_some(())
        });
        until_for(BOUND, "all is given back", || {
            let status = server.ask("status");
            let back = client.usage().shared == 1 && server.usage().shared == 1;
            (status.number("reply_bytes") == 0 && back).then_some(())
        });
        assert!(client.usage().is_back_to(&client_before), "{:?}", client.usage());
        assert!(server.usage().is_back_to(&server_before), "{:?}", server.usage());
        // And it is still a connection like any other.
        assert_eq!(server.ask("status").number("clients"), 1);
        large_calls(&mut client, &server);
        let counted = client.ask("count");
        let words = counted.text().split(' ').count();
        assert_eq!(words, 2, "only ok and cancelled: {}", counted.text());
    });
}

/// A reply that is kept keeps its memory, however quiet the connection is; the rest goes.
#[test]
fn while_a_reply_is_kept() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let mut options = callgate::ClientOptions::default();
        options.retry = Retry::Never;
        let client = Client::connect_with(place.name(), options).expect("connect");
        let call = |id, len| {
            client.call_with(method(m::CHECKED), &request(id, len, len)).expect("a reply")
        };
        let kept = call(1, 70_000);
        let large = call(2, 900_000);
        drop(large);
        until_for(Duration::from_secs(30), "the large one's memory is given back", || {
            (server.ask("status").number("reply_bytes") < 500_000).then_some(())
        });
        assert!(is_reply(&kept.to_vec(), 1, 70_000), "the kept reply is whole");
        assert!(server.ask("status").number("reply_bytes") >= 70_000);
        drop(kept);
        assert!(is_reply(&call(3, 900_000).to_vec(), 3, 900_000));
    });
}

/// When its server dies, a client lets go of the memory and the descriptors without being asked for another call.
#[test]
fn after_the_servers_death() {
    within(LONGEST, || {
        let place = Place::new();
        let server = place.server(PEER, &[]);
        let words = ["threads=3", "mode=mixed", "max=1000000"];
        let mut client = place.peer(PEER, "load", &words);
        client.expect("ready");
        client.ask("once");
        let before = client.usage();
        large_calls(&mut client, &server);
        server.end();
        until("the client lets go", || {
            let usage = client.usage();
            (usage.shared == 0 && usage.fds < before.fds).then_some(())
        });
        let _next = place.server(PEER, &[]);
        assert_eq!(client.ask("once").number("ok"), 1);
        until("a new connection is all it has", || {
            client.usage().is_back_to(&before).then_some(())
        });
    });
}
