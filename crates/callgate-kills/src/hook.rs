//! What a victim does at each kill point that it passes: it counts, and at the planned passage it kills itself, or
//! forks.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use callgate_sys::clock;

use crate::arena::{Arena, action, fate};
use crate::forker;
use crate::points::place;

static ARENA: OnceLock<&'static Arena> = OnceLock::new();

/// Whether this program was built with the points.
pub const POINTS: bool = cfg!(callgate_points);

/// Makes this process a victim; nothing happens in a build without points.
pub fn install(arena: &'static Arena) {
    place(""); // the table is made now, not in the middle of something
    if arena.plan.action.load(Relaxed) != action::KILL {
        forker::start(arena);
    }
    if ARENA.set(arena).is_ok() {
        #[cfg(callgate_points)]
        callgate_points::set_hook(passed);
    }
}

#[cfg_attr(not(callgate_points), expect(dead_code, reason = "nothing is passed"))]
fn passed(name: &'static str) {
    let Some(arena) = ARENA.get() else { return };
    let plan = &arena.plan;
    if name == "proto.cell.reply.before" && plan.scribbling.load(Relaxed) != 0 {
        be_scribbled_at(arena);
    }
    if plan.armed.load(Relaxed) == 0 {
        return;
    }
    let Some(at) = place(name) else {
        arena.flaw(&format!("the point {name} is not in points.txt"));
        return;
    };
    let count = plan.passed[at].fetch_add(1, Relaxed) + 1;
    if plan.place.load(Relaxed) == at as u32 && plan.nth.load(Relaxed) == count {
        fire(arena);
    }
}

fn fire(arena: &Arena) {
    let plan = &arena.plan;
    match plan.action.load(Relaxed) {
        action::KILL => die(arena),
        action::FORK_AND_DIE => {
            forker::fork_now();
            die(arena);
        }
        _ => {
            plan.fired_ns.store(clock::now_ns(), Relaxed);
            forker::fork_now();
        }
    }
}

/// Kills this process, unless it has come to its end.
pub fn die(arena: &Arena) {
    if !decide(arena, fate::KILLED) {
        return;
    }
    arena.plan.fired_ns.store(clock::now_ns(), Relaxed);
    // SAFETY: kill has no memory preconditions; it ends this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

/// To be called where a victim has nothing more to do: returns if nothing has struck it, and nothing does from now on.
pub fn end(arena: &Arena) {
    if arena.plan.action.load(Relaxed) == action::FORK_AND_LIVE || decide(arena, fate::ENDED) {
        return;
    }
    loop {
        // SAFETY: pause has no preconditions. The thread that was struck kills this process.
        unsafe { libc::pause() };
    }
}

fn decide(arena: &Arena, fate: u32) -> bool {
    arena.plan.fate.compare_exchange(fate::OPEN, fate, Relaxed, Relaxed).is_ok()
}

/// Lets the scribbler change the word that this thread has just loaded, before it goes on.
fn be_scribbled_at(arena: &Arena) {
    let plan = &arena.plan;
    let asked = plan.scribble_asked.fetch_add(1, Release) + 1;
    let until_ns = clock::deadline_ns(std::time::Duration::from_millis(20));
    while plan.scribble_done.load(Acquire) < asked && clock::now_ns() < until_ns {
        std::hint::spin_loop();
    }
}
