//! Steps of the wall clock, an hour forward and an hour back, while all kinds of deadlines run: none may move.
//!
//! This disturbs everybody on the machine for some tenths of a second, so it is done only where `CALLGATE_STEP_CLOCK`
//! is set to 1. A guard in a session of its own puts the clock right when the driver dies.

use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use callgate::{Call, CallError, CallOptions, Client, ClientOptions, Deferred, Server};
use callgate::{ServerOptions, WaitPolicy};
use callgate_sys::clock;
use callgate_tests::hostile::{reach, wait_closed};

use crate::arena::Arena;
use crate::friends::judged;
use crate::kin::{BOUND, Driver, Exit, Kin};
use crate::report::Row;

const HOUR_NS: i64 = 3_600_000_000_000;
/// All deadlines that run while the clock is stepped.
const LIMIT: Duration = Duration::from_millis(80);
/// They may be late by so much on a loaded machine: far less than an hour.
const LATE: Duration = BOUND;

/// Steps the clock, so many times in each direction.
pub fn run(rounds: u64, folder: &Path) -> Row {
    judged("steps of the wall clock", |arena, tried| {
        if std::env::var("CALLGATE_STEP_CLOCK").as_deref() != Ok("1") {
            return Ok(
                "not tried: CALLGATE_STEP_CLOCK=1 allows it to step this machine's clock".into()
            );
        }
        let mut steps = 0;
        let mut wall = Wall::new(arena);
        for _ in 0..rounds {
            for step_ns in [HOUR_NS, -HOUR_NS] {
                match try_once(arena, folder, &mut wall, step_ns)? {
                    Some(waits) => *tried += waits,
                    None => return Ok("not tried: the clock may not be set here".into()),
                }
                steps += 1;
            }
        }
        Ok(format!(
            "deadlines of calls, handshakes, connects and drains, in {steps} steps of an hour and back"
        ))
    })
}

/// All kinds of waits begin, the clock is stepped, and they end; how many, or that it is not allowed.
fn try_once(
    arena: &'static Arena,
    folder: &Path,
    wall: &mut Wall,
    step_ns: i64,
) -> Result<Option<u64>, String> {
    let mut waiting =
        Kin::fork("those who wait", arena, |driver| wait_for_all(arena, folder, driver));
    waiting.line()?;
    waiting.tell("go");
    waiting.line()?;
    // At once; what they wait for ends in 80 ms. They look at the clock themselves, too.
    if !wall.step(step_ns) {
        return Ok(None);
    }
    let done = waiting.line();
    if !wall.step(0) {
        return Err("the clock was stepped, and cannot be put right".into());
    }
    let waits = done?.parse().map_err(|_| "no number of waits")?;
    if waiting.wait()? != Exit::Code(0) {
        return Err("those who wait do not end well".into());
    }
    Ok(Some(waits))
}

/// The wall clock, which is put right in any case.
struct Wall {
    /// What it is ahead of the monotonic one.
    ahead_ns: i64,
    guard: Option<Kin>,
    stepped: bool,
    arena: &'static Arena,
}

impl Wall {
    fn new(arena: &'static Arena) -> Self {
        let ahead_ns = wall_ns() - clock::now_ns().cast_signed();
        Self { ahead_ns, guard: None, stepped: false, arena }
    }

    /// Sets it to so much more than it was; says whether that is allowed.
    fn step(&mut self, by_ns: i64) -> bool {
        if self.guard.is_none() {
            let (ahead_ns, driver) = (self.ahead_ns, callgate_sys::process::pid());
            self.guard = Some(Kin::fork("the clock's guard", self.arena, |mut lines| {
                // SAFETY: no memory is passed. It outlives the driver and those who end its session.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, 0);
                    libc::setsid();
                }
                lines.say("guarding");
                // The driver's end closes the other side; its children, who have it too, die with it.
                let told = lines.command();
                if told.is_none() {
                    set_wall_ns(clock::now_ns().cast_signed() + ahead_ns);
                    eprintln!("the driver {driver} died; the wall clock is put right");
                }
                0
            }));
            if self.guard.as_mut().is_none_or(|guard| guard.line().is_err()) {
                return false;
            }
        }
        let set = set_wall_ns(clock::now_ns().cast_signed() + self.ahead_ns + by_ns);
        self.stepped = set && by_ns != 0;
        set
    }
}

impl Drop for Wall {
    fn drop(&mut self) {
        if self.stepped {
            self.step(0);
        }
        if let Some(guard) = &mut self.guard {
            guard.tell("all is well");
            let _ = guard.wait();
        }
    }
}

fn wall_ns() -> i64 {
    // SAFETY: zeros are a valid value, and the call writes a live local.
    let now = unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now);
        now
    };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn set_wall_ns(ns: i64) -> bool {
    let time = libc::timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 };
    // SAFETY: the call reads a live local.
    unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) == 0 }
}

/// Holds each call until the process ends.
fn hold(path: &str) -> Server {
    let mut options = ServerOptions::default();
    options.limits.handshake = LIMIT;
    let held: std::sync::Mutex<Vec<Deferred>> = std::sync::Mutex::default();
    let handle = move |call: Call<'_>| held.lock().expect("a list").push(call.defer());
    Server::serve_with(path, options, handle).expect("a server")
}

/// Waits for everything that has a deadline; a child's body.
fn wait_for_all(arena: &'static Arena, folder: &Path, mut driver: Driver) -> i32 {
    let at = |name: &str| folder.join(name).to_str().expect("utf-8").to_owned();
    let (path, drained) = (at("clock"), at("clock-drained"));
    let (_server, other) = (hold(&path), hold(&drained));
    let client = |wait: WaitPolicy| {
        let mut options = ClientOptions::default();
        options.wait = wait;
        let client = Client::connect_with(&path, options).expect("a server");
        // Held for good; so each call after it is held, too.
        drop(client.submit(CallOptions::new(), b"first").expect("sent"));
        client
    };
    let clients = [WaitPolicy::Balanced, WaitPolicy::LowestCpu].map(client);
    let pending = Client::connect(&drained).expect("a server");
    let pending = pending.submit(CallOptions::new(), b"held").expect("sent");
    let is_late = |ended: Result<callgate::Reply, CallError>| matches!(ended, Err(CallError::DeadlineExceeded { waited, .. }) if waited >= LIMIT);
    let waits = 2 * clients.len() + 3;
    let ready = Barrier::new(waits + 1);
    driver.say("ready");
    let _ = driver.command();
    let check = |what: &str, body: &(dyn Fn() -> bool + Sync)| {
        ready.wait();
        let (began, began_ns) = (Instant::now(), clock::now_ns());
        let fine = body();
        let took = began.elapsed().max(Duration::from_nanos(clock::now_ns() - began_ns));
        // One clock reads a little less than the other.
        if !fine || took + Duration::from_millis(1) < LIMIT || took > LIMIT + LATE {
            arena.flaw(&format!("{what} of {LIMIT:?} ended after {took:?}, as it should: {fine}"));
        }
    };
    std::thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| {
                check("a time limit", &|| {
                    is_late(client.call_with(CallOptions::new().timeout(LIMIT), b"x"))
                });
            });
            scope.spawn(|| {
                check("a deadline", &|| {
                    let at = Instant::now() + LIMIT;
                    let ended = client.call_with(CallOptions::new().deadline(at), b"x");
                    matches!(ended, Err(CallError::DeadlineExceeded { .. })) && Instant::now() >= at
                });
            });
        }
        scope.spawn(|| {
            check("a handshake", &|| {
                reach(Path::new(&path)).map(|socket| wait_closed(&socket)).is_ok()
            });
        });
        scope.spawn(|| {
            check("a wait for a server", &|| {
                let mut options = ClientOptions::default();
                options.connect_timeout = LIMIT;
                let ended = Client::connect_with(at("nobody"), options);
                matches!(ended, Err(CallError::NotRunning { .. }))
            });
        });
        scope.spawn(|| check("a drain", &|| !other.drain(LIMIT)));
        ready.wait();
        driver.say("waiting");
    });
    if !matches!(pending.wait(), Err(CallError::Disconnected { .. })) {
        arena.flaw("a call that a drain cut off");
    }
    driver.say(&waits.to_string());
    0
}
