//! A client that calls an honest server, checks every byte, and remembers how long each call took.
//!
//! As a role of its own: arguments `path`, `number` (for the ids of its calls), `mixed=1` (up to 200 KB, not 48 bytes).
//! It says `ready`. Commands: `think US` (from now on it thinks so long between calls), `slice` (what was counted since the
//! last time, in nanoseconds where it is time).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use callgate::{CallOptions, Client};

use super::percentile;
use crate::bounded::BOUND;
use crate::data::{is_reply, method, request};
use crate::peer::Words;
use crate::roles::{command, say};

/// Times that are kept of one slice; of more calls only the slowest counts.
const TIMES_MAX: usize = 1 << 18;

/// What a slice of time brought.
struct Slice {
    times_ns: Vec<u64>,
    calls: u64,
    max_ns: u64,
    wrong: u64,
    failed: u64,
    first: Option<String>,
}

/// Calls, and what became of them.
pub struct Caller {
    number: u64,
    mixed: bool,
    think_us: AtomicU64,
    slice: Mutex<Slice>,
}

impl Caller {
    /// Begins to call in a thread of its own, for as long as the process lives.
    ///
    /// # Panics
    /// When the server can't be reached.
    #[must_use]
    pub fn start(path: &str, number: u64, mixed: bool) -> Arc<Self> {
        let slice = Slice {
            times_ns: Vec::with_capacity(TIMES_MAX),
            calls: 0,
            max_ns: 0,
            wrong: 0,
            failed: 0,
            first: None,
        };
        let think_us = AtomicU64::new(if mixed { 2_000 } else { 200 });
        let caller = Arc::new(Self { number, mixed, think_us, slice: Mutex::new(slice) });
        let client = Client::connect(path).expect("an honest server");
        let shared = caller.clone();
        std::thread::spawn(move || {
            for at in 0.. {
                shared.call(&client, at);
            }
        });
        caller
    }

    fn call(&self, client: &Client, at: u64) {
        let id = self.number << 32 | at;
        let len = if self.mixed { at * 7_919 % 200_000 } else { at % 49 } as usize;
        let bytes = request(id, len, len);
        let options = CallOptions::new().method(method::CHECKED).timeout(BOUND);
        let began = Instant::now();
        let ended = client.call_with(options, &bytes);
        let took_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let right = ended.as_ref().map(|reply| is_reply(&reply.to_vec(), id, len));
        let mut slice = self.slice.lock().unwrap_or_else(PoisonError::into_inner);
        slice.calls += 1;
        slice.max_ns = slice.max_ns.max(took_ns);
        if slice.times_ns.len() < TIMES_MAX {
            slice.times_ns.push(took_ns);
        }
        match right {
            Ok(true) => {}
            Ok(false) => slice.wrong += 1,
            Err(error) => {
                slice.failed += 1;
                let text = error.to_string();
                slice.first.get_or_insert(text);
            }
        }
        drop(slice);
        match self.think_us.load(Ordering::Relaxed) {
            0 => {}
            us => std::thread::sleep(Duration::from_micros(us)),
        }
    }

    /// Thinks so long between calls, in microseconds.
    pub fn think(&self, us: u64) {
        self.think_us.store(us, Ordering::Relaxed);
    }

    /// What was counted since the last time.
    pub fn take(&self) -> String {
        let mut slice = self.slice.lock().unwrap_or_else(PoisonError::into_inner);
        slice.times_ns.sort_unstable();
        let [p50, p99] = [50, 99].map(|percent| percentile(&slice.times_ns, percent));
        let Slice { calls, max_ns, wrong, failed, .. } = *slice;
        let first = slice.first.take().unwrap_or_default();
        slice.times_ns.clear();
        (slice.calls, slice.max_ns, slice.wrong, slice.failed) = (0, 0, 0, 0);
        format!(
            "calls={calls} p50={p50} p99={p99} max={max_ns} wrong={wrong} failed={failed} {first}"
        )
    }
}

/// Runs until its input ends.
///
/// # Panics
/// When told nonsense.
pub fn run(words: &Words) {
    let path: String = words.find("path").expect("path");
    let caller = Caller::start(&path, words.number("number"), words.number("mixed") != 0);
    say("ready");
    while let Some(line) = command() {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("think", us) => {
                caller.think(us.parse().expect("microseconds"));
                say("think");
            }
            ("slice", _) => say(&format!("slice {}", caller.take())),
            other => panic!("no command {other:?}"),
        }
    }
    std::process::exit(0);
}
