//! Pages of reply memory that a client has put into pipes and sockets, when it has let go of all else.
#![cfg(not(windows))]

use super::{QUOTA, Stage};
use crate::{LONGEST, PEER};
use callgate_sys::shm::{MemFd, PayloadReader, page_size};
use callgate_tests::data::method as m;
use callgate_tests::hostile::{Raw, receive};
use callgate_tests::{Peer, Place, until, within};
use rustix::pipe::{IoSliceRaw, PipeFlags, SpliceFlags, pipe_with, splice, vmsplice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

const LEN: u64 = 1_000_000;
const TAKEN: usize = 8_192;

/// Takes pages from memory, whose descriptor it gets, into a pipe.
type Take = fn(MemFd, &OwnedFd);

fn spliced(fd: MemFd, into: &OwnedFd) {
    let mut offset = 4_096;
    let taken = splice(fd.as_fd(), Some(&mut offset), into, None, TAKEN, SpliceFlags::empty());
    assert_eq!(taken, Ok(TAKEN));
}

fn vmspliced(fd: MemFd, into: &OwnedFd) {
    let size = rustix::fs::fstat(&fd).expect("memory").st_size;
    let map =
        PayloadReader::accept_held(fd, usize::try_from(size).expect("a size")).expect("mapped");
    // SAFETY: the bytes lie inside the mapping, which outlives the call; no reference to them is kept.
    let taken = unsafe {
        let bytes = std::slice::from_raw_parts(map.as_ptr(), TAKEN);
        vmsplice(into, &[IoSliceRaw::from_slice(bytes)], SpliceFlags::empty())
    };
    assert_eq!(taken, Ok(TAKEN));
}

/// Makes a large call, and takes pages of the reply's memory; goes then. `None` when there is no memory for it.
fn keep_pages(mut raw: Raw, take: Take) -> Option<OwnedFd> {
    let ticket = raw.publish_bytes(m::ZEROS, &LEN.to_le_bytes());
    if raw.wait(ticket).expect("still connected").head.failure {
        return None;
    }
    let (message, fd) = receive(&raw.socket).expect("a region");
    assert_eq!(message[0], b'R');
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    take(fd.expect("its descriptor"), &writer);
    Some(reader)
}

fn status(server: &mut Peer, name: &str) -> u64 {
    server.ask("status").number(name)
}

#[test]
fn pages_in_a_pipe_stay_charged() {
    within(LONGEST, || {
        let region = LEN.next_multiple_of(page_size() as u64);
        for (what, take) in [("splice", spliced as Take), ("vmsplice", vmspliced)] {
            let mut stage = Stage::new(&[]);
            let mut kept = None;
            stage.attack(what, 0, |stage| kept = keep_pages(stage.raw(), take));
            let kept = kept.expect("pages");
            let server = &mut stage.server;
            until("the thief has gone", || (status(server, "clients") == 1).then_some(()));
            stage.stop.store(true, Ordering::Relaxed);
            stage.honest.take().expect("running").join().expect("served");
            // What went later than the thief's is asked of later.
            let charged = until("the honest client's memory has gone", || {
                Some(status(server, "reply_bytes")).filter(|charged| *charged <= region)
            });
            assert_eq!(charged, region, "{what}: pages of this region are in a pipe");
            let mut bytes = [1; TAKEN];
            let mut read = 0;
            while read < TAKEN {
                read += rustix::io::read(&kept, &mut bytes[read..]).expect("zeros");
            }
            until("all is released", || (status(server, "reply_bytes") == 0).then_some(()));
            until("nothing is left", || server.usage().is_back_to(&stage.before).then_some(()));
        }
    });
}

#[test]
fn no_user_keeps_pages_of_more_than_its_quota() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &["bytes_per_uid=4194304"]);
        let mut kept = Vec::new();
        for _ in 0..12 {
            kept.extend(keep_pages(Raw::connect(&place.path(), 65, QUOTA), spliced));
            until("it has gone", || (status(&mut server, "clients") == 0).then_some(()));
            assert!(status(&mut server, "reply_bytes") <= 4 << 20);
        }
        assert_eq!(kept.len(), 4, "pages of so many regions are kept");
        drop(kept);
        until("all is released", || (status(&mut server, "reply_bytes") == 0).then_some(()));
        let again = keep_pages(Raw::connect(&place.path(), 65, QUOTA), spliced);
        assert!(again.is_some(), "there is room again");
    });
}

/// The kernel may be looking at pages that somebody keeps when the server stops: it neither waits for that nor leaves
/// anything.
#[test]
fn a_server_stops_beside_pages_that_are_kept() {
    within(LONGEST, || {
        let stopped = |keeps: bool| -> (Place, Peer, Option<OwnedFd>) {
            let place = Place::new();
            let mut server = place.server(PEER, &[]);
            let raw = Raw::connect(&place.path(), 65, QUOTA);
            let kept = keeps.then(|| keep_pages(raw, spliced).expect("pages"));
            until("it has gone", || (status(&mut server, "clients") == 0).then_some(()));
            let drained = server.ask("drain 10000");
            assert_eq!(drained.number("all"), 1, "no call was under way");
            server.ask("stop");
            (place, server, kept)
        };
        let asks = |server: &Peer| {
            let tasks =
                std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("it lives");
            let names =
                tasks.map(|task| std::fs::read_to_string(task.expect("one").path().join("comm")));
            names.flatten().any(|name| name.trim() == "callgate-hold")
        };
        let (_place, server, _) = stopped(false);
        until("its thread has ended", || (!asks(&server)).then_some(()));
        let wanted = server.usage();
        let (_place, server, _kept) = stopped(true);
        until("its thread has ended", || (!asks(&server)).then_some(()));
        until("nothing is left", || server.usage().is_back_to(&wanted).then_some(()));
    });
}
