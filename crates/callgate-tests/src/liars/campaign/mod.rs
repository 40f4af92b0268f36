//! The driver.
//!
//! `liars once` tells each lie once; `liars short SECONDS` and `liars long SECONDS` go on with random ones, half of the time in
//! each role, then write for as long into whatever the liar may write, and measure what honest calls take beside floods,
//! unless `lies` follows. Rows go to standard output as JSON, the rest to standard error.
//! `CALLGATE_SEED` repeats a run; what `CALLGATE_LIARS_NOTE` says of the build is added to each row.

mod clients;
mod files;
mod latency;
mod servers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::peer::{Peer, Words};
use crate::rng::Rng;

/// How far a run goes.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Each lie is told once at least; then random ones for so long, per role of the liar.
    lying: Duration,
    /// Then it does nothing but write into what it may write, for so long.
    mutating: Duration,
    /// Rounds of the latency part; each has a slice for each flood.
    rounds: u32,
    /// Length of such a slice.
    slice: Duration,
    /// Where choices come from.
    seed: u64,
}

/// What a part has to report.
#[derive(Default)]
pub struct Outcome {
    tried: u64,
    failed: u64,
    stall_ns: Option<u64>,
    note: String,
}

/// Runs the campaign; gives the exit code.
pub fn main(arguments: &[String]) -> i32 {
    let mode = arguments.first().map_or("", String::as_str);
    let seconds = arguments.get(1).and_then(|text| text.parse().ok());
    let seed = Rng::printed("liars").next() % 1_000_000_000;
    let plan = |seconds, rounds, slice_ms| Plan {
        lying: Duration::from_secs(seconds) / 2,
        mutating: Duration::from_secs(seconds) / 2,
        rounds,
        slice: Duration::from_millis(slice_ms),
        seed,
    };
    let plan = match mode {
        "once" => plan(0, 0, 0),
        "short" => plan(seconds.unwrap_or(24), 5, 100),
        "long" => {
            let rounds = if arguments.get(2).is_some_and(|word| word == "lies") { 0 } else { 15 };
            plan(seconds.unwrap_or(3_600), rounds, 400)
        }
        _ => {
            eprintln!("liars once | short [SECONDS] | long [SECONDS [lies]]");
            return 2;
        }
    };
    let mut failed = 0;
    let mut part = |kind: &str, run: &mut dyn FnMut() -> Vec<(String, Outcome)>| {
        let began = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(run));
        let rows = ended.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()));
            let note = format!("{}; CALLGATE_SEED repeats", text.unwrap_or_default());
            vec![(kind.into(), Outcome { tried: 1, failed: 1, note, ..Outcome::default() })]
        });
        for (kind, outcome) in rows {
            failed += outcome.failed;
            row(&kind, &outcome, seed, began.elapsed());
        }
    };
    part("lying clients", &mut || clients::run(plan));
    part("lying servers", &mut || servers::run(plan));
    part("shared descriptors", &mut || vec![("shared descriptors".into(), files::run())]);
    i32::from(failed > 0)
}

fn row(kind: &str, outcome: &Outcome, seed: u64, took: Duration) {
    let build = std::env::var("CALLGATE_LIARS_NOTE").unwrap_or_default();
    let text =
        if build.is_empty() { outcome.note.clone() } else { format!("{build}; {}", outcome.note) };
    let note: String = text.chars().flat_map(escaped).collect();
    let stall = outcome.stall_ns.map_or("null".into(), |ns| format!("{:.1}", ns as f64 / 1e6));
    println!(
        "{{\"kind\": \"liars: {kind}\", \"tried\": {}, \"failed\": {}, \"longest_stall_ms\": {stall}, \
         \"seed\": {seed}, \"seconds\": {:.0}, \"note\": \"{note}\"}}",
        outcome.tried,
        outcome.failed,
        took.as_secs_f64()
    );
}

fn escaped(letter: char) -> Vec<char> {
    match letter {
        '"' | '\\' => vec!['\\', letter],
        letter if letter.is_control() => vec![' '],
        letter => vec![letter],
    }
}

/// Starts a process of this program.
fn spawn(role: &str, arguments: &[&str]) -> Peer {
    let program = std::env::current_exe().expect("this program");
    Peer::spawn(program.to_str().expect("utf-8"), role, arguments)
}

/// Nothing that an honest caller saw was wrong; gives its slowest call.
fn check_honest(who: &str, slice: &Words) -> u64 {
    for key in ["wrong", "failed", "mixed_wrong", "mixed_failed"] {
        assert_eq!(slice.number(key), 0, "{who}: {}", slice.text());
    }
    slice.number("max")
}
