//! Clients that do nothing wrong, in odd states: stopped with all their calls in flight, or here for one call and
//! gone, in thousands. The server and the other clients must not notice. The stage for such rows is here, too.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use callgate_tests::Usage;

use crate::arena::{Arena, Shared};
use crate::client::Caller;
use crate::kin::{Driver, Exit, Kin};
use crate::report::Row;
use crate::scenario::Scenario;
use crate::server::method;
use crate::trial::{until, words};
use crate::{clocks, others, server, stuck, threads};

/// Ids of one client's calls.
const IDS: u64 = 64;
/// Clients that are there at a time, of those who vanish.
const AT_ONCE: u64 = 200;
/// Calls of others that must have ended while a client is stopped.
const CALLS_MEANWHILE: u64 = 100;
/// Bytes that the server may hold more than at rest before, for tables that grow.
const BYTES_MORE: i64 = 64 << 10;

/// A row, and how it is made: the first number is larger in the long run.
type Part = (&'static str, fn(u64, &Path) -> Row);

const PARTS: [Part; 5] = [
    ("stopped", |times, folder| {
        on_stage("stopped clients", folder, |stage| stage.stopped(200 * times))
    }),
    ("vanishing", |times, folder| {
        let clients = 2_000 * (times + 4);
        on_stage("vanishing clients", folder, |stage| stage.vanishing(clients))
    }),
    ("threads", |times, folder| {
        on_stage("threads that end", folder, |stage| threads::run(stage, 2_000 * times))
    }),
    ("stuck", |times, folder| stuck::run(3 * times, folder)),
    ("clocks", clocks::run),
];

/// Runs all parts, or one; true when nothing failed.
pub fn run(long: bool, only: Option<&str>, folder: &Path) -> bool {
    let times = if long { 50 } else { 1 };
    let parts = PARTS.iter().filter(|part| only.is_none_or(|only| only == part.0));
    // All of them, also when one has failed.
    parts.filter(|part| !(part.1)(times, folder).print()).count() == 0
}

/// A row of what is done to a stage, which must be as before afterwards.
pub fn on_stage(
    kind: &'static str,
    folder: &Path,
    body: impl FnOnce(&mut Stage) -> Result<(), String>,
) -> Row {
    judged(kind, |arena, tried| {
        let mut stage = Stage::new(arena, folder)?;
        let done = body(&mut stage).and_then(|()| stage.at_rest());
        *tried = stage.tried;
        done
    })
}

/// A row of anything; what is done counts what it tried, and says a word about it.
pub fn judged(
    kind: &'static str,
    body: impl FnOnce(&'static Arena, &mut u64) -> Result<String, String>,
) -> Row {
    let began = Instant::now();
    // SAFETY: zeroed atomics are valid, and there is nothing else in it.
    let arena: Shared<Arena> = unsafe { Shared::new() };
    let arena = arena.get();
    let mut tried = 0;
    let done = body(arena, &mut tried)
        .and_then(|note| arena.take_flaw().map_or(Ok(note), Err))
        .map_err(|error| {
            format!(
                "{error}{}",
                arena.take_flaw().map_or_else(String::new, |flaw| format!("; {flaw}"))
            )
        });
    if let Err(error) = &done {
        eprintln!("FAILED {kind} after {tried}: {error}");
    }
    Row {
        kind,
        tried,
        failed: u64::from(done.is_err()),
        longest_stall_ns: Some(arena.others.longest_ns.load(Relaxed)),
        seed: None,
        seconds: began.elapsed(),
        note: done.unwrap_or_else(|error| error),
    }
}

/// A server that is looked at, and a client that calls it all the time.
pub struct Stage<'a> {
    pub arena: &'static Arena,
    pub folder: &'a Path,
    _other: Kin,
    // Ends after the other client, who would notice.
    server: Kin,
    base: (Usage, i64),
    pub tried: u64,
    next_id: u64,
}

impl<'a> Stage<'a> {
    fn new(arena: &'static Arena, folder: &'a Path) -> Result<Self, String> {
        arena.reset();
        let mut server = Kin::fork("the server", arena, |driver| {
            server::run(arena, Scenario::Empty, folder, driver)
        });
        server.line()?;
        let path = folder.join("s");
        let other = Kin::fork("another client", arena, |_| {
            others::call_for_ever(arena, &path, Scenario::Empty)
        });
        let base = (Usage::of(server.pid), 0);
        let (tried, next_id) = (0, 1);
        let mut stage = Self { arena, folder, server, _other: other, base, tried, next_id };
        // Once before it counts: what is made once is made now.
        stage.wave(AT_ONCE)?;
        stage.stop_one()?;
        let mut last = None;
        stage.base = until("the server comes to rest", || {
            let now = stage.looks()?;
            let before = std::mem::replace(&mut last, now);
            Ok(now.filter(|now| before.is_some_and(|before| before.0 == now.0)))
        })?;
        arena.others.longest_ns.store(0, Relaxed);
        stage.tried = 0;
        Ok(stage)
    }

    /// What the server uses, once nobody but the other client is there.
    fn looks(&mut self) -> Result<Option<(Usage, i64)>, String> {
        let status = words(&self.server.ask("status")?);
        if status["violations"] != 0 {
            return Err("an honest client is said to have broken the protocol".into());
        }
        let alone = status["clients"] == 1 && status["held"] == 0 && status["reply_bytes"] == 0;
        Ok(alone.then_some((self.server.usage(), status["live"])))
    }

    /// Waits until the server is as before, and tells so.
    fn at_rest(&mut self) -> Result<String, String> {
        let base = self.base;
        let mut last = None;
        let back = until("the server is as before", || {
            last = self.looks()?;
            Ok(last.filter(|now| now.0.is_back_to(&base.0) && now.1 < base.1 + BYTES_MORE))
        });
        let now = back.map_err(|error| format!("{error}: {last:?}, before: {base:?}"))?;
        self.arena.take_flaw().map_or(
            Ok(format!(
                "the server's descriptors {} and {}, threads {} and {}, bytes {} and {}",
                base.0.fds, now.0.fds, base.0.threads, now.0.threads, base.1, now.1
            )),
            Err,
        )
    }

    /// Ids for one client's calls.
    pub fn ids(&mut self) -> u64 {
        self.next_id += IDS;
        self.next_id - IDS
    }

    fn stopped(&mut self, rounds: u64) -> Result<(), String> {
        (0..rounds).try_for_each(|_| self.stop_one())
    }

    /// Stops a client with all its calls in flight, until others have made theirs; then it goes on.
    fn stop_one(&mut self) -> Result<(), String> {
        let (arena, folder, ids) = (self.arena, self.folder, self.ids());
        let mut client = Kin::fork("the stopped client", arena, |driver| {
            be_full(&Caller::new(arena, Scenario::Half, folder, false, ids), driver)
        });
        client.line()?;
        client.signal(libc::SIGSTOP);
        let calls = arena.others.calls.load(Relaxed);
        until("others are served beside a stopped client", || {
            Ok((arena.others.calls.load(Relaxed) > calls + CALLS_MEANWHILE).then_some(()))
        })?;
        client.signal(libc::SIGCONT);
        if client.ask("go on")? != "done" || client.wait()? != Exit::Code(0) {
            return Err("the client does not go on".into());
        }
        arena.book.check(ids, ids + IDS)?;
        self.tried += 1;
        arena.take_flaw().map_or(Ok(()), Err)
    }

    fn vanishing(&mut self, clients: u64) -> Result<(), String> {
        while self.tried < clients {
            self.wave(AT_ONCE)?;
        }
        Ok(())
    }

    /// So many clients connect and call; when all have, all are killed.
    fn wave(&mut self, clients: u64) -> Result<(), String> {
        let (arena, folder, from) = (self.arena, self.folder, self.next_id);
        let mut all: Vec<Kin> = (0..clients)
            .map(|_| {
                let ids = self.ids();
                Kin::fork("a client that vanishes", arena, |mut driver| {
                    let caller = Caller::new(arena, Scenario::Empty, folder, true, ids);
                    caller.call(&caller.clients[0], method::RUN, 30, 3_000);
                    driver.say("here");
                    std::thread::sleep(Duration::MAX);
                    0
                })
            })
            .collect();
        for client in &mut all {
            client.line()?;
        }
        all.iter().for_each(|client| client.signal(libc::SIGKILL));
        drop(all);
        self.tried += clients;
        arena.book.check(from, self.next_id)?;
        arena.take_flaw().map_or(Ok(()), Err)
    }
}

/// A client with all its calls in flight, that goes on when it is told to; a child's body.
pub fn be_full(caller: &Caller, mut driver: Driver) -> i32 {
    let client = &caller.clients[0];
    let sent: Vec<_> = (0..caller.scenario.client_options()[0].in_flight.expect("it is set"))
        .map(|_| caller.submit(client, method::LATER, 3_000, 3_000))
        .collect();
    driver.say("full");
    let _ = driver.command();
    sent.into_iter().for_each(|sent| caller.wait(sent));
    for _ in 0..10 {
        caller.call(client, method::RUN, 30, 20);
    }
    driver.say("done");
    0
}
