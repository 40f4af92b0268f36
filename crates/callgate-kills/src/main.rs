//! Kills processes that use callgate: at every kill point, and at random times; and looks at those who survive.
//!
//! ```text
//! kills points short|long [SECONDS]    every kill point (built with --cfg callgate_points)
//! kills forks short|long [SECONDS]     a fork at every kill point (the same)
//! kills random short|long [SECONDS]    kills at random times, as many as can be
//! kills soak short|long [SECONDS]      the same for a time; victims are stopped, fork and lie, too
//! kills friends short|long [PART]      clients, handlers and clocks that do odd things
//! kills aborts short|long              panics that abort (built with panic = "abort")
//! kills repeat SCENARIO client|server PLACE NTH [ACTION] [ROUNDS]
//! kills discover                       which role passes which point
//! ```
//!
//! | module | owns |
//! | --- | --- |
//! | [`arena`] | memory that survives whoever is killed |
//! | [`book`] | what became of each call: the judge of "at most once" |
//! | [`kin`] | forked children |
//! | [`points`], [`hook`], [`forker`] | the list of points; what a victim does there |
//! | [`scenario`], [`client`], [`server`], [`scribble`], [`filter`] | situations, and what each side does in them |
//! | [`others`] | those who must not notice |
//! | [`trial`] | one victim, and what must hold afterwards |
//! | [`sweep`] | every point in every scenario |
//! | [`friends`] | stopped and vanishing clients |
//! | [`threads`] | threads that end while calls of theirs are pending |
//! | [`stuck`] | handlers that do not return |
//! | [`clocks`] | steps of the wall clock |
//! | [`aborts`] | panics that end the process |
//! | [`random`], [`mix`] | kills at random times, and what else befalls victims |
//! | [`slope`], [`tenths`] | whether anything grows, or becomes slower |

mod aborts;
mod alloc;
mod arena;
mod book;
mod client;
mod clocks;
mod filter;
mod forker;
mod friends;
mod hook;
mod kin;
mod mix;
mod others;
mod points;
mod random;
mod report;
mod scenario;
mod scribble;
mod server;
mod slope;
mod stuck;
mod sweep;
mod tenths;
mod threads;
mod trial;

use std::process::ExitCode;
use std::time::Duration;

use callgate_tests::Rng;

use crate::arena::action;
use crate::scenario::Scenario;
use crate::sweep::Effort;
use crate::trial::{Role, Strike};

/// The C library keeps up to 40 MiB of stacks of threads that ended, two mappings each, and arenas by the number of threads
/// that met: how many there are says nothing of what was lost. It reads this when a program begins.
const PLAIN_MEMORY: (&str, &str) =
    ("GLIBC_TUNABLES", "glibc.pthread.stack_cache_size=0:glibc.malloc.arena_max=1");

/// Begins anew with [`PLAIN_MEMORY`].
fn begin_plainly() {
    if std::env::var_os(PLAIN_MEMORY.0).is_none() {
        use std::os::unix::process::CommandExt;
        let program = std::env::current_exe().expect("this program");
        let error = std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(PLAIN_MEMORY.0, PLAIN_MEMORY.1)
            .exec();
        panic!("it cannot begin anew: {error}");
    }
}

fn main() -> ExitCode {
    begin_plainly();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let fine = match words[..] {
        ["points", length, ref rest @ ..] if has_points() => {
            let effort = effort(length, rest, "kill points", sweep::KILLS);
            sweep::run(&effort, folder.path()).print()
        }
        ["forks", length, ref rest @ ..] if has_points() => {
            let mut effort = effort(length, rest, "forks at kill points", sweep::FORKS);
            effort.strikes = effort.strikes.min(100);
            sweep::run(&effort, folder.path()).print()
        }
        ["random", length, ref rest @ ..] => {
            let kills = if length == "long" { 1_000_000 } else { u64::MAX };
            let limit = limit(rest, if length == "long" { 48 * 3_600 } else { 30 });
            let (kind, seed) = ("random kills", seed());
            eprintln!("{kind}: seed {seed}; repeat with CALLGATE_SEED={seed}");
            let effort = random::Effort {
                kind,
                kills,
                limit,
                client_lanes: 3,
                server_lanes: 2,
                seed,
                mixed: false,
            };
            random::run(&effort, folder.path()).print()
        }
        ["soak", length, ref rest @ ..] => {
            let limit = limit(rest, if length == "long" { 2 * 3_600 } else { 20 });
            let (kind, seed) = ("soak", seed());
            eprintln!("{kind}: seed {seed}; repeat with CALLGATE_SEED={seed}");
            let kills = u64::MAX;
            let effort = random::Effort {
                kind,
                kills,
                limit,
                client_lanes: 2,
                server_lanes: 2,
                seed,
                mixed: true,
            };
            random::run(&effort, folder.path()).print()
        }
        ["friends", length, ref rest @ ..] => {
            friends::run(length == "long", rest.first().copied(), folder.path())
        }
        ["aborts", length, ..] if aborts::ABORTS => {
            aborts::run(if length == "long" { 5_000 } else { 100 }, folder.path()).print()
        }
        ["repeat", scenario, role, place, nth, ref rest @ ..] if has_points() => {
            let number = |at: usize| rest.get(at).and_then(|text| text.parse().ok());
            let scenario = Scenario::find(scenario).expect("a scenario");
            let role = if role == "client" { Role::Client } else { Role::Server };
            let strike = Strike {
                place: points::place(place).expect("a place"),
                nth: nth.parse().expect("a number"),
                action: number(0).unwrap_or(action::KILL),
            };
            sweep::repeat((scenario, role), strike, number(1).unwrap_or(1), folder.path())
        }
        ["discover"] if has_points() => {
            sweep::discover(folder.path());
            true
        }
        _ => {
            eprintln!("see the head of crates/callgate-kills/src/main.rs for the commands");
            return ExitCode::from(2);
        }
    };
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The seconds that were asked for, or others.
fn limit(rest: &[&str], otherwise: u64) -> Duration {
    let seconds = rest.first().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(otherwise))
}

/// `CALLGATE_SEED`, or one from the clock.
fn seed() -> u64 {
    let given = std::env::var("CALLGATE_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| Rng::new(callgate_sys::clock::now_ns()).next() % 1_000_000_000)
}

fn has_points() -> bool {
    if !hook::POINTS {
        eprintln!("this needs a build with RUSTFLAGS=\"--cfg callgate_points\"");
    }
    hook::POINTS
}

fn effort(length: &str, rest: &[&str], kind: &'static str, actions: &'static [u32]) -> Effort {
    let long = length == "long";
    let limit = limit(rest, if long { 48 * 3_600 } else { 600 });
    let seed = seed();
    eprintln!("{kind}: seed {seed}; repeat with CALLGATE_SEED={seed}");
    let (strikes, slow_lanes) = if long { (1_000, 40) } else { (3, 20) };
    Effort { strikes, limit, lanes: 3, slow_lanes, seed, actions, kind }
}
