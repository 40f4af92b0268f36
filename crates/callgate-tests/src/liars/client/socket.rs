//! Lies over the socket, and in payload memory.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use callgate_proto::body::{Body, Inline, Place};
use callgate_proto::wire::Message;
use callgate_sys::futex;
use callgate_sys::shm::PayloadWriter;
use rustix::pipe::{IoSliceRaw, PipeFlags, SpliceFlags, pipe_with, vmsplice};

use super::{Expect, Lie};
use crate::data::method;
use crate::hostile::{control_size, hello, send};
use crate::liars::host::BYTES;
use crate::liars::speaker::{CELLS, QUOTA, REGION, Speaker};
use crate::memory::{impostors, memfd, payload_seals};

/// Size of regions that are good.
const GOOD: u64 = 65_536;

/// All of them.
pub const LIES: &[Lie] = &[
    Lie("message of another kind", Expect::Noticed(&["message.kind"]), |s| {
        let len = 1 + s.rng.below(64);
        let mut bytes = s.rng.bytes(len);
        bytes[0] = *s.rng.one_of(&[1, 2, 7, b'Q', b'S', b'W', b'Y', 0xff]);
        say(s, &bytes, 0);
    }),
    Lie("message of no bytes", Expect::Noticed(&["message.size"]), |s| say(s, &[], 0)),
    Lie("message too long", Expect::Noticed(&["message.size"]), |s| {
        let len = 65 + s.rng.below(5_000);
        let bytes = s.rng.bytes(len);
        say(s, &bytes, 0);
    }),
    Lie("a region cut short", Expect::Noticed(&["message.kind"]), |s| {
        let whole = region(1, GOOD);
        let len = 1 + s.rng.below(15);
        say(s, &whole[..len], 0);
    }),
    Lie("bell with a descriptor", Expect::Noticed(&["message.descriptors"]), |s| say(s, &[0], 1)),
    Lie("retire with a descriptor", Expect::Noticed(&["message.descriptors"]), |s| {
        say(s, &retire(0), 1);
    }),
    Lie("region without a descriptor", Expect::Noticed(&["region.descriptors"]), |s| {
        say(s, &region(1, GOOD), 0);
    }),
    Lie("too many descriptors", Expect::Noticed(&["message.size"]), |s| {
        let count = *s.rng.one_of(&[2, 3, 16, 64, 253]);
        let bytes = s.rng.one_of(&[region(1, GOOD), retire(0), vec![0]]).clone();
        say(s, &bytes, count);
    }),
    Lie("a region's id again", Expect::Noticed(&["region.id"]), |s| say(s, &region(0, GOOD), 1)),
    Lie("too many regions", Expect::Noticed(&["region.count"]), |s| {
        (1..17).for_each(|id| s.raw.add_region(id, 4_096));
    }),
    Lie("a region's size", Expect::Noticed(&["region.size"]), |s| {
        let size = *s.rng.one_of(&[0, BYTES, BYTES + 1, 1 << 40, u64::MAX]);
        say(s, &region(1, size), 1);
    }),
    Lie("a region said to be another size", Expect::Noticed(&["region.memory"]), |s| {
        let size = *s.rng.one_of(&[1, 4_096, GOOD - 1, GOOD + 1, 2 * GOOD]);
        say(s, &region(1, size), 1);
    }),
    Lie("memory that is none", Expect::Noticed(&["region.memory"]), |s| {
        let all = impostors(GOOD, payload_seals());
        let (_, fd) = &all[s.rng.below(all.len())];
        send(&s.raw.socket, &region(1, GOOD), &[fd.as_fd()]).expect("sent");
    }),
    Lie("retired, never announced", Expect::Noticed(&["retire.id"]), |s| {
        let id = 1 + s.rng.next() as u32 % 1_000;
        say(s, &retire(id), 0);
    }),
    Lie("retired twice", Expect::Noticed(&["retire.id"]), |s| {
        say(s, &retire(0), 0);
        say(s, &retire(0), 0);
    }),
    Lie("retired, then used", Expect::Noticed(&["place.region"]), |s| {
        say(s, &retire(0), 0);
        // To find region 1 the server has to read all that was sent before it.
        s.raw.add_region(1, 4_096);
        far(s, 1, 10);
        far(s, 0, 10);
    }),
    Lie("retired while in use", Expect::Noticed(&["retire_(in_use)"]), retired_in_use),
    Lie("a second hello", Expect::Noticed(&["message.kind"]), |s| {
        let size = control_size(CELLS) as u64;
        send(&s.raw.socket, &hello(CELLS, size, QUOTA), &[s.raw.fd.as_fd()]).expect("sent");
    }),
    Lie("regions come and go", Expect::Harmless, |s| churn(s, 60)),
    Lie("bells without need", Expect::Harmless, |s| {
        for _ in 0..2_000 {
            let _ = s.raw.socket.ring();
        }
    }),
    Lie("wakes without need", Expect::Harmless, |s| {
        (0..2_000).for_each(|at| wake(s, at % 5));
    }),
    Lie("announcements unread", Expect::Quiet, |s| unread(s, 30, 8)),
    Lie("pages of replies in pipes", Expect::Quiet, pages),
    Lie("requests that move", Expect::Harmless, moving),
    Lie("sleepers moved elsewhere", Expect::Harmless, requeue),
    Lie("sleepers of its own on every word", Expect::Harmless, decoys),
    Lie("no descriptor is non-blocking, and all is full", Expect::Harmless, blocking),
];

fn region(id: u32, size: u64) -> Vec<u8> {
    Message::Region { id, size }.encode().as_bytes().to_vec()
}

fn retire(id: u32) -> Vec<u8> {
    Message::Retire { id }.encode().as_bytes().to_vec()
}

/// Sends bytes with so many descriptors of good memory.
fn say(s: &Speaker, bytes: &[u8], count: usize) {
    let fd = memfd(GOOD, true, payload_seals());
    send(&s.raw.socket, bytes, &vec![fd.as_fd(); count]).expect("sent");
}

fn far(s: &mut Speaker, region: u32, len: u64) {
    let ticket = s.raw.publish_far(method::ECHO, region, 0, len);
    let _ = s.reply(ticket);
    s.raw.put_back(ticket);
}

fn retired_in_use(s: &mut Speaker) {
    let size = BYTES / 4 + GOOD;
    let (_memory, fd) = PayloadWriter::create(size as usize).expect("memory");
    for id in 1..7 {
        send(&s.raw.socket, &region(id, size), &[fd.as_fd()]).expect("sent");
        let ticket = s.raw.submitter.draw(false).expect("a free cell");
        let place = Place { region: id, offset: 0, len: 9 };
        s.raw.publish_as(ticket, method::HOLD, Body::Far(place));
        if !s.call_as(false) {
            return;
        }
        send(&s.raw.socket, &retire(id), &[]).expect("sent");
    }
}

/// Announces and retires large memory, `times` times.
pub fn churn(s: &mut Speaker, times: u32) {
    let size = 1 << 20;
    let (_memory, fd) = PayloadWriter::create(size as usize).expect("memory");
    for id in 0..times {
        let id = 1_000 + id;
        for message in [region(id, size), retire(id)] {
            let announces = message.len() == 16;
            let fds = [fd.as_fd()];
            let fds = if announces { &fds[..] } else { &[] };
            while send(&s.raw.socket, &message, fds).is_err() && !s.raw.socket.is_closed() {
                std::thread::yield_now();
            }
        }
    }
}

/// Wakes whoever sleeps on a cell's word.
pub fn wake(s: &Speaker, cell: u16) {
    futex::wake(s.raw.words.cells()[usize::from(cell)].futex(), u32::MAX);
}

/// Asks for replies of many lengths, so many octaves from 20,000 bytes on, and reads nothing of what is announced.
pub fn unread(s: &mut Speaker, times: u64, octaves: u64) {
    let _ = (0..times).all(|at| keep_a_reply(s, 20_000 << (at % octaves)));
}

/// The same by an honest client, which reads what is announced, and lets go of all replies when it ends.
pub fn kept(s: &mut Speaker, times: u64, octaves: u64) {
    let _ = (0..times).all(|at| {
        let is_kept = keep_a_reply(s, 20_000 << (at % octaves));
        s.read_socket();
        is_kept
    });
}

/// Asks for a reply of so many bytes, which is neither released nor put back; false if there is none.
fn keep_a_reply(s: &mut Speaker, len: u64) -> bool {
    let alone = s.rng.chance(50);
    let Some(ticket) = s.raw.submitter.draw(alone) else { return false };
    let body = Body::Inline(Inline::new(&len.to_le_bytes()).expect("short"));
    s.raw.publish_as(ticket, method::ZEROS, body);
    s.reply(ticket).is_some()
}

/// Pages of a reply's memory stay in a pipe for longer than the connection; those of the last few connections do.
fn pages(s: &mut Speaker) {
    static KEPT: Mutex<VecDeque<OwnedFd>> = Mutex::new(VecDeque::new());
    const KEPT_MAX: usize = 8;
    unread(s, 1, 1);
    s.read_socket();
    let Some(memory) = s.incoming.values().next() else { return };
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    // SAFETY: regions have 4,096 bytes and more, and the mapping outlives the call; the slice is not read here.
    let taken = unsafe {
        let bytes = std::slice::from_raw_parts(memory.as_ptr(), 4_096);
        vmsplice(&writer, &[IoSliceRaw::from_slice(bytes)], SpliceFlags::empty())
    };
    assert_eq!(taken, Ok(4_096));
    let mut kept = KEPT.lock().expect("lock");
    kept.push_back(reader);
    if kept.len() > KEPT_MAX {
        kept.pop_front();
    }
}

/// Payloads change all the time while the handler reads them.
fn moving(s: &mut Speaker) {
    let stop = AtomicBool::new(false);
    let start = s.raw.regions[0].as_ptr() as usize;
    std::thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            let mut value = 0u8;
            while !stop.load(Ordering::Relaxed) {
                value = value.wrapping_add(1);
                // SAFETY: the region's mapping, which outlives this scope; this thread alone writes there meanwhile.
                unsafe { (start as *mut u8).write_bytes(value, REGION) };
            }
        });
        for _ in 0..10 {
            let ticket = s.raw.publish_far(method::ECHO, 0, 0, REGION as u64);
            let reply = s.reply(ticket).expect("an answer");
            assert!(reply.head.failure || reply.body.len() == REGION as u64);
            s.raw.words.cells()[usize::from(ticket.cell)].release();
            s.raw.put_back(ticket);
        }
        stop.store(true, Ordering::Relaxed);
    });
    s.read_socket();
}

fn requeue(s: &mut Speaker) {
    for _ in 0..5 {
        if !s.call() {
            return;
        }
        // The worker may be awake for the others all the time; then there is nobody to move.
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(5) {
            for cell in [0, 2, 4, 1] {
                crate::hostile::requeue(s.raw.words.state(cell), s.raw.words.unused());
            }
        }
    }
}

fn decoys(s: &mut Speaker) {
    let stop = AtomicBool::new(false);
    let control = s.raw.words.words32().as_ptr() as usize;
    std::thread::scope(|scope| {
        let stop = &stop;
        for cell in [0usize, 2, 4] {
            scope.spawn(move || {
                let at = callgate_proto::layout::CELLS_OFFSET / 4 + 16 * cell;
                // SAFETY: a word of the control region, which the speaker keeps mapped beyond this scope.
                let word = unsafe { &*(control as *const AtomicU32).add(at) };
                while !stop.load(Ordering::Relaxed) {
                    let pause = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000 };
                    let now = word.load(Ordering::Relaxed);
                    // SAFETY: a live atomic and a live local; FUTEX_WAIT writes to neither.
                    unsafe {
                        libc::syscall(
                            libc::SYS_futex,
                            word.as_ptr(),
                            libc::FUTEX_WAIT,
                            now,
                            &raw const pause,
                        )
                    };
                }
            });
        }
        for _ in 0..20 {
            s.call();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// O_NONBLOCK is taken off all that may be shared with the server, and its socket is filled.
fn blocking(s: &mut Speaker) {
    for fd in [s.raw.socket.as_fd().as_raw_fd(), s.raw.fd.as_fd().as_raw_fd()] {
        // SAFETY: descriptors that the speaker owns; the call touches no memory.
        unsafe {
            let flags = libc::fcntl(fd, libc::F_GETFL);
            libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK);
        }
    }
    for _ in 0..3_000 {
        let _ = s.raw.socket.ring();
    }
    unread(s, 8, 8);
    s.read_socket();
}
