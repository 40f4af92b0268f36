//! One victim, those who survive it, and what must hold afterwards.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use callgate_sys::clock;
use callgate_tests::Usage;

use crate::arena::{Arena, action};
use crate::client::Caller;
use crate::kin::{BOUND, Came, Driver, Exit, Kin, first_of};
use crate::scenario::Scenario;
use crate::{alloc, filter, forker, hook, others, server};

/// Bytes that a survivor may hold more than at rest before, for tables that grow.
const BYTES_MORE: i64 = 64 << 10;
/// Ids that belong to one trial.
const IDS: u64 = 512;

/// Which side is the victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// Where and how the victim ends.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    pub place: usize,
    pub nth: u64,
    pub action: u32,
}

/// A scenario's survivors, ready for one victim after another.
pub struct Stage {
    pub arena: &'static Arena,
    scenario: Scenario,
    role: Role,
    folder: PathBuf,
    /// Clients are killed: the server. Servers are killed: the client.
    survivor: Kin,
    /// Clients are killed: another client. Servers are killed: the server of the survivor's other calls.
    _other: Kin,
    base: Option<(Usage, i64)>,
    next_id: u64,
    /// What the survivor's memory has grown by since the beginning.
    pub grown: i64,
}

impl Stage {
    /// Starts the survivors.
    pub fn new(
        arena: &'static Arena,
        scenario: Scenario,
        role: Role,
        folder: &Path,
    ) -> Result<Self, String> {
        arena.reset();
        arena.take_flaw();
        for entry in std::fs::read_dir(folder).map_err(|error| error.to_string())?.flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        let (survivor, other) = match role {
            Role::Client => {
                let mut survivor = Kin::fork("the server", arena, |driver| {
                    server::run(arena, scenario, folder, driver)
                });
                expect(survivor.line()?, "serving")?;
                let path = folder.join("s");
                let other = Kin::fork("another client", arena, |_| {
                    others::call_for_ever(arena, &path, scenario)
                });
                (survivor, other)
            }
            Role::Server => {
                let path = folder.join("o");
                let mut other = Kin::fork("another server", arena, |driver| {
                    let (scenario, path) = (Scenario::Empty, &path);
                    server::serve(arena, scenario, scenario.server_options(), path, driver)
                });
                expect(other.line()?, "serving")?;
                let survivor = Kin::fork("the client", arena, |driver| {
                    survive(arena, scenario, folder, driver)
                });
                (survivor, other)
            }
        };
        let folder = folder.to_owned();
        let mut stage = Self {
            arena,
            scenario,
            role,
            folder,
            survivor,
            _other: other,
            base: None,
            next_id: 1,
            grown: 0,
        };
        until("others are at work", || Ok((arena.others.calls.load(Relaxed) > 16).then_some(())))?;
        // Twice: what is made once is made now.
        stage.trial(None)?;
        stage.trial(None)?;
        stage.base = Some(stage.at_rest()?);
        Ok(stage)
    }

    /// Runs one victim, and checks what must hold. True when it was struck.
    pub fn trial(&mut self, strike: Option<Strike>) -> Result<bool, String> {
        self.arena.reset();
        let plan = &self.arena.plan;
        if let Some(strike) = strike {
            plan.place.store(strike.place as u32, Relaxed);
            plan.nth.store(strike.nth, Relaxed);
        }
        plan.action.store(strike.map_or(action::KILL, |strike| strike.action), Relaxed);
        plan.armed.store(u32::from(!self.scenario.is_armed_late()), Relaxed);
        let ids = self.next_id;
        self.next_id += IDS;
        let done = match self.role {
            Role::Client => self.kill_a_client(ids),
            Role::Server => self.kill_a_server(ids),
        };
        let child_said = self.bury_child();
        let struck = plan.fired_ns.load(Relaxed) != 0;
        if let Some(flaw) = self.arena.take_flaw() {
            return Err(flaw);
        }
        done?;
        if child_said == 2 {
            return Err("a forked child was not refused".into());
        }
        self.others_are_served()?;
        if let Some((base, live)) = self.base {
            self.is_back_to(&base, live)?;
        }
        self.arena.book.check(ids, ids + IDS)?;
        self.arena.take_flaw().map_or(Ok(struck), Err)
    }

    fn kill_a_client(&mut self, ids: u64) -> Result<(), String> {
        let (arena, scenario) = (self.arena, self.scenario);
        let folder = &self.folder;
        let queue = (scenario == Scenario::Queue).then(|| others::full_queue(&folder.join("q")));
        let mut victim = Kin::fork("the victim", arena, |_| {
            hook::install(arena);
            if scenario.is_old() {
                filter::become_old();
            }
            let caller = Caller::new(arena, scenario, folder, true, ids);
            forker::handles(&caller.clients);
            caller.run();
            drop(caller);
            hook::end(arena);
            0
        });
        let exit = victim.wait()?;
        drop(queue);
        self.is_right_end(exit)
    }

    fn is_right_end(&self, exit: Exit) -> Result<(), String> {
        let plan = &self.arena.plan;
        let struck = plan.fired_ns.load(Relaxed) != 0;
        let lives = plan.action.load(Relaxed) == action::FORK_AND_LIVE;
        match exit {
            Exit::Signal(libc::SIGKILL) if struck && !lives => Ok(()),
            Exit::Code(0) if !struck || lives => Ok(()),
            other => Err(format!("the victim ended with {other:?}, struck: {struck}")),
        }
    }

    fn kill_a_server(&mut self, ids: u64) -> Result<(), String> {
        if self.scenario == Scenario::Half {
            // What a server leaves that was killed.
            let left = std::os::unix::net::UnixListener::bind(self.folder.join("s"));
            drop(left.map_err(|error| format!("a socket: {error}"))?);
        }
        let mut victim = Some(self.fork_server(true));
        let mut next = None;
        let mut serving = victim.as_mut().expect("just made");
        if !has_begun(serving)? {
            self.is_right_end(serving.wait()?)?;
            victim = None;
            serving = next.insert(self.fork_server(false));
            expect(serving.line()?, "serving")?;
        }
        self.survivor.tell(&format!("run {ids}"));
        loop {
            let came = match &victim {
                Some(victim) => first_of(&[&self.survivor, victim]),
                None => first_of(&[&self.survivor]),
            };
            match came {
                Some(Came::Said(0)) => {
                    expect(self.survivor.line()?, "done")?;
                    break;
                }
                Some(Came::Ended(1)) => {
                    let exit = victim.take().expect("it ended").wait()?;
                    self.is_right_end(exit)?;
                    let server = next.insert(self.fork_server(false));
                    expect(server.line()?, "serving")?;
                }
                Some(Came::Said(_)) => {
                    let line = victim.as_mut().expect("it said something").line();
                    return Err(format!("the victim says {line:?}"));
                }
                other => return Err(format!("the survivor hangs: {other:?}")),
            }
        }
        if let Some(mut victim) = victim {
            victim.tell("quit");
            let exit = victim.wait()?;
            self.is_right_end(exit)?;
            if exit == Exit::Code(0) && next.is_none() {
                return Ok(());
            }
        }
        let mut server = match next {
            Some(server) => server,
            None => {
                let mut server = self.fork_server(false);
                expect(server.line()?, "serving")?;
                server
            }
        };
        expect(self.survivor.ask("once")?, "done")?;
        let status = words(&server.ask("status")?);
        if status["violations"] != 0 && self.scenario != Scenario::Refuse {
            return Err("an honest client is said to have broken the protocol".into());
        }
        server.tell("quit");
        match server.wait()? {
            Exit::Code(0) => {}
            other => return Err(format!("the next server ended with {other:?}")),
        }
        for left in ["s", ".s.tmp"] {
            if self.folder.join(left).exists() {
                return Err(format!("{left} is left"));
            }
        }
        Ok(())
    }

    fn fork_server(&self, is_victim: bool) -> Kin {
        let (arena, scenario) = (self.arena, self.scenario);
        let folder = &self.folder;
        Kin::fork(if is_victim { "the victim" } else { "the next server" }, arena, |driver| {
            let mut alike = scenario;
            if is_victim {
                hook::install(arena);
                match scenario {
                    Scenario::Old => filter::become_old(),
                    Scenario::Broken => filter::become_broken(),
                    _ => {}
                }
            } else if scenario == Scenario::Broken {
                alike = Scenario::Empty;
            }
            let code = server::run(arena, alike, folder, driver);
            if is_victim {
                hook::end(arena);
            }
            code
        })
    }

    /// Kills and reaps what the victim forked; tells what that child said.
    fn bury_child(&self) -> u32 {
        let plan = &self.arena.plan;
        let child = plan.child.load(Relaxed);
        if child == 0 {
            return 0;
        }
        let began = Instant::now();
        while plan.child_said.load(Relaxed) == 0 && began.elapsed() < BOUND {
            std::thread::sleep(Duration::from_micros(50));
        }
        // SAFETY: the child's parent is gone, so it is ours, and nobody else reaps it.
        unsafe {
            libc::kill(child.cast_signed(), libc::SIGKILL);
            while libc::waitpid(child.cast_signed(), std::ptr::null_mut(), 0) < 0
                && *libc::__errno_location() == libc::EINTR
            {}
        }
        plan.child_said.load(Relaxed)
    }

    /// Waits until calls that have nothing to do with the victim go on.
    fn others_are_served(&self) -> Result<(), String> {
        let calls = self.arena.others.calls.load(Relaxed);
        until("others are served", || {
            Ok((self.arena.others.calls.load(Relaxed) > calls + 1).then_some(()))
        })
    }

    /// What the survivor uses once nothing changes any more.
    fn at_rest(&mut self) -> Result<(Usage, i64), String> {
        let mut last = None;
        until("the survivor comes to rest", || {
            let live = self.settled()?;
            let now = self.survivor.usage();
            let before = last.replace(now);
            Ok(live.filter(|_| before.is_some_and(|before| before == now)).map(|live| (now, live)))
        })
    }

    /// The survivor's allocated bytes, once it has nothing to do for the victim any more.
    fn settled(&mut self) -> Result<Option<i64>, String> {
        let status = words(&self.survivor.ask("status")?);
        if status.get("violations").is_some_and(|count| *count != 0)
            && self.scenario != Scenario::Refuse
        {
            return Err("an honest client is said to have broken the protocol".into());
        }
        let busy =
            ["held", "reply_bytes"].iter().any(|what| status.get(*what).is_some_and(|n| *n != 0));
        let clients = status.get("clients").copied().unwrap_or(1);
        Ok((!busy && clients == 1).then_some(status["live"]))
    }

    fn is_back_to(&mut self, base: &Usage, live: i64) -> Result<(), String> {
        let mut last = None;
        let back = until("nothing is left in the survivor", || {
            let Some(now) = self.settled()? else { return Ok(None) };
            let usage = self.survivor.usage();
            last = Some((usage, now));
            Ok((usage.is_back_to(base) && now < live + BYTES_MORE).then_some(now))
        });
        match back {
            Ok(now) => {
                self.grown = now - live;
                Ok(())
            }
            Err(error) => Err(format!("{error}: {last:?}, before: {base:?}, {live}")),
        }
    }

    /// The longest that others, or a call that was pending at the death, had to wait.
    pub fn stall_ns(&self) -> u64 {
        self.arena.stall_ns.load(Relaxed).max(self.arena.others.longest_ns.load(Relaxed))
    }

    /// How often the last victim passed each place.
    pub fn passed(&self) -> Vec<u64> {
        self.arena.plan.passed.iter().map(|passed| passed.load(Relaxed)).collect()
    }
}

/// The client that survives servers; a child's body.
fn survive(arena: &'static Arena, scenario: Scenario, folder: &Path, mut driver: Driver) -> i32 {
    let path = folder.join("o");
    // Their server stays, whatever becomes of the victim.
    let calm = if scenario.is_slow() { scenario } else { Scenario::Empty };
    std::thread::spawn(move || others::call_for_ever(arena, &path, calm));
    let caller = Caller::new(arena, scenario, folder, false, 0);
    while let Some(line) = driver.command() {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("run", ids) => {
                caller.ids.store(ids.parse().expect("a number"), Relaxed);
                caller.run();
                driver.say("done");
            }
            ("once", _) => {
                // Not the one whom the server always turns away.
                if scenario != Scenario::Refuse {
                    caller.clients.iter().for_each(|client| caller.until_answered(client));
                }
                driver.say("done");
            }
            ("status", _) => driver.say(&format!("live={}", alloc::live_bytes())),
            (other, _) => panic!("no command {other}"),
        }
    }
    0
}

/// Whether a server has begun; false when it died.
fn has_begun(server: &mut Kin) -> Result<bool, String> {
    match first_of(&[server]) {
        Some(Came::Said(_)) => expect(server.line()?, "serving").map(|()| true),
        Some(Came::Ended(_)) => Ok(false),
        None => Err("a server does not begin".into()),
    }
}

fn expect(line: String, wanted: &str) -> Result<(), String> {
    if line == wanted { Ok(()) } else { Err(format!("{wanted} was expected, not {line}")) }
}

/// Reads `key=number` words.
pub fn words(line: &str) -> HashMap<String, i64> {
    let words = line.split(' ').filter_map(|word| word.split_once('='));
    words.filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?))).collect()
}

/// Looks again and again until there is something, for at most [`BOUND`].
pub fn until<T>(
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>, String>,
) -> Result<T, String> {
    let until_ns = clock::deadline_ns(BOUND);
    let mut nap = Duration::from_micros(50);
    loop {
        if let Some(value) = look()? {
            return Ok(value);
        }
        if clock::now_ns() > until_ns {
            return Err(format!("not within {BOUND:?}: {what}"));
        }
        // Between two looks only: the machine has work to do meanwhile, of which dozens of lanes wait like this one.
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(2));
    }
}
