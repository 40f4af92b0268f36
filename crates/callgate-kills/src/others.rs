//! Those who have nothing to do with the victim, and must not notice.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use callgate::{CallError, CallOptions, Client, ClientOptions, WaitPolicy};
use callgate_sys::clock;
use callgate_tests::data::{is_reply, request};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::arena::Arena;
use crate::client::end_of;
use crate::kin::BOUND;
use crate::scenario::Scenario;
use crate::server::method;

/// The first id of their calls, which nobody counts.
pub const IDS: u64 = 1 << 40;

/// Calls a server for ever beside that scenario, and notes how long that takes; a child's or a thread's body.
pub fn call_for_ever(arena: &'static Arena, path: &Path, scenario: Scenario) -> ! {
    let may_be_away = scenario.restarts();
    // Slow scenarios stand beside many of their kind.
    let thinks = Duration::from_micros(if scenario.is_slow() { 20_000 } else { 200 });
    let mut options = ClientOptions::default();
    options.wait = WaitPolicy::LowestCpu;
    options.timeout = Some(BOUND);
    options.in_flight = Some(4);
    let path = path.to_str().expect("utf-8");
    let client = Client::lazy(path, options).expect("a valid path");
    for id in IDS.. {
        let began_ns = clock::now_ns();
        // In two sizes, so that memory is in use, too; but not where it would come and go with connections.
        let len = if id % 8 == 0 && !may_be_away { 1_000 } else { 40 };
        let options = CallOptions::new().method(method::RUN);
        match client.call_with(options, &request(id, len, 30)) {
            Ok(reply) if is_reply(&reply.to_vec(), id, 30) => {}
            Ok(_) => arena.flaw("another client got a wrong reply"),
            Err(CallError::Disconnected { .. } | CallError::NotRunning { .. }) if may_be_away => {
                std::thread::sleep(Duration::from_micros(100));
                continue;
            }
            // That server gives handshakes 10 ms, which a client may not get of a CPU that many share.
            Err(CallError::Refused { reason, .. })
                if scenario == Scenario::Refuse && reason.to_string().contains("too long") =>
            {
                std::thread::sleep(Duration::from_micros(100));
                continue;
            }
            Err(error) => {
                arena.flaw(&format!("another client: {error:?} ({:?})", end_of(&error)));
            }
        }
        let took_ns = clock::now_ns() - began_ns;
        arena.others.longest_ns.fetch_max(took_ns, Relaxed);
        arena.tenths.add(took_ns);
        arena.others.calls.fetch_add(1, Relaxed);
        std::thread::sleep(thinks);
    }
    unreachable!("ids end after centuries")
}

/// A listener at `path` that takes no connection, and whose queue is full.
pub fn full_queue(path: &Path) -> Vec<OwnedFd> {
    let _ = std::fs::remove_file(path);
    let address = SocketAddrUnix::new(path).expect("a short path");
    let socket = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .expect("a socket")
    };
    let listener = socket();
    rustix::net::bind(&listener, &address).expect("bound");
    rustix::net::listen(&listener, 0).expect("listening");
    let mut all = vec![listener];
    loop {
        let next = socket();
        if rustix::net::connect(&next, &address).is_err() {
            return all;
        }
        assert!(next.as_raw_fd() < 1_000, "a queue of one is full at two");
        all.push(next);
    }
}
