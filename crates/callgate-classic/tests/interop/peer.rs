//! Starting the programs, and speaking with them.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

#[path = "../../../callgate-tests/src/start.rs"]
mod starting;

use super::programs::{LIMIT_MS, MARK, NAME, ROLE, WATCH_FREE};
use starting::start;

/// In what a program is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    C,
    Rust,
    /// In Rust; a server that looks after Free.
    Watching,
}

impl By {
    pub fn is_rust(self) -> bool {
        self != Self::C
    }
}

/// Limits of clients in milliseconds: one that no machine is too slow for, and the original's.
pub const LONG: u32 = 120_000;
pub const SHORT: u32 = 250;

/// No line takes longer.
const LINE_WAIT: Duration = Duration::from_secs(180);

/// A program that runs. Dropping it kills it.
pub struct Peer {
    what: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

/// Names that nothing else on the machine has.
pub fn base(test: &str) -> String {
    static TESTS: AtomicU32 = AtomicU32::new(0);
    format!("callgate-{}-{}-{test}-", std::process::id(), TESTS.fetch_add(1, Relaxed))
}

fn program_in_c(role: &str) -> PathBuf {
    let place = std::env::var_os("CALLGATE_CLASSIC_PROGRAMS").map_or_else(
        || {
            // target/windows/TARGET/PROFILE/deps/interop.exe; the programs are in target/windows/classic.
            let here = std::env::current_exe().unwrap();
            here.ancestors().nth(4).unwrap().join("classic")
        },
        PathBuf::from,
    );
    let program = place.join(role).with_extension("exe");
    assert!(program.exists(), "there is no {}: build it with scripts/classic", program.display());
    program
}

impl Peer {
    /// Starts a server, and waits until it serves; tells whether the memory existed.
    pub fn server(by: By, base: &str) -> (Self, bool) {
        let peer = Self::start(by, "server", base, SHORT);
        let mut line = peer.line();
        let existed = line == "existed";
        if existed {
            line = peer.line();
        }
        assert!(line.starts_with("serving "), "{line}");
        (peer, existed)
    }

    /// Starts a client with these limits.
    pub fn client(by: By, base: &str, limit_ms: u32) -> Self {
        let peer = Self::start(by, "client", base, limit_ms);
        let line = peer.line();
        assert!(line.starts_with("ready "), "{line}");
        peer
    }

    fn start(by: By, role: &str, base: &str, limit_ms: u32) -> Self {
        let mut command = match by {
            By::C => {
                let mut command = Command::new(program_in_c(role));
                command.arg(base);
                if role == "client" {
                    command.arg(limit_ms.to_string());
                }
                command
            }
            By::Rust | By::Watching => {
                let mut command = Command::new(std::env::current_exe().unwrap());
                let filter = "interop::programs::program";
                command.args([filter, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
                if by == By::Watching {
                    command.env(WATCH_FREE, "1");
                }
                command.env(ROLE, role).env(NAME, base).env(LIMIT_MS, limit_ms.to_string());
                command
            }
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = start(&mut command).unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = mpsc::channel();
        let what = format!("{role} in {by:?}");
        let mark = if by.is_rust() { MARK } else { "" };
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The harness may have begun a line of its own.
                let Some(at) = line.find(mark) else { continue };
                if tell.send(line[at + mark.len()..].trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        Self { what, input: child.stdin.take(), child, lines }
    }

    /// The next line that the program says, of those that tests wait for.
    pub fn line(&self) -> String {
        loop {
            match self.lines.recv_timeout(LINE_WAIT) {
                Ok(line) if line == "idle" => {}
                Ok(line) => return line,
                Err(error) => panic!("the {} says nothing more: {error}", self.what),
            }
        }
    }

    /// Reads on until a line comes.
    #[track_caller]
    pub fn until(&self, want: &str) {
        while self.line() != want {}
    }

    /// Gives a command, and reads on until a line comes.
    #[track_caller]
    pub fn ask_until(&mut self, command: &str, want: &str) {
        self.tell(command);
        self.until(want);
    }

    /// Gives a command.
    pub fn tell(&mut self, command: &str) {
        let mut input = self.input.as_ref().unwrap();
        writeln!(input, "{command}").and_then(|()| input.flush()).unwrap();
    }

    /// Gives a command, and waits for the line that answers it.
    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.line()
    }

    /// Makes a call that has to be answered.
    #[track_caller]
    pub fn call_ok(&mut self, number: u32) {
        let line = self.ask(&format!("call {number} {}", number * 3 + 1));
        assert!(line.starts_with("ok "), "the {}: {line}", self.what);
    }

    /// Kills it, and waits for its end.
    pub fn kill(mut self) {
        self.end();
    }

    /// Ends its input, and waits for its end.
    pub fn finish(mut self) {
        self.input = None;
        while self.lines.recv_timeout(LINE_WAIT).is_ok() {}
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the {}: {status}", self.what);
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end();
    }
}
