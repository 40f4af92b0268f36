//! `callgate bench`: what calls, wake-ups and idle connections cost on this machine.

pub mod bare;
pub mod calls;
pub mod compare;
pub mod doorbell;
pub mod idle;
pub mod load;
pub mod peer;
pub mod plot;
pub mod process;
pub mod report;
pub mod rows;
pub mod sample;
pub mod stats;
pub mod svg;
#[cfg(test)]
mod synthetic;
pub mod table;
pub mod usage;
pub mod wake;

use clap::{Args, Subcommand};

use crate::exit::Failure;

/// Options of `bench`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    calls: calls::CallsArgs,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Measure round trips of calls, busy and sleeping, beside the bare primitives (the default)
    Calls(calls::CallsArgs),
    /// Measure which primitive wakes a sleeping process fastest
    Wake(wake::WakeArgs),
    /// Measure what idle connections cost a server: CPU time, memory, descriptors, mappings
    Idle(idle::IdleArgs),
    /// Print the table of a run that was saved with --json
    Show(load::ShowArgs),
    /// Tell what changed between two saved runs
    Compare(compare::CompareArgs),
    /// Draw a saved run: latency percentiles, and the curve over message sizes
    Plot(plot::PlotArgs),
}

/// Runs `bench`.
///
/// # Errors
/// When a process of the measurement fails, or a reply was wrong.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    match &args.what {
        Some(What::Calls(args)) => calls::run(args),
        Some(What::Wake(args)) => wake::run(args),
        Some(What::Idle(args)) => idle::run(args),
        Some(What::Show(args)) => load::show(args),
        Some(What::Compare(args)) => compare::run(args),
        Some(What::Plot(args)) => plot::run(args),
        None => calls::run(&args.calls),
    }
}
