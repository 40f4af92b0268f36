//! The process whose system calls fail. As a client it calls the server of the process that started it; as a server it is
//! called from there. It goes through all steps twice: the first time something may fail, the second time nothing does.
//!
//! It says, one a line: `try STEP MS ok`, `try STEP MS KIND TEXT`, `restart` (and waits for a line), `serving` (and waits),
//! and at the end `left FDS SHARED THREADS`.

use std::io::BufRead;
use std::time::{Duration, Instant};

use callgate::{Access, CallError, ServeError, Server, ServerOptions};
use callgate_tests::roles::{kind, say};

use super::mark::{CLEAN, GO, HARNESS, LIBRARY, aside, mark};
use super::steps::{Caller, STEPS, handle};

/// The environment's word for what is left when all is well.
pub const LEAST: &str = "CALLGATE_FAULTS_LEAST";
/// Tries of one step; more than one system call is never made to fail once.
pub const TRIES: usize = 3;

/// Runs as the client of the server at `name`.
pub fn client(name: &str) {
    mark(GO);
    for cycle in 0..2 {
        begins(cycle);
        let mut caller = Caller { name: name.to_owned(), client: None };
        for step in &STEPS {
            tries(step.name, || (step.run)(&mut caller), call_kind);
        }
        if cycle == 0 {
            aside(|| say("restart"));
            // Until the old one is gone, whose end is not part of this.
            aside(|| {
                line();
            });
            let again = &STEPS[2];
            tries("reconnect", || (again.run)(&mut caller), call_kind);
        }
    }
    left();
}

/// Runs as the server of `name`; `taken` is a name that another process serves.
pub fn server(name: &str, taken: &str) {
    // So that there is something to raise.
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(500), maximum: Some(600) },
    );
    mark(GO);
    for cycle in 0..2 {
        begins(cycle);
        tries(
            "a taken name",
            || serve(taken).map_or_else(in_use, |_| panic!("it was taken")),
            serve_kind,
        );
        let mut served = None;
        tries("serve", || serve(name).map(|server| served = Some(server)), serve_kind);
        let server = served.expect("the last try served");
        aside(|| {
            say("serving");
            line();
        });
        let began = Instant::now();
        if cycle == 0 {
            // Cut off at worst.
            let _ = server.drain(Duration::from_secs(5));
        } else {
            server.stop();
            server.wait();
        }
        drop(server);
        aside(|| {
            say(&format!("try stop {} ok", began.elapsed().as_micros()));
            say("stopped");
        });
    }
    left();
}

/// In the second cycle nothing fails, unless it is missing.
fn begins(cycle: usize) {
    if cycle == 1 {
        aside(|| say("again"));
        mark(CLEAN);
    }
}

fn serve(name: &str) -> Result<Server, ServeError> {
    let mut options = ServerOptions::default();
    options.workers = 2;
    // SAFETY: getegid takes and touches nothing.
    options.access = Access::Group(unsafe { libc::getegid() });
    options.idle_interval = Some(Duration::from_millis(7));
    Server::serve_with(name, options, handle)
}

fn in_use(error: ServeError) -> Result<(), ServeError> {
    match error {
        ServeError::AddressInUse { .. } => Ok(()),
        error => Err(error),
    }
}

fn serve_kind(error: &ServeError) -> &'static str {
    match error {
        ServeError::AddressInUse { .. } => "in-use",
        ServeError::Endpoint(_) => "endpoint",
        ServeError::Option { .. } => "option",
        _ => "os",
    }
}

fn tries<E: std::error::Error>(
    step: &str,
    mut run: impl FnMut() -> Result<(), E>,
    kind: impl Fn(&E) -> &'static str,
) {
    for _ in 0..TRIES {
        let began = Instant::now();
        let ended = run();
        mark(HARNESS);
        let line = outcome(step, began.elapsed(), &ended, &kind);
        say(&line);
        mark(LIBRARY);
        if ended.is_ok() {
            return;
        }
    }
    panic!("{step} goes on failing");
}

/// The line that tells how a step ended.
pub fn outcome<E: std::error::Error>(
    step: &str,
    took: Duration,
    ended: &Result<(), E>,
    kind: impl Fn(&E) -> &'static str,
) -> String {
    let (step, micros) = (step.replace(' ', "_"), took.as_micros());
    match ended {
        Ok(()) => format!("try {step} {micros} ok"),
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            format!("try {step} {micros} {} {text}", kind(error))
        }
    }
}

/// The kind of a call's error; see [`callgate_tests::roles::kind`].
pub fn call_kind(error: &CallError) -> &'static str {
    match error {
        CallError::Os { .. } => "os",
        CallError::Endpoint(_) => "endpoint",
        error => kind(error),
    }
}

fn line() {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    assert!(read.is_ok_and(|bytes| bytes > 0), "the driver is gone");
}

/// Says what is left, once it is what it shall be, or else is what it will be.
fn left() {
    mark(HARNESS);
    let least = std::env::var(LEAST).unwrap_or_default();
    let least: Vec<usize> = least.split(' ').filter_map(|number| number.parse().ok()).collect();
    let (began, mut last, mut since) = (Instant::now(), [0; 3], Instant::now());
    // Threads end, and memory is unmapped, a moment after whoever asked for it goes on; a cancelled call is held longest.
    while began.elapsed() < Duration::from_secs(10) {
        let usage = callgate_tests::Usage::of(std::process::id());
        let now = [usage.fds, usage.shared, usage.threads];
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let is_least = now.iter().zip(&least).all(|(now, least)| now <= least);
        if is_least && (!least.is_empty() || since.elapsed() > Duration::from_millis(200)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    say(&format!("left {} {} {}", last[0], last[1], last[2]));
}
