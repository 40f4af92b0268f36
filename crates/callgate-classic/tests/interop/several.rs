//! Clients of both kinds at once, and a server of one kind in the place of one of the other.

use super::peer::{By, LONG, Peer, SHORT, base};

mod several_with_c {
    #[test]
    fn calls() {
        super::several("several-c", super::By::C);
    }
}

mod several_with_rust {
    #[test]
    fn calls() {
        super::several("several-rust", super::By::Rust);
    }

    #[test]
    fn calls_of_a_server_that_looks_after_free() {
        super::several("several-watching", super::By::Watching);
    }
}

mod c_server_then_rust {
    #[test]
    fn a_server_takes_the_place_of_another() {
        super::replaced("c-then-rust", super::By::C, super::By::Watching);
    }
}

mod rust_server_then_c {
    #[test]
    fn a_server_takes_the_place_of_another() {
        super::replaced("rust-then-c", super::By::Watching, super::By::C);
    }
}

fn several(test: &str, server_by: By) {
    let base = base(test);
    let (server, _) = Peer::server(server_by, &base);
    let kinds = [By::C, By::Rust, By::C, By::Rust];
    let mut clients = kinds.map(|by| Peer::client(by, &base, LONG));
    for (seed, client) in (1..).zip(&mut clients) {
        client.tell(&format!("calls 100 {seed}"));
    }
    for (by, mut client) in kinds.into_iter().zip(clients) {
        assert_eq!(client.line(), "calls 100 0 0 0");
        if by.is_rust() {
            // Nothing was late, nobody died.
            assert_eq!(client.ask("status"), "status 100 0 0 0");
        }
        client.finish();
    }
    server.finish();
}

/// Both clients stay attached; a request is left in the memory as each kind of client leaves it.
fn replaced(test: &str, first: By, second: By) {
    let base = base(test);
    let (server, _) = Peer::server(first, &base);
    let mut clients = [By::C, By::Rust].map(|by| Peer::client(by, &base, LONG));
    for (number, client) in (1..).zip(&mut clients) {
        client.call_ok(number);
    }
    server.kill();
    let [in_c, in_rust] = &mut clients;
    if second.is_rust() {
        // Leaves Exec set. A server in C would run it.
        in_c.ask(&format!("limit {SHORT}"));
        assert_eq!(in_c.ask("call 3 10"), "timeout");
        in_c.ask(&format!("limit {LONG}"));
    } else {
        in_rust.ask(&format!("limit {SHORT}"));
        assert_eq!(in_rust.ask("call 3 10"), "timeout not-started unknown");
        in_rust.ask(&format!("limit {LONG}"));
    }
    let (server, existed) = Peer::server(second, &base);
    assert!(existed);
    for (number, client) in (4..).zip(&mut clients) {
        client.call_ok(number);
    }
    assert_eq!(server.line(), "run 4");
    for (number, client) in (6..).zip(&mut clients) {
        client.call_ok(number);
    }
    for client in clients {
        client.finish();
    }
    server.finish();
}
