//! `callgate bench`: what calls, wake-ups and idle connections cost on this machine.
//!
//! | file | owns |
//! | --- | --- |
//! | `suite` | the default command: all situations, in random order |
//! | `plan`, `asks`, `effort` | which situations there are, what is asked for, how much is measured |
//! | `situations`, `rounds`, `watch` | setting them up, their rounds, and waiting for what they find |
//! | `side`, `crew`, `peer` | callgate and limits as something to measure; callgate's processes |
//! | `bare` | the limits |
//! | `sample`, `flow`, `bytes` | the loops that measure, the same for callgate and limits |
//! | `moods` | rounds in which the CPUs were near each other, and far apart |
//! | `rows`, `handler`, `report` | from rounds to a report |
//! | `stats`, `table`, `load`, `compare`, `plot`, `svg` | what is done with a report |
//! | `process`, `usage` | forks, pinning, clocks; what the kernel counts |
//! | `wake`, `doorbell` | `bench wake` |
//! | `idle` | `bench idle`, and the situation of that name |

pub mod asks;
pub mod bare;
pub mod bytes;
pub mod compare;
pub mod crew;
pub mod doorbell;
pub mod effort;
pub mod flow;
pub mod handler;
pub mod idle;
pub mod load;
pub mod moods;
pub mod peer;
pub mod plan;
pub mod plot;
pub mod process;
pub mod report;
pub mod rounds;
pub mod rows;
pub mod sample;
pub mod side;
pub mod situations;
pub mod stats;
pub mod suite;
pub mod svg;
#[cfg(test)]
mod synthetic;
pub mod table;
pub mod usage;
pub mod wake;
pub mod watch;

use clap::{Args, Subcommand};

use crate::exit::Failure;

/// Options of `bench`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    suite: suite::SuiteArgs,
}

#[derive(Subcommand, Debug)]
enum What {
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
        Some(What::Wake(args)) => wake::run(args),
        Some(What::Idle(args)) => idle::run(args),
        Some(What::Show(args)) => load::show(args),
        Some(What::Compare(args)) => compare::run(args),
        Some(What::Plot(args)) => plot::run(args),
        None => suite::run(&args.suite),
    }
}
