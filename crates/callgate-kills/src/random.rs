//! Kills at random times, as fast as it goes: a timer of the kernel's ends each victim, in the middle of whatever it
//! does.
//!
//! Lanes work beside each other. Some kill clients of a server that stays; some kill servers of a client that stays.
//! Every so often a lane pauses, and looks at its survivor: is everything given back, did every call end rightly, and
//! did none run twice? That makes a sample, too, from which it is told whether anything grows.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use callgate::Client;
use callgate_tests::liars::host;
use callgate_tests::{Rng, Usage};

use crate::arena::{Arena, Shared};
use crate::client::Caller;
use crate::kin::{Driver, Exit, Kin, await_lanes};
use crate::mix::{Fate, LYING_NS, signal_after};
use crate::report::Row;
use crate::scenario::Scenario;
use crate::slope::{Sample, Slopes};
use crate::sweep::adopt_orphans;
use crate::tenths::Tenths;
use crate::trial::{until, words};
use crate::{alloc, forker, friends, mix, others, server};

/// Clients that are under way at a time in a lane.
const VICTIMS: usize = 3;
/// Kills between two looks at the survivor.
const CLIENTS_A_LOOK: u64 = 150;
const SERVERS_A_LOOK: u64 = 40;
/// Calls that one client makes at most.
const IDS: u64 = 512;
/// Calls of a surviving client between two looks: fewer than the book remembers.
const CALLS_A_LOOK: u64 = 60_000;
const FAILURES_MAX: u64 = 10;
/// Bytes that a survivor may hold more than at rest before, for tables that grow.
const BYTES_MORE: i64 = 128 << 10;
/// Private mappings that it may have more: the allocator's. (`main` sees to it that the C library keeps no stacks of threads
/// that ended, and has one arena.)
const MAPS_MORE: usize = 16;

/// How much is to be done.
#[derive(Clone)]
pub struct Effort {
    pub kind: &'static str,
    /// It ends after so many kills, or so much time.
    pub kills: u64,
    pub limit: Duration,
    pub client_lanes: usize,
    pub server_lanes: usize,
    pub seed: u64,
    /// Whether victims are stopped, fork and lie, too.
    pub mixed: bool,
}

/// What lanes count for all.
struct Score {
    clients: AtomicU64,
    servers: AtomicU64,
    calls: AtomicU64,
    failed: AtomicU64,
    longest_ns: AtomicU64,
    fates: [AtomicU64; 3],
    tenths: Tenths,
    slopes: Slopes,
}

/// What victims and survivors do, at random.
const DOINGS: [Scenario; 7] = [
    Scenario::Empty,
    Scenario::Half,
    Scenario::Full,
    Scenario::Large,
    Scenario::Cancel,
    Scenario::Sleep,
    Scenario::Detour,
];

/// Runs all, and tells how it went.
pub fn run(effort: &Effort, folder: &Path) -> Row {
    let began = Instant::now();
    // SAFETY: zeroed atomics are valid, and there is nothing else in it.
    let score: Shared<Score> = unsafe { Shared::new() };
    let score = score.get();
    let mut lanes: Vec<Kin> = Vec::new();
    for number in 0..effort.client_lanes + effort.server_lanes {
        let folder = folder.join(number.to_string());
        std::fs::create_dir(&folder).expect("a folder for a lane");
        // SAFETY: as above.
        let arena: Shared<Arena> = unsafe { Shared::new() };
        let arena = arena.get();
        lanes.push(Kin::fork("a lane", arena, |_| {
            adopt_orphans();
            let rng = Rng::new(effort.seed ^ (number as u64) << 40);
            let lane = Lane { arena, score, effort: effort.clone(), folder, began, number };
            let done =
                if number < effort.client_lanes { lane.clients(rng) } else { lane.servers(rng) };
            score.tenths.merge(&arena.tenths);
            if let Err(error) = done {
                score.failed.fetch_add(1, Relaxed);
                eprintln!("FAILED lane {number}: {error}");
            }
            0
        }));
    }
    let kills = || score.clients.load(Relaxed) + score.servers.load(Relaxed);
    await_lanes(lanes, &score.failed, |_| {
        let (seconds, failed) = (began.elapsed().as_secs(), score.failed.load(Relaxed));
        eprintln!("{seconds:>6} s: {} kills, {failed} failed", kills());
    });
    let (clients, servers) = (score.clients.load(Relaxed), score.servers.load(Relaxed));
    let took = began.elapsed();
    let (growth, steady) = score.slopes.tell();
    if !steady {
        score.failed.fetch_add(1, Relaxed);
        eprintln!("FAILED: a survivor grows: {growth}");
    }
    let mut more = String::new();
    if effort.mixed {
        let (pace, steady) = score.tenths.tell();
        if !steady {
            score.failed.fetch_add(1, Relaxed);
            eprintln!("FAILED: others become slower: {pace}");
        }
        let [stopped, forked, lied] = score.fates.each_ref().map(|count| count.load(Relaxed));
        more = format!(" (of them {stopped} stopped before, {forked} forked, {lied} lied); {pace}");
    }
    Row {
        kind: effort.kind,
        tried: clients + servers,
        failed: score.failed.load(Relaxed),
        longest_stall_ns: Some(score.longest_ns.load(Relaxed)),
        seed: Some(effort.seed),
        seconds: took,
        note: format!(
            "{clients} clients and {servers} servers killed{more}, {:.0} a second, {} calls judged; {growth}",
            (clients + servers) as f64 / took.as_secs_f64(),
            score.calls.load(Relaxed),
        ),
    }
}

struct Lane {
    arena: &'static Arena,
    score: &'static Score,
    effort: Effort,
    folder: PathBuf,
    began: Instant,
    number: usize,
}

/// What a survivor was found to use at rest.
type Rest = (Usage, i64);

impl Lane {
    fn is_over(&self) -> bool {
        let score = self.score;
        let kills = score.clients.load(Relaxed) + score.servers.load(Relaxed);
        self.began.elapsed() > self.effort.limit
            || kills >= self.effort.kills
            || score.failed.load(Relaxed) >= FAILURES_MAX
    }

    fn clients(&self, mut rng: Rng) -> Result<(), String> {
        let (arena, folder) = (self.arena, &self.folder);
        let mut survivor = Kin::fork("the server", arena, |driver| {
            let mut options = Scenario::Empty.server_options();
            if self.effort.mixed {
                server::expect_liars();
                // Those that lies are made for.
                options.limits.bytes_per_client = host::BYTES;
                options.limits.request_bytes = host::REQUEST_BYTES;
                options.limits.reply_bytes = host::REQUEST_BYTES;
            }
            server::serve(arena, Scenario::Empty, options, &folder.join("s"), driver)
        });
        survivor.line()?;
        arena.tenths.begin(self.effort.limit);
        let path = folder.join("s");
        let _other = Kin::fork("another client", arena, |_| {
            others::call_for_ever(arena, &path, Scenario::Empty)
        });
        let mut base = None;
        let mut ids = 0;
        while !self.is_over() {
            let from = ids;
            let mut killed = 0;
            let mut victims = VecDeque::new();
            let full = if self.effort.mixed { Some(self.stop_a_full_one(&mut ids)?) } else { None };
            while killed < CLIENTS_A_LOOK {
                while victims.len() < VICTIMS {
                    let (doing, delay_ns) = (*rng.one_of(&DOINGS), delay_ns(&mut rng));
                    let (fate, seed) = self.fate(&mut rng);
                    let victim = Kin::fork("a victim", arena, |_| {
                        if fate == Fate::Lies {
                            signal_after(LYING_NS, libc::SIGKILL);
                            return mix::lie(arena, &path, seed);
                        }
                        signal_after(delay_ns, libc::SIGKILL);
                        be_a_client(arena, doing, folder, ids, |clients| {
                            forker::handles(clients);
                            fate.befall(arena, seed, delay_ns);
                        })
                    });
                    victims.push_back((victim, fate));
                    ids += IDS;
                }
                let (mut victim, fate) = victims.pop_front().expect("some");
                match victim.wait()? {
                    // It has told its lie.
                    Exit::Code(0) if fate == Fate::Lies => {}
                    exit => self.must_be_killed(exit)?,
                }
                killed += 1;
                self.score.clients.fetch_add(1, Relaxed);
            }
            drop(victims);
            if let Some(mut full) = full {
                full.signal(libc::SIGCONT);
                if full.ask("go on")? != "done" || full.wait()? != Exit::Code(0) {
                    return Err("a client that was stopped does not go on".into());
                }
            }
            self.look(&mut survivor, &mut base, from..ids)?;
        }
        Ok(())
    }

    fn servers(&self, mut rng: Rng) -> Result<(), String> {
        let (arena, folder) = (self.arena, &self.folder);
        let path = folder.join("o");
        let mut other = Kin::fork("another server", arena, |driver| {
            let options = Scenario::Empty.server_options();
            server::serve(arena, Scenario::Empty, options, &path, driver)
        });
        other.line()?;
        arena.tenths.begin(self.effort.limit);
        let seed = rng.next();
        let mut survivor =
            Kin::fork("the client", arena, |driver| be_the_client(arena, folder, seed, driver));
        let mut base = None;
        let mut ids = 0;
        while !self.is_over() {
            survivor.tell(&format!("run {ids}"));
            for _ in 0..SERVERS_A_LOOK {
                let delay_ns = 300_000 + 2 * delay_ns(&mut rng);
                let (fate, seed) = self.fate(&mut rng);
                let mut victim = Kin::fork("the victim", arena, |driver| {
                    signal_after(delay_ns, libc::SIGKILL);
                    fate.befall(arena, seed, delay_ns);
                    server::run(arena, Scenario::Empty, folder, driver)
                });
                self.must_be_killed(victim.wait()?)?;
                self.score.servers.fetch_add(1, Relaxed);
            }
            let mut last = Kin::fork("the next server", arena, |driver| {
                server::run(arena, Scenario::Empty, folder, driver)
            });
            if last.line()? != "serving" {
                return Err("the next server does not serve".into());
            }
            let line = survivor.ask("pause")?;
            let to: u64 = line.parse().map_err(|_| format!("an id was expected, not {line}"))?;
            if words(&last.ask("status")?)["violations"] != 0 {
                return Err("an honest client is said to have broken the protocol".into());
            }
            last.tell("quit");
            if last.wait()? != Exit::Code(0) {
                return Err("the next server does not end well".into());
            }
            self.look(&mut survivor, &mut base, ids..to)?;
            ids = to;
        }
        Ok(())
    }

    /// What comes to the next victim, and a seed for it. A server does not lie.
    fn fate(&self, rng: &mut Rng) -> (Fate, u64) {
        let seed = rng.next();
        if !self.effort.mixed {
            return (Fate::Nothing, seed);
        }
        let mut fate = Fate::draw(rng);
        if fate == Fate::Lies && self.number >= self.effort.client_lanes {
            fate = Fate::Stopped;
        }
        if let Some(at) = [Fate::Stopped, Fate::Forks, Fate::Lies].iter().position(|f| *f == fate) {
            self.score.fates[at].fetch_add(1, Relaxed);
        }
        (fate, seed)
    }

    /// A client that is stopped with all its calls in flight.
    fn stop_a_full_one(&self, ids: &mut u64) -> Result<Kin, String> {
        let (arena, from) = (self.arena, *ids);
        *ids += IDS;
        let mut client = Kin::fork("the stopped client", arena, |driver| {
            friends::be_full(&Caller::new(arena, Scenario::Half, &self.folder, false, from), driver)
        });
        client.line()?;
        client.signal(libc::SIGSTOP);
        Ok(client)
    }

    /// None but liars may have been accused.
    fn accused(&self, survivor: &mut Kin) -> Result<(), String> {
        let accused = survivor.ask("accused")?;
        for (pid, what) in accused.split(' ').filter_map(|word| word.split_once('=')) {
            if !pid.parse().is_ok_and(|pid| self.arena.liars.has(pid)) {
                return Err(format!(
                    "an honest client is said to have broken the protocol: {what}"
                ));
            }
        }
        Ok(())
    }

    fn must_be_killed(&self, exit: Exit) -> Result<(), String> {
        match (exit, self.arena.take_flaw()) {
            (_, Some(flaw)) => Err(flaw),
            (Exit::Signal(libc::SIGKILL), None) => Ok(()),
            (other, None) => Err(format!("a victim ended with {other:?}")),
        }
    }

    /// Looks at the survivor at rest, and at all that was called since the last look.
    fn look(
        &self,
        survivor: &mut Kin,
        base: &mut Option<Rest>,
        ids: std::ops::Range<u64>,
    ) -> Result<(), String> {
        let arena = self.arena;
        let calls = arena.others.calls.load(Relaxed);
        until("others are served", || {
            Ok((arena.others.calls.load(Relaxed) > calls + 1).then_some(()))
        })?;
        let mut last = None;
        arena.orphans.reap();
        let found = until("the survivor comes to rest", || {
            let status = words(&survivor.ask("status")?);
            if !self.effort.mixed && status.get("violations").is_some_and(|count| *count != 0) {
                return Err("an honest client is said to have broken the protocol".into());
            }
            let busy = ["held", "reply_bytes"]
                .iter()
                .any(|what| status.get(*what).is_some_and(|n| *n != 0));
            if busy || status.get("clients").is_some_and(|clients| *clients != 1) {
                return Ok(None);
            }
            let now = (survivor.usage(), status["live"]);
            let fine = match base {
                Some((usage, live)) => {
                    now.0.is_back_to(&Usage { maps: usage.maps + MAPS_MORE, ..*usage })
                        && now.1 < *live + BYTES_MORE
                }
                None => last.is_some_and(|last: Rest| last.0 == now.0),
            };
            last = Some(now);
            Ok(fine.then_some(now))
        });
        let found = found.map_err(|error| format!("{error}: {last:?}, before: {base:?}"))?;
        base.get_or_insert(found);
        if self.effort.mixed && self.number < self.effort.client_lanes {
            self.accused(survivor)?;
            arena.liars.clear();
        }
        let calls = arena.book.check(ids.start, ids.end)?;
        self.score.calls.fetch_add(calls, Relaxed);
        let longest_ns = arena.others.longest_ns.swap(0, Relaxed);
        self.score.longest_ns.fetch_max(longest_ns, Relaxed);
        let (usage, live) = found;
        self.score.slopes.add(
            self.number,
            Sample {
                seconds: self.began.elapsed().as_secs_f64(),
                rss_kib: usage.rss_kib as f64,
                live: live as f64,
                fds: usage.fds as f64,
                threads: usage.threads as f64,
                shared: usage.shared as f64,
                longest_ms: longest_ns as f64 / 1e6,
            },
        );
        arena.take_flaw().map_or(Ok(()), Err)
    }
}

/// A random time: from nothing to a few milliseconds, short ones as likely as long ones.
fn delay_ns(rng: &mut Rng) -> u64 {
    let most = 1 << (12 + rng.below(11));
    1 + rng.next() % most
}

/// A client that is going to be killed.
fn be_a_client(
    arena: &'static Arena,
    doing: Scenario,
    folder: &Path,
    ids: u64,
    befall: impl FnOnce(&[Client]),
) -> ! {
    let caller = Caller::new(arena, doing, folder, true, ids);
    befall(&caller.clients);
    while caller.ids.load(Relaxed) < ids + IDS - 64 {
        caller.run();
    }
    loop {
        std::thread::park();
    }
}

/// The client that survives servers; a child's body.
fn be_the_client(arena: &'static Arena, folder: &Path, seed: u64, mut driver: Driver) -> i32 {
    let path = folder.join("o");
    std::thread::spawn(move || others::call_for_ever(arena, &path, Scenario::Empty));
    let mut callers: Vec<Caller> =
        DOINGS.iter().map(|doing| Caller::new(arena, *doing, folder, false, 0)).collect();
    callers.iter_mut().for_each(|caller| caller.is_tolerant = true);
    let mut rng = Rng::new(seed);
    while let Some(line) = driver.command() {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("run", ids) => {
                let from = ids.parse().expect("a number");
                let paused = AtomicBool::new(false);
                let mut next = std::thread::scope(|scope| {
                    let working = scope.spawn(|| work(&callers, &paused, from, &mut rng));
                    // The only thing that comes while it works.
                    assert_eq!(driver.command().as_deref(), Some("pause"));
                    paused.store(true, Relaxed);
                    working.join().expect("no panic")
                });
                // Each of them reaches the server that is there now.
                for caller in &callers {
                    caller.ids.store(next, Relaxed);
                    caller.clients.iter().for_each(|client| caller.until_answered(client));
                    next = caller.ids.load(Relaxed);
                }
                driver.say(&next.to_string());
            }
            ("status", _) => driver.say(&format!("live={}", alloc::live_bytes())),
            (other, _) => panic!("no command {other}"),
        }
    }
    0
}

/// Calls until it is paused; gives the next id.
fn work(callers: &[Caller], paused: &AtomicBool, from: u64, rng: &mut Rng) -> u64 {
    let mut next = from;
    while !paused.load(Relaxed) {
        if next - from > CALLS_A_LOOK {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let caller = rng.one_of(callers);
        caller.ids.store(next, Relaxed);
        caller.run();
        let now = caller.ids.load(Relaxed);
        next = now;
    }
    next
}
