//! Forked children for the tests of this crate.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::clock;

/// A forked child that runs a closure and exits; killed and reaped when dropped.
pub(crate) struct Child {
    pid: libc::pid_t,
    ready: OwnedFd,
    go: OwnedFd,
    reaped: bool,
}

/// The child's side of the two pipes. Bytes, not ends of file: other tests' children may hold the
/// pipes open too.
pub(crate) struct Parent {
    ready: OwnedFd,
    go: OwnedFd,
}

impl Parent {
    /// Tells the parent to go on.
    pub(crate) fn ready(&self) {
        let _ = rustix::io::write(&self.ready, &[1]);
    }

    /// Waits for [`Child::release`].
    pub(crate) fn wait(&self) {
        let _ = rustix::io::read(&self.go, &mut [0]);
    }
}

impl Child {
    /// Forks. The closure must do only what is allowed in the child of a process with threads.
    pub(crate) fn fork(work: impl FnOnce(&Parent) -> bool) -> Child {
        let (ready, ready_of_child) = rustix::pipe::pipe().unwrap();
        let (go_of_child, go) = rustix::pipe::pipe().unwrap();
        let parent = Parent { ready: ready_of_child, go: go_of_child };
        // SAFETY: the child runs the closure, which keeps to the rule above, and leaves by _exit.
        match unsafe { libc::fork() } {
            0 => {
                let ok = work(&parent);
                // SAFETY: _exit has no conditions.
                unsafe { libc::_exit(if ok { 0 } else { 1 }) }
            }
            pid => {
                assert!(pid > 0, "fork failed");
                Child { pid, ready, go, reaped: false }
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid as u32
    }

    /// Waits for [`Parent::ready`].
    pub(crate) fn await_ready(&self) {
        assert!(readable_soon(&self.ready), "the child is not ready");
        rustix::io::read(&self.ready, &mut [0]).unwrap();
    }

    /// Lets the child go on.
    pub(crate) fn release(&self) {
        rustix::io::write(&self.go, &[1]).unwrap();
    }

    /// Waits for the end; tells whether the closure gave true.
    pub(crate) fn join(mut self) -> bool {
        self.reap() == 0
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(mut self) {
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        self.reap();
    }

    fn reap(&mut self) -> libc::c_int {
        let mut status = -1;
        // SAFETY: status is a live local.
        let reaped = unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
        assert_eq!(reaped, self.pid);
        self.reaped = true;
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            // SAFETY: our own child, not reaped yet.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            self.reap();
        }
    }
}

/// Whether the other end of `socket` has gone within 30 s.
///
/// A child that another test forked meanwhile holds that end too, until its fork handler has run.
pub(crate) fn hangs_up(socket: &impl AsFd) -> bool {
    let limit = clock::timespec(30_000_000_000);
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut fds, Some(&limit)).is_ok_and(|ready| ready == 1)
}

/// Waits at most a minute for `fd`.
pub(crate) fn readable_soon(fd: impl std::os::fd::AsFd) -> bool {
    let end = clock::deadline_ns(Duration::from_secs(60));
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&clock::left(end))).unwrap() > 0
}

/// How many descriptors of this process refer to a file whose `/proc` link contains `name`.
pub(crate) fn open_count(name: &str) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = links.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().contains(name)).count()
}

/// A duplicate that the fork handlers don't know, as a peer would have.
pub(crate) fn untracked(fd: impl std::os::fd::AsFd) -> OwnedFd {
    rustix::io::dup(fd.as_fd()).unwrap_or_else(|e| panic!("dup {}: {e}", fd.as_fd().as_raw_fd()))
}

/// Waits until so many descriptors of this process lead to a memfd of that name: some are closed by another thread.
pub(crate) fn await_open_count(name: &str, count: usize) {
    let until_ns = crate::clock::deadline_ns(std::time::Duration::from_secs(20));
    while open_count(name) != count {
        assert!(crate::clock::now_ns() < until_ns, "{} are open, not {count}", open_count(name));
        std::thread::yield_now();
    }
}
