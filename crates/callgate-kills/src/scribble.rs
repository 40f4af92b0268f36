//! A client that changes the word of its call each time that the server is about to change it, so that the server has
//! to give up comparing.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use callgate_tests::data::request;
use callgate_tests::hostile::Raw;

use crate::client::Caller;
use crate::kin::BOUND;
use crate::server::method;

/// The flag CANCEL of a state word, and its phase (PROTOCOL.md).
const CANCEL: u32 = 1 << 1;
const PHASE: u32 = 0b11 << 4;
const REQUEST: u32 = 0b01 << 4;

/// Makes some calls so.
pub fn run(caller: &Caller) {
    let plan = &caller.arena.plan;
    let path = caller.folder.join("s");
    if plan.fired_ns.load(Relaxed) != 0 {
        return;
    }
    let Some(mut raw) = Raw::try_connect(&path, 4, 1 << 20) else { return };
    for round in 0..3 {
        let id = caller.ids.fetch_add(1, Relaxed);
        caller.arena.book.begin(id, false);
        plan.scribbling.store(1, Relaxed);
        let ticket = raw.publish_bytes(method::RUN, &request(id, 12, 20));
        let began = std::time::Instant::now();
        loop {
            let asked = plan.scribble_asked.load(Acquire);
            if plan.scribble_done.load(Relaxed) != asked {
                // Only while it is a request: the server may have waited too long, and answered.
                let word = raw.words.state(ticket.cell);
                let seen = word.load(Relaxed);
                if seen & PHASE == REQUEST {
                    let _ = word.compare_exchange(seen, seen ^ CANCEL, Relaxed, Relaxed);
                }
                plan.scribble_done.store(asked, Release);
            }
            match raw.words.cells()[usize::from(ticket.cell)].has_reply(ticket.turn) {
                Ok(true) => break,
                Ok(false) => {}
                Err(violation) => {
                    caller.arena.flaw(&format!("the scribbler's call {round}: {violation:?}"));
                    return;
                }
            }
            if plan.fired_ns.load(Relaxed) != 0 || raw.socket.is_closed() {
                return;
            }
            if began.elapsed() > BOUND {
                caller.arena.flaw(&format!("the scribbler's call {round} is not answered"));
                return;
            }
        }
        plan.scribbling.store(0, Relaxed);
        raw.put_back(ticket);
    }
}
