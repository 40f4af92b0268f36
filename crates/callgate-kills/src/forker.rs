//! Forks a victim while one of its threads stands at a kill point. The child must be refused by everything that
//! belongs to its parent, and must not hide its parent's death.
//!
//! A thread of its own forks: some points stand where the library keeps forks out for a moment, and there it has to
//! wait.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::thread::Thread;
use std::time::Duration;

use callgate::{CallError, CallOptions, Client};
use callgate_sys::clock;

use crate::arena::Arena;

static FORKER: OnceLock<Thread> = OnceLock::new();
static ASKED: AtomicBool = AtomicBool::new(false);
static DONE: AtomicBool = AtomicBool::new(false);
static CLIENTS: OnceLock<Vec<Client>> = OnceLock::new();

/// How long a thread stays at its point for the fork. Where forks are kept out it will not happen before.
const PATIENCE: Duration = Duration::from_millis(3);

/// Handles that a child must be refused with.
pub fn handles(clients: &[Client]) {
    let _ = CLIENTS.set(clients.to_vec());
}

/// Starts the thread that forks.
pub fn start(arena: &'static Arena) {
    let forker = std::thread::spawn(move || {
        while !ASKED.load(Acquire) {
            std::thread::park();
        }
        // SAFETY: the child runs in this thread alone. It allocates, which glibc allows after a fork.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: no memory is passed.
                arena.plan.child.store(unsafe { libc::getpid() }.cast_unsigned(), Relaxed);
                arena.plan.child_said.store(if is_refused() { 1 } else { 2 }, Release);
                live_on()
            }
            child if child > 0 => arena.plan.child.store(child.cast_unsigned(), Relaxed),
            _ => arena.flaw("a victim cannot fork"),
        }
        DONE.store(true, Release);
    });
    let _ = FORKER.set(forker.thread().clone());
}

/// Forks now, or as soon as that is allowed.
pub fn fork_now() {
    ASKED.store(true, Release);
    if let Some(forker) = FORKER.get() {
        forker.unpark();
    }
    let until_ns = clock::deadline_ns(PATIENCE);
    while !DONE.load(Acquire) && clock::now_ns() < until_ns {
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// Forks after a while, in a thread of its own. The child is refused, lives on for a while, and ends.
pub fn fork_after(arena: &'static Arena, delay: Duration, lives_ns: u64) {
    std::thread::spawn(move || {
        std::thread::sleep(delay);
        // SAFETY: the child runs in this thread alone. It allocates, which glibc allows after a fork.
        if unsafe { libc::fork() } == 0 {
            arena.orphans.add_me();
            if !is_refused() {
                arena.flaw("a forked child was not refused");
            }
            std::thread::sleep(Duration::from_nanos(lives_ns));
            // SAFETY: nothing of the parent's is to be run at exit.
            unsafe { libc::_exit(0) }
        }
    });
}

/// Whether the parent's handles refuse to work.
fn is_refused() -> bool {
    let Some(clients) = CLIENTS.get() else { return true };
    clients.iter().all(|client| {
        let is_forked = |error| matches!(error, Some(CallError::Forked));
        let called = is_forked(client.call(b"x").err());
        let submitted = is_forked(client.submit(CallOptions::new(), b"x").err());
        called && submitted && !client.is_connected() && client.server().is_none()
    })
}

/// Stays until it is killed, or until nobody is left who would do so.
fn live_on() -> ! {
    // SAFETY: no memory is passed.
    while unsafe { libc::getppid() } != 1 {
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: nothing of the parent's is to be run at exit.
    unsafe { libc::_exit(0) }
}
