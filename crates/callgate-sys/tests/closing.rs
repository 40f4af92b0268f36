//! Nobody waits for a descriptor that takes long to close. In a program of its own: a child that another test forks
//! meanwhile could be the one that waits.
#![cfg(all(target_os = "linux", not(callgate_sim)))]

mod lingering;

use std::time::{Duration, Instant};

use callgate_sys::socket::Socket;

use lingering::lingering;

const BOUND: Duration = Duration::from_secs(60);

fn open_sockets() -> usize {
    let links = std::fs::read_dir("/proc/self/fd").expect("a directory");
    let links = links.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < BOUND, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn nobody_waits_for_a_socket_in_whose_queue_lies_what_lingers() {
    let before = open_sockets();
    let (queues, others): (Vec<_>, Vec<_>) = (0..5).map(|_| lingering()).unzip();
    let dropping = std::thread::spawn(move || drop(queues));
    soon("a drop waits", || dropping.is_finished());
    // What is dropped after them is closed, too, where more comes: left are the other ends.
    soon("a socket is not closed", || {
        drop(Socket::pair().expect("sockets"));
        open_sockets() == before + others.len()
    });
    // SAFETY: the child does nothing but leave.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: it has no conditions.
        unsafe { libc::_exit(7) }
    }
    let mut status = 0;
    // SAFETY: the status is a live local, and the child is ours.
    soon("a fork waits", || unsafe {
        libc::waitpid(child, &raw mut status, libc::WNOHANG) == child
    });
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status:#x}");
    drop(others);
}
