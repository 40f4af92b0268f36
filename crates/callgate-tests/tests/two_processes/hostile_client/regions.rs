//! Payload memory, and the messages that announce and retire it.

use super::{QUOTA, Stage};
use crate::LONGEST;
use callgate_proto::wire::Message;
use callgate_tests::data::method as m;
use callgate_tests::hostile::{Raw, control_size, hello, receive, send, wait_closed};
use callgate_tests::memory::{impostors, memfd, payload_seals};
use callgate_tests::{Rng, until, within};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn impostors_as_payload_memory() {
    within(LONGEST, || {
        let mut stage = Stage::new(&[]);
        let size = 65_536;
        for (what, fd) in impostors(size, payload_seals()) {
            stage.attack(what, 1, |stage| {
                let mut raw = stage.raw();
                let message = Message::Region { id: 0, size }.encode();
                send(&raw.socket, message.as_bytes(), &[fd.as_fd()]).expect("sent");
                raw.publish_far(m::ECHO, 0, 0, 100);
                wait_closed(&raw.socket);
            });
        }
        stage.finish();
    });
}

#[test]
fn nonsense_about_regions() {
    within(LONGEST, || {
        let mut stage = Stage::new(&["bytes=1000000"]);
        let region = |id, size| Message::Region { id, size }.encode();
        let retire = |id| Message::Retire { id }.encode();
        let fd = memfd(65_536, true, payload_seals());
        stage.attack("a region's id used again", 1, |stage| {
            let mut raw = stage.raw();
            raw.add_region(5, 65_536);
            raw.add_region(5, 65_536);
            wait_closed(&raw.socket);
        });
        for size in [0, 4_095, 4_096, 65_535, 65_537, 1_000_001, 1 << 40, u64::MAX] {
            stage.attack(&format!("a region said to have {size} bytes"), 1, |stage| {
                let raw = stage.raw();
                send(&raw.socket, region(0, size).as_bytes(), &[fd.as_fd()]).expect("sent");
                wait_closed(&raw.socket);
            });
        }
        stage.attack("more than the quota, piece by piece", 1, |stage| {
            let mut raw = stage.raw();
            for id in 0..4 {
                raw.add_region(id, 262_144);
            }
            wait_closed(&raw.socket);
        });
        stage.attack("too many regions", 1, |stage| {
            let mut raw = stage.raw();
            for id in 0..17 {
                raw.add_region(id, 4_096);
            }
            wait_closed(&raw.socket);
        });
        for id in [0, 1, u32::MAX] {
            stage.attack(&format!("region {id} retired, which never was"), 1, |stage| {
                let raw = stage.raw();
                send(&raw.socket, retire(id).as_bytes(), &[]).expect("sent");
                wait_closed(&raw.socket);
            });
        }
        stage.attack("a region retired twice", 1, |stage| {
            let mut raw = stage.raw();
            raw.add_region(3, 4_096);
            send(&raw.socket, retire(3).as_bytes(), &[]).expect("sent");
            send(&raw.socket, retire(3).as_bytes(), &[]).expect("sent");
            wait_closed(&raw.socket);
        });
        stage.attack("a call in a region that was retired", 1, |stage| {
            let mut raw = stage.raw();
            raw.add_region(3, 4_096);
            send(&raw.socket, retire(3).as_bytes(), &[]).expect("sent");
            // To find region 4 the server has to read all that was sent before it.
            raw.add_region(4, 4_096);
            let ticket = raw.publish_far(m::ECHO, 4, 0, 10);
            assert!(raw.wait(ticket).is_some());
            raw.publish_far(m::ECHO, 3, 0, 100);
            wait_closed(&raw.socket);
        });
        stage.attack("regions come and go, which is allowed", 0, |stage| {
            let mut raw = stage.raw();
            for id in 0..200 {
                raw.add_region(id, 65_536);
                let ticket = raw.publish_far(m::ECHO, id, 64, 1_000);
                let reply = raw.wait(ticket).expect("still connected");
                assert!(!reply.head.failure);
                raw.put_back(ticket);
                send(&raw.socket, retire(id).as_bytes(), &[]).expect("sent");
                raw.regions.clear();
            }
        });
        stage.attack("a second handshake", 1, |stage| {
            let raw = stage.raw();
            let size = control_size(65) as u64;
            send(&raw.socket, &hello(65, size, QUOTA), &[raw.fd.as_fd()]).expect("sent");
            wait_closed(&raw.socket);
        });
        let mut rng = Rng::printed("nonsense_about_regions");
        for len in [0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 5_000] {
            let mut bytes = rng.bytes(len);
            if let Some(first) = bytes.first_mut() {
                *first |= 1; // no bell
            }
            stage.attack(&format!("a message of {len} random bytes"), 1, |stage| {
                let raw = stage.raw();
                send(&raw.socket, &bytes, &[]).expect("sent");
                wait_closed(&raw.socket);
            });
        }
        stage.finish();
    });
}

/// A client that never reads its socket, and releases nothing, gets no more than its quota, and keeps nobody else from
/// theirs.
#[test]
fn announcements_that_are_never_read() {
    within(LONGEST, || {
        let quota = 64 << 20;
        let mut stage = Stage::new(&[&format!("bytes={quota}")]);
        stage.attack("announcements unread", 0, |stage| {
            let mut raws: Vec<Raw> = (0..3).map(|_| stage.raw()).collect();
            let mut failures = 0;
            for round in 1..40u64 {
                let len = 50_000u64 << (round % 10);
                for raw in &mut raws {
                    let ticket = raw.publish_bytes(m::ZEROS, &len.to_le_bytes());
                    let reply = raw.wait(ticket).expect("still connected");
                    failures += u64::from(reply.head.failure);
                    // Neither released nor put back.
                }
            }
            assert!(failures > 0, "memory was handed out without end");
            stage.honest_goes_on(20);
        });
        let status = stage.server.ask("status");
        assert!(status.number("reply_bytes") <= 4 * quota, "{}", status.text());
        stage.finish();
    });
}

/// Memory that is retired while calls read from it stays mapped for them: as much as the quota, and no more.
#[test]
fn retired_memory_of_calls_in_flight_is_bounded() {
    const PIECE: usize = 512 << 10;
    within(LONGEST, || {
        let mut stage = Stage::new(&["bytes=1048576"]);
        stage.attack("memory retired in use", 1, |stage| {
            let mut raw = stage.raw();
            // Two pieces are the quota; what is beyond it is found when the next one comes.
            for id in 0..3 {
                raw.add_region(id, PIECE);
                raw.publish_far(m::HOLD, id, 0, PIECE as u64);
                stage.server.expect("held");
                send(&raw.socket, Message::Retire { id }.encode().as_bytes(), &[]).expect("sent");
            }
            raw.add_region(3, PIECE);
            wait_closed(&raw.socket);
        });
        // They still read what they were sent, though nobody hears of it.
        assert_eq!(stage.server.ask("release").number("sent"), 0);
        stage.finish();
    });
}

/// Sixteen of them may lie in its socket, whatever its quota allows: descriptors that are under way count against the
/// server's own user. Once it has read, it gets more.
#[test]
fn sixteen_announcements_may_lie_unread() {
    within(LONGEST, || {
        let mut stage = Stage::new(&[]);
        stage.attack("announcements unread", 0, |stage| {
            // Each reply is a little longer than all memory that there is, and the quota suffices for one: so the last
            // one's memory is retired, and another announced.
            let mut raw = Raw::connect(&stage.place.path(), 65, 1 << 20);
            let mut len = 600_000u64;
            let mut is_answered = |raw: &mut Raw| {
                let ticket = raw.publish_bytes(m::ZEROS, &len.to_le_bytes());
                let reply = raw.wait(ticket).expect("still connected");
                raw.words.cells()[usize::from(ticket.cell)].release();
                raw.put_back(ticket);
                len += 8_192;
                !reply.head.failure
            };
            let count = (0..40).take_while(|_| is_answered(&mut raw)).count();
            assert_eq!(count, 16, "replies whose memory was announced and not read");
            let mut buffer = [0; 64];
            let read = std::iter::from_fn(|| raw.socket.recv(&mut buffer).ok());
            assert_eq!(read.filter(|received| received.fd.is_some()).count(), 16);
            assert!(is_answered(&mut raw), "it has read all of them");
        });
        stage.finish();
    });
}

/// Reply memory that a client keeps mapped after it went stays on its account, until it is really gone.
#[test]
fn reply_memory_kept_after_the_end() {
    within(LONGEST, || {
        let mut stage = Stage::new(&[]);
        let mut kept: Vec<callgate_sys::shm::MemFd> = Vec::new();
        stage.attack("keeping reply memory", 0, |stage| {
            for _ in 0..5 {
                let mut raw = stage.raw();
                let len = 1_000_000u64;
                let ticket = raw.publish_bytes(m::ZEROS, &len.to_le_bytes());
                let _ = raw.wait(ticket).expect("still connected");
                let (message, fd) = receive(&raw.socket).expect("a region");
                assert_eq!(message[0], b'R');
                kept.push(fd.expect("its descriptor"));
            }
        });
        stage.stop.store(true, Ordering::Relaxed);
        stage.honest.take().expect("running").join().expect("served");
        let held = until("only the thief's bytes are charged", || {
            let status = stage.server.ask("status");
            (status.number("clients") == 0).then(|| status.number("reply_bytes"))
        });
        assert!(held >= 5_000_000, "{held} bytes are charged while they are held");
        drop(kept);
        until("all is released", || {
            (stage.server.ask("status").number("reply_bytes") == 0).then_some(())
        });
        until("nothing is left", || stage.server.usage().is_back_to(&stage.before).then_some(()));
    });
}

/// The request changes while the handler reads it: the handler sees some bytes, and the server's own copy is one of them.
#[test]
fn requests_that_change_while_they_are_read() {
    within(LONGEST, || {
        let mut stage = Stage::new(&["echo=1"]);
        stage.attack("changing requests", 0, |stage| {
            let mut raw = stage.raw();
            raw.add_region(0, 1 << 20);
            let stop = AtomicBool::new(false);
            let start = raw.regions[0].as_ptr() as usize;
            std::thread::scope(|scope| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut value = 0u8;
                    while !stop.load(Ordering::Relaxed) {
                        value = value.wrapping_add(1);
                        // SAFETY: inside the region's mapping, which outlives this scope; written by this thread alone.
                        unsafe { (start as *mut u8).write_bytes(value, 1 << 20) };
                    }
                });
                for _ in 0..50 {
                    let ticket = raw.publish_far(m::ECHO, 0, 0, 1 << 20);
                    let reply = raw.wait(ticket).expect("still connected");
                    assert_eq!(reply.body.len(), 1 << 20);
                    raw.words.cells()[usize::from(ticket.cell)].release();
                    raw.put_back(ticket);
                }
                stop.store(true, Ordering::Relaxed);
            });
        });
        stage.finish();
    });
}
