//! `callgate bench`: every situation beside its limits, in one run and random order.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::effort::Effort;
use super::moods::Moods;
use super::plan::{self, Situation};
use super::report::{FORMAT, Goal, Machine, Missing, Report, Row};
use super::rounds::Allowance;
use super::sample::clock_cost;
use super::situations::{Outcome, Stage};
use super::table;
use crate::exit::{Code, Failure};
use crate::output::{self, BAD, Table, WARN};
use crate::progress::Progress;

/// Options of `bench`.
#[derive(Args, Debug)]
pub struct SuiteArgs {
    /// The whole run in under a minute: fewer and shorter rounds, fewer idle clients
    #[arg(long)]
    quick: bool,
    /// Print JSON, for `bench compare` and `bench plot`
    #[arg(long)]
    json: bool,
    /// Measure the situations in the order of an earlier run
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Rounds of each situation; without it, what is unclear gets up to three times the usual number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Only these situations, like busy, gap/1ms or 'size/*/copied'; may be repeated
    #[arg(long, value_name = "SITUATION")]
    only: Vec<String>,
    /// List the situations and what is asked for in each; measure nothing
    #[arg(long)]
    list: bool,
    /// How long each side is measured in each round
    #[arg(long, hide = true, value_name = "TIME", value_parser = crate::duration::parse)]
    time: Option<Duration>,
}

/// Runs `bench`. A situation that fails is told, and the others go on.
///
/// # Errors
/// When a situation failed: a process of the measurement, or a reply was wrong.
pub fn run(args: &SuiteArgs) -> Result<(), Failure> {
    let mut plan = plan::situations(args.quick);
    plan.retain(|situation| args.wants(*situation));
    if plan.is_empty() {
        let message = "no situation has such a name; see `callgate bench --list`";
        return Err(Failure::new(Code::Usage, message));
    }
    if args.list {
        return list(&plan);
    }
    let seed = args.seed.unwrap_or_else(new_seed);
    let mut stage = Stage::new(Allowance(MORE))?;
    let machine = machine(stage.cpus());
    let clock_ns = clock_cost();
    let mut report = Report {
        format: FORMAT,
        callgate: env!("CARGO_PKG_VERSION").to_owned(),
        machine,
        seed,
        quick: args.quick,
        clock_ns,
        moods: None,
        rows: Vec::new(),
        missing: Vec::new(),
        notes: Vec::new(),
    };
    measure(args, &plan, &mut stage, &mut report);
    let stopped = stage.stop();
    if args.json {
        output::json(&report)?
    } else {
        table::print(&report)?
    }
    stopped?;
    let failed = report.missing.iter().filter(|missing| missing.failed);
    let failed: Vec<&str> = failed.map(|missing| missing.situation.as_str()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::internal(format_args!("could not be measured: {}", failed.join(", "))))
}

/// How much longer than planned a run may take to tell what is unclear.
const MORE: Duration = Duration::from_secs(5 * 60);

/// Measures the situations in the order of the seed; the report's rows are in that of the plan.
fn measure(args: &SuiteArgs, plan: &[Situation], stage: &mut Stage, report: &mut Report) {
    let mut progress = Progress::new();
    let mut rows: Vec<Vec<Row>> = plan.iter().map(|_| Vec::new()).collect();
    for (done, index) in shuffled(plan.len(), report.seed).into_iter().enumerate() {
        let situation = plan[index];
        let (effort, name) = (args.effort(situation), situation.name());
        let mut each_round = |round: usize| {
            let part = done * effort.rounds + round.min(effort.rounds);
            let more = if round < effort.rounds { "" } else { ", unclear so far" };
            let whole = plan.len() * effort.rounds;
            progress.update(part as u64, whole as u64, || format!("{name}{more}"));
        };
        let outcome = stage.measure(situation, effort, &mut each_round);
        for note in stage.notes() {
            progress.clear();
            output::complain(WARN, &note);
            report.notes.push(note);
        }
        let (reason, failed) = match outcome {
            Ok(Outcome::Rows(measured)) => {
                rows[index] = measured;
                continue;
            }
            Ok(Outcome::Skipped(reason)) => (reason, false),
            Err(failure) => (failure.message, true),
        };
        progress.clear();
        let style = if failed { BAD } else { WARN };
        output::complain(style, format_args!("{name} is not measured: {reason}"));
        if failed {
            stage.clear();
        }
        report.missing.push(Missing { situation: name, reason, failed });
    }
    report.rows = rows.into_iter().flatten().collect();
    report.moods = Moods::of_reports(&[report]);
}

impl SuiteArgs {
    fn wants(&self, situation: Situation) -> bool {
        let name = situation.name();
        self.only.is_empty() || self.only.iter().any(|pattern| plan::matches(pattern, &name))
    }

    fn effort(&self, situation: Situation) -> Effort {
        let mut effort = situation.effort(self.quick);
        if let Some(rounds) = self.rounds {
            (effort.rounds, effort.rounds_max) = (rounds as usize, rounds as usize);
        }
        if let Some(time) = self.time {
            effort.untimed = if effort.untimed.is_zero() { Duration::ZERO } else { time };
            effort.time = time;
        }
        effort
    }
}

fn new_seed() -> u64 {
    // Short enough to be typed.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) % 1_000_000
}

/// The numbers below `count` in an order that the seed decides.
fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut state = seed;
    for end in (1..count).rev() {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        order.swap(end, ((mixed ^ (mixed >> 31)) % (end as u64 + 1)) as usize);
    }
    order
}

fn machine(cpus: usize) -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned());
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
    Machine { processor, kernel, cpus, load }
}

fn list(plan: &[Situation]) -> Result<(), Failure> {
    let mut table = Table::new(3, &["situation", "figure", "goal"]);
    for situation in plan {
        for ask in situation.asks() {
            let goal = ask.goal.map_or_else(String::new, goal);
            table.row([situation.name(), ask.figure.name().to_owned(), goal]);
        }
        if situation.asks().is_empty() {
            table.row([situation.name()]);
        }
    }
    let mut out = output::out();
    write!(out, "{}", table.render())?;
    Ok(out.flush()?)
}

fn goal(goal: Goal) -> String {
    match goal {
        Goal::AtMost(ratio) => format!("at most {ratio} times the limit"),
        Goal::AtLeast(ratio) => format!("at least {ratio} times the limit"),
        Goal::Absolute(value) => format!("at most {value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_order_of_all() {
        let order = shuffled(40, 7);
        assert_eq!(order, shuffled(40, 7));
        assert_ne!(order, shuffled(40, 8));
        let mut sorted = order;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..40).collect::<Vec<_>>());
        assert!(shuffled(0, 1).is_empty());
    }
}
