//! How much its worker does before it begins an honest call, in the worker's own CPU time.
//!
//! The caller is a thread of the server's process, where the kernel tells the time of each thread. How long calls take says
//! as much of the machine: who runs when, and what else does. What the worker did meanwhile is its own and its clients'.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use callgate::{Call, CallOptions, Client};

use super::percentile;
use crate::bounded::BOUND;
use crate::data::method;

/// Turns that are kept of one slice.
const TURNS_MAX: usize = 1 << 18;

/// Calls, and how much the worker did before each.
pub struct Probe {
    think_us: AtomicU64,
    turns_ns: Mutex<Vec<u64>>,
}

impl Probe {
    /// Begins to call the server of one worker in this process, in a thread of its own, for as long as the process lives.
    #[must_use]
    pub fn start(path: String) -> Arc<Self> {
        let turns_ns = Mutex::new(Vec::with_capacity(TURNS_MAX));
        let probe = Arc::new(Self { think_us: AtomicU64::new(200), turns_ns });
        let shared = probe.clone();
        std::thread::spawn(move || shared.run(&path));
        probe
    }

    fn run(&self, path: &str) {
        let client = Client::connect(path).expect("this process serves");
        let options = CallOptions::new().method(method::TURN).timeout(BOUND);
        let turn = || {
            let reply = client.call_with(options, b"").expect("a reply").to_vec();
            let word =
                |at: usize| u64::from_le_bytes(reply[at..at + 8].try_into().expect("8 bytes"));
            (word(0), word(8))
        };
        let (_, worker) = turn();
        loop {
            let before_ns = cpu_ns(thread_clock(worker));
            let (began_ns, _) = turn();
            let mut turns_ns = self.turns_ns.lock().unwrap_or_else(PoisonError::into_inner);
            if turns_ns.len() < TURNS_MAX {
                turns_ns.push(began_ns.saturating_sub(before_ns));
            }
            drop(turns_ns);
            match self.think_us.load(Ordering::Relaxed) {
                0 => {}
                us => std::thread::sleep(Duration::from_micros(us)),
            }
        }
    }

    /// Thinks so long between calls, in microseconds.
    pub fn think(&self, us: u64) {
        self.think_us.store(us, Ordering::Relaxed);
    }

    /// What was counted since the last time.
    pub fn take(&self) -> String {
        let mut turns_ns = self.turns_ns.lock().unwrap_or_else(PoisonError::into_inner);
        turns_ns.sort_unstable();
        let [p50, p99] = [50, 99].map(|percent| percentile(&turns_ns, percent));
        let text = format!("calls={} p50={p50} p99={p99}", turns_ns.len());
        turns_ns.clear();
        text
    }
}

/// Answers a call of the probe: the CPU time of this thread, and which thread it is.
pub fn answer(call: Call<'_>) {
    let now_ns = cpu_ns(libc::CLOCK_THREAD_CPUTIME_ID);
    // SAFETY: it takes nothing and touches no memory of ours.
    let thread = unsafe { libc::gettid() };
    let words = [now_ns, u64::try_from(thread).expect("a thread's id")];
    let _ = call.reply(&words.map(u64::to_le_bytes).concat());
}

/// The clock of another thread of this process, as `pthread_getcpuclockid` makes it of a thread's id.
fn thread_clock(thread: u64) -> libc::clockid_t {
    const PER_THREAD_AND_SCHEDULED: libc::clockid_t = 6;
    !libc::clockid_t::try_from(thread).expect("a thread's id") << 3 | PER_THREAD_AND_SCHEDULED
}

fn cpu_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to a live local.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(result, 0, "no such thread");
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
