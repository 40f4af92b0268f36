//! Which calls fail when: all of them in turn, or a sample; and what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use callgate_tests::Rng;

use super::drive::{self, Left, Role};
use super::table::{Errno, Name, OLD, OPTIONAL, TABLE, errors_of, pairs};
use super::tracer::Plan;

/// Runs at the same time. They sleep most of the time.
const AT_ONCE: usize = 3;
/// Undisturbed runs that count the calls.
const DRY_RUNS: usize = 3;
/// Rows of the table that no scenario meets without a second fault, or a machine that is out of something.
const NEVER_MET: [Name; 1] = ["setsockopt"];

/// What the system has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum World {
    New,
    Old,
}

impl World {
    fn name(self) -> &'static str {
        match self {
            World::New => "this kernel",
            World::Old => "an old kernel",
        }
    }

    fn missing(self) -> Vec<(Name, Errno)> {
        match self {
            World::New => Vec::new(),
            World::Old => pairs(OLD),
        }
    }
}

/// What is known of a role in a world that works.
struct Baseline {
    role: Role,
    world: World,
    counts: BTreeMap<Name, u64>,
    left: Left,
}

#[derive(Clone)]
struct Job {
    role: Role,
    world: World,
    plan: Plan,
    /// Occurrences to try instead, where this one does not come.
    others: Vec<u64>,
}

#[derive(Default)]
struct Row {
    tried: u64,
    failed: u64,
    longest_ms: f64,
}

#[derive(Default)]
struct Results {
    rows: BTreeMap<String, Row>,
    met: BTreeSet<(Role, World, Name, Errno)>,
    /// Errors by what caused them.
    errors: BTreeMap<String, BTreeSet<String>>,
    missed: u64,
}

/// Runs the campaign: a sample where `seconds` is none, else everything, for at most so long.
pub fn run(seconds: Option<u64>) -> ExitCode {
    let began = Instant::now();
    let seed = std::env::var("CALLGATE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 0x5eed);
    eprintln!("faults: seed {seed} (CALLGATE_SEED)");
    let mut rng = Rng::new(seed);
    let mut failed = false;
    let mut baselines = Vec::new();
    for world in [World::New, World::Old] {
        for role in [Role::Client, Role::Server] {
            match baseline(role, world, DRY_RUNS) {
                Ok(found) => baselines.push(found),
                Err(why) => {
                    eprintln!("FAILED undisturbed: {}, {}: {why}", role.name(), world.name());
                    failed = true;
                }
            }
        }
    }
    let mut jobs: Vec<Job> =
        baselines.iter().flat_map(|b| jobs_of(b, seconds.is_some(), &mut rng)).collect();
    let all = jobs.len();
    // A run that is cut short has tried something of everything.
    for at in (1..jobs.len()).rev() {
        jobs.swap(at, rng.below(at + 1));
    }
    let missing = OPTIONAL.iter().flat_map(|(name, errno)| {
        let plan = Plan { missing: vec![(*name, Errno(*errno))], once: None };
        [Role::Client, Role::Server].map(|role| Job {
            role,
            world: World::New,
            plan: plan.clone(),
            others: Vec::new(),
        })
    });
    jobs.extend(missing);
    let until = began + Duration::from_secs(seconds.unwrap_or(u64::MAX).min(1 << 30));
    let results = work_off(jobs, &baselines, until);
    let spent = began.elapsed().as_secs();
    for (name, row) in &results.rows {
        failed |= row.failed > 0;
        let note = match results.missed {
            0 => format!("{all} planned"),
            missed => format!("{all} planned; {missed} did not come up, or the time was over"),
        };
        println!(
            r#"{{"kind": "nth failure: {name}", "tried": {}, "failed": {}, "longest_stall_ms": {:.1}, "seed": {seed}, "seconds": {spent}, "note": "{note}"}}"#,
            row.tried, row.failed, row.longest_ms
        );
    }
    failed |= !all_met(&results, seconds.is_none_or(|seconds| seconds == u64::MAX));
    for (cause, texts) in &results.errors {
        eprintln!("{cause}: {}", texts.iter().cloned().collect::<Vec<_>>().join(" | "));
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Each row of the table with each of its errors was met, in some role and world.
fn all_met(results: &Results, whole: bool) -> bool {
    let mut all = true;
    for (name, _) in TABLE {
        for errno in errors_of(name) {
            let met = results.met.iter().any(|(_, _, n, e)| n == name && *e == errno);
            if !met && !NEVER_MET.contains(name) {
                eprintln!("{}never met: {name} {errno}", if whole { "FAILED " } else { "" });
                all = false;
            }
        }
    }
    all || !whole
}

fn baseline(role: Role, world: World, runs: usize) -> Result<Baseline, String> {
    let plan = Plan { missing: world.missing(), once: None };
    let mut counts: BTreeMap<Name, u64> = BTreeMap::new();
    let mut least: Option<Left> = None;
    for _ in 0..runs {
        let run = drive::run(role, &plan, None);
        let wrong = run.judge(None, true);
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
        for (name, count) in run.trace.counts {
            let most = counts.entry(name).or_default();
            *most = count.max(*most);
        }
        least = least.into_iter().chain(run.left).min();
    }
    let calls: u64 = counts.values().sum();
    eprintln!("{}, {}: {calls} calls of {} kinds", role.name(), world.name(), counts.len());
    Ok(Baseline { role, world, counts, left: least.ok_or("nothing was said")? })
}

fn jobs_of(baseline: &Baseline, whole: bool, rng: &mut Rng) -> Vec<Job> {
    let mut jobs = Vec::new();
    let Baseline { role, world, .. } = *baseline;
    let missing = world.missing();
    for (name, count) in &baseline.counts {
        if missing.iter().any(|(gone, _)| gone == name) {
            continue;
        }
        for errno in errors_of(name) {
            let job = |at: u64, others: Vec<u64>| {
                let plan = Plan { missing: missing.clone(), once: Some((name, at, errno)) };
                Job { role, world, plan, others }
            };
            if whole {
                jobs.extend((1..=*count).map(|at| job(at, Vec::new())));
            } else if world == World::New || OLD_ONLY.contains(name) {
                let at = rng.below(*count as usize) as u64 + 1;
                jobs.push(job(at, vec![at.div_ceil(2), 1]));
            }
        }
    }
    jobs
}

/// Calls that only the old world makes.
const OLD_ONLY: [Name; 5] =
    ["pidfd_open", "memfd_create old", "fallocate", "renameat", "epoll_wait"];

fn work_off(jobs: Vec<Job>, baselines: &[Baseline], until: Instant) -> Results {
    let total = jobs.len();
    let (queue, results) = (Mutex::new(jobs), Mutex::new(Results::default()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let (job, left) = {
                        let mut queue = queue.lock().expect("queue");
                        (queue.pop(), queue.len())
                    };
                    let Some(job) = job else { return };
                    if left > 0 && left.is_multiple_of(500) {
                        eprintln!("faults: {left} of {total} are left");
                    }
                    if Instant::now() >= until {
                        results.lock().expect("results").missed += 1;
                        continue;
                    }
                    let known = |b: &&Baseline| b.role == job.role && b.world == job.world;
                    if let Some(baseline) = baselines.iter().find(known) {
                        attempt(job, baseline, &results);
                    }
                }
            });
        }
    });
    results.into_inner().expect("results")
}

fn attempt(mut job: Job, baseline: &Baseline, results: &Mutex<Results>) {
    loop {
        let run = drive::run(job.role, &job.plan, Some(baseline.left));
        let happened = run.trace.injected || (job.plan.once.is_none() && run.trace.missed > 0);
        // An interrupted call is made again, and nobody notices.
        let undisturbed = job.plan.once.is_none_or(|(_, _, errno)| errno == Errno(libc::EINTR));
        let wrong = run.judge(Some(baseline.left), undisturbed);
        let mut all = results.lock().expect("results");
        if wrong.is_empty() && !happened {
            if let (Some(other), Some(once)) = (job.others.pop(), &mut job.plan.once) {
                once.1 = other;
                continue;
            }
            all.missed += u64::from(job.plan.once.is_some());
            return;
        }
        let cause = describe(&job);
        let kind = match job.plan.once {
            Some(_) => format!("{}, {}", job.role.name(), job.world.name()),
            None => format!("{}, a call that is always missing", job.role.name()),
        };
        let row = all.rows.entry(kind).or_default();
        row.tried += 1;
        row.longest_ms = row.longest_ms.max(run.longest_ms());
        if !wrong.is_empty() {
            row.failed += 1;
            eprintln!("FAILED {cause}: {}", wrong.join("; "));
        }
        let Some((name, at, errno)) = job.plan.once else { return };
        all.met.insert((job.role, job.world, name, errno));
        let key = format!("{} {name} {errno}", job.role.name());
        let texts = all.errors.entry(key).or_default();
        for attempt in &run.tries {
            if attempt.kind != "ok" {
                texts.insert(format!(
                    "{} [{}] {}",
                    attempt.step,
                    attempt.kind,
                    shorten(&attempt.text)
                ));
            }
            if attempt.micros > 500_000 {
                texts.insert(format!(
                    "{} (the {at}th) took {} ms",
                    attempt.step,
                    attempt.micros / 1_000
                ));
            }
        }
        return;
    }
}

/// Paths of temporary directories are different each time.
fn shorten(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.find("/.tmp") {
        Some(at) => format!(
            "{}DIR{}",
            &word[..at],
            word[at + 11..].trim_start_matches(char::is_alphanumeric)
        ),
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn describe(job: &Job) -> String {
    match (&job.plan.once, job.plan.missing.first()) {
        (Some((name, at, errno)), _) => {
            format!("faults one {} {:?} {name:?} {at} {errno}", job.role.name(), job.world.name())
        }
        (None, Some((name, errno))) => format!("{} with {name} always {errno}", job.role.name()),
        (None, None) => "nothing".to_owned(),
    }
}

/// Repeats one run and says all about it.
pub fn one(role: &str, world: &str, name: &str, at: &str, errno: &str) -> ExitCode {
    let role = if role == "client" { Role::Client } else { Role::Server };
    let world = if world == World::Old.name() { World::Old } else { World::New };
    let row = TABLE.iter().find(|(known, _)| *known == name).expect("a name of the table");
    let errno =
        errors_of(row.0).find(|known| known.to_string() == errno).expect("one of its errors");
    let baseline = baseline(role, world, 1).expect("it works undisturbed");
    let at = at.parse().expect("a number");
    // 0 is every one.
    let mut plan = Plan { missing: world.missing(), once: (at > 0).then_some((row.0, at, errno)) };
    if at == 0 {
        plan.missing.push((row.0, errno));
    }
    let run = drive::run(role, &plan, Some(baseline.left));
    for attempt in &run.tries {
        eprintln!("{} {} us {} {}", attempt.step, attempt.micros, attempt.kind, attempt.text);
    }
    for (name, count) in &run.trace.counts {
        eprintln!("{count:>5} {name}");
    }
    let wrong = run.judge(Some(baseline.left), at == 0 || errno == Errno(libc::EINTR));
    eprintln!(
        "injected: {}, missed: {}, left {:?} of {:?}",
        run.trace.injected, run.trace.missed, run.left, baseline.left
    );
    for wrong in &wrong {
        eprintln!("FAILED {wrong}");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
