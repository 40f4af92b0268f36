//! `callgate completions`: a completion script on standard output.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use crate::exit::Failure;

/// Options of `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

/// Runs `completions`.
///
/// # Errors
/// Those of standard output.
pub fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(args.shell, &mut visible(&crate::cli::Cli::command()), "callgate", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script)?;
    Ok(out.flush()?)
}

/// The command line without the helpers, which completions would offer otherwise.
fn visible(whole: &clap::Command) -> clap::Command {
    let shown = whole.get_subcommands().filter(|command| !command.is_hide_set());
    clap::Command::new("callgate").version(env!("CARGO_PKG_VERSION")).subcommands(shown.cloned())
}
