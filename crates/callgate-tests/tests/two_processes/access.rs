//! Who gets in, who is seen, and whom a client trusts. As another user only root can come, so there is nothing here to be
//! seen by others.

use std::os::unix::fs::{PermissionsExt, chown};

use callgate::{CallError, Client, ClientOptions, ServerIdentity};
use callgate_tests::data::method as m;
use callgate_tests::peer::Words;
use callgate_tests::{Peer, Place, within};

use crate::{LONGEST, PEER, method};

const OTHER: u32 = 23_456;
const GROUP: u32 = 34_567;

/// Whether there are other users to be; says so if not.
fn are_others() -> bool {
    let root = callgate_sys::process::uid() == 0;
    if !root {
        eprintln!("not root: access of other users cannot be tried");
    }
    root
}

/// A place that everybody can reach.
fn open_place() -> Place {
    let place = Place::new();
    let mode = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(place.directory(), mode).expect("permitted");
    place
}

/// What a client of another user gets: `once` is one call.
fn as_user(place: &Place, uid: u32, gid: u32) -> (Peer, Words) {
    let words: [&str; 3] = [&format!("uid={uid}"), &format!("gid={gid}"), "timeout_ms=10000"];
    let mut client = place.peer(PEER, "load", &words);
    client.expect("ready");
    let counted = client.ask("try");
    (client, counted)
}

#[test]
fn owner() {
    within(LONGEST, || {
        let place = open_place();
        let mut server = place.server(PEER, &["access=owner"]);
        let own = Client::connect(place.name()).expect("connect");
        own.call(b"x").expect("a reply");
        if !are_others() {
            return;
        }
        let (_client, told) = as_user(&place, OTHER, OTHER);
        assert_eq!(told.find::<String>("kind").as_deref(), Some("refused"), "{}", told.text());
        assert_eq!(server.ask("status").number("clients"), 1);

        // The socket's mode is not all: the server looks at who comes.
        let mode = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(place.path(), mode).expect("permitted");
        let refused = server.ask("status").number("refused");
        for uid in [OTHER, callgate_sys::process::overflow_uid()] {
            let (_client, told) = as_user(&place, uid, uid);
            assert_eq!(told.find::<String>("kind").as_deref(), Some("refused"), "{}", told.text());
            assert!(told.text().contains("may not use it"), "{}", told.text());
        }
        assert_eq!(server.ask("status").number("refused"), refused + 2);
        own.call(b"x").expect("a reply");
    });
}

#[test]
fn everyone() {
    within(LONGEST, || {
        let place = open_place();
        let _server = place.server(PEER, &["access=everyone"]);
        let seen = |client: &Client| {
            let reply = client.call_with(method(m::CALLER), b"").expect("a reply").to_vec();
            Words::parse(&String::from_utf8(reply).expect("text"))
        };
        let own = Client::connect(place.name()).expect("connect");
        let told = seen(&own);
        assert_eq!(told.number("pid"), u64::from(std::process::id()));
        assert_eq!(told.number("uid"), u64::from(callgate_sys::process::uid()));
        assert_eq!(told.number("gid"), u64::from(callgate_sys::process::gid()));
        if !are_others() {
            return;
        }
        let (client, told) = as_user(&place, OTHER, GROUP);
        assert_eq!(told.find::<String>("kind").as_deref(), Some("ok"), "{}", told.text());
        assert_eq!(told.number("pid"), u64::from(client.pid()));
        assert_eq!((told.number("uid"), told.number("gid")), (OTHER.into(), GROUP.into()));
    });
}

#[test]
fn a_user_with_all_its_places_leaves_others_theirs() {
    const PLACES: usize = 20;
    within(LONGEST, || {
        if !are_others() {
            return;
        }
        let place = open_place();
        let words = ["access=everyone", &format!("clients_per_uid={PLACES}")];
        let _server = place.server(PEER, &words);
        let all: Vec<_> =
            (0..PLACES).map(|_| Client::connect(place.name()).expect("room")).collect();
        match Client::connect(place.name()) {
            Err(CallError::Refused { .. }) => {}
            other => panic!("{other:?}"),
        }
        let (_client, told) = as_user(&place, OTHER, OTHER);
        assert_eq!(told.find::<String>("kind").as_deref(), Some("ok"), "{}", told.text());
        for client in &all {
            client.call(b"x").expect("a reply");
        }
    });
}

#[test]
fn a_group() {
    within(LONGEST, || {
        if !are_others() {
            return;
        }
        let place = open_place();
        let _server = place.server(PEER, &[&format!("access={GROUP}")]);
        let (_client, told) = as_user(&place, OTHER, GROUP);
        assert_eq!(told.find::<String>("kind").as_deref(), Some("ok"), "{}", told.text());
        let (_client, told) = as_user(&place, OTHER, OTHER);
        assert_eq!(told.find::<String>("kind").as_deref(), Some("refused"), "{}", told.text());
    });
}

/// A client trusts its own user and root, unless it is told otherwise.
#[test]
fn a_server_of_another_user() {
    within(LONGEST, || {
        if !are_others() {
            return;
        }
        let place = open_place();
        chown(place.directory(), Some(OTHER), Some(OTHER)).expect("root may");
        let server = place.peer(PEER, "server", &[&format!("uid={OTHER}"), "access=everyone"]);
        server.expect("serving");
        match Client::connect(place.name()) {
            Err(CallError::UntrustedServer { uid: OTHER, path }) => assert_eq!(path, place.path()),
            other => panic!("{other:?}"),
        }
        let trusting = |server| {
            let mut options = ClientOptions::default();
            options.server = server;
            Client::connect_with(place.name(), options)
        };
        for trusted in [ServerIdentity::Uid(OTHER), ServerIdentity::Anyone] {
            let client = trusting(trusted).expect("trusted");
            assert_eq!(client.call(b"x").expect("a reply").to_vec(), b"x");
            assert_eq!(client.server().expect("connected").uid, OTHER);
        }
        match trusting(ServerIdentity::Uid(GROUP)) {
            Err(CallError::UntrustedServer { uid: OTHER, .. }) => {}
            other => panic!("{other:?}"),
        }
        // Its own user, and a user who is neither.
        let (_client, told) = as_user(&place, OTHER, OTHER);
        assert_eq!(told.find::<String>("kind").as_deref(), Some("ok"), "{}", told.text());
        let (_client, told) = as_user(&place, GROUP, GROUP);
        assert_eq!(told.find::<String>("kind").as_deref(), Some("untrusted"), "{}", told.text());
    });
}
