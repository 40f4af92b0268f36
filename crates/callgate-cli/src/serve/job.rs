//! One run of the command for one call: feeds it, reads it, kills it where it must be.

#[cfg(not(windows))]
mod linux;
#[cfg(windows)]
mod windows;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use callgate::Deferred;
#[cfg(not(windows))]
use linux::{reply_status, run};
#[cfg(windows)]
use windows::{reply_status, run};

use super::{CODE_CANCELLED, CODE_NOT_STARTED, CODE_TIMEOUT, CODE_TOO_MUCH};

/// What to run for each call.
pub struct Command {
    /// The program's file.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// The most that it may write.
    pub reply_bytes_max: u64,
}

/// How often a running command's caller is asked whether it still waits.
const LOOK: Duration = Duration::from_millis(20);

/// Why there is no reply: the code and message that the caller gets.
struct NoReply(u32, String);

/// Runs the command for `call` and answers it. Blocks until the command has ended.
///
/// Errors of the answer are the caller's departure, of which nobody needs to know.
pub fn answer(command: &Command, call: Deferred, aborted: &AtomicBool) {
    if call.is_cancelled() || aborted.load(Ordering::Relaxed) {
        return;
    }
    let _ = match run(command, &call, aborted) {
        Ok((status, output)) => call.reply_status(reply_status(status), &output),
        Err(NoReply(code, message)) => call.fail(code, &message),
    };
}

/// The command, prepared to be run for a call.
fn prepared(command: &Command, call: &Deferred) -> std::process::Command {
    let caller = call.caller();
    let mut run = std::process::Command::new(&command.program);
    run.args(&command.args)
        .env("CALLGATE_METHOD", call.method().to_string())
        .env("CALLGATE_PID", caller.pid.unwrap_or(0).to_string())
        .env("CALLGATE_UID", caller.uid.to_string())
        .env("CALLGATE_GID", caller.gid.to_string())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    run
}

/// Whether the command may go on, having written so many bytes.
fn limits(
    command: &Command,
    call: &Deferred,
    aborted: &AtomicBool,
    end: Option<Instant>,
    written: usize,
) -> Result<(), NoReply> {
    let limit = command.reply_bytes_max;
    if written as u64 > limit {
        let message = format!("the command wrote more than {limit} bytes");
        return Err(NoReply(CODE_TOO_MUCH, message));
    }
    if call.is_cancelled() || aborted.load(Ordering::Relaxed) {
        return Err(NoReply(CODE_CANCELLED, "cancelled".to_owned()));
    }
    match end {
        Some(end) if Instant::now() >= end => {
            let time = crate::output::span(command.timeout.unwrap_or_default());
            Err(NoReply(CODE_TIMEOUT, format!("the command ran longer than {time}")))
        }
        _ => Ok(()),
    }
}
