//! `callgate serve`: each request is the standard input of one run of a command, its output the
//! reply, its exit status the reply's status.

mod job;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use callgate::{Access, Call, Deferred, Endpoint, Server, ServerOptions};
use clap::Args;

use crate::exit::{Code, Doing, Failure};
use crate::output::{self, DIM};
use crate::signal;
use job::Command;

/// Options of `serve`.
#[derive(Args, Debug)]
#[command(
    after_help = crate::exit::HELP,
    after_long_help = format!("{LONG_HELP}\n\n{}", crate::exit::HELP)
)]
pub struct ServeArgs {
    /// Endpoint: a name, or the path of a socket (with a /)
    #[arg(value_parser = Endpoint::parse)]
    name: Endpoint,
    /// Commands that run at the same time [default: the number of CPUs]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Kill a command that runs longer, and answer with an error [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = crate::duration::parse_some)]
    timeout: Option<Duration>,
    /// The longest reply; a command that writes more is killed
    #[arg(
        long, value_name = "SIZE", default_value = "256M",
        value_parser = crate::duration::parse_some_bytes
    )]
    max_reply: u64,
    /// Who may call: owner, group:GID or everyone; all but owner need a path as the endpoint
    ///
    /// The socket gets mode 0600, 0660 or 0666. A name's socket lies in a directory that only its
    /// owner may enter, so endpoints for others are given as a path in a directory that they reach.
    /// Root may always call. There is no group:GID on Windows.
    #[arg(long, value_name = "WHO", default_value = "owner", value_parser = parse_access)]
    access: Access,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

const LONG_HELP: &str = "\
The command finds in its environment: CALLGATE_METHOD, CALLGATE_PID, CALLGATE_UID, CALLGATE_GID
(the call's method number, and who calls, as the kernel says).

The reply's status is the command's exit status, or 128 + the signal that ended it. The caller gets
an error instead of a reply when the command can't be started (code 127), runs too long (124),
writes too much (122), or when too many calls wait already (121).

SIGINT and SIGTERM end the server when the calls that it has taken are answered; a second one ends
it at once. A server that is killed takes the commands that it runs with it, but not what they have
started in turn.";

/// The command can't be started; what shells use, too.
pub const CODE_NOT_STARTED: u32 = 127;
/// The command ran longer than `--timeout`; what `timeout` uses, too.
pub const CODE_TIMEOUT: u32 = 124;
/// The caller gave up, so that the command was killed; nobody reads this code.
pub const CODE_CANCELLED: u32 = 123;
/// The command wrote more than `--max-reply`.
pub const CODE_TOO_MUCH: u32 = 122;
/// Too many calls wait for a free job.
pub const CODE_BUSY: u32 = 121;

/// Calls that may wait for a free job; more are answered with [`CODE_BUSY`].
const WAITING_MAX: usize = 1024;

/// How long the calls that were taken may run on after the first signal.
const DRAIN_MAX: Duration = Duration::from_secs(3600);

fn parse_access(text: &str) -> Result<Access, String> {
    let group = |gid: &str| gid.parse().ok().filter(|gid| *gid != u32::MAX).map(Access::Group);
    match text {
        "owner" => Some(Access::Owner),
        "everyone" => Some(Access::Everyone),
        _ if cfg!(windows) => {
            return Err(
                "expected owner or everyone; groups are not supported on Windows".to_owned()
            );
        }
        _ => text.strip_prefix("group:").and_then(group),
    }
    .ok_or_else(|| "expected owner, group:GID (a number) or everyone".to_owned())
}

/// Refuses a name for others, whom the private directory would keep out.
fn check_access(args: &ServeArgs) -> Result<(), Failure> {
    if args.access == Access::Owner || args.name.to_string().contains(std::path::is_separator) {
        return Ok(());
    }
    let message = "only this user can reach a name; nothing is served\n\
        With --access group:GID or everyone, give the path of a socket (with a /).";
    Err(Failure::new(Code::Usage, message))
}

/// Runs `serve` until a signal ends it.
///
/// # Errors
/// When the name is taken, or the command does not exist.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    check_access(args)?;
    let command = Command {
        program: find(&args.command[0])?,
        args: args.command[1..].to_vec(),
        timeout: args.timeout,
        reply_bytes_max: args.max_reply,
    };
    let jobs = match args.jobs {
        Some(jobs) => usize::from(jobs),
        None => thread::available_parallelism().map_or(1, usize::from),
    };
    let aborted = Arc::new(AtomicBool::new(false));
    let running = Arc::new(Running::default());
    let queue = start_jobs(jobs, &Arc::new(command), &aborted, &running).doing("thread")?;
    let mut options = ServerOptions::default();
    options.limits.reply_bytes = args.max_reply;
    options.access = args.access;
    let handler = move |call: Call<'_>| enqueue(&queue, call);
    let server = Server::serve_with(&args.name, options, handler)?;
    let server = Arc::new(server);
    let (stopping, abort) = (server.clone(), aborted.clone());
    let mut drain = None;
    signal::on_termination(move |_| {
        if drain.is_none() {
            output::complain(DIM, "finishing the calls that are running; again to stop at once");
            let draining = stopping.clone();
            drain = Some(thread::spawn(move || draining.drain(DRAIN_MAX)));
        } else {
            abort.store(true, Ordering::Relaxed);
            stopping.stop();
        }
        true
    })
    .doing("signals")?;
    // Whoever reads that may send a signal at once.
    announce(args, jobs)?;
    server.wait();
    // Whoever still runs has no caller any more.
    aborted.store(true, Ordering::Relaxed);
    running.wait();
    Ok(())
}

fn announce(args: &ServeArgs, jobs: usize) -> Result<(), Failure> {
    let mut out = output::out();
    let path = args.name.socket_path()?;
    let name = &args.name;
    let pid = std::process::id();
    writeln!(out, "ready: {name} (pid {pid}, {jobs} jobs at a time, socket {})", path.display())?;
    Ok(out.flush()?)
}

fn enqueue(queue: &SyncSender<Deferred>, call: Call<'_>) {
    match queue.try_send(call.defer()) {
        Ok(()) => {}
        Err(TrySendError::Full(call)) => {
            let message = format!("busy: {WAITING_MAX} calls are waiting for a free job");
            let _ = call.fail(CODE_BUSY, &message);
        }
        Err(TrySendError::Disconnected(call)) => {
            let _ = call.fail(CODE_BUSY, "the server is stopping");
        }
    }
}

/// Starts the threads that run the command; they end when the queue's sender is gone.
fn start_jobs(
    jobs: usize,
    command: &Arc<Command>,
    aborted: &Arc<AtomicBool>,
    running: &Arc<Running>,
) -> std::io::Result<SyncSender<Deferred>> {
    let (queue, waiting) = sync_channel::<Deferred>(WAITING_MAX);
    let waiting = Arc::new(Mutex::new(waiting));
    for number in 0..jobs {
        let (waiting, command) = (waiting.clone(), command.clone());
        let (aborted, running) = (aborted.clone(), running.clone());
        thread::Builder::new().name(format!("job-{number}")).spawn(move || {
            while let Some(call) = next(&waiting) {
                running.add(1);
                job::answer(&command, call, &aborted);
                running.add(-1);
            }
        })?;
    }
    Ok(queue)
}

/// How many commands run.
#[derive(Default)]
struct Running {
    count: Mutex<isize>,
    changed: Condvar,
}

/// How long killed commands may take to die.
const DYING_MAX: Duration = Duration::from_secs(5);

impl Running {
    fn add(&self, change: isize) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += change;
        self.changed.notify_all();
    }

    /// Waits until none runs.
    fn wait(&self) {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.changed.wait_timeout_while(count, DYING_MAX, |count| *count > 0);
    }
}

fn next(waiting: &Mutex<Receiver<Deferred>>) -> Option<Deferred> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// Finds the program as a shell would, so that a wrong name is told at once and not to each caller.
fn find(program: &OsString) -> Result<PathBuf, Failure> {
    let named = Path::new(program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates: Vec<PathBuf> = if named.components().count() > 1 || named.is_absolute() {
        vec![named.to_owned()]
    } else {
        std::env::split_paths(&path).map(|directory| directory.join(named)).collect()
    };
    // As the system does: a name without an extension is that of an .exe.
    let with_exe = candidates.clone().into_iter().map(|mut file| {
        file.set_extension("exe");
        file
    });
    let with_exe = with_exe.filter(|_| cfg!(windows) && named.extension().is_none());
    candidates.iter().cloned().chain(with_exe).find(|file| is_executable(file)).ok_or_else(|| {
        let name = named.display();
        Failure::new(Code::Usage, format_args!("no program {name} was found; nothing is served"))
    })
}

#[cfg(windows)]
fn is_executable(file: &Path) -> bool {
    file.is_file()
}

#[cfg(not(windows))]
fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses() {
        assert_eq!(parse_access("owner"), Ok(Access::Owner));
        let grouped = parse_access("group:100");
        assert_eq!(grouped.ok(), (!cfg!(windows)).then_some(Access::Group(100)));
        assert_eq!(parse_access("everyone"), Ok(Access::Everyone));
        for wrong in ["", "group", "group:", "group:users", "group:-1", "group:4294967295", "all"] {
            assert!(parse_access(wrong).is_err(), "{wrong}");
        }
    }

    #[cfg(not(windows))]
    #[test]
    fn programs_are_found_like_a_shell_does() {
        assert!(find(&OsString::from("sh")).is_ok());
        assert!(find(&OsString::from("/bin/sh")).is_ok());
        assert_eq!(find(&OsString::from("/bin")).unwrap_err().code, Code::Usage as u8);
        assert!(find(&OsString::from("no-such-program-at-all")).is_err());
    }
}
