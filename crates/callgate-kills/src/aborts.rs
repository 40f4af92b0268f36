//! Panics that end the process (`panic = "abort"`): in a handler, with calls of several clients in flight, and in a
//! client, with its own in flight. Needs a build in which they do.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use crate::arena::Arena;
use crate::client::Caller;
use crate::friends::judged;
use crate::kin::{Driver, Exit, Kin};
use crate::others;
use crate::report::Row;
use crate::scenario::Scenario;
use crate::server::{self, method};
use crate::trial::{until, words};

/// Whether this is such a build.
pub const ABORTS: bool = cfg!(panic = "abort");
/// Ids of one trial's calls, and of one process's.
const IDS: u64 = 512;
const EACH: u64 = 128;
/// Clients that survive a server.
const CLIENTS: u64 = 3;

/// Has so many servers and so many clients panic.
pub fn run(rounds: u64, folder: &Path) -> Row {
    judged("panics that abort", |arena, tried| {
        arena.reset();
        no_cores();
        servers(arena, folder, rounds, tried)?;
        clients(arena, folder, rounds, tried)?;
        Ok(format!("{rounds} servers in a handler, {rounds} clients; built with panic = \"abort\""))
    })
}

/// Handlers panic: their clients are told that the call may have run, and reach the next server.
fn servers(
    arena: &'static Arena,
    folder: &Path,
    rounds: u64,
    tried: &mut u64,
) -> Result<(), String> {
    let serve = || {
        Kin::fork("the server", arena, |driver| {
            quietly();
            server::run(arena, Scenario::Empty, folder, driver)
        })
    };
    let mut server = serve();
    server.line()?;
    for round in 0..rounds {
        let ids = round * IDS;
        let mut clients: Vec<Kin> = (0..CLIENTS)
            .map(|client| {
                let ids = ids + client * EACH;
                Kin::fork("a client", arena, |driver| {
                    survive_a_panic(arena, folder, ids, client == 0, driver)
                })
            })
            .collect();
        for client in &mut clients {
            client.line()?;
        }
        // All have calls in flight; one of them makes the handler panic.
        clients.iter_mut().for_each(|client| client.tell("go"));
        let exit = server.wait()?;
        if exit != Exit::Signal(libc::SIGABRT) {
            return Err(format!("a server whose handler panicked ended with {exit:?}"));
        }
        for client in &mut clients {
            client.line()?;
        }
        server = serve();
        server.line()?;
        for client in &mut clients {
            if client.ask("next")? != "done" || client.wait()? != Exit::Code(0) {
                return Err("a client does not survive".into());
            }
        }
        arena.book.check(ids, ids + IDS)?;
        *tried += 1;
        arena.take_flaw().map_or(Ok(()), Err)?;
    }
    Ok(())
}

fn survive_a_panic(
    arena: &'static Arena,
    folder: &Path,
    ids: u64,
    is_cause: bool,
    mut driver: Driver,
) -> i32 {
    let mut caller = Caller::new(arena, Scenario::Half, folder, false, ids);
    let client = &caller.clients[0];
    caller.call(client, method::RUN, 30, 20);
    driver.say("here");
    let _ = driver.command();
    // From now on the server may go at any time.
    caller.is_tolerant = true;
    let client = &caller.clients[0];
    let sent: Vec<_> = (0..4).map(|_| caller.submit(client, method::LATER, 3_000, 3_000)).collect();
    if is_cause && caller.call(client, method::PANIC, 30, 20) {
        arena.flaw("a call whose handler panicked was answered");
    }
    sent.into_iter().for_each(|sent| caller.wait(sent));
    // The others go on until theirs has gone, too.
    while !is_cause && caller.call(client, method::RUN, 30, 20) {
        caller.ids.store(ids + 8, Relaxed);
    }
    caller.ids.store(ids + 10, Relaxed);
    driver.say("lost");
    let _ = driver.command();
    caller.until_answered(client);
    driver.say("done");
    0
}

/// Clients panic: the server gives everything back, and another client does not notice.
fn clients(
    arena: &'static Arena,
    folder: &Path,
    rounds: u64,
    tried: &mut u64,
) -> Result<(), String> {
    let mut server = Kin::fork("the server", arena, |driver| {
        server::run(arena, Scenario::Empty, folder, driver)
    });
    server.line()?;
    let path = folder.join("s");
    let _other = Kin::fork("another client", arena, |_| {
        others::call_for_ever(arena, &path, Scenario::Empty)
    });
    let mut base = None;
    for round in 0..rounds {
        let ids = (rounds + round) * IDS;
        let mut client = Kin::fork("a client that panics", arena, |_| {
            quietly();
            let caller = Caller::new(arena, Scenario::Half, folder, true, ids);
            let client = &caller.clients[0];
            let _sent: Vec<_> =
                (0..8).map(|_| caller.submit(client, method::LATER, 3_000, 3_000)).collect();
            panic!("a client that is built to abort")
        });
        let exit = client.wait()?;
        if exit != Exit::Signal(libc::SIGABRT) {
            return Err(format!("a client that panicked ended with {exit:?}"));
        }
        let found = until("the server is as before", || {
            let status = words(&server.ask("status")?);
            let alone = status["clients"] == 1 && status["held"] == 0 && status["reply_bytes"] == 0;
            let now = server.usage();
            // The first time is when things are made that are made once.
            let back = base.is_none_or(|base| now.is_back_to(&base)) && status["violations"] == 0;
            Ok((alone && back).then_some(now))
        })?;
        if round == 1 {
            base = Some(found);
        }
        arena.book.check(ids, ids + IDS)?;
        *tried += 1;
        arena.take_flaw().map_or(Ok(()), Err)?;
    }
    Ok(())
}

/// These processes end by an abort in hundreds: they shall not fill a disk.
fn no_cores() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a live local.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
}

/// Panics are meant here.
fn quietly() {
    std::panic::set_hook(Box::new(|_| {}));
}
