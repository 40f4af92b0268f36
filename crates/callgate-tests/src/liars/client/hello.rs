//! Lies before a welcome.

use std::os::fd::AsFd;
use std::path::Path;

use callgate_proto::wire::{Answer, Ask, Hello, Reason, Versions};
use callgate_sys::socket::Socket;

use super::Expect;
use crate::hostile::{answer, control_size, hello, reach, receive, send};
use crate::liars::speaker::{CELLS, QUOTA};
use crate::memory::{control_seals, impostors, memfd};
use crate::rng::Rng;
use crate::stuck::StuckWrite;

/// A name, what must come of it, and how it is told.
pub struct HelloLie(pub &'static str, pub Expect, pub fn(&Path, &mut Rng));

/// All of them.
pub const LIES: &[HelloLie] = &[
    HelloLie("hello too short", Expect::Noticed(&["hello.size"]), |path, rng| {
        let len = 1 + rng.below(39);
        tell(path, &good()[..len], 1, &[Reason::Malformed]);
    }),
    HelloLie("hello too long", Expect::Noticed(&["hello.size"]), |path, rng| {
        let mut bytes = good();
        bytes.resize(41 + rng.below(2_000), 0);
        tell(path, &bytes, 1, &[Reason::Malformed]);
    }),
    HelloLie("hello of another magic", Expect::Noticed(&["hello.magic"]), |path, rng| {
        let mut bytes = good();
        bytes[rng.below(8)] ^= 1 << rng.below(8);
        tell(path, &bytes, 1, &[Reason::Malformed]);
    }),
    HelloLie("random hello", Expect::Noticed(&["hello.magic", "hello.size"]), |path, rng| {
        let len = 1 + rng.below(64);
        let bytes = rng.bytes(len);
        tell(path, &bytes, 0, &[Reason::Malformed]);
    }),
    HelloLie("no versions", Expect::Noticed(&["hello.low"]), |path, rng| {
        let high = rng.below(5) as u16;
        let versions = Versions { low: high + 1 + rng.below(100) as u16, high };
        tell(path, Hello { versions, ask: None }.encode().as_bytes(), 0, &[Reason::Malformed]);
    }),
    HelloLie("other versions", Expect::Quiet, |path, rng| {
        let low = 2 + rng.below(60_000) as u16;
        let versions = Versions { low, high: low.saturating_add(rng.below(100) as u16) };
        tell(path, Hello { versions, ask: None }.encode().as_bytes(), 0, &[Reason::Version]);
    }),
    HelloLie("unknown kind", Expect::Noticed(&["hello.kind"]), |path, rng| {
        let mut bytes = good();
        bytes[12..16].copy_from_slice(&(3 + rng.next() as u32 % 1_000).to_le_bytes());
        tell(path, &bytes, 1, &[Reason::Malformed]);
    }),
    HelloLie("status with a descriptor", Expect::Noticed(&["hello.kind"]), |path, _| {
        let status = Hello { versions: Versions::OURS, ask: Some(Ask::Status) };
        tell(path, status.encode().as_bytes(), 1, &[Reason::Malformed]);
    }),
    HelloLie("a write into its region that never ends", Expect::Quiet, |path, _| {
        let fd = memfd(size(), true, control_seals());
        let Some(_stuck) = StuckWrite::begin(&fd) else { return };
        let Ok(socket) = reach(path) else { return };
        send(&socket, &good(), &[fd.as_fd()]).expect("sent");
        assert!(matches!(answer(&socket), Some(Answer::Welcome(_))));
    }),
    HelloLie("cells beyond", Expect::Noticed(&["hello.cells"]), |path, rng| {
        let cells = *rng.one_of(&[0, 1, 1_025, 65_537, u32::MAX]);
        tell(path, &hello(cells, size(), QUOTA), 1, &[Reason::Malformed]);
    }),
    HelloLie("another size of the region", Expect::Noticed(&["hello.control"]), |path, rng| {
        let other = *rng.one_of(&[0, 1, size() - 1, size() + 1, size() + 4_096, u64::MAX]);
        tell(path, &hello(CELLS, other, QUOTA), 1, &[Reason::Malformed]);
    }),
    HelloLie("hello without a descriptor", Expect::Noticed(&["hello.descriptors"]), |path, _| {
        tell(path, &good(), 0, &[Reason::Malformed]);
    }),
    HelloLie("hello with many", Expect::Noticed(&["hello.descriptors"]), |path, rng| {
        let count = *rng.one_of(&[2, 3, 10, 253]);
        tell(path, &good(), count, &[Reason::Malformed]);
    }),
    HelloLie("a region that is none", Expect::Noticed(&["hello.memory"]), |path, rng| {
        let all = impostors(size(), control_seals());
        let (what, fd) = &all[rng.below(all.len())];
        let socket = reach(path).expect("it listens");
        send(&socket, &good(), &[fd.as_fd()]).expect("sent");
        refused(what, &socket, &[Reason::Malformed]);
    }),
    HelloLie("gone at some step", Expect::Quiet, |path, rng| {
        for _ in 0..20 {
            let socket = reach(path).expect("it listens");
            if rng.chance(70) {
                let fd = memfd(size(), true, control_seals());
                send(&socket, &good(), &[fd.as_fd()]).expect("sent");
            }
            match rng.below(4) {
                0 => socket.shutdown(),
                1 => drop(receive(&socket)),
                _ => {}
            }
        }
    }),
    HelloLie("nothing is said", Expect::Quiet, |path, _| {
        let socket = reach(path).expect("it listens");
        // Dropped in time, or to make room for others.
        refused("silence", &socket, &[Reason::TooSlow]);
    }),
];

fn size() -> u64 {
    control_size(CELLS) as u64
}

fn good() -> Vec<u8> {
    hello(CELLS, size(), QUOTA)
}

/// Says it with so many descriptors of good memory, and holds the answer against what is allowed.
fn tell(path: &Path, bytes: &[u8], count: usize, allowed: &[Reason]) {
    let fd = memfd(size(), true, control_seals());
    let socket = reach(path).expect("it listens");
    send(&socket, bytes, &vec![fd.as_fd(); count]).expect("sent");
    refused("a hello", &socket, allowed);
}

fn refused(what: &str, socket: &Socket, allowed: &[Reason]) {
    match answer(socket) {
        Some(Answer::Refusal { reason: Some(reason), .. }) if allowed.contains(&reason) => {}
        other => panic!("{what}: {other:?}, allowed {allowed:?}"),
    }
    crate::hostile::wait_closed(socket);
}
