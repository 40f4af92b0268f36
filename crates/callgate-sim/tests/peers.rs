//! Two promises that take virtual time, or an order of memory that the machine shows once in a long while.
#![cfg(callgate_sim)]

use std::time::Duration;

use callgate_sim::{run_moved, run_stopped};
use callgate_sys::sim::{Config, pin_to_cpu};

/// Nobody can wake a caller that was moved to another word: it asks the kernel itself, ever more seldom, but not more
/// seldom than every 30 s.
#[test]
fn a_moved_caller_finds_out_by_itself() {
    pin_to_cpu(0);
    for waited_ms in [10, 900, 2_500, 5_000, 20_000, 65_000, 130_000] {
        for seed in 0..3 {
            let waited = Duration::from_millis(waited_ms);
            run_moved(Config::new(seed), waited).unwrap_or_else(|what| panic!("{what}"));
        }
    }
}

/// A worker may miss for a moment that its connection ends; whoever ends it makes sure that it does not before the
/// client learns of it.
#[test]
fn no_call_runs_that_a_stopping_server_let_be_denied() {
    pin_to_cpu(1);
    for seed in 0..300 {
        run_stopped(Config::new(seed)).unwrap_or_else(|what| panic!("{what}"));
    }
}
