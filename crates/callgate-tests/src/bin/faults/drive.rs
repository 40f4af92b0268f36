//! One run: starts the subject under the tracer, is its honest counterpart, and judges how it went.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use callgate::{Server, ServerOptions};

use super::steps::{Caller, STEPS, handle};
use super::subject::{LEAST, TRIES, call_kind, outcome};
use super::tracer::{Plan, Trace, follow, start};

/// How long one run may take. An undisturbed one takes a tenth of a second.
const RUN_MAX: Duration = Duration::from_secs(40);
/// Failures of one step, and of all, that one system call may cause.
const FAILURES_MAX: usize = 2;

/// Whose system calls fail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    Client,
    Server,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Server => "server",
        }
    }
}

/// Descriptors, shared mappings and threads that are left at the end.
pub type Left = [usize; 3];

/// A step that was tried.
pub struct Try {
    pub step: String,
    pub micros: u64,
    /// `ok`, or the kind and text of the error.
    pub kind: String,
    pub text: String,
}

/// How a run went.
pub struct Run {
    pub trace: Trace,
    pub tries: Vec<Try>,
    pub left: Option<Left>,
    /// Where the second cycle begins.
    second: usize,
    /// What was wrong, whatever was to fail.
    pub wrong: Vec<String>,
}

/// The subject, as its counterpart sees it.
struct Subject {
    lines: Receiver<String>,
    input: ChildStdin,
}

/// Runs the subject once.
///
/// `least`: what is left when all is well, to be waited for.
pub fn run(role: Role, plan: &Plan, least: Option<Left>) -> Run {
    let place = tempfile::tempdir().expect("a directory");
    let (sender, receiver) = channel();
    let plan = plan.clone();
    let taken = place.path().join("taken");
    let fixed = (role == Role::Server).then(|| serve(&taken));
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    match role {
        Role::Client => command.args(["client", text(&place.path().join("s"))]),
        Role::Server => command.args(["server", "f", text(&taken)]),
    };
    command.env("XDG_RUNTIME_DIR", place.path());
    if let Some([fds, shared, threads]) = least {
        command.env(LEAST, format!("{fds} {shared} {threads}"));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The first server of a client is there before it.
    let server = (role == Role::Client).then(|| serve(&place.path().join("s")));
    let tracer = std::thread::spawn(move || {
        let mut child = start(&mut command);
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        sender.send(pipes).expect("the driver waits");
        follow(child, &plan, RUN_MAX)
    });
    let (input, output, errors) = receiver.recv().expect("started");
    let (said, lines) = channel();
    let output = BufReader::new(output.expect("piped"));
    std::thread::spawn(move || {
        output.lines().map_while(Result::ok).try_for_each(|line| said.send(line))
    });
    let mut errors = errors.expect("piped");
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = errors.read_to_string(&mut text);
        text
    });
    let subject = Subject { lines, input: input.expect("piped") };
    let (trace, tries, wrong) = (Trace::default(), Vec::new(), Vec::new());
    let mut run = Run { trace, tries, left: None, second: 0, wrong };
    match role {
        Role::Client => serve_it(subject, server, place.path(), &mut run),
        Role::Server => call_it(subject, place.path(), &mut run),
    }
    run.trace = tracer.join().expect("the tracer");
    let errors = errors.join().expect("its errors");
    if run.trace.hung {
        run.wrong.push(format!("it hangs; {errors}"));
    } else if run.trace.exit != 0 || errors.contains("panicked") {
        run.wrong.push(format!("it ended with {}: {errors}", run.trace.exit));
    }
    drop(fixed);
    check_paths(role, place.path(), &mut run);
    run
}

fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

fn serve(path: &Path) -> Server {
    Server::serve_with(text(path), ServerOptions::default(), handle).expect("an honest server")
}

/// Is the client's server, and a second one when asked.
fn serve_it(mut subject: Subject, mut server: Option<Server>, place: &Path, run: &mut Run) {
    while let Ok(line) = subject.lines.recv() {
        if line == "restart" {
            check_violations(server.as_ref().expect("running"), run);
            drop(server.take());
            let _ = writeln!(subject.input, "go on");
            // It naps meanwhile, waiting for a server.
            std::thread::sleep(Duration::from_millis(4));
            server = Some(serve(&place.join("s")));
        } else {
            run.heard(&line);
        }
    }
    let server = server.expect("running");
    check_violations(&server, run);
    let began = Instant::now();
    loop {
        let status = server.status();
        if status.clients == 0 && status.reply_bytes == 0 {
            break;
        }
        if began.elapsed() > Duration::from_secs(5) {
            run.wrong.push(format!("the server keeps something of it: {status:?}"));
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn check_violations(server: &Server, run: &mut Run) {
    let violations = server.status().violations;
    if violations > 0 {
        run.wrong.push(format!("the client is blamed for {violations} violations"));
    }
}

/// Is the server's client.
fn call_it(mut subject: Subject, place: &Path, run: &mut Run) {
    while let Ok(line) = subject.lines.recv() {
        if line != "serving" {
            run.heard(&line);
            continue;
        }
        let name = text(&place.join("callgate").join("f.sock")).to_owned();
        let mut caller = Caller { name, client: None };
        for step in &STEPS {
            for attempt in 1..=TRIES {
                let began = Instant::now();
                let ended = (step.run)(&mut caller);
                run.heard(&outcome(step.name, began.elapsed(), &ended, call_kind));
                if ended.is_ok() {
                    break;
                }
                if attempt == TRIES {
                    run.wrong.push(format!("{} goes on failing", step.name));
                }
            }
        }
        drop(caller);
        let _ = writeln!(subject.input, "stop");
    }
}

/// After the second cycle nothing is left but the lock files, which are never unlinked.
fn check_paths(role: Role, place: &Path, run: &mut Run) {
    let mut left = Vec::new();
    for folder in [place.to_owned(), place.join("callgate")] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            left.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    left.sort();
    let expected: &[&str] = match role {
        Role::Client => &["s.lock"],
        Role::Server => &["callgate", "f.lock", "taken.lock"],
    };
    let alone = role == Role::Client || !run.wrong.is_empty() || left == expected;
    if !alone {
        run.wrong.push(format!("paths are left: {left:?}"));
    }
}

impl Run {
    fn heard(&mut self, line: &str) {
        let mut words = line.splitn(5, ' ');
        match words.next() {
            Some("try") => {
                let mut word = || words.next().unwrap_or_default().to_owned();
                let (step, micros, kind) = (word(), word().parse().unwrap_or(0), word());
                self.tries.push(Try { step, micros, kind, text: word() });
            }
            Some("left") => {
                let numbers: Vec<usize> = words.filter_map(|word| word.parse().ok()).collect();
                self.left = numbers.try_into().ok();
            }
            Some("stopped") => {}
            Some("again") => self.second = self.tries.len(),
            _ => self.wrong.push(format!("it says: {line}")),
        }
    }

    /// Judges a run in which one call failed, or, with `undisturbed`, in which nothing may be noticed.
    pub fn judge(&self, baseline: Option<Left>, undisturbed: bool) -> Vec<String> {
        const WRONG: [&str; 8] = [
            "violation",
            "untrusted",
            "forked",
            "version",
            "would-deadlock",
            "option",
            "not-running",
            "in-use",
        ];
        let mut wrong = self.wrong.clone();
        let failed: Vec<&Try> = self.tries.iter().filter(|attempt| attempt.kind != "ok").collect();
        for attempt in &failed {
            if WRONG.contains(&attempt.kind.as_str()) {
                wrong.push(format!("{}: a wrong error: {}", attempt.step, attempt.text));
            }
        }
        let most = if undisturbed { 0 } else { FAILURES_MAX };
        if failed.len() > most {
            let all: Vec<_> = failed.iter().map(|t| format!("{}: {}", t.step, t.text)).collect();
            wrong.push(format!("{} tries failed: {}", failed.len(), all.join("; ")));
        }
        for attempt in self.tries[self.second..].iter().filter(|attempt| attempt.kind != "ok") {
            wrong.push(format!("the next attempt fails too: {}: {}", attempt.step, attempt.text));
        }
        match (self.left, baseline) {
            (Some(left), Some(baseline))
                if left.iter().zip(&baseline).any(|(left, before)| left > before) =>
            {
                wrong.push(format!("left are {left:?} (fds, memory, threads), not {baseline:?}"));
            }
            (None, _) if wrong.is_empty() => wrong.push("it did not say what is left".to_owned()),
            _ => {}
        }
        wrong
    }

    /// The longest step, in milliseconds.
    pub fn longest_ms(&self) -> f64 {
        self.tries.iter().map(|attempt| attempt.micros).max().unwrap_or(0) as f64 / 1_000.0
    }
}
