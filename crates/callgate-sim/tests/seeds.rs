//! Many seeds, and the proofs that a seed is a replay and that a defect is found.
#![cfg(callgate_sim)]

use std::sync::atomic::{AtomicU64, Ordering};

use callgate_sim::{Chaos, endings, longest_ns, run};
use callgate_sys::sim::{Config, Report, pin_to_cpu};

/// How calls end.
const ENDINGS: [&str; 9] = [
    "reply",
    "not started",
    "may have run",
    "deadline",
    "cancelled",
    "handler",
    "not running",
    "too many",
    "no memory",
];

/// Seeds of a short run.
const SEEDS: u64 = 300;

/// Seeds that one program runs.
const CHUNK: u64 = 10_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn one(seed: u64) -> Result<Report, String> {
    let mut config = Config::new(seed);
    config.map_faults = std::env::var_os("CALLGATE_MAP_FAULTS").is_some();
    config.print = std::env::var_os("CALLGATE_TRACE").is_some();
    let chaos = match seed % 8 {
        0 => Chaos::Calm,
        4 => Chaos::Tight,
        3 | 7 => Chaos::Shortage,
        _ => Chaos::Storm,
    };
    run(config, chaos)
}

/// Runs many seeds, some in a program at a time: what a killed process had on the heap is lost for
/// its program.
fn in_chunks(first: u64, count: u64) {
    let program = std::env::current_exe().expect("this program");
    for chunk in (first..first + count).step_by(CHUNK as usize) {
        let status = std::process::Command::new(&program)
            .args(["every_seed_ends_well", "--exact", "--nocapture"])
            .env("CALLGATE_FIRST", chunk.to_string())
            .env("CALLGATE_SEEDS", CHUNK.min(first + count - chunk).to_string())
            .status();
        assert!(status.is_ok_and(|status| status.success()), "see above");
    }
}

#[test]
fn every_seed_ends_well() {
    if let Some(seed) = number("CALLGATE_SEED") {
        let report = one(seed).unwrap_or_else(|what| panic!("{what}"));
        return println!("seed {seed}: {report:?}");
    }
    let first = number("CALLGATE_FIRST").unwrap_or(0);
    let count = number("CALLGATE_SEEDS").unwrap_or(SEEDS);
    if count > CHUNK {
        return in_chunks(first, count);
    }
    let (next, steps) = (AtomicU64::new(first), AtomicU64::new(0));
    let failures = std::sync::Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        for index in 0..threads {
            let (next, steps, failures) = (&next, &steps, &failures);
            scope.spawn(move || {
                pin_to_cpu(index);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    match one(seed) {
                        Ok(report) => _ = steps.fetch_add(report.steps, Ordering::Relaxed),
                        Err(what) => failures.lock().expect("not poisoned").push((seed, what)),
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("not poisoned");
    failures.sort();
    let longest_ms = longest_ns() as f64 / 1e6;
    println!(
        "{count} seeds, {} steps; longest call {longest_ms:.1} ms; calls ended: {:?}",
        steps.into_inner(),
        endings()
    );
    if let Some((_, what)) = failures.first() {
        let seeds: Vec<_> = failures.iter().map(|(seed, _)| seed).collect();
        panic!("failing seeds, replay with CALLGATE_SEED=n: {seeds:?}; the first:\n{what}");
    }
    if count >= SEEDS {
        // Otherwise the scenarios would be too tame to say anything.
        for ending in ENDINGS {
            assert!(endings().contains_key(ending), "no call ended with {ending}");
        }
    }
}

/// Two callers make room at the same time while the server's socket is full: the quota holds for both together. Each of
/// these seeds once had an honest client called a liar for it.
#[test]
fn two_callers_that_make_room_keep_the_quota() {
    pin_to_cpu(0);
    for seed in [1188, 1356, 2108] {
        one(seed).unwrap_or_else(|what| panic!("{what}"));
    }
}

#[test]
fn a_seed_is_a_replay() {
    pin_to_cpu(0);
    for seed in 1..20 {
        let (once, again) = (one(seed), one(seed));
        assert_eq!(once, again, "seed {seed}");
    }
    assert_ne!(one(1).map(|report| report.hash), one(2).map(|report| report.hash));
}

/// Loses one wake-up after another, each in a run of its own; returns what was found.
fn lose(lost: impl Fn(&mut Config, u64), count: impl Fn(&Report) -> u64) -> Vec<String> {
    let mut found = Vec::new();
    for seed in (8..104).step_by(8) {
        let report = one(seed).expect("nothing is wrong with it");
        for n in 1..=count(&report).min(10) {
            let mut config = Config::new(seed);
            config.horizon_ns = 40_000_000_000;
            config.steps_max = 2 * report.steps + 50_000;
            lost(&mut config, n);
            found.extend(run(config, Chaos::Calm).err());
        }
    }
    found
}

#[test]
fn a_lost_wake_up_is_found() {
    pin_to_cpu(1);
    // Not all are: some are made up for by another that comes soon.
    let rings = lose(|config, n| config.drop_ring = n, |report| report.rings);
    assert!(rings.len() >= 5, "{} lost rings were found", rings.len());
    assert!(rings.iter().any(|what| what.starts_with("deadlock")), "{}", rings[0]);
    // A caller looks around by itself after a second, so here the call has lasted too long.
    let wakes = lose(|config, n| config.drop_wake = n, |report| report.wakes);
    assert!(wakes.len() >= 5, "{} lost wakes were found", wakes.len());
    assert!(wakes.iter().any(|what| what.contains("lasted")), "{}", wakes[0]);
}
