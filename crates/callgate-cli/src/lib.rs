//! The `callgate` program as a library, so that what reads its input can be tested from outside. Not an interface: use
//! the program, or the library `callgate`.
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(not(windows))]
mod bench;
mod call;
#[cfg(windows)]
mod classic_bridge;
mod cli;
mod completions;
mod connect;
mod demo;
mod duration;
mod errors;
mod exit;
#[cfg(not(windows))]
#[doc(hidden)]
pub mod input;
mod ls;
mod output;
mod ping;
mod progress;
mod scratch;
mod serve;
mod signal;
mod stat;
mod times;
mod worker;

use std::process::ExitCode;

use clap::Parser;

/// Reads the command line, runs one subcommand, gives its exit code.
#[must_use]
pub fn run() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                output::complain(output::BAD, &failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}
