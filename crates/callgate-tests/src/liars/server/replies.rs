//! Lies to a client that was welcomed, told when a call of its is there.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use callgate_proto::body::{Body, Place};
use callgate_proto::chain::Taken;
use callgate_proto::wire::Message;

use super::link::{Link, REGION, REPLY_MAX};
use super::{Lie, VIOLATION};
use crate::hostile::{requeue, send, state};
use crate::memory::{held_seals, impostors, memfd, payload_seals, punch};

const FAR: u64 = 1 << 22;
const FAILURE: u64 = 1 << 23;
/// Endings of a connection that was hung up.
const GONE: &[&str] = &["not-started", "may-have-run"];
/// Of one to which anything may happen.
const ANY: &[&str] = &["ok", "violation", "deadline", "not-started", "may-have-run", "handler"];

type Tell = fn(&mut Link<'_>, &Taken);

/// All of them. Where `ok` is among the endings it is told again with each call.
pub const LIES: &[Lie<Tell>] = &[
    Lie("blank", &["cell.state"], VIOLATION, |l, t| cell(l, t, 0, 0, 0, [0; 3])),
    Lie("released", &["cell.state"], VIOLATION, |l, t| cell(l, t, 0, 3, 0, [0; 3])),
    Lie("another turn's reply", &["cell.state"], VIOLATION, |l, t| {
        let turn = 1 + l.rng.next() as u32 % 0x03ff_ffff;
        cell(l, t, turn, 2, 0, [0; 3]);
    }),
    Lie("another turn's request", &["cell.state"], VIOLATION, |l, t| {
        let turn = 1 + l.rng.next() as u32 % 0x03ff_ffff;
        cell(l, t, turn, 1, 0, [0; 3]);
    }),
    Lie("a reply that sleeps or is cancelled", &["cell.state"], VIOLATION, |l, t| {
        let flags = 1 + l.rng.below(3) as u32;
        let word = state::word(state::number(t.turn), 2) | flags;
        l.words.state(t.cell).store(word, Ordering::SeqCst);
        l.wake(t.cell);
        l.wait_gone();
    }),
    Lie("a reply sent twice", &["cell.state"], VIOLATION, |l, t| {
        l.echo(t);
        let Some(next) = l.take_next() else { return };
        let old = state::word(state::number(t.turn), 2);
        l.words.state(next.cell).store(old, Ordering::SeqCst);
        l.wake(next.cell);
        l.wait_gone();
    }),
    Lie("length beyond", &["head.length"], VIOLATION, |l, t| {
        let len = 49 + l.rng.below(15) as u64;
        cell(l, t, 0, 2, len << 16, [0; 3]);
    }),
    Lie("far with a length", &["head.length"], VIOLATION, |l, t| {
        let len = 1 + l.rng.below(63) as u64;
        cell(l, t, 0, 2, FAR | len << 16, [0; 3]);
    }),
    Lie("zero bits", &["head.zero"], VIOLATION, |l, t| {
        let bits = 1 + l.rng.below(255) as u64;
        cell(l, t, 0, 2, bits << 24, [0; 3]);
    }),
    Lie("all bits", &["head.zero"], VIOLATION, |l, t| {
        cell(l, t, 0, 2, u64::MAX, [u64::MAX; 3]);
    }),
    Lie("unknown region", &["place.region"], VIOLATION, |l, t| {
        let region = 1 + l.rng.next() % u64::from(u32::MAX);
        cell(l, t, 0, 2, FAR, [region, 0, 1]);
    }),
    Lie("wide region", &["place.region"], VIOLATION, |l, t| {
        let region = 1 << (32 + l.rng.below(32));
        cell(l, t, 0, 2, FAR, [region, 0, 1]);
    }),
    Lie("offset beyond", &["place.offset"], VIOLATION, |l, t| {
        let offset = *l.rng.one_of(&[REGION + 1, 1 << 32, 1 << 63, u64::MAX]);
        cell(l, t, 0, 2, FAR, [0, offset, 1]);
    }),
    Lie("length past the end", &["place.len"], VIOLATION, |l, t| {
        let len = 1 + l.rng.below(5_000) as u64;
        cell(l, t, 0, 2, FAR, [0, REGION - len + 1, len]);
    }),
    Lie("longer than it said", &["place.len"], VIOLATION, |l, t| {
        let len = *l.rng.one_of(&[REPLY_MAX + 1, 1 << 32, u64::MAX]);
        cell(l, t, 0, 2, FAR, [0, 0, len]);
    }),
    Lie("a failure's place", &["place.region"], VIOLATION, |l, t| {
        cell(l, t, 0, 2, FAR | FAILURE, [7, 0, 1]);
    }),
    Lie("a failure that is no text", &[], &["handler"], |l, t| {
        let body = [l.rng.next() | 0x8080, l.rng.next(), 0];
        cell(l, t, 0, 2, FAILURE | 16 << 16, body);
    }),
    Lie("hints", &[], &["ok"], |l, t| {
        let head = l.rng.next() << 32 | l.rng.next() & 0xffff;
        let flags = (l.rng.below(4) as u32) << 2;
        l.words.head(t.cell).store(head, Ordering::Relaxed);
        let word = state::word(state::number(t.turn), 2) | flags;
        l.words.state(t.cell).store(word, Ordering::SeqCst);
        l.wake(t.cell);
    }),
    Lie("never answers", &[], &["deadline"], |l, _| l.wait_gone()),
    Lie("hangs up", &[], GONE, |_, _| {}),
    Lie("hangs up, lying about what it took", &[], GONE, |l, _| {
        let taken = l.rng.next() as u32;
        l.words.words32()[0].store(taken, Ordering::SeqCst);
    }),
    Lie("sleepers moved elsewhere", &[], &["deadline"], |l, t| {
        while !l.socket.is_closed() {
            move_sleepers(l, t);
        }
    }),
    Lie("sleepers moved elsewhere, then gone", &[], GONE, |l, t| {
        let began = std::time::Instant::now();
        while began.elapsed().as_millis() < 100 {
            move_sleepers(l, t);
        }
    }),
    Lie("message of another kind", &["message.kind"], VIOLATION, |l, _| {
        let len = 1 + l.rng.below(64);
        let mut bytes = l.rng.bytes(len);
        bytes[0] = *l.rng.one_of(&[1, 2, 7, b'Q', b'c', b'W', b'Y', 0xff]);
        say(l, &bytes, 0);
    }),
    Lie("a bell", &["message.kind"], VIOLATION, |l, _| say(l, &[0], 0)),
    Lie("message of no bytes", &["message.size"], VIOLATION, |l, _| say(l, &[], 0)),
    Lie("message too long", &["message.size"], VIOLATION, |l, _| {
        let len = 65 + l.rng.below(5_000);
        let bytes = l.rng.bytes(len);
        say(l, &bytes, 0);
    }),
    Lie("retire with a descriptor", &["message.descriptors"], VIOLATION, |l, _| {
        l.region(0);
        say(l, &retire(0), 1);
    }),
    Lie("region without a descriptor", &["region.descriptors"], VIOLATION, |l, _| {
        say(l, &region(0, REGION), 0);
    }),
    Lie("too many descriptors", &["message.size"], VIOLATION, |l, _| {
        let count = *l.rng.one_of(&[2, 3, 16, 64, 253]);
        say(l, &region(0, REGION), count);
    }),
    Lie("a region's id again", &["region.id"], VIOLATION, |l, _| {
        l.region(0);
        say(l, &region(0, REGION), 1);
    }),
    Lie("too many regions", &["region.count"], VIOLATION, |l, _| {
        (0..17).for_each(|id| l.region(id));
        l.wait_gone();
    }),
    Lie("a region's size", &["region.size"], VIOLATION, |l, _| {
        let size = *l.rng.one_of(&[0, (1 << 30) + 1, 1 << 40, u64::MAX]);
        say(l, &region(0, size), 1);
    }),
    Lie("a region said to be another size", &["region.memory"], VIOLATION, |l, _| {
        let size = *l.rng.one_of(&[1, 4_096, REGION - 1, REGION + 1, 2 * REGION]);
        say(l, &region(0, size), 1);
    }),
    Lie("memory that is none", &["region.memory"], VIOLATION, |l, _| {
        let all = impostors(REGION, held_seals());
        let (_, fd) = &all[l.rng.below(all.len())];
        let _ = send(l.socket, &region(0, REGION), &[fd.as_fd()]);
        l.wait_gone();
    }),
    Lie("retired, never announced", &["retire.id"], VIOLATION, |l, _| {
        let id = l.rng.next() as u32;
        say(l, &retire(id), 0);
    }),
    Lie("replies that move", &[], &["ok"], |l, t| {
        if l.regions.is_empty() {
            l.region(0);
        }
        let len = 1 + l.rng.below(REPLY_MAX as usize) as u64;
        l.reply(t, Body::Far(Place { region: 0, offset: 0, len }));
        for value in 0..20 {
            // SAFETY: the region's own mapping, which lives in `regions`; this thread alone writes to it.
            unsafe { l.regions[0].as_ptr().write_bytes(value, REGION as usize) };
        }
    }),
    // Where the client reads both messages at once, the reply's memory is gone before it is looked for.
    Lie("memory that comes and goes", &["place.region"], &["ok", "violation"], |l, t| {
        let id = 100 + l.regions.len() as u32;
        l.region(id);
        l.reply(t, Body::Far(Place { region: id, offset: 64, len: 1_000 }));
        let _ = send(l.socket, &retire(id), &[]);
        if l.regions.len() > 1_000 {
            l.socket.shutdown();
        }
    }),
    Lie("pages taken away", &["cell.state"], VIOLATION, |l, t| {
        punch(&l.fd, 0, l.words.control.len() as u64);
        l.wake(t.cell);
        l.wait_gone();
    }),
    Lie("scribbles", ANYTHING, ANY, |l, t| {
        if l.rng.chance(50) {
            l.echo(t);
        }
        for _ in 0..l.rng.below(40) {
            let words = l.words.words64();
            let at = if l.rng.chance(70) { l.rng.below(128) } else { l.rng.below(words.len()) };
            let value = match l.rng.below(4) {
                0 => l.rng.next(),
                1 => 1 << l.rng.below(64),
                2 => words[at].load(Ordering::Relaxed) ^ 1 << l.rng.below(64),
                _ => l.rng.next() & l.rng.next() & 0xff_ffff,
            };
            words[at].store(value, Ordering::Relaxed);
        }
        for cell in 0..4 {
            l.wake(cell);
        }
    }),
    Lie("flood of messages", ANYTHING, ANY, |l, _| {
        let memory = memfd(4_096, true, payload_seals());
        for id in 0.. {
            let sent = send(l.socket, &region(id, 4_096), &[memory.as_fd()]);
            if l.socket.is_closed() {
                return;
            }
            if sent.is_ok() {
                while send(l.socket, &retire(id), &[]).is_err() && !l.socket.is_closed() {}
            }
        }
    }),
    Lie("flood of wakes", &[], &["ok"], |l, t| {
        for _ in 0..50 {
            (0..4).for_each(|cell| l.wake(cell));
        }
        l.echo(t);
    }),
    Lie("its socket is never read", &[], &["ok", "deadline", "no-memory"], |l, t| {
        l.reads = false;
        l.echo(t);
    }),
];

/// Fields that scribbles can show.
const ANYTHING: &[&str] = &[
    "cell.state",
    "head.length",
    "head.zero",
    "place.region",
    "place.offset",
    "place.len",
    "region.count",
    "region.size",
    "retire_(in_use)",
];

/// Announces memory as region 0, and writes the answer by hand.
fn cell(l: &mut Link<'_>, taken: &Taken, turn: u32, phase: u32, head: u64, body: [u64; 3]) {
    l.region(0);
    l.write(taken, turn, phase, head, body);
    l.wait_gone();
}

fn region(id: u32, size: u64) -> Vec<u8> {
    Message::Region { id, size }.encode().as_bytes().to_vec()
}

fn retire(id: u32) -> Vec<u8> {
    Message::Retire { id }.encode().as_bytes().to_vec()
}

/// Sends bytes with so many descriptors of good memory, and does not answer.
fn say(l: &Link<'_>, bytes: &[u8], count: usize) {
    let memory = memfd(REGION, true, payload_seals());
    let _ = send(l.socket, bytes, &vec![memory.as_fd(); count]);
    l.wait_gone();
}

/// Moves whoever sleeps on the call's word to one that nobody wakes.
fn move_sleepers(l: &Link<'_>, taken: &Taken) {
    requeue(l.words.state(taken.cell), l.words.unused());
    std::thread::yield_now();
}
