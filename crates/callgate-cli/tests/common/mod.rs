//! What the tests of the program share: a runtime directory of their own, and processes that end
//! with the test.

#![allow(dead_code, reason = "each test file uses a part")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};

#[path = "../../../callgate-tests/src/start.rs"]
mod starting;
pub use starting::start;

/// A private runtime directory, 0700.
pub struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Home {
        let directory = tempfile::tempdir().unwrap();
        #[cfg(not(windows))]
        {
            let owner = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(directory.path(), owner).unwrap();
        }
        Home { directory }
    }

    /// A file or directory for the test's own use.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The program, with its endpoints in this directory.
    pub fn callgate<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callgate"));
        command.args(args).env("XDG_RUNTIME_DIR", self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ended {
        Ended(start(&mut self.callgate(args)).unwrap().wait_with_output().unwrap())
    }

    /// Runs the program with something on its standard input.
    pub fn run_with<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> Ended {
        let mut child = start(self.callgate(args).stdin(Stdio::piped())).unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeding = std::thread::spawn(move || pipe.write_all(&input));
        let ended = Ended(child.wait_with_output().unwrap());
        // A program that ends early does not read it all.
        let _ = feeding.join().unwrap();
        ended
    }

    /// Starts `callgate serve NAME ARGS…` and waits until it is ready.
    pub fn serve(&self, args: &[&str]) -> Serving {
        let command = self.callgate([&["serve"], args].concat());
        Serving::start(command)
    }

    /// Starts a FIFO that a command can use to say that it runs.
    pub fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        path
    }

    /// Names in the endpoints' directory.
    pub fn endpoint_files(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path("callgate")) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// A run that is over.
pub struct Ended(pub Output);

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.0.status.code()
    }

    pub fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// Checks the exit code; shows everything when it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ended {
        assert_eq!(self.code(), Some(code), "out: {}\nerr: {}", self.out(), self.err());
        let err = self.err();
        assert!(!err.contains("panicked"), "{err}");
        self
    }

    /// The output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.0.stdout).unwrap()
    }
}

/// A server that is killed at the end of its test.
pub struct Serving {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
}

impl Serving {
    /// Starts a command that says when it is ready, and waits until it is.
    pub fn start(mut command: Command) -> Serving {
        let mut child = start(&mut command).unwrap();
        // Which has the child's ends of pipes.
        drop(command);
        let out = BufReader::new(child.stdout.take().unwrap());
        let err = BufReader::new(child.stderr.take().unwrap());
        let mut serving = Serving { child, out, err };
        let mut line = String::new();
        serving.out.read_line(&mut line).unwrap();
        assert!(line.starts_with("ready: "), "{line}{}", serving.err_line());
        serving
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line on its standard error.
    pub fn err_line(&mut self) -> String {
        let mut line = String::new();
        self.err.read_line(&mut line).unwrap();
        line
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// What it writes on its standard output until its end.
    pub fn out_rest(&mut self) -> String {
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        rest
    }

    pub fn code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Two signals end the commands, too; not twice the same, of which one could get lost.
        if cfg!(windows) {
            let _ = self.child.kill();
        } else if let Ok(None) = self.child.try_wait() {
            self.signal("-TERM");
            self.signal("-INT");
        }
        let _ = self.child.wait();
    }
}

/// Waits until somebody writes a line into the FIFO.
pub fn hear(fifo: &Path) -> String {
    std::fs::read_to_string(fifo).unwrap()
}
