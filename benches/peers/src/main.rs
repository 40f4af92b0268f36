//! Measures callgate beside its peers: whole calls between two processes, every reply checked.

mod child;
mod clock;
mod measure;
mod message;
mod order;
mod peer;
mod peers;
mod process;
mod report;
mod round;
mod situation;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser;

use crate::peer::{Peer, Result};
use crate::report::{Cell, Machine, Report};
use crate::situation::{Situation, Work};

/// callgate side by side with its peers.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Rounds of each peer in each situation.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds that are measured in each round.
    #[arg(long, default_value_t = 500)]
    time_ms: u64,
    /// Two rounds of 100 ms.
    #[arg(long)]
    quick: bool,
    /// Only situations whose names begin so; may be given more than once.
    #[arg(long, value_name = "PREFIX")]
    only: Vec<String>,
    /// Only these peers; may be given more than once.
    #[arg(long = "peer", value_name = "NAME")]
    peers: Vec<String>,
    /// Prints JSON rather than tables.
    #[arg(long)]
    json: bool,
    /// Measures nothing; prints what earlier runs gave with --json, taken together.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    from: Vec<PathBuf>,
    /// Lists peers and situations.
    #[arg(long)]
    list: bool,
    /// Decides the order of peers; taken from the clock by default.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let done = match (words.next().as_deref(), words.next()) {
        (Some("child"), Some(order)) => child::run(&order),
        _ => program(Args::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn program(mut args: Args) -> Result<()> {
    if args.quick {
        (args.rounds, args.time_ms) = (2, 100);
    }
    let report = if args.list {
        return list();
    } else if args.from.is_empty() {
        run(&args)?
    } else {
        read(&args.from)?
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table::markdown(&report));
    }
    Ok(())
}

fn list() -> Result<()> {
    for peer in peer::all() {
        println!("{:15} {}", peer.name(), peer.about());
    }
    println!();
    for situation in situation::ALL {
        println!("{:15} {}", situation.name, situation.about);
    }
    Ok(())
}

fn read(files: &[PathBuf]) -> Result<Report> {
    let mut merged: Option<Report> = None;
    for file in files {
        let report: Report = serde_json::from_slice(&std::fs::read(file)?)?;
        match &mut merged {
            Some(merged) => merged.merge(report),
            None => merged = Some(report),
        }
    }
    merged.ok_or_else(|| "no file was given".into())
}

fn run(args: &Args) -> Result<Report> {
    let peers = chosen(args)?;
    let seed = args.seed.unwrap_or_else(from_clock).max(1);
    let mut report = Report::new(Machine::this(), seed, &peers);
    let mut order: Vec<usize> = (0..peers.len()).collect();
    let mut random = seed;
    let wanted = |situation: &&Situation| {
        args.only.is_empty() || args.only.iter().any(|start| situation.name.starts_with(start))
    };
    for situation in situation::ALL.iter().filter(wanted) {
        let mut cells: Vec<Cell> =
            peers.iter().map(|peer| Cell::new(situation.name, peer.name())).collect();
        for number in 1..=args.rounds {
            eprintln!("{}: round {number} of {}", situation.name, args.rounds);
            shuffle(&mut order, &mut random);
            for at in &order {
                one(&*peers[*at], situation, args.time_ms, &mut cells[*at]);
            }
        }
        report.cells.extend(cells);
    }
    Ok(report)
}

/// Runs a round; a peer that failed in a situation is not asked again there.
fn one(peer: &dyn Peer, situation: &Situation, time_ms: u64, cell: &mut Cell) {
    if cell.failure.is_some() {
        return;
    }
    if matches!(situation.work, Work::Window(_)) && !peer.has_window() {
        cell.failure = Some("not offered".to_owned());
        return;
    }
    match round::round(peer, situation, Duration::from_millis(time_ms)) {
        Ok(round) => cell.rounds.push(round),
        Err(error) => {
            eprintln!("{}: {}: {error}", situation.name, peer.name());
            cell.failure = Some(error.to_string());
        }
    }
}

fn chosen(args: &Args) -> Result<Vec<Box<dyn Peer>>> {
    if args.peers.is_empty() {
        return Ok(peer::all());
    }
    args.peers.iter().map(|name| peer::named(name)).collect()
}

fn from_clock() -> u64 {
    // Any number does; a clock before 1970 gives the smallest.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(1, |now| now.as_nanos() as u64)
}

/// Fisher and Yates's shuffle, with Marsaglia's xorshift.
fn shuffle(order: &mut [usize], random: &mut u64) {
    for last in (1..order.len()).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        order.swap(last, (*random % (last as u64 + 1)) as usize);
    }
}
