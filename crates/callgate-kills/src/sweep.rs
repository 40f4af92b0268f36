//! The kill points, one after another: every place, in every scenario that reaches it, in both roles.
//!
//! Lanes work beside each other. Each has its own survivors, and takes a job (a scenario and a role) at a time: it
//! learns which places the victim passes there and how often, and then strikes at each. First every place everywhere, a
//! few times; then those that were struck seldom, wherever they are passed; then the rest. So a run that ends early has
//! few places that were struck much less than others.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use callgate_tests::Rng;

use crate::arena::{Arena, Shared, action};
use crate::kin::{Kin, await_lanes};
use crate::points::{PLACES, name, points};
use crate::report::Row;
use crate::scenario::Scenario;
use crate::trial::{Role, Stage, Strike};

const SCENARIOS: usize = Scenario::ALL.len();
const ROLES: [Role; 2] = [Role::Client, Role::Server];
/// Strikes at a place before the next one's turn.
const EACH: u32 = 20;
/// The same in a slow scenario, the first time.
const EACH_SLOW: u32 = 3;
/// After so many failures there is something to look at.
const FAILURES_MAX: u64 = 20;
/// Strikes that must hit each place in each role, whatever the scenario.
const HITS_MIN: u32 = 3;

/// How much is to be done.
#[derive(Clone)]
pub struct Effort {
    /// Strikes at each place, in each scenario and role that passes it.
    pub strikes: u32,
    /// No new job begins after that time.
    pub limit: Duration,
    pub lanes: usize,
    /// Lanes that sleep most of the time, and jobs that a slow scenario is divided into.
    pub slow_lanes: usize,
    pub seed: u64,
    /// See [`action`].
    pub actions: &'static [u32],
    /// What the row of the table is called.
    pub kind: &'static str,
}

/// What lanes count for all.
struct Score {
    next_quick: AtomicUsize,
    next_slow: AtomicUsize,
    tried: AtomicU64,
    failed: AtomicU64,
    not_reached: AtomicU64,
    forked: AtomicU64,
    stall_ns: AtomicU64,
    grown: AtomicU64,
    /// Hits by role and place.
    hits: [[AtomicU32; PLACES]; 2],
    /// The fewest hits wanted are counted for each scenario, too.
    by_scenario: [[[AtomicU32; PLACES]; 2]; SCENARIOS],
    /// Strikes that were tried, whether the place was reached or not.
    tries: [[[AtomicU32; PLACES]; 2]; SCENARIOS],
    /// Whether a place was passed there at all while learning.
    learned: [[[AtomicU32; PLACES]; 2]; SCENARIOS],
}

impl Score {
    /// Whether a place is passed in slow scenarios only, as far as is known.
    fn is_slow(&self, role: usize, place: usize) -> bool {
        let passed = Scenario::ALL.iter().zip(&self.learned);
        !passed.filter(|(at, _)| !at.is_slow()).any(|(_, it)| it[role][place].load(Relaxed) == 1)
    }
}

#[derive(Clone, Copy)]
struct Job {
    scenario: Scenario,
    role: Role,
    part: usize,
    parts: usize,
}

impl Job {
    /// Where it is in a [`Score`]: the scenario, and the role.
    fn row(self) -> (usize, usize) {
        let at = Scenario::ALL.iter().position(|scenario| *scenario == self.scenario);
        (at.expect("one of them"), self.role as usize)
    }

    /// Its places. By number, not by how many are passed: that differs from one lane to the next, and a place could be
    /// nobody's.
    fn places(self) -> impl Iterator<Item = usize> {
        (self.part..PLACES).step_by(self.parts)
    }
}

/// The jobs of the quick scenarios, or those of the slow ones, each of these in so many parts.
fn jobs(slow: Option<usize>) -> Vec<Job> {
    let mut jobs = Vec::new();
    let scenarios = Scenario::ALL.into_iter();
    for scenario in scenarios.filter(|scenario| scenario.is_slow() == slow.is_some()) {
        for role in ROLES {
            let takes_part = match role {
                Role::Client => scenario.kills_clients(),
                Role::Server => scenario.kills_servers(),
            };
            let parts = slow.unwrap_or(1);
            let all = (0..parts).map(|part| Job { scenario, role, part, parts });
            jobs.extend(all.filter(|_| takes_part));
        }
    }
    jobs
}

/// Runs all, and tells how it went.
pub fn run(effort: &Effort, folder: &Path) -> Row {
    let began = Instant::now();
    // SAFETY: zeroed atomics are valid, and there is nothing else in it.
    let score: Shared<Score> = unsafe { Shared::new() };
    let score = score.get();
    let mut lanes: Vec<Kin> = Vec::new();
    for lane in 0..effort.lanes + effort.slow_lanes {
        let slow = lane >= effort.lanes;
        let folder = folder.join(lane.to_string());
        std::fs::create_dir(&folder).expect("a folder for a lane");
        // SAFETY: as above.
        let arena: Shared<Arena> = unsafe { Shared::new() };
        let arena = arena.get();
        lanes.push(Kin::fork("a lane", arena, |_| {
            Lane { arena, score, effort: effort.clone(), folder, began, slow, number: lane }.run()
        }));
    }
    let progress = |lanes: usize| {
        eprintln!(
            "{:>5} s: {} strikes, {} failed, {lanes} lanes at work",
            began.elapsed().as_secs(),
            score.tried.load(Relaxed),
            score.failed.load(Relaxed),
        );
    };
    await_lanes(lanes, &score.failed, progress);
    row(effort, score, began.elapsed())
}

struct Lane {
    arena: &'static Arena,
    score: &'static Score,
    effort: Effort,
    folder: PathBuf,
    began: Instant,
    slow: bool,
    number: usize,
}

/// What a job is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// To learn which places are passed, and to strike at each.
    Everywhere,
    /// To strike where places were struck seldom in all scenarios together; in a slow one only if no quick one passes them.
    Seldom,
    /// To strike as often in each scenario.
    Rest,
}

impl Lane {
    fn run(&self) -> i32 {
        adopt_orphans();
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", &self.folder) };
        let jobs = jobs(self.slow.then_some(self.effort.slow_lanes));
        let next = if self.slow { &self.score.next_slow } else { &self.score.next_quick };
        loop {
            let number = next.fetch_add(1, Relaxed);
            let job = jobs[number % jobs.len()];
            let order = match number < jobs.len() {
                true => Order::Everywhere,
                false if jobs.iter().any(|job| self.has_work(*job, Order::Seldom)) => Order::Seldom,
                false if jobs.iter().any(|job| self.has_work(*job, Order::Rest)) => Order::Rest,
                false => return 0,
            };
            if self.is_over() {
                return 0;
            }
            if order == Order::Everywhere || self.has_work(job, order) {
                let seed = self.effort.seed ^ (number as u64) << 20;
                self.work(job, order, Rng::new(seed));
            }
        }
    }

    fn has_work(&self, job: Job, order: Order) -> bool {
        let (at, role) = job.row();
        let known = |place: &usize| self.score.learned[at][role][*place].load(Relaxed) == 1;
        job.places().filter(known).any(|place| self.wanted(job, place, order) > 0)
    }

    /// How often to strike at a place now.
    fn wanted(&self, job: Job, place: usize, order: Order) -> u32 {
        let (at, role) = job.row();
        let strikes = self.effort.strikes;
        let left = strikes.saturating_sub(self.score.tries[at][role][place].load(Relaxed));
        let is_here = !self.slow || self.score.is_slow(role, place);
        match order {
            Order::Everywhere => left.min(if self.slow { EACH_SLOW } else { EACH }),
            Order::Seldom if !is_here || self.score.hits[role][place].load(Relaxed) >= strikes => 0,
            Order::Seldom | Order::Rest => left.min(EACH),
        }
    }

    fn is_over(&self) -> bool {
        self.began.elapsed() > self.effort.limit || self.score.failed.load(Relaxed) >= FAILURES_MAX
    }

    fn stage(&self, job: Job) -> Option<Stage> {
        match Stage::new(self.arena, job.scenario, job.role, &self.folder) {
            Ok(stage) => Some(stage),
            Err(error) => {
                self.failed(job, None, &error);
                None
            }
        }
    }

    fn failed(&self, job: Job, strike: Option<Strike>, why: &str) {
        self.score.failed.fetch_add(1, Relaxed);
        let (scenario, role) = (job.scenario.name(), job.role);
        match strike {
            Some(Strike { place, nth, action }) => eprintln!(
                "FAILED {scenario} {role:?} {}:{nth}: {why}\n  again: kills repeat {scenario} {} {} {nth} {action}",
                name(place),
                if role == Role::Client { "client" } else { "server" },
                name(place),
            ),
            None => eprintln!("FAILED {scenario} {role:?} without a strike: {why}"),
        }
    }

    fn work(&self, job: Job, order: Order, mut rng: Rng) {
        let Some(mut stage) = self.stage(job) else { return };
        let mut passed = vec![0; PLACES];
        for _ in 0..2 {
            if let Err(error) = stage.trial(None) {
                self.failed(job, None, &error);
                return;
            }
            for (most, now) in passed.iter_mut().zip(stage.passed()) {
                *most = u64::max(*most, now);
            }
        }
        let (at, role) = job.row();
        for place in job.places().filter(|place| passed[*place] > 0) {
            self.score.learned[at][role][place].store(1, Relaxed);
            let most = passed[place];
            for number in 0..self.wanted(job, place, order) {
                if self.is_over() {
                    return;
                }
                let nth = match number {
                    0 if order == Order::Everywhere => 1,
                    1 if order == Order::Everywhere => most,
                    _ => 1 + rng.next() % most,
                };
                let action = *rng.one_of(self.effort.actions);
                self.score.tries[at][role][place].fetch_add(1, Relaxed);
                if !self.strike(job, &mut stage, Strike { place, nth, action }) {
                    let Some(fresh) = self.stage(job) else { return };
                    stage = fresh;
                }
            }
        }
        self.score.grown.fetch_max(stage.grown.max(0).cast_unsigned(), Relaxed);
    }

    /// Strikes once; at an earlier passage, where this one was not reached. False when something was wrong.
    fn strike(&self, job: Job, stage: &mut Stage, mut strike: Strike) -> bool {
        let (at, role) = job.row();
        loop {
            let done = stage.trial(Some(strike));
            self.score.tried.fetch_add(1, Relaxed);
            match done {
                Ok(true) => {
                    self.score.hits[role][strike.place].fetch_add(1, Relaxed);
                    self.score.by_scenario[at][role][strike.place].fetch_add(1, Relaxed);
                    self.score.stall_ns.fetch_max(stage.stall_ns(), Relaxed);
                    let forked = u64::from(stage.arena.plan.child.load(Relaxed) != 0);
                    self.score.forked.fetch_add(forked, Relaxed);
                    return true;
                }
                Ok(false) if strike.nth > 1 => {
                    strike.nth = (strike.nth - 1).min(strike.nth / 2 + 1)
                }
                Ok(false) => {
                    self.score.not_reached.fetch_add(1, Relaxed);
                    return true;
                }
                Err(error) => {
                    self.failed(job, Some(strike), &format!("{error} (lane {})", self.number));
                    return false;
                }
            }
        }
    }
}

/// Orphans of killed victims are this process's to kill and reap.
pub fn adopt_orphans() {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
}

fn row(effort: &Effort, score: &Score, took: Duration) -> Row {
    let mut failed = score.failed.load(Relaxed);
    let mut fewest = u32::MAX;
    let mut places = 0;
    for (at, point) in points().iter().enumerate() {
        for (role, wanted) in [point.client, point.server].into_iter().enumerate() {
            for place in [2 * at, 2 * at + 1] {
                let hits = score.hits[role][place].load(Relaxed);
                let who = ["a client", "a server"][role];
                if wanted {
                    places += 1;
                    fewest = fewest.min(hits);
                }
                if wanted && hits < HITS_MIN {
                    eprintln!("FAILED: {} of {who} was struck {hits} times only", name(place));
                    failed += 1;
                } else if !wanted && hits > 0 {
                    eprintln!("FAILED: {who} passes {}: points.txt does not say so", name(place));
                    failed += 1;
                }
            }
        }
    }
    let mut pairs = 0u64;
    let mut short = 0u64;
    for (learned, hits) in score.learned.iter().flatten().zip(score.by_scenario.iter().flatten()) {
        for (learned, hits) in learned.iter().zip(hits) {
            pairs += u64::from(learned.load(Relaxed));
            short += u64::from(
                learned.load(Relaxed) == 1 && hits.load(Relaxed) < effort.strikes.min(HITS_MIN),
            );
        }
    }
    let forked = match score.forked.load(Relaxed) {
        0 => String::new(),
        forked => format!("{forked} forked, "),
    };
    Row {
        kind: effort.kind,
        tried: score.hits.iter().flatten().map(|hits| u64::from(hits.load(Relaxed))).sum(),
        failed,
        longest_stall_ns: Some(score.stall_ns.load(Relaxed)),
        seed: Some(effort.seed),
        seconds: took,
        note: format!(
            "{forked}{places} places (before and after {} points, by role), each struck {fewest} times \
             and more; {pairs} pairs of place and scenario, {short} of them struck fewer than {HITS_MIN} \
             times; {} times the passage was not reached; survivors grew by {} bytes at most",
            points().len(),
            score.not_reached.load(Relaxed),
            score.grown.load(Relaxed),
        ),
    }
}

/// What a place's roles are, as they were met: for writing points.txt.
pub fn discover(folder: &Path) {
    // SAFETY: zeroed atomics are valid, and there is nothing else in it.
    let arena: Shared<Arena> = unsafe { Shared::new() };
    let arena = arena.get();
    adopt_orphans();
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var("XDG_RUNTIME_DIR", folder) };
    let mut met = vec![[false; 2]; points().len()];
    for job in jobs(None).into_iter().chain(jobs(Some(1))) {
        let began = Instant::now();
        let run = || -> Result<Vec<u64>, String> {
            let mut stage = Stage::new(arena, job.scenario, job.role, folder)?;
            let mut all = vec![0; PLACES];
            for _ in 0..3 {
                stage.trial(None)?;
                all.iter_mut().zip(stage.passed()).for_each(|(all, now)| *all += now);
            }
            Ok(all)
        };
        match run() {
            Ok(passed) => {
                let count = passed.iter().filter(|count| **count > 0).count();
                eprintln!(
                    "{:?} {:?}: {count} places, {:?}",
                    job.scenario,
                    job.role,
                    began.elapsed()
                );
                for (at, met) in met.iter_mut().enumerate() {
                    met[job.role as usize] |= passed[2 * at] > 0;
                }
            }
            Err(error) => eprintln!("{:?} {:?}: {error}", job.scenario, job.role),
        }
    }
    for (point, met) in points().iter().zip(met) {
        let roles = match met {
            [true, true] => "both",
            [true, false] => "client",
            [false, true] => "server",
            [false, false] => "-",
        };
        println!("{} {roles}", point.name);
    }
}

/// Strikes once more where it failed, `rounds` times.
pub fn repeat(job: (Scenario, Role), strike: Strike, rounds: u32, folder: &Path) -> bool {
    // SAFETY: zeroed atomics are valid, and there is nothing else in it.
    let arena: Shared<Arena> = unsafe { Shared::new() };
    let arena = arena.get();
    adopt_orphans();
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var("XDG_RUNTIME_DIR", folder) };
    let mut fine = true;
    let mut stage = Stage::new(arena, job.0, job.1, folder);
    for round in 0..rounds {
        let done = stage
            .as_mut()
            .map_err(|error| error.clone())
            .and_then(|stage| stage.trial(Some(strike)).map(|struck| (struck, stage.stall_ns())));
        eprintln!("round {round}: {done:?}");
        if done.is_err() {
            fine = false;
            stage = Stage::new(arena, job.0, job.1, folder);
        }
    }
    fine
}

/// All that a strike can do to a process that forks.
pub const FORKS: &[u32] = &[action::FORK_AND_DIE, action::FORK_AND_LIVE];
/// A plain kill.
pub const KILLS: &[u32] = &[action::KILL];
