//! Before a client is welcomed: garbage, halves, surplus descriptors, memory that is none.

use super::{QUOTA, Stage, refused_as_malformed};
use crate::{LONGEST, PEER, method};
use callgate::{CallError, Client};
use callgate_proto::wire::{Answer, Hello, Message, Reason, Versions};
use callgate_sys::shm::Control;
use callgate_sys::socket::{RecvError, Socket};
use callgate_tests::BOUND;
use callgate_tests::data::{is_reply, method as m, request};
use callgate_tests::hostile::{
    Raw, answer, control_size, hello, reach, receive, send, wait_closed,
};
use callgate_tests::memory::{control_seals, impostors, memfd};
use callgate_tests::stuck::StuckWrite;
use callgate_tests::{Place, Rng, until, within};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::channel;

/// Unfinished handshakes that a server keeps: 1,024, or an eighth of its descriptors. Raises this process's limit, too.
fn half_open_max() -> usize {
    let (soft, _) = callgate_sys::process::raise_nofile().expect("raised");
    usize::try_from((soft - 64) / 8).map_or(1_024, |eighth| eighth.min(1_024))
}

#[test]
fn garbage_handshakes() {
    within(LONGEST, || {
        let mut rng = Rng::printed("garbage_handshakes");
        let mut stage = Stage::new(&[]);
        for len in (0..=64).chain([65, 100, 1_000, 60_000]) {
            let bytes = rng.bytes(len);
            stage.attack(&format!("{len} random bytes"), 1, |stage| {
                let socket = stage.reach();
                send(&socket, &bytes, &[]).expect("sent");
                refused_as_malformed("garbage", &socket);
            });
        }
        let size = control_size(65) as u64;
        let good = hello(65, size, QUOTA);
        // One byte wrong anywhere, or the end missing, or one too many.
        for at in (0..8).chain(12..16) {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            stage.attack(&format!("byte {at} is wrong"), 1, |stage| {
                let socket = stage.reach();
                send(&socket, &bytes, &[]).expect("sent");
                refused_as_malformed("a wrong byte", &socket);
            });
        }
        for len in [8, 16, 39, 41, 64] {
            let mut bytes = good.clone();
            bytes.resize(len, 0);
            stage.attack(&format!("cut to {len}"), 1, |stage| {
                let socket = stage.reach();
                send(&socket, &bytes, &[]).expect("sent");
                refused_as_malformed("a wrong length", &socket);
            });
        }
        for (cells, control) in [
            (0, size),
            (1, size),
            (1_025, size),
            (u32::MAX, size),
            (65, 0),
            (65, size - 1),
            (65, size + 4_096),
            (65, u64::MAX),
            (1_024, size),
            (2, size),
        ] {
            stage.attack(&format!("{cells} cells in {control} bytes"), 1, |stage| {
                let fd = memfd(size, true, control_seals());
                let socket = stage.reach();
                send(&socket, &hello(cells, control, QUOTA), &[fd.as_fd()]).expect("sent");
                refused_as_malformed("wrong cells", &socket);
            });
        }
        stage.finish();
    });
}

#[test]
fn other_versions_are_told_so() {
    within(LONGEST, || {
        let mut stage = Stage::new(&[]);
        for (low, high) in [(2, 2), (0, 0), (7, u16::MAX), (u16::MAX, u16::MAX)] {
            stage.attack(&format!("versions {low} to {high}"), 0, |stage| {
                let socket = stage.reach();
                let versions = Versions { low, high };
                let hello = Hello { versions, ask: None }.encode();
                send(&socket, hello.as_bytes(), &[]).expect("sent");
                match receive(&socket) {
                    Some((bytes, None)) => {
                        let (answer, versions) = Answer::decode(&bytes).expect("an answer");
                        assert_eq!(versions, Versions::OURS);
                        let refusal = Answer::Refusal { reason: Some(Reason::Version), limit: 0 };
                        assert_eq!(answer, refusal);
                    }
                    other => panic!("{:?}", other.map(|(bytes, _)| bytes)),
                }
                wait_closed(&socket);
            });
        }
        for (low, high) in [(5, 3), (u16::MAX, 0), (1, 0)] {
            stage.attack(&format!("versions {low} to {high}, which is none"), 1, |stage| {
                let socket = stage.reach();
                let hello = Hello { versions: Versions { low, high }, ask: None }.encode();
                send(&socket, hello.as_bytes(), &[]).expect("sent");
                refused_as_malformed("no version", &socket);
            });
        }
        stage.finish();
    });
}

/// With the handshake, and later with any message: none is leaked, whatever their number.
#[test]
fn surplus_descriptors() {
    within(LONGEST, || {
        let mut stage = Stage::new(&[]);
        let size = control_size(65) as u64;
        let good = memfd(size, true, control_seals());
        let many = vec![good.as_fd(); 253];
        for count in [0, 2, 3, 10, 64, 200, 253] {
            stage.attack(&format!("a hello with {count} descriptors"), 1, |stage| {
                let socket = stage.reach();
                send(&socket, &hello(65, size, QUOTA), &many[..count]).expect("sent");
                refused_as_malformed("descriptors", &socket);
            });
            let bell = Message::Bell.encode();
            let region = Message::Region { id: 0, size }.encode();
            let retire = Message::Retire { id: 0 }.encode();
            for (what, message) in [("bell", bell), ("region", region), ("retire", retire)] {
                if count == 0 && what == "bell" {
                    continue;
                }
                stage.attack(&format!("a {what} with {count} descriptors"), 1, |stage| {
                    let raw = stage.raw();
                    send(&raw.socket, message.as_bytes(), &many[..count]).expect("sent");
                    wait_closed(&raw.socket);
                });
            }
        }
        // One where none belongs.
        for message in [Message::Bell, Message::Retire { id: 0 }] {
            stage.attack(&format!("{message:?} with a descriptor"), 1, |stage| {
                let raw = stage.raw();
                send(&raw.socket, message.encode().as_bytes(), &many[..1]).expect("sent");
                wait_closed(&raw.socket);
            });
        }
        let status =
            Hello { versions: Versions::OURS, ask: Some(callgate_proto::wire::Ask::Status) };
        stage.attack("a status request with a descriptor", 1, |stage| {
            let socket = stage.reach();
            send(&socket, status.encode().as_bytes(), &many[..1]).expect("sent");
            refused_as_malformed("descriptor", &socket);
        });
        stage.finish();
    });
}

/// More than the server keeps at a time: they give way, honest clients get in, and their time ends.
#[test]
fn half_handshakes() {
    within(LONGEST, || {
        let mut stage = Stage::new(&["handshake_ms=700"]);
        callgate_sys::process::raise_nofile().expect("raised");
        let sockets: Vec<Socket> =
            (0..1_500).map(|_| until("the server accepts", || stage.reach().into())).collect();
        for id in 0..20 {
            let client = Client::connect(stage.place.name()).expect("an honest client gets in");
            let reply = client.call_with(method(m::CHECKED), &request(id, 100, 100));
            assert!(is_reply(&reply.expect("a reply").to_vec(), id, 100));
        }
        stage.honest_goes_on(20);
        for socket in &sockets {
            wait_closed(socket);
        }
        assert!(stage.server.ask("status").number("refused") >= 1_500);
        drop(sockets);
        stage.finish();
    });
}

/// A server keeps so many unfinished handshakes, and no more: the oldest give way, long before their time is over.
#[test]
fn half_handshakes_have_a_limit() {
    const MORE: usize = 300;
    within(LONGEST, || {
        let (place, most) = (Place::new(), half_open_max());
        let mut server = place.server(PEER, &["handshake_ms=3600000"]);
        let reach_one = || until("the server accepts", || reach(&place.path()).ok());
        let sockets: Vec<Socket> = (0..most + MORE).map(|_| reach_one()).collect();
        // It is accepted after all of them, and takes the place of one more while it shakes hands.
        let client = Client::connect(place.name()).expect("an honest client gets in");
        assert_eq!(client.call_with(method(m::ECHO), b"x").expect("a reply").to_vec(), b"x");
        let (gone, left) = sockets.split_at(MORE + 1);
        for socket in gone {
            match answer(socket) {
                Some(Answer::Refusal { reason: Some(Reason::TooSlow), .. }) => {}
                other => panic!("{other:?}"),
            }
            wait_closed(socket);
        }
        for socket in left {
            let heard = socket.recv(&mut [0; 64]);
            assert!(matches!(heard, Err(RecvError::Empty)), "the others may go on: {heard:?}");
        }
        assert_eq!(server.ask("status").number("refused"), MORE as u64 + 1);
    });
}

/// Where one user has most of them, it is that user's that give way.
#[test]
fn half_handshakes_of_one_user_leave_another_room() {
    const OTHER: u32 = 23_456;
    if callgate_sys::process::uid() != 0 {
        return eprintln!("not root: there is no other user to be");
    }
    within(LONGEST, || {
        let place = Place::new();
        let mode = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(place.directory(), mode).expect("permitted");
        let most = half_open_max();
        let mut server = place.server(PEER, &["handshake_ms=3600000", "access=everyone"]);
        let reach_one = || until("the server accepts", || reach(&place.path()).ok());
        // The oldest of all is the other user's.
        let others = as_user(OTHER, reach_one);
        let sockets: Vec<Socket> = (0..most + 50).map(|_| reach_one()).collect();
        let client = Client::connect(place.name()).expect("an honest client gets in");
        client.call_with(method(m::ECHO), b"x").expect("a reply");
        let heard = others.recv(&mut [0; 64]);
        assert!(matches!(heard, Err(RecvError::Empty)), "it is one of few: {heard:?}");
        assert_eq!(server.ask("status").number("refused"), 52);
        drop(sockets);
    });
}

/// Makes a connection as another user: this thread's ids are changed for that, and back.
fn as_user(uid: u32, connect: impl FnOnce() -> Socket) -> Socket {
    // SAFETY: the system calls themselves, which change this thread alone, and take numbers only.
    let become_user = |uid: u32| unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) };
    assert_eq!(become_user(uid), 0, "root may");
    let socket = connect();
    assert_eq!(become_user(0), 0, "it was root");
    socket
}

/// Many connect while a client's hello is there to be read: it is read before they are all let in, and so before they
/// would have pushed that client out.
#[test]
fn a_flood_of_connects_beside_a_handshake() {
    within(LONGEST, || {
        let (place, most) = (Place::new(), half_open_max());
        let server = place.server(PEER, &["handshake_ms=3600000"]);
        let honest = reach(&place.path()).expect("it listens");
        // They are accepted in their order.
        let after = Client::connect(place.name()).expect("it is let in");
        server.freeze();
        let sockets: Vec<Socket> =
            (0..most + 300).map(|_| reach(&place.path()).expect("room to wait")).collect();
        let size = control_size(65);
        let (_control, fd) = callgate_sys::shm::Control::create(size).expect("memory");
        send(&honest, &hello(65, size as u64, QUOTA), &[fd.as_fd()]).expect("sent");
        server.thaw();
        match answer(&honest) {
            Some(Answer::Welcome(_)) => {}
            other => panic!("it was there before them: {other:?}"),
        }
        drop((sockets, after));
    });
}

/// Gone again at every step, with whatever lies unread.
#[test]
fn clients_that_vanish() {
    within(LONGEST, || {
        let mut rng = Rng::printed("clients_that_vanish");
        let mut stage = Stage::new(&[]);
        let size = control_size(65);
        stage.attack("vanishing", 0, |stage| {
            for _ in 0..60 {
                drop(stage.reach());
                let socket = stage.reach();
                let (_control, fd) = callgate_sys::shm::Control::create(size).expect("memory");
                send(&socket, &hello(65, size as u64, QUOTA), &[fd.as_fd()]).expect("sent");
                drop(socket);
                let mut raw = stage.raw();
                if rng.chance(50) {
                    raw.publish_bytes(m::CHECKED, &request(1, 20, 30_000));
                }
                if rng.chance(50) {
                    raw.add_region(0, 65_536);
                    raw.publish_far(m::ECHO, 0, 0, 60_000);
                }
                if rng.chance(30) {
                    raw.socket.shutdown();
                }
                drop(raw);
            }
        });
        stage.finish();
    });
}

#[test]
fn impostors_as_control_memory() {
    within(LONGEST, || {
        let mut stage = Stage::new(&[]);
        let size = control_size(65) as u64;
        for (what, fd) in impostors(size, control_seals()) {
            stage.attack(what, 1, |stage| {
                let socket = stage.reach();
                send(&socket, &hello(65, size, QUOTA), &[fd.as_fd()]).expect("sent");
                refused_as_malformed(what, &socket);
            });
        }
        stage.finish();
    });
}

/// A write that never ends holds the lock of the inode of what a client sends. Nobody who checks it waits for that, however
/// many pieces there are to be counted.
#[test]
fn a_peer_that_holds_the_inodes_lock_keeps_nobody_who_checks() {
    within(LONGEST, || {
        let mut stage = Stage::new(&[]);
        stage.attack("the inode of a control region is held", 0, |stage| {
            let size = control_size(65);
            let fd = memfd(size as u64, true, control_seals());
            let Some(_stuck) = StuckWrite::begin(&fd) else { return };
            let socket = stage.reach();
            send(&socket, &hello(65, size as u64, QUOTA), &[fd.as_fd()]).expect("sent");
            assert!(matches!(answer(&socket), Some(Answer::Welcome(_))));
            let other = Client::connect(stage.place.name()).expect("others are let in");
            other.call_with(method(m::CHECKED), &request(1, 20, 20)).expect("a reply");
        });
        for size in [65_536, 4 << 20] {
            let fd = memfd(size, true, control_seals());
            let Some(stuck) = StuckWrite::begin(&fd) else { return };
            let (sender, checked) = channel();
            std::thread::spawn(move || {
                sender.send(Control::accept(fd.into(), size as usize).map(drop))
            });
            let checked = checked.recv_timeout(BOUND);
            // First, or who waits would wait for good.
            drop(stuck);
            checked.expect("nobody waits").expect("it is all there");
        }
        stage.finish();
    });
}

/// Who meets the limit of clients of one user is told so, and gets in when there is room again. That other users have places
/// of their own: `access::a_user_with_all_its_places_leaves_others_theirs`.
#[test]
fn a_user_who_takes_all_places() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &["clients_per_uid=20"]);
        let raws: Vec<Raw> = (0..20).map(|_| Raw::connect(&place.path(), 2, QUOTA)).collect();
        match Client::connect(place.name()) {
            Err(CallError::Refused { reason, .. }) => assert!(reason.contains("20"), "{reason}"),
            other => panic!("{other:?}"),
        }
        drop(raws);
        let client = until("there is room again", || Client::connect(place.name()).ok());
        client.call(b"x").expect("a reply");
        assert!(server.ask("status").number("refused") >= 1);
    });
}
