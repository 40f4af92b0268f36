//! What `testpeer` can be. A peer takes commands from standard input, one a line, answers on standard output, and ends
//! when its input ends or its parent dies. Built with kill points, each takes the arguments `kill=NAME:N`, which is
//! `CALLGATE_KILL`, and `points=PATH`, which is `CALLGATE_POINTS_LOG`.

pub mod caller;
pub mod crowd;
#[cfg(not(windows))]
pub mod forker;
#[cfg(not(windows))]
pub mod hostile_server;
pub mod load;
pub mod server;
pub mod submit;

use callgate::CallError;

use crate::peer::Words;

/// Runs the role that the first argument names.
///
/// # Panics
/// When it is told nonsense: the test that started it sees that.
pub fn main() {
    let mut arguments = std::env::args().skip(1);
    let role = arguments.next().expect("a role");
    let words = Words::parse(&arguments.collect::<Vec<_>>().join(" "));
    #[cfg(not(windows))]
    become_user(&words);
    die_with_parent();
    #[cfg(windows)]
    tell_warnings();
    for (word, name) in [("kill", "CALLGATE_KILL"), ("points", "CALLGATE_POINTS_LOG")] {
        if let Some(value) = words.find::<String>(word) {
            // SAFETY: this process has one thread yet.
            unsafe { std::env::set_var(name, value) };
        }
    }
    match role.as_str() {
        "server" => server::run(&words),
        "submit" => submit::run(&words),
        "load" => load::run(&words),
        #[cfg(not(windows))]
        "forker" => forker::run(&words),
        "crowd" => crowd::run(&words),
        #[cfg(not(windows))]
        "hostile-server" => hostile_server::run(&words),
        other => panic!("no role {other}"),
    }
}

/// Shows what the library warns of, with what else a peer says on standard error. (Where peers fork, a child could find the
/// lock of the output taken.)
#[cfg(windows)]
fn tell_warnings() {
    use tracing_subscriber::filter::LevelFilter;
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::WARN).without_time();
    subscriber.with_ansi(false).with_writer(std::io::stderr).init();
}

/// Says one line, by one system call: no lock that a fork could catch in another thread's hands.
pub fn say(line: &str) {
    let line = format!("{line}\n");
    // A parent that is gone doesn't listen, so failing is no matter.
    #[cfg(windows)]
    let _ = std::io::Write::write_all(&mut std::io::stdout().lock(), line.as_bytes());
    #[cfg(not(windows))]
    // SAFETY: the bytes live.
    unsafe {
        libc::write(1, line.as_ptr().cast(), line.len())
    };
}

/// The next command; `None` at the end.
#[must_use]
pub fn command() -> Option<String> {
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line.trim().to_owned()),
    }
}

/// The name of an error's kind.
#[must_use]
pub fn kind(error: &CallError) -> &'static str {
    use callgate::Started::{MayHaveRun, NotStarted};
    match error {
        CallError::NotRunning { .. } => "not-running",
        CallError::Refused { .. } => "refused",
        CallError::Handler { .. } => "handler",
        CallError::DeadlineExceeded { .. } => "deadline",
        CallError::Disconnected { started: NotStarted } => "not-started",
        CallError::Disconnected { started: MayHaveRun } => "may-have-run",
        CallError::TooLarge { .. } => "too-large",
        CallError::TooManyInFlight { .. } => "too-many",
        CallError::NoMemory { .. } => "no-memory",
        CallError::ProtocolViolation { .. } => "violation",
        CallError::WouldDeadlock => "would-deadlock",
        CallError::Forked => "forked",
        CallError::UntrustedServer { .. } => "untrusted",
        CallError::Version { .. } => "version",
        _ => "other",
    }
}

#[cfg(not(windows))]
/// Another user's process, where `uid=` and `gid=` ask for it. Only root can.
fn become_user(words: &Words) {
    let Some(uid) = words.find::<u32>("uid") else { return };
    let gid = words.find("gid").unwrap_or(uid);
    // SAFETY: plain system calls; no memory is passed but an empty list.
    let changed = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setgid(gid) == 0
            && libc::setuid(uid) == 0
    };
    assert!(changed, "cannot become user {uid}: {}", std::io::Error::last_os_error());
}

/// A peer ends at the end of its input, too: where there is no such signal that is all.
#[cfg(windows)]
pub(crate) fn die_with_parent() {}

#[cfg(not(windows))]
pub(crate) fn die_with_parent() {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

#[cfg(not(windows))]
/// Forks. The child runs `in_child`, then waits for the end of standard input, or of the world, and exits.
///
/// Returns the child's process id.
///
/// # Panics
/// When there can be no child.
pub fn fork(in_child: impl FnOnce()) -> i32 {
    // SAFETY: the child goes on in this thread alone. It allocates, which glibc allows after fork, and uses no lock that
    // another thread of a peer may have held.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            in_child();
            let mut byte = [0u8; 1];
            // SAFETY: one byte is read into a live buffer; then the process ends without running anything else.
            unsafe {
                while libc::read(0, byte.as_mut_ptr().cast(), 1) > 0 {}
                libc::_exit(0)
            }
        }
        child => child,
    }
}
