//! `bench wake`: how fast each primitive wakes a sleeping process.
//!
//! Two processes, whole round trips, both ends asleep in between. Needs nothing of the library.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::doorbell::{Bell, Kind};
use super::process::{self, Partner};
use super::sample::{Pace, Rounds, Summary, Trip, clock_cost, repeat};
use crate::exit::{Doing, Failure};
use crate::output::{self, Table, nanos};

/// Options of `bench wake`.
#[derive(Args, Debug)]
pub struct WakeArgs {
    /// Fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Rounds over all primitives, one after the other
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Let both processes sleep that long before each round trip, so that the cores fall idle
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = crate::duration::parse)]
    gap: Duration,
}

/// Where the two processes run.
#[derive(Clone, Copy)]
enum Place {
    Unpinned,
    OneCpu,
    TwoCpus,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Place::Unpinned => "unpinned",
            Place::OneCpu => "one cpu",
            Place::TwoCpus => "two cpus",
        }
    }

    /// The CPUs of the ringing process and of its partner; None where there aren't two.
    fn cpus(self, all: &[usize]) -> Option<(Vec<usize>, Vec<usize>)> {
        match (self, all) {
            (Place::Unpinned, all) => Some((all.to_vec(), all.to_vec())),
            (Place::OneCpu, [one, ..]) => Some((vec![*one], vec![*one])),
            (Place::TwoCpus, [one, two, ..]) => Some((vec![*one], vec![*two])),
            _ => None,
        }
    }
}

/// One primitive at one place.
struct Row {
    kind: Kind,
    place: Place,
    cpus: Vec<usize>,
    bell: Box<dyn Bell>,
    rounds: Rounds,
    _partner: Partner,
}

#[derive(Serialize)]
struct RowJson {
    primitive: &'static str,
    place: &'static str,
    round_trip_ns: Summary,
}

#[derive(Serialize)]
struct Report {
    rounds: usize,
    gap_ns: u64,
    clock_ns: u64,
    rows: Vec<RowJson>,
}

/// Runs `bench wake`.
///
/// # Errors
/// When a process can't be forked, pinned or rung.
pub fn run(args: &WakeArgs) -> Result<(), Failure> {
    let (rounds, time) = if args.quick { (3, 20) } else { (9, 150) };
    let rounds = args.rounds.unwrap_or(rounds).max(1);
    let all = process::cpus().doing("sched_getaffinity")?;
    let clock = clock_cost();
    let time = Duration::from_millis(time).max(args.gap * 20);
    let pace = Pace { time, least: 20, gap: args.gap, ..Pace::default() };
    let mut rows = rows(&all)?;
    for _ in 0..rounds {
        for row in &mut rows {
            row.round(pace).doing(row.kind.name())?;
        }
    }
    process::pin(&all).doing("sched_setaffinity")?;
    let rows: Vec<RowJson> = rows
        .into_iter()
        .map(|row| RowJson {
            primitive: row.kind.name(),
            place: row.place.name(),
            round_trip_ns: row.rounds.summary(),
        })
        .collect();
    let report = Report { rounds, gap_ns: args.gap.as_nanos() as u64, clock_ns: clock, rows };
    if args.json { Ok(output::json(&report)?) } else { print(&report) }
}

/// Forks a partner for each primitive and place; they sleep until their row's round comes.
fn rows(all: &[usize]) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for place in [Place::Unpinned, Place::OneCpu, Place::TwoCpus] {
        let Some((cpus, theirs)) = place.cpus(all) else {
            continue;
        };
        for kind in Kind::ALL {
            let Some((bell, other)) = kind.pair().doing(kind.name())? else {
                continue;
            };
            let answer = move || while other.wait().and_then(|()| other.ring()).is_ok() {};
            let partner = Partner::fork(&theirs, answer).doing("fork")?;
            let cpus = cpus.clone();
            rows.push(Row {
                kind,
                place,
                cpus,
                bell,
                rounds: Rounds::default(),
                _partner: partner,
            });
        }
    }
    Ok(rows)
}

impl Row {
    fn round(&mut self, pace: Pace) -> io::Result<()> {
        process::pin(&self.cpus)?;
        let mut trip = There(self.bell.as_ref());
        for _ in 0..20 {
            trip.go()?;
        }
        self.rounds.add(&repeat(&mut trip, pace)?);
        Ok(())
    }
}

/// Rings and waits to be rung.
struct There<'a>(&'a dyn Bell);

impl Trip for There<'_> {
    fn go(&mut self) -> io::Result<()> {
        self.0.ring().and_then(|()| self.0.wait())
    }
}

fn print(report: &Report) -> Result<(), Failure> {
    let mut out = output::out();
    writeln!(
        out,
        "Round trips between two processes that sleep in the primitive; {} rounds, interleaved;\n\
         medians of the rounds (lowest to highest round), the clock's {} included; {} before each.",
        report.rounds,
        nanos(report.clock_ns),
        if report.gap_ns == 0 { "no pause".to_owned() } else { nanos(report.gap_ns) + " pause" },
    )?;
    let mut table =
        Table::new(2, &["place", "primitive", "p50", "p50 of rounds", "p99", "p99.9", "trips"]);
    for row in &report.rows {
        let trip = &row.round_trip_ns;
        table.row([
            row.place.to_owned(),
            row.primitive.to_owned(),
            nanos(trip.p50.median),
            format!("{} to {}", nanos(trip.p50.low), nanos(trip.p50.high)),
            nanos(trip.p99.median),
            nanos(trip.p999),
            output::count(trip.count),
        ]);
    }
    write!(out, "{}", table.render())?;
    Ok(out.flush()?)
}
