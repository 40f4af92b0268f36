//! The command line: which subcommands there are, and what `--help` says.

use clap::{Parser, Subcommand};

#[cfg(not(windows))]
use crate::bench;
#[cfg(windows)]
use crate::classic_bridge;
use crate::exit::{self, Failure};
use crate::{call, completions, demo, ls, ping, serve, stat};

/// Calls between processes on one machine, over shared memory.
#[derive(Parser, Debug)]
#[command(
    name = "callgate",
    version,
    about,
    after_help = exit::HELP,
    arg_required_else_help = true,
    propagate_version = true,
    infer_subcommands = false
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show the whole thing at work: digest the files under a directory through a server
    Demo(demo::DemoArgs),
    /// Answer each call under a name by running a command
    Serve(serve::ServeArgs),
    /// Call a server once: standard input is the request, standard output the reply
    Call(call::CallArgs),
    /// Measure round trips to a server until stopped
    Ping(ping::PingArgs),
    /// List the endpoints of this user
    Ls(ls::LsArgs),
    /// Show what one server says of itself
    Stat(stat::StatArgs),
    /// Answer clients of the classic Win32 protocol by calls to a server
    #[cfg(windows)]
    ClassicBridge(classic_bridge::BridgeArgs),
    /// Measure this machine: calls, wake-ups, idle cost
    #[cfg(not(windows))]
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    #[command(hide = true, name = "demo-server")]
    DemoServer(demo::server::ServerArgs),
    #[command(hide = true, name = "demo-client")]
    DemoClient(demo::client::ClientArgs),
    #[cfg(not(windows))]
    #[command(hide = true, name = "bench-server")]
    BenchServer(bench::peer::server::ServerArgs),
    #[cfg(not(windows))]
    #[command(hide = true, name = "bench-client")]
    BenchClient(bench::peer::client::ClientArgs),
    #[cfg(not(windows))]
    #[command(hide = true, name = "bench-idlers")]
    BenchIdlers(bench::peer::client::IdlersArgs),
    #[cfg(not(windows))]
    #[command(hide = true, name = "bench-fresh")]
    BenchFresh(bench::peer::client::FreshArgs),
}

impl Cli {
    /// Runs the chosen subcommand.
    ///
    /// # Errors
    /// The subcommand's failure, which carries the exit code.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::Demo(args) => demo::run(args),
            Command::Serve(args) => serve::run(args),
            Command::Call(args) => call::run(args),
            Command::Ping(args) => ping::run(args),
            Command::Ls(args) => ls::run(args),
            Command::Stat(args) => stat::run(args),
            #[cfg(windows)]
            Command::ClassicBridge(args) => classic_bridge::run(args),
            #[cfg(not(windows))]
            Command::Bench(args) => bench::run(args),
            Command::Completions(args) => completions::run(args),
            Command::DemoServer(args) => demo::server::run(args),
            Command::DemoClient(args) => demo::client::run(args),
            #[cfg(not(windows))]
            Command::BenchServer(args) => bench::peer::server::serve(args),
            #[cfg(not(windows))]
            Command::BenchClient(args) => bench::peer::client::call(args),
            #[cfg(not(windows))]
            Command::BenchIdlers(args) => bench::peer::client::idle(args),
            #[cfg(not(windows))]
            Command::BenchFresh(args) => bench::peer::client::fresh(args),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_shows_exit_codes_and_hides_helpers() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("Exit codes:"));
        assert!(!help.contains("demo-server"));
    }
}
