//! Lies in place of a welcome.

use std::os::fd::AsFd;
use std::time::Duration;

use callgate_proto::wire::{Answer, Ask, Hello, Reason, Status, Versions};
use callgate_sys::clock;
use callgate_sys::socket::Socket;

use super::link::welcome;
use super::{Lie, VIOLATION};
use crate::hostile::{receive, send};
use crate::memory::{memfd, payload_seals};
use crate::rng::Rng;

/// The bytes and the number of descriptors, or silence.
type Make = fn(&mut Rng, u32) -> Option<(Vec<u8>, usize)>;

/// All of them.
pub const LIES: &[Lie<Make>] = &[
    Lie("answer too short", &["answer.size"], VIOLATION, |rng, cells| {
        let len = rng.below(64);
        Some((good(cells)[..len].to_vec(), 0))
    }),
    Lie("answer too long", &["answer.size"], VIOLATION, |rng, cells| {
        let mut bytes = good(cells);
        bytes.resize(65 + rng.below(5_000), 0);
        Some((bytes, 0))
    }),
    Lie("answer of another magic", &["answer.magic"], VIOLATION, |rng, cells| {
        let mut bytes = good(cells);
        bytes[rng.below(8)] ^= 1 << rng.below(8);
        Some((bytes, 0))
    }),
    Lie("random answer", &["answer.magic", "answer.size"], VIOLATION, |rng, _| {
        let len = rng.below(200);
        Some((rng.bytes(len), 0))
    }),
    Lie("no versions", &["answer.low"], VIOLATION, |rng, cells| {
        let high = rng.below(9) as u16;
        Some((with(cells, Versions { low: high + 1, high }), 0))
    }),
    Lie("a version not offered", &["answer.high"], VIOLATION, |rng, cells| {
        let version = 2 + rng.below(60_000) as u16;
        Some((with(cells, Versions { low: version, high: version }), 0))
    }),
    Lie("unknown kind", &["answer.kind"], VIOLATION, |rng, cells| {
        let mut bytes = good(cells);
        bytes[12..16].copy_from_slice(&(rng.next() as u32 | 1 << 31).to_le_bytes());
        Some((bytes, 0))
    }),
    Lie("the answer to another question", &["answer.kind"], VIOLATION, |_, _| {
        let status = Answer::Status(Status::default()).encode(Versions::OURS);
        Some((status.as_bytes().to_vec(), 0))
    }),
    Lie("fewer calls than asked for", &["answer.in_flight"], VIOLATION, |rng, cells| {
        let in_flight = rng.below(cells as usize - 1) as u32;
        let welcome =
            Answer::Welcome(callgate_proto::wire::Welcome { in_flight, ..welcome(cells) });
        Some((welcome.encode(Versions::OURS).as_bytes().to_vec(), 0))
    }),
    Lie("calls in flight of 64 bits", &["answer.in_flight"], VIOLATION, |rng, cells| {
        let mut bytes = good(cells);
        bytes[16 + 4 * 8 + 4 + rng.below(4)] = 1 + rng.below(255) as u8;
        Some((bytes, 0))
    }),
    Lie("answer with descriptors", &["answer.descriptors"], VIOLATION, |rng, cells| {
        Some((good(cells), *rng.one_of(&[1, 2, 10, 253])))
    }),
    Lie("other versions", &[], &["version"], |rng, _| {
        let low = 2 + rng.below(60_000) as u16;
        let refusal = Answer::Refusal { reason: Some(Reason::Version), limit: 0 };
        let mut bytes = refusal.encode(Versions { low, high: low }).as_bytes().to_vec();
        bytes.resize(16 + rng.below(300), 0);
        Some((bytes, 0))
    }),
    Lie("refusals", &[], &["refused", "not-running", "version"], |rng, _| {
        let refusal = Answer::Refusal { reason: None, limit: rng.next() };
        let mut bytes = refusal.encode(Versions::OURS).as_bytes().to_vec();
        let reason = if rng.chance(80) { rng.next() % 12 } else { rng.next() };
        bytes[16..24].copy_from_slice(&reason.to_le_bytes());
        Some((bytes, 0))
    }),
    Lie("silence", &[], &["deadline"], |_, _| None),
];

fn good(cells: u32) -> Vec<u8> {
    with(cells, Versions::OURS)
}

fn with(cells: u32, versions: Versions) -> Vec<u8> {
    Answer::Welcome(welcome(cells)).encode(versions).as_bytes().to_vec()
}

/// Hears the hello, and answers so.
pub fn tell(socket: &Socket, rng: &mut Rng, make: Make) {
    let Some((bytes, fd)) = receive(socket) else { return };
    let Ok(Hello { ask: Some(Ask::Connect { cells, .. }), .. }) = Hello::decode(&bytes) else {
        return;
    };
    let _fd = fd;
    if let Some((bytes, count)) = make(rng, cells) {
        let memory = memfd(4_096, true, payload_seals());
        let _ = send(socket, &bytes, &vec![memory.as_fd(); count]);
    }
    while !socket.is_closed() {
        let _ = socket.wait_readable(Some(clock::deadline_ns(Duration::from_millis(1))));
    }
}
