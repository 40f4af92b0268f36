//! Processes of `testpeer`: starting, talking, killing, reaping.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::bounded::{BOUND, until};
use crate::start::start;
use crate::usage::Usage;

/// A directory of its own for an endpoint; it goes with the value.
pub struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// Makes one.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    /// The endpoint's socket path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.file("s")
    }

    /// The endpoint's name for callgate.
    #[must_use]
    pub fn name(&self) -> String {
        self.path().to_str().expect("utf-8").to_owned()
    }

    /// The path of another file in the directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The names of all files there, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).expect("the directory");
        let names = entries.map(|entry| entry.expect("entry").file_name());
        let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// What lies beside the socket while somebody serves: the socket itself, and the lock. Nothing where names lie on no disk.
    pub const SERVED: &'static [&'static str] = if cfg!(windows) { &[] } else { &["s", "s.lock"] };

    /// What is left once a server has stopped in good order.
    pub const STOPPED: &'static [&'static str] = if cfg!(windows) { &[] } else { &["s.lock"] };

    /// Starts a server here; `arguments` are `key=value` words for [`crate::roles::server`]. It serves once this returns.
    #[must_use]
    pub fn server(&self, program: &str, arguments: &[&str]) -> Peer {
        let server = self.peer(program, "server", arguments);
        server.expect("serving");
        server
    }

    /// Starts a peer in some role, told where the endpoint is.
    #[must_use]
    pub fn peer(&self, program: &str, role: &str, arguments: &[&str]) -> Peer {
        let path = format!("path={}", self.name());
        let all: Vec<&str> = [path.as_str()].into_iter().chain(arguments.iter().copied()).collect();
        Peer::spawn(program, role, &all)
    }
}

/// A process of `testpeer`. It is killed and reaped when this is dropped, and dies with the thread that started it.
pub struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Arc<Mutex<String>>,
    what: String,
}

impl Peer {
    /// Starts one.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn spawn(program: &str, role: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.arg(role).args(arguments).env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = start(&mut command).expect("testpeer starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, lines) = channel();
        #[cfg(windows)]
        let process = std::os::windows::io::AsHandle::as_handle(&child).try_clone_to_owned();
        #[cfg(windows)]
        let process = process.expect("a handle");
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                #[cfg(windows)]
                if line == callgate_points::KILL_ME {
                    terminate(&process);
                    continue;
                }
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let errors = Arc::new(Mutex::new(String::new()));
        let sink = errors.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
                sink.push_str(&line);
                sink.push('\n');
            }
        });
        let stdin = child.stdin.take();
        let what = format!("{role} {} (pid {})", arguments.join(" "), child.id());
        Self { child, stdin, lines, errors, what }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it uses now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage::of(self.pid())
    }

    /// What it uses once it is at rest: the same at two looks, with an answer of `status` before each.
    #[must_use]
    pub fn usage_at_rest(&mut self) -> Usage {
        let mut last = None;
        until("a peer comes to rest", || {
            self.ask("status");
            let now = self.usage();
            let before = last.replace(now);
            (before == Some(now)).then_some(now)
        })
    }

    /// Sends a command.
    ///
    /// # Panics
    /// When it is gone.
    pub fn tell(&mut self, command: &str) {
        let stdin = self.stdin.as_mut().expect("not closed");
        writeln!(stdin, "{command}").unwrap_or_else(|e| panic!("{}: {e}", self.what));
    }

    /// Waits for its next line.
    ///
    /// # Panics
    /// When none comes.
    #[must_use]
    pub fn line(&self) -> String {
        match self.lines.recv_timeout(BOUND) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("{} says nothing", self.what),
            Err(RecvTimeoutError::Disconnected) => {
                panic!("{} has ended:\n{}", self.what, self.errors())
            }
        }
    }

    /// A line, if one comes in this time.
    #[must_use]
    pub fn line_within(&self, time: Duration) -> Option<String> {
        self.lines.recv_timeout(time).ok()
    }

    /// A line, if there is one.
    #[must_use]
    pub fn try_line(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Waits for its next line, which begins with `word`; gives the rest.
    ///
    /// # Panics
    /// When it begins otherwise.
    pub fn expect(&self, word: &str) -> String {
        let line = self.line();
        match line.strip_prefix(word) {
            Some(rest) => rest.trim().to_owned(),
            None => {
                panic!("{}: {word} was expected, it says: {line}\n{}", self.what, self.errors())
            }
        }
    }

    /// Waits for its next lines, which are these in any order.
    ///
    /// # Panics
    /// When they are others.
    pub fn expect_all(&self, words: &[&str]) {
        let mut lines: Vec<String> = words.iter().map(|_| self.line()).collect();
        lines.sort();
        let mut words = words.to_vec();
        words.sort_unstable();
        assert_eq!(lines, words, "{}", self.what);
    }

    /// Sends a command and waits for the answer, which begins with the same word.
    pub fn ask(&mut self, command: &str) -> Words {
        self.tell(command);
        let word = command.split(' ').next().unwrap_or(command);
        Words::parse(&self.expect(word))
    }

    /// As [`Peer::ask`], of one that may die at any moment: `None` when it is dead.
    ///
    /// # Panics
    /// When it lives and says nothing.
    #[must_use]
    pub fn try_ask(&mut self, command: &str) -> Option<Words> {
        let stdin = self.stdin.as_mut().expect("not closed");
        writeln!(stdin, "{command}").ok()?;
        self.try_expect(command)
    }

    /// As [`Peer::expect`], of one that may die at any moment: `None` when it is dead.
    ///
    /// # Panics
    /// When it lives and says nothing, or something else.
    #[must_use]
    pub fn try_expect(&self, word: &str) -> Option<Words> {
        match self.lines.recv_timeout(BOUND) {
            Ok(line) => {
                let rest = line.strip_prefix(word);
                Some(Words::parse(rest.unwrap_or_else(|| panic!("{}: {line}", self.what)).trim()))
            }
            Err(RecvTimeoutError::Timeout) => panic!("{} says nothing", self.what),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Kills it with SIGKILL, or TerminateProcess. It is not reaped: see [`Peer::wait`].
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Kills it and reaps it.
    pub fn end(mut self) {
        self.kill();
        let _ = self.child.wait();
    }

    /// Sends another signal.
    #[cfg(not(windows))]
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill has no memory preconditions; the child is not reaped, so the pid is still its own.
        unsafe { libc::kill(self.pid().cast_signed(), signal) };
    }

    /// Lets it go on after [`Peer::freeze`].
    pub fn thaw(&self) {
        #[cfg(not(windows))]
        self.signal(libc::SIGCONT);
        #[cfg(windows)]
        self.suspend(false);
    }

    /// Suspends all its threads.
    ///
    /// # Panics
    /// When that is refused.
    #[cfg(windows)]
    pub fn freeze(&self) {
        self.suspend(true);
    }

    #[cfg(windows)]
    fn suspend(&self, suspends: bool) {
        use std::os::windows::io::{AsRawHandle, RawHandle};
        #[link(name = "ntdll", kind = "raw-dylib")]
        unsafe extern "system" {
            fn NtSuspendProcess(process: RawHandle) -> i32;
            fn NtResumeProcess(process: RawHandle) -> i32;
        }
        let process = self.child.as_raw_handle();
        // SAFETY: the handle is open; no memory is passed.
        let status =
            unsafe { if suspends { NtSuspendProcess(process) } else { NtResumeProcess(process) } };
        assert!(status >= 0, "status {status:#x}");
    }

    #[cfg(not(windows))]
    /// Stops it (SIGSTOP) and waits until none of its threads runs. SIGCONT lets it go on.
    ///
    /// # Panics
    /// When it doesn't stop.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
        until("a peer stops", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).ok()?;
            let stopped = |task: std::io::Result<std::fs::DirEntry>| {
                let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
                let state = stat.rsplit(')').next()?.trim().chars().next()?;
                (state == 'T').then_some(())
            };
            tasks.map(stopped).collect::<Option<Vec<()>>>().map(|_| ())
        });
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it doesn't within the bound.
    pub fn wait(&mut self) -> ExitStatus {
        self.stdin = None;
        let child = &mut self.child;
        until("a peer ends", || child.try_wait().expect("waitable"))
    }

    /// Reaps it after [`Peer::kill`], leaving its input open for the children it forked.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn reap(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("a killed peer ends", || child.try_wait().expect("waitable"))
    }

    /// Whether it is still running.
    ///
    /// # Panics
    /// When it cannot be waited for.
    #[must_use]
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("waitable").is_none()
    }

    /// What it has written to standard error.
    #[must_use]
    pub fn errors(&self) -> String {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Kills a process that a kill point holds fast.
#[cfg(windows)]
fn terminate(process: &std::os::windows::io::OwnedHandle) {
    use std::os::windows::io::AsRawHandle;
    use windows_sys::Win32::System::Threading::TerminateProcess;
    // SAFETY: the handle is open; no memory is passed. It fails for one that has ended, which is as well.
    unsafe { TerminateProcess(process.as_raw_handle(), 1) };
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let status = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}: {status:?}\n{}", self.what, self.errors());
        }
    }
}

/// `key=value` words.
#[derive(Clone, Debug)]
pub struct Words(HashMap<String, String>, String);

impl Words {
    /// Reads them.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let words = text.split(' ').filter_map(|word| word.split_once('='));
        Self(words.map(|(key, value)| (key.into(), value.into())).collect(), text.into())
    }

    /// The text as it came.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.1
    }

    /// The value of `key`.
    ///
    /// # Panics
    /// When it is unreadable.
    #[must_use]
    pub fn find<T: FromStr>(&self, key: &str) -> Option<T> {
        let text = self.0.get(key)?;
        Some(text.parse().unwrap_or_else(|_| panic!("{key}={text} is unreadable")))
    }

    /// The number behind `key`; 0 when it is not there.
    #[must_use]
    pub fn number(&self, key: &str) -> u64 {
        self.find(key).unwrap_or(0)
    }
}
