//! `callgate stat`: what one server says of itself.

use std::io::Write;
use std::time::Duration;

use callgate::Endpoint;
use clap::Args;
use serde::Serialize;

use crate::exit::Failure;
use crate::output::{self, HEAD, styled};

/// Options of `stat`.
#[derive(Args, Debug)]
#[command(after_help = crate::exit::HELP)]
pub struct StatArgs {
    /// Endpoint: a name, or the path of a socket (with a /)
    #[arg(value_parser = Endpoint::parse)]
    name: Endpoint,
    /// Give the server that long to answer
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = crate::duration::parse)]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Status {
    endpoint: String,
    socket: String,
    pid: u32,
    uptime_seconds: f64,
    clients: u64,
    calls: u64,
    refused: u64,
    violations: u64,
    reply_bytes: u64,
}

/// Runs `stat`.
///
/// # Errors
/// When the server does not run or does not answer in time.
pub fn run(args: &StatArgs) -> Result<(), Failure> {
    let socket = args.name.socket_path()?.display().to_string();
    let status = callgate::status(&args.name, args.timeout)?;
    let status = Status {
        endpoint: args.name.to_string(),
        socket,
        pid: status.pid,
        uptime_seconds: status.uptime.as_secs_f64(),
        clients: status.clients,
        calls: status.calls,
        refused: status.refused,
        violations: status.violations,
        reply_bytes: status.reply_bytes,
    };
    if args.json {
        return Ok(output::json(&status)?);
    }
    let mut out = output::out();
    let uptime = output::span(Duration::from_secs_f64(status.uptime_seconds));
    for (name, value) in [
        ("endpoint", status.endpoint),
        ("socket", status.socket),
        ("pid", status.pid.to_string()),
        ("uptime", uptime),
        ("clients", output::count(status.clients)),
        ("calls", output::count(status.calls)),
        ("refused clients", output::count(status.refused)),
        ("violations", output::count(status.violations)),
        ("reply memory", output::bytes(status.reply_bytes)),
    ] {
        writeln!(out, "{}  {value}", styled(HEAD, format_args!("{name:<15}")))?;
    }
    Ok(out.flush()?)
}
