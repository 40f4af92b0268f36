//! Threads of a client that end in the middle of things: while calls of theirs are pending, by returning or by a
//! panic; with a reply or a half-built request in hand; right after giving a call up; with calls that another thread
//! then waits for; and by `pthread_exit`. The process goes on, and nothing of theirs may be left in either process.

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::channel;

use callgate::{CallOptions, Client, ClientOptions, WhenFull};
use callgate_tests::Usage;
use callgate_tests::data::fill_request;

use crate::alloc::live_bytes;
use crate::arena::Arena;
use crate::client::{Begun, Caller, joined};
use crate::friends::Stage;
use crate::kin::{BOUND, Driver, Exit, Kin};
use crate::scenario::Scenario;
use crate::server::method;
use crate::trial::until;

/// Threads that end beside each other.
const AT_ONCE: u64 = 8;
/// Calls in flight at a time.
const IN_FLIGHT: u32 = 2 * AT_ONCE as u32;
/// Ways to end.
const WAYS: u64 = 8;
/// Threads of one client process; between two such processes the server must be as before.
const A_PROCESS: u64 = 1_000;
/// Bytes that the client may hold more than at rest before, for tables that grow.
const BYTES_MORE: i64 = 32 << 10;
/// Ids of one thread's calls.
const IDS: u64 = 4;

/// Has so many threads end.
pub fn run(stage: &mut Stage<'_>, threads: u64) -> Result<(), String> {
    let (arena, folder) = (stage.arena, stage.folder);
    while stage.tried < threads {
        let ids = stage.tried * IDS;
        let mut client = Kin::fork("the client whose threads end", arena, |driver| {
            be_threads(arena, folder, ids, driver)
        });
        if client.line()? != "done" || client.wait()? != Exit::Code(0) {
            return Err("the client whose threads end does not end well".into());
        }
        arena.book.check(ids, ids + A_PROCESS * IDS)?;
        stage.tried += A_PROCESS;
        if let Some(flaw) = arena.take_flaw() {
            return Err(flaw);
        }
    }
    Ok(())
}

/// A client whose threads end in all ways; a child's body.
fn be_threads(arena: &'static Arena, folder: &Path, ids: u64, mut driver: Driver) -> i32 {
    let mut caller = Caller::new(arena, Scenario::Half, folder, false, 0);
    let mut options = ClientOptions::default();
    options.timeout = Some(BOUND);
    options.in_flight = Some(IN_FLIGHT);
    options.when_full = WhenFull::Wait;
    let path = folder.join("s");
    let client = Client::lazy(path.to_str().expect("utf-8"), options.clone()).expect("a path");
    caller.clients = vec![client];
    let mut base = None;
    for wave in 0..A_PROCESS / AT_ONCE {
        caller.ids.store(ids + wave * AT_ONCE * IDS, Relaxed);
        std::thread::scope(|scope| {
            let caller = &caller;
            let ways = (0..AT_ONCE).map(|thread| (wave + thread) % WAYS);
            let ending: Vec<_> =
                ways.map(|way| scope.spawn(move || end_somehow(caller, way))).collect();
            // Those that panic are waited for here, so that the scope does not panic.
            ending.into_iter().for_each(|thread| drop(thread.join()));
        });
        // As many calls as may be in flight are again: no cell was lost.
        if wave % 16 == 0 {
            fill(&caller);
            let looks = || (Usage::of(std::process::id()), live_bytes());
            let (usage, live) = *base.get_or_insert_with(looks);
            let back = until("the client is as before its threads ended", || {
                let now = looks();
                Ok((now.0.is_back_to(&usage) && now.1 < live + BYTES_MORE).then_some(()))
            });
            if let Err(error) = back {
                arena.flaw(&format!("{error}: {:?}, before: {usage:?} {live}", looks()));
                return 1;
            }
        }
    }
    driver.say("done");
    0
}

/// As many calls as may be in flight, answered.
fn fill(caller: &Caller) {
    let sent: Vec<_> = (0..IN_FLIGHT)
        .map(|_| caller.submit(&caller.clients[0], method::LATER, 300, 300))
        .collect();
    if sent.iter().any(Option::is_none) {
        caller.arena.flaw("a call that a thread left behind takes its place for ever");
    }
    sent.into_iter().for_each(|sent| caller.wait(sent));
}

/// Begins something, and ends the thread.
fn end_somehow(caller: &Caller, way: u64) {
    let client = &caller.clients[0];
    let len = if way.is_multiple_of(2) { 30 } else { 3_000 };
    let sent = || caller.submit(client, method::LATER, len, len);
    match way {
        // Pending calls go with the thread that returns.
        0 => {
            let _pending = [sent(), sent()];
        }
        // And with the one that panics.
        1 | 2 => {
            let _pending = [sent(), sent()];
            resume_unwind(Box::new("a thread that ends in the middle of calls"));
        }
        // Given up, and the thread ends at once.
        3 => drop(sent()),
        // Another thread waits for what this one has sent.
        4 => {
            let (give, take) = channel::<Option<(Begun, callgate::Pending)>>();
            std::thread::scope(|scope| {
                joined(scope.spawn(move || drop(give.send(sent()))));
                joined(scope.spawn(move || caller.wait(take.recv().expect("it is sent"))));
            });
        }
        // A request that is half built.
        5 => {
            let loan = client.loan(5_000);
            if let Ok(mut loan) = loan {
                fill_request(&mut loan, 0, 0);
                resume_unwind(Box::new(loan));
            }
            caller.arena.flaw("no memory for a request");
        }
        // A reply that was not looked at.
        6 => {
            let options = CallOptions::new().method(method::RUN);
            let bytes = callgate_tests::data::request(crate::others::IDS, 40, 60_000);
            let reply = client.call_with(options, &bytes);
            if reply.is_err() {
                caller.arena.flaw(&format!("no reply: {:?}", reply.err()));
                return;
            }
            resume_unwind(Box::new(reply));
        }
        _ => end_as_c_does(caller),
    }
}

/// A thread that libc starts, which calls and then ends by `pthread_exit`.
fn end_as_c_does(caller: &Caller) {
    extern "C-unwind" fn body(caller: *mut libc::c_void) -> *mut libc::c_void {
        call_from_c(caller.cast());
        // SAFETY: this frame, which is all that is left of the thread, has nothing to be dropped.
        unsafe { pthread_exit(std::ptr::null_mut()) }
    }
    unsafe extern "C-unwind" {
        fn pthread_exit(value: *mut libc::c_void) -> !;
        fn pthread_create(
            thread: *mut libc::pthread_t,
            attributes: *const libc::pthread_attr_t,
            body: extern "C-unwind" fn(*mut libc::c_void) -> *mut libc::c_void,
            argument: *mut libc::c_void,
        ) -> libc::c_int;
    }
    let mut thread = 0;
    let argument = std::ptr::from_ref(caller).cast_mut().cast();
    // SAFETY: the thread is joined here, before what it was given can go; all other pointers are live or null.
    let ended = unsafe {
        pthread_create(&raw mut thread, std::ptr::null(), body, argument) == 0
            && libc::pthread_join(thread, std::ptr::null_mut()) == 0
    };
    if !ended {
        caller.arena.flaw("a thread of libc's");
    }
}

fn call_from_c(caller: *const Caller) {
    // SAFETY: `end_as_c_does` keeps it alive until this thread has ended, and shares it only.
    let caller = unsafe { &*caller };
    let client = &caller.clients[0];
    caller.call(client, method::LATER, 30, 20);
    drop(caller.submit(client, method::LATER, 3_000, 20));
}
