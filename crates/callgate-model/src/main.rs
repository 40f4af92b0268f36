//! Checks the scenarios of the model, and prints for each how many states it has.
//!
//! ```sh
//! cargo run --release                       # all scenarios, each exhausted or to ten million states
//! cargo run --release -- calls stop         # these
//! cargo run --release -- --states 1000000   # fewer states of each
//! cargo run --release -- --cycles           # also shows that there is no cycle
//! cargo run --release -- --json             # a line of JSON for each
//! ```

use std::process::ExitCode;
use std::time::Instant;

use callgate_model::config::Config;
use callgate_model::{Protocol, walk};
use stateright::{Checker, Model};

const STATES: usize = 10_000_000;

/// Steps that lead to a state, at the most: what the checker can be bounded by. There are about three.
const STEPS_PER_STATE: usize = 4;

fn main() -> ExitCode {
    let (mut states, mut cycles, mut json, mut names) = (STATES, false, false, Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--states" => match words.next().and_then(|number| number.parse().ok()) {
                Some(number) => states = number,
                None => return usage("--states wants a number"),
            },
            "--cycles" => cycles = true,
            "--json" => json = true,
            name if Config::named(name).is_some() => names.push(word),
            name => return usage(&format!("there is no scenario {name}")),
        }
    }
    let mut failed = false;
    for config in Config::all() {
        if names.is_empty() || names.iter().any(|name| name == config.name) {
            failed |= !check(config, states, cycles, json);
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn usage(why: &str) -> ExitCode {
    let names: Vec<_> = Config::all().iter().map(|config| config.name).collect();
    eprintln!("{why}; scenarios: {}; --states N, --cycles, --json", names.join(", "));
    ExitCode::from(2)
}

/// Checks one scenario; whether nothing was found.
fn check(config: Config, states: usize, cycles: bool, json: bool) -> bool {
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let model = Protocol(config.clone());
    let checker = model
        .clone()
        .checker()
        .threads(threads)
        .target_state_count(STEPS_PER_STATE * states)
        .spawn_bfs()
        .join();
    // It counts a state each time that a step leads there.
    let exhausted = checker.state_count() < STEPS_PER_STATE * states;
    let mut wrong = Vec::new();
    for (name, path) in checker.discoveries() {
        let expected = model.property(name).expectation == stateright::Expectation::Sometimes;
        if !expected {
            wrong.push(name.to_owned());
            eprintln!("{}: {name}: {:?}", config.name, path.last_state().flaw);
            for (state, action) in path.clone().into_vec() {
                let callers: Vec<_> = state.callers.iter().map(|caller| caller.at).collect();
                eprintln!("  {callers:?} | {:?} {:?}", state.server.at, state.server.phase);
                eprintln!("      {action:?}");
            }
            eprintln!("{:#?}", path.last_state());
        }
    }
    if exhausted {
        for property in model.properties() {
            if property.expectation == stateright::Expectation::Sometimes
                && checker.discovery(property.name).is_none()
            {
                eprintln!("{}: never: {}", config.name, property.name);
                wrong.push(format!("never: {}", property.name));
            }
        }
    }
    let mut acyclic = "not looked for".to_owned();
    if cycles {
        match walk(&model, usize::MAX) {
            Ok(found) if found.complete => acyclic = "none".into(),
            Ok(found) => acyclic = format!("none in {} states", found.states),
            Err(steps) => {
                acyclic = format!("one of {} steps", steps.len());
                eprintln!("{}: a cycle: {}", config.name, steps.join(", "));
                wrong.push("a cycle".into());
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let (unique, depth) = (checker.unique_state_count(), checker.max_depth());
    let whole = if exhausted { "exhausted" } else { "bounded" };
    if json {
        println!(
            r#"{{"scenario": "{}", "states": {unique}, "whole": "{whole}", "depth": {depth}, "cycles": "{acyclic}", "seconds": {seconds:.1}, "wrong": {wrong:?}}}"#,
            config.name
        );
    } else {
        println!(
            "{:12} {unique:>9} states, {whole}, depth {depth}, cycles: {acyclic}, {seconds:.1} s: {}",
            config.name,
            if wrong.is_empty() { "holds".into() } else { wrong.join(", ") }
        );
    }
    wrong.is_empty()
}
