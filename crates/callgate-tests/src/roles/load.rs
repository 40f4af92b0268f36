//! A client that calls as fast as it can and checks every byte. Arguments: `path`, `number` (its own, for the ids of its
//! calls), `threads`, `seed`, `mode` (`small`, `mixed`: with loans, submits and cancels), `retry` (`never`, `not-started`,
//! `idempotent`), `connect_ms`, `timeout_ms`, `max` (longest request and reply), `record=1` and `events` (a file for what
//! became of each call), `unchecked=1` (replies may be anything).
//!
//! It says `ready`, idle. Commands: `once` (one call, repeated until it succeeds), `try` (one call: who the server takes
//! it for, or why it failed), `parted` (once it has no connection), `run`, `pause` (says what was counted), `count` (the
//! same, running on).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use callgate::{
    CallError, CallOptions, Client, ClientOptions, Loan, Pending, Reply, Retry, WhenFull,
};

use super::{command, kind, say};
use crate::bounded::{BOUND, until};
use crate::data::{HEAD, event, fill_request, is_reply, method, request};
use crate::peer::Words;
use crate::rng::Rng;

/// What the threads of one client share.
struct Load {
    client: Client,
    mixed: bool,
    checked: bool,
    max: usize,
    method: u32,
    timeout: Duration,
    events: Option<Mutex<File>>,
    running: Mutex<Running>,
    changed: Condvar,
    next: AtomicU64,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    other: Mutex<Option<String>>,
}

#[derive(Default)]
struct Running {
    run: bool,
    busy: usize,
}

/// Runs until its input ends.
///
/// # Panics
/// When told nonsense.
pub fn run(words: &Words) {
    let path: String = words.find("path").expect("path");
    let mut options = ClientOptions::default();
    options.when_full = WhenFull::Wait;
    options.connect_timeout = Duration::from_millis(words.number("connect_ms"));
    options.retry = match words.find::<String>("retry").as_deref() {
        Some("never") => Retry::Never,
        Some("idempotent") => Retry::Idempotent,
        _ => Retry::NotStarted,
    };
    let recorded = words.number("record") != 0;
    let load = Arc::new(Load {
        client: Client::lazy(path.as_str(), options).expect("a valid name"),
        checked: words.number("unchecked") == 0,
        mixed: words.find::<String>("mode").as_deref() == Some("mixed"),
        max: words.find("max").unwrap_or(2_000),
        method: if recorded { method::RECORDED } else { method::CHECKED },
        timeout: Duration::from_millis(words.find("timeout_ms").unwrap_or(20_000)),
        events: words.find::<String>("events").map(|path| {
            Mutex::new(
                File::options().append(true).create(true).open(path).expect("the events open"),
            )
        }),
        running: Mutex::default(),
        changed: Condvar::new(),
        next: AtomicU64::new(words.number("number") << 32),
        counts: Mutex::default(),
        other: Mutex::default(),
    });
    let mut rng = Rng::new(words.number("seed"));
    for _ in 0..words.find("threads").unwrap_or(1) {
        let (load, rng) = (load.clone(), rng.fork());
        std::thread::spawn(move || load.work(rng));
    }
    say("ready");
    while let Some(line) = command() {
        match line.as_str() {
            "once" => say(&format!("once {}", load.once())),
            "try" => {
                let options = CallOptions::new().method(method::CALLER).timeout(load.timeout);
                let text = match load.client.call_with(options, b"") {
                    Ok(reply) => format!("kind=ok {}", String::from_utf8_lossy(&reply.to_vec())),
                    Err(error) => format!("kind={} {error}", kind(&error)),
                };
                say(&format!("try {text}"));
            }
            "run" => {
                load.running.lock().expect("lock").run = true;
                load.changed.notify_all();
                say("run");
            }
            "pause" => {
                let mut running = load.running.lock().expect("lock");
                running.run = false;
                while running.busy > 0 {
                    running = load.changed.wait(running).expect("lock");
                }
                drop(running);
                say(&format!("pause {}", load.summary()));
            }
            "count" => say(&format!("count {}", load.summary())),
            // The end of the socket shows a moment before callers go to a new connection.
            "parted" => {
                until("the connection has ended", || (!load.client.is_connected()).then_some(()));
                say("parted");
            }
            other => panic!("no command {other}"),
        }
    }
    std::process::exit(0);
}

impl Load {
    fn work(&self, mut rng: Rng) {
        loop {
            let mut running = self.running.lock().expect("lock");
            while !running.run {
                running = self.changed.wait(running).expect("lock");
            }
            running.busy += 1;
            drop(running);
            while self.running.lock().expect("lock").run {
                self.step(&mut rng);
            }
            self.running.lock().expect("lock").busy -= 1;
            self.changed.notify_all();
        }
    }

    fn step(&self, rng: &mut Rng) {
        match if self.mixed { rng.below(10) } else { 0 } {
            0..=4 => {
                let call = self.new_call(rng);
                let bytes = request(call.id, call.len, call.reply_len);
                let ended = self.client.call_with(self.options(), &bytes);
                self.ended(&call, ended);
            }
            5..=6 => {
                let call = self.new_call(rng);
                let ended = self.loan(&call).and_then(|loan| loan.call(self.options()));
                self.ended(&call, ended);
            }
            _ => self.batch(rng),
        }
    }

    /// Several calls at once, waited for in any order, some of them cancelled.
    fn batch(&self, rng: &mut Rng) {
        let mut pending: Vec<(NewCall, Pending)> = Vec::new();
        for _ in 0..=rng.below(8) {
            let call = self.new_call(rng);
            let sent = if rng.chance(50) {
                self.client.submit(self.options(), &request(call.id, call.len, call.reply_len))
            } else {
                self.loan(&call).and_then(|loan| loan.submit(self.options()))
            };
            match sent {
                Ok(sent) => pending.push((call, sent)),
                Err(error) => self.ended(&call, Err(error)),
            }
        }
        while !pending.is_empty() {
            let (call, sent) = pending.swap_remove(rng.below(pending.len()));
            if rng.chance(15) {
                sent.cancel();
                self.count("cancelled");
            } else {
                self.ended(&call, sent.wait());
            }
        }
    }

    fn loan(&self, call: &NewCall) -> Result<Loan, CallError> {
        let mut loan = self.client.loan(call.len)?;
        let reply_len = u32::try_from(call.reply_len).expect("short");
        fill_request(&mut loan, call.id, reply_len);
        Ok(loan)
    }

    fn options(&self) -> CallOptions {
        CallOptions::new().method(self.method).timeout(self.timeout).idempotent()
    }

    fn new_call(&self, rng: &mut Rng) -> NewCall {
        let len = self.size(rng).max(HEAD);
        NewCall { id: self.next.fetch_add(1, Ordering::Relaxed), len, reply_len: self.size(rng) }
    }

    fn size(&self, rng: &mut Rng) -> usize {
        match rng.below(10) {
            0..=4 => rng.below(49),
            5..=7 => rng.below(self.max.min(4_096)),
            _ => rng.below(self.max + 1),
        }
    }

    fn ended(&self, call: &NewCall, ended: Result<Reply, CallError>) {
        let kind = match &ended {
            Ok(_) => "ok",
            Err(error) => kind(error),
        };
        if let Ok(reply) = &ended
            && !is_reply(&reply.to_vec(), call.id, call.reply_len)
            && self.checked
        {
            say(&format!("WRONG BYTES in the reply to {} ({} bytes)", call.id, reply.len()));
            std::process::exit(3);
        }
        if let Some(events) = &self.events {
            let mut events = events.lock().expect("lock");
            events.write_all(event(kind, call.id).as_bytes()).expect("noted");
        }
        self.count(kind);
        if let Err(error) = ended {
            if matches!(kind, "not-running" | "refused") {
                std::thread::yield_now();
            }
            if !matches!(kind, "not-running" | "not-started" | "may-have-run") {
                let mut other = self.other.lock().expect("lock");
                other.get_or_insert_with(|| format!("{error:?}"));
            }
        }
    }

    fn count(&self, kind: &'static str) {
        *self.counts.lock().expect("lock").entry(kind).or_default() += 1;
    }

    fn summary(&self) -> String {
        let counts = self.counts.lock().expect("lock");
        let mut text: Vec<_> = counts.iter().map(|(kind, n)| format!("{kind}={n}")).collect();
        if let Some(other) = &*self.other.lock().expect("lock") {
            text.push(format!("({other})"));
        }
        text.join(" ")
    }

    /// One short call, over a new connection if need be; says how often it had to be repeated.
    fn once(&self) -> String {
        let began = Instant::now();
        let mut repeats = 0;
        loop {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let options = CallOptions::new().method(method::CHECKED).timeout(BOUND);
            match self.client.call_with(options, &request(id, 20, 20)) {
                Ok(reply) if is_reply(&reply.to_vec(), id, 20) => {
                    return format!("ok=1 repeats={repeats}");
                }
                Ok(_) => return "ok=0 wrong bytes".into(),
                Err(error) if began.elapsed() > BOUND => return format!("ok=0 {error}"),
                Err(_) => repeats += 1,
            }
            std::thread::yield_now();
        }
    }
}

struct NewCall {
    id: u64,
    len: usize,
    reply_len: usize,
}
