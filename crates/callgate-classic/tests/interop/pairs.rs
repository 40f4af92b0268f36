//! One server with clients of one kind: calls, and all that the protocol leaves open.

use super::peer::{By, LONG, Peer, SHORT, base};

macro_rules! pairing {
    ($name:ident, $client:expr, $server:expr) => {
        mod $name {
            use super::By;

            const PAIR: (By, By) = ($client, $server);

            #[test]
            fn calls() {
                super::calls(concat!(stringify!($name), "-calls"), PAIR);
            }

            #[test]
            fn the_server_is_started_after_its_clients() {
                super::started_after(concat!(stringify!($name), "-after"), PAIR);
            }

            #[test]
            fn the_server_is_killed_and_started_anew() {
                super::restarted(concat!(stringify!($name), "-restart"), PAIR);
            }

            #[test]
            fn a_client_is_killed_while_it_owns_free() {
                super::killed_owner(concat!(stringify!($name), "-owner"), PAIR);
            }

            #[test]
            fn the_server_is_slower_than_a_client_waits() {
                super::slow(concat!(stringify!($name), "-slow"), PAIR);
            }
        }
    };
}

pairing!(c_with_c, By::C, By::C);
pairing!(c_with_rust, By::C, By::Watching);
pairing!(rust_with_c, By::Rust, By::C);
pairing!(rust_with_rust, By::Rust, By::Rust);

mod rust_with_rust_too {
    use super::{By, LONG, Peer, base};

    /// The client would wait for two minutes.
    #[test]
    fn the_servers_end_is_told_at_once() {
        let base = base("rust_with_rust-end");
        let (mut server, _) = Peer::server(By::Rust, &base);
        let mut client = Peer::client(By::Rust, &base, LONG);
        for number in 1..4 {
            server.ask_until("hold", "holding");
            client.tell("call 1 4");
            server.until("run 1");
            server.kill();
            assert_eq!(client.line(), "timeout may-have-run ended");
            (server, _) = Peer::server(By::Rust, &base);
            client.call_ok(number);
        }
    }
}

mod rust_with_c_too {
    use super::{By, Peer, base};

    /// Nobody else has the memory: its name goes when the client lets go of it.
    #[test]
    fn the_servers_end_is_told_after_the_wait() {
        let base = base("rust_with_c-end");
        let (mut server, _) = Peer::server(By::C, &base);
        let mut client = Peer::client(By::Rust, &base, 3_000);
        for number in 1..3 {
            server.ask_until("hold", "holding");
            client.tell("call 1 4");
            server.until("run 1");
            server.kill();
            assert_eq!(client.line(), "timeout may-have-run gone");
            (server, _) = Peer::server(By::C, &base);
            client.call_ok(number);
        }
    }

    /// A client in C gives up, and the server is still at its request, or has just answered, when one in Rust calls. It
    /// may get no answer, but never the other's.
    #[test]
    fn a_late_answer_to_another_is_told_by_its_number() {
        for round in 0..5 {
            let base = base("rust_with_c-other");
            let (mut server, _) = Peer::server(By::C, &base);
            let mut in_c = Peer::client(By::C, &base, 250);
            let mut in_rust = Peer::client(By::Rust, &base, 3_000);
            server.ask_until("hold", "holding");
            assert_eq!(in_c.ask("call 2 7"), "timeout");
            server.until("run 2");
            if round > 0 {
                in_rust.tell("checked 3 10");
                server.tell("go");
            } else {
                server.ask_until("go", "done 2");
                in_rust.tell("checked 3 10");
            }
            let line = in_rust.line();
            let right = line.starts_with("ok ") || line == "timeout may-have-run unknown";
            assert!(right && (round > 0 || line.starts_with("ok ")), "{line}");
            // What is left after that is settled.
            while !in_rust.ask("checked 4 13").starts_with("ok ") {}
        }
    }
}

fn calls(test: &str, (client, server): (By, By)) {
    let base = base(test);
    let (server, existed) = Peer::server(server, &base);
    assert!(!existed);
    let mut client = Peer::client(client, &base, LONG);
    client.call_ok(1);
    assert_eq!(client.ask("calls 200 2"), "calls 200 0 0 0");
    assert_eq!(client.ask("detach"), "detached");
    client.call_ok(2);
    client.finish();
    server.finish();
}

fn started_after(test: &str, (client, server): (By, By)) {
    let base = base(test);
    let mut client = Peer::client(client, &base, LONG);
    assert_eq!(client.ask("call 1 4"), "absent");
    for number in 2..4 {
        let (server, existed) = Peer::server(server, &base);
        assert!(!existed);
        client.call_ok(number);
        assert_eq!(client.ask("detach"), "detached");
        server.finish();
        assert_eq!(client.ask("call 1 4"), "absent");
    }
    client.finish();
}

/// The memory's name lives on, by a client that stays attached; Exec is left set where the client does not take it
/// back.
fn restarted(test: &str, (client_by, server_by): (By, By)) {
    let base = base(test);
    let (server, _) = Peer::server(server_by, &base);
    let mut keeper = Peer::client(client_by, &base, LONG);
    keeper.call_ok(1);
    let mut client = Peer::client(client_by, &base, LONG);
    client.call_ok(2);
    server.kill();
    client.ask(&format!("limit {SHORT}"));
    let end = client.ask("call 3 10");
    match client_by {
        By::C => assert_eq!(end, "timeout"),
        _ => assert_eq!(end, "timeout not-started unknown"),
    }
    client.ask(&format!("limit {LONG}"));
    let (mut server, existed) = Peer::server(server_by, &base);
    assert!(existed);
    if (client_by, server_by) == (By::C, By::C) {
        // The original runs the dead request, and the next client takes its answer for the one to its own.
        server.until("done 3");
        server.ask_until("hold", "holding");
        assert_eq!(client.ask("call 4 13"), "wrong");
        server.ask_until("go", "done 4");
        return;
    }
    client.call_ok(4);
    assert_eq!(server.line(), "run 4");
    keeper.call_ok(5);
    client.call_ok(6);
}

fn killed_owner(test: &str, (client_by, server_by): (By, By)) {
    let base = base(test);
    let (mut server, _) = Peer::server(server_by, &base);
    let mut next = Peer::client(client_by, &base, LONG);
    next.call_ok(1);
    let mut owner = Peer::client(client_by, &base, LONG);
    server.ask_until("hold", "holding");
    owner.tell("call 2 7");
    server.until("run 2");
    owner.kill();
    server.ask_until("go", "going");
    match server_by {
        By::C => server.until("done 2"),
        By::Watching => until_status(&mut server, "status 1 1 0"),
        By::Rust => until_status(&mut server, "status 2 0 0"),
    }
    if (client_by, server_by) == (By::C, By::C) {
        // Nobody took Done: the next client of the original does, and is wrong from here on.
        server.ask_until("hold", "holding");
        assert_eq!(next.ask("call 3 10"), "wrong");
        server.ask_until("go", "done 3");
        return;
    }
    next.call_ok(3);
    if client_by.is_rust() {
        // The owner had died, and its answer came late.
        assert_eq!(next.ask("status"), "status 2 1 1 0");
    }
    next.call_ok(4);
}

fn slow(test: &str, (client_by, server_by): (By, By)) {
    let base = base(test);
    let (mut server, _) = Peer::server(server_by, &base);
    let mut client = Peer::client(client_by, &base, LONG);
    client.call_ok(1);
    server.ask_until("hold", "holding");
    client.ask(&format!("limit {SHORT}"));
    let mut end = client.ask("call 2 7");
    while end.starts_with("timeout not-started") {
        // On a machine that did not let the server take it.
        end = client.ask("call 2 7");
    }
    match (client_by, server_by) {
        (By::C, _) => assert_eq!(end, "timeout"),
        (_, By::C) => assert_eq!(end, "timeout may-have-run unknown"),
        _ => assert_eq!(end, "timeout may-have-run alive"),
    }
    server.until("run 2");
    client.ask(&format!("limit {LONG}"));
    match (client_by, server_by) {
        (By::C, By::C) => {
            // Its answer comes now, and the next request's client takes it.
            server.ask_until("go", "done 2");
            server.ask_until("hold", "holding");
            assert_eq!(client.ask("call 3 10"), "wrong");
            server.ask_until("go", "done 3");
            return;
        }
        (By::C, _) => {
            // The server sees that nobody waits.
            server.ask_until("go", "going");
            until_status(&mut server, "status 1 1 0");
            client.call_ok(3);
        }
        _ => {
            // The next call waits for the late answer before it sends anything.
            client.tell("call 3 10");
            server.ask_until("go", "going");
            let line = client.line();
            assert!(line.starts_with("ok "), "{line}");
            // Once more, with the answer there before the call.
            server.ask_until("hold", "holding");
            client.ask(&format!("limit {SHORT}"));
            while !client.ask("call 4 13").starts_with("timeout may-have-run") {}
            client.ask(&format!("limit {LONG}"));
            server.ask_until("go", "going");
            match server_by {
                By::C => server.until("done 4"),
                _ => until_status(&mut server, "status 4 0 0"),
            }
            client.call_ok(5);
        }
    }
    assert_eq!(client.ask("calls 20 6"), "calls 20 0 0 0");
    client.finish();
    server.finish();
}

/// Asks until the server says so.
fn until_status(server: &mut Peer, want: &str) {
    server.tell("status");
    loop {
        let line = server.line();
        if line == want {
            return;
        }
        if line.starts_with("status ") {
            server.tell("status");
        }
    }
}
