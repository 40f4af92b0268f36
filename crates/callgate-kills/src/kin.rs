//! Children of the driver: forked, not started, so that one costs a fraction of a millisecond. The driver has one
//! thread and uses nothing of callgate itself, so a child begins as a fresh process would.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use callgate_tests::Usage;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::arena::Arena;

/// How often a long run tells how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// Nothing takes longer, however loaded the machine is.
pub const BOUND: Duration = Duration::from_secs(120);
/// Exit code of a child that panicked.
const PANICKED: i32 = 101;

/// A child. It is killed and reaped when this is dropped, and dies with the driver.
pub struct Kin {
    pub pid: u32,
    pidfd: OwnedFd,
    stream: BufReader<UnixStream>,
    what: &'static str,
    reaped: Option<Exit>,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

/// What a wait for several things brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// The child with this index in the list has said something.
    Said(usize),
    /// The child with this index has ended.
    Ended(usize),
}

/// The child's end of the talk.
pub struct Driver {
    lines: BufReader<UnixStream>,
    say: UnixStream,
}

impl Driver {
    /// The next command; `None` at the end.
    pub fn command(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
        }
    }

    /// Says one line.
    pub fn say(&mut self, line: &str) {
        // A driver that is gone does not listen.
        let _ = self.say.write_all(format!("{line}\n").as_bytes());
    }

    /// Takes the part apart that listens.
    pub fn split(self) -> (BufReader<UnixStream>, UnixStream) {
        (self.lines, self.say)
    }
}

impl Kin {
    /// Forks a child that runs `body` and exits with what it returns.
    pub fn fork(
        what: &'static str,
        arena: &'static Arena,
        body: impl FnOnce(Driver) -> i32,
    ) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        // SAFETY: getpid has no conditions.
        let parent = unsafe { libc::getpid() };
        // SAFETY: this process has one thread, so the child may do what any process may.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            drop(ours);
            // SAFETY: no memory is passed.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if libc::getppid() != parent {
                    libc::_exit(0);
                }
            }
            let driver = Driver {
                say: theirs.try_clone().expect("a descriptor"),
                lines: BufReader::new(theirs),
            };
            let code = catch_unwind(AssertUnwindSafe(|| body(driver))).unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
                arena.flaw(&format!("{what} panicked: {text}"));
                PANICKED
            });
            // SAFETY: nothing of the driver's is to be run at the child's exit.
            unsafe { libc::_exit(code) };
        }
        drop(theirs);
        // SAFETY: the call takes numbers only; the result is a new descriptor of ours, or negative.
        let pidfd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32;
            assert!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        Self { pid: pid.cast_unsigned(), pidfd, stream: BufReader::new(ours), what, reaped: None }
    }

    /// Sends a command.
    pub fn tell(&mut self, command: &str) {
        // If it is dead, that is noticed elsewhere.
        let _ = self.stream.get_ref().write_all(format!("{command}\n").as_bytes());
    }

    /// Its next line, or why there is none.
    pub fn line(&mut self) -> Result<String, String> {
        self.stream.get_ref().set_read_timeout(Some(BOUND)).expect("a time limit");
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        match read {
            Ok(0) => {
                let exit = self.reap();
                Err(format!("{} has ended: {exit:?}", self.what))
            }
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(error) => Err(format!("{} says nothing for {BOUND:?}: {error}", self.what)),
        }
    }

    /// Sends a command and waits for the answer.
    pub fn ask(&mut self, command: &str) -> Result<String, String> {
        self.tell(command);
        self.line()
    }

    /// Its usage as `/proc` tells.
    pub fn usage(&self) -> Usage {
        Usage::of(self.pid)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        if self.reaped.is_none() {
            // SAFETY: kill has no memory preconditions; the child is not reaped, so the pid is its own.
            unsafe { libc::kill(self.pid.cast_signed(), signal) };
        }
    }

    /// Waits for its end. A child that does not end is killed, and that is an error.
    pub fn wait(&mut self) -> Result<Exit, String> {
        if self.reaped.is_none() && !is_ready(self.pidfd.as_fd(), BOUND) {
            self.signal(libc::SIGKILL);
            self.reap();
            return Err(format!("{} does not end", self.what));
        }
        Ok(self.reap())
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<Exit> {
        self.is_dead().then(|| self.reap())
    }

    fn is_dead(&self) -> bool {
        is_ready(self.pidfd.as_fd(), Duration::ZERO)
    }

    /// Reaps it, waiting for its end.
    pub fn reap(&mut self) -> Exit {
        if let Some(exit) = self.reaped {
            return exit;
        }
        let mut status = 0;
        // SAFETY: the status is a live local; the child is ours and not reaped.
        while unsafe { libc::waitpid(self.pid.cast_signed(), &raw mut status, 0) } < 0 {}
        let exit = if libc::WIFSIGNALED(status) {
            Exit::Signal(libc::WTERMSIG(status))
        } else {
            Exit::Code(libc::WEXITSTATUS(status))
        };
        self.reaped = Some(exit);
        exit
    }
}

impl Drop for Kin {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
        self.reap();
    }
}

/// Waits until a descriptor is ready, for at most `limit`. It never yields in a loop: on some kernels a process that
/// does nothing else keeps the kernel's own threads from running.
fn is_ready(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&limit)), Ok(1))
}

/// Waits until one of the children has said something or has ended, whichever comes first; `None` when nothing comes
/// for [`BOUND`]. What was said before an end is told first.
pub fn first_of(kin: &[&Kin]) -> Option<Came> {
    if let Some(at) = kin.iter().position(|kin| !kin.stream.buffer().is_empty()) {
        return Some(Came::Said(at));
    }
    // Streams that were hung up say nothing more: their processes' ends are waited for.
    let mut silent = vec![false; kin.len()];
    let limit = Timespec { tv_sec: BOUND.as_secs().cast_signed(), tv_nsec: 0 };
    loop {
        let listened = |at: usize| if silent[at] { PollFlags::empty() } else { PollFlags::IN };
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        for (at, kin) in kin.iter().enumerate() {
            let stream = if silent[at] { kin.pidfd.as_fd() } else { kin.stream.get_ref().as_fd() };
            fds.push(PollFd::from_borrowed_fd(stream, listened(at)));
            fds.push(PollFd::from_borrowed_fd(kin.pidfd.as_fd(), PollFlags::IN));
        }
        if poll(&mut fds, Some(&limit)).ok()? == 0 {
            return None;
        }
        let said = |at: &usize| !silent[*at] && has_words(kin[*at]);
        if let Some(at) = (0..kin.len()).find(said) {
            return Some(Came::Said(at));
        }
        let ended = |at: &usize| fds[2 * at + 1].revents().contains(PollFlags::IN);
        if let Some(at) = (0..kin.len()).find(ended) {
            return Some(Came::Ended(at));
        }
        let hung_up: Vec<bool> =
            (0..kin.len()).map(|at| !fds[2 * at].revents().is_empty()).collect();
        for (silent, hung_up) in silent.iter_mut().zip(hung_up) {
            *silent |= hung_up;
        }
    }
}

fn has_words(kin: &Kin) -> bool {
    let mut byte = [0u8; 1];
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    matches!(rustix::net::recv(kin.stream.get_ref(), &mut byte[..], flags), Ok((1, _)))
}

/// Waits until all lanes have ended; counts those that did not end well. `progress` is told now and then how many are at work.
pub fn await_lanes(mut lanes: Vec<Kin>, failed: &AtomicU64, progress: impl Fn(usize)) {
    let mut told = Instant::now();
    while !lanes.is_empty() {
        lanes.retain_mut(|lane| {
            let end = lane.try_wait();
            if end.is_some_and(|exit| exit != Exit::Code(0)) {
                eprintln!("a lane ended with {end:?}");
                failed.fetch_add(1, Relaxed);
            }
            end.is_none()
        });
        if told.elapsed() > PROGRESS {
            told = Instant::now();
            progress(lanes.len());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
