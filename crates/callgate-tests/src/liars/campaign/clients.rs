//! Clients that lie to an honest server, beside honest clients.

use std::time::{Duration, Instant};

use super::latency::{Slices, Turns};
use super::{Outcome, Plan, check_honest, spawn};
use crate::data::{is_reply, method, request};
use crate::liars::client::{Expect, floods, lies};
use crate::liars::growth::Growth;
use crate::peer::{Peer, Place, Words};
use crate::rng::Rng;
use crate::usage::cpu_ticks;
use crate::{BOUND, until};

/// Lies between two samples.
const PER_SAMPLE: usize = 10;
/// Honest clients of the stage.
const HONEST: u64 = 2;

struct Stage {
    place: Place,
    host: Peer,
    small: Peer,
    mixed: Peer,
    liar: Peer,
    growth: Growth,
    stall_ns: u64,
    honest_calls: u64,
    violations: u64,
}

/// Runs the part.
pub fn run(plan: Plan) -> Vec<(String, Outcome)> {
    let mut stage = Stage::new();
    let mut rng = Rng::new(plan.seed);
    let all: Vec<_> = lies().collect();
    for _ in 0..if plan.lying.is_zero() { 1 } else { 2 } {
        for (name, expect) in &all {
            stage.lie(name, *expect, &mut rng);
        }
        stage.rest();
    }
    // Warm: from here on it must not grow.
    stage.growth = Growth::default();
    let mut told = all.len();
    let began = Instant::now();
    while began.elapsed() < plan.lying {
        for _ in 0..PER_SAMPLE {
            let (name, expect) = all[rng.below(all.len())];
            stage.lie(name, expect, &mut rng);
            told += 1;
        }
        stage.rest();
    }
    let honest_calls = stage.honest_calls;
    let growth = std::mem::take(&mut stage.growth);
    let (text, grows) = growth.judge();
    let mutator = stage.mutate(plan.mutating, &mut rng);
    let note = format!(
        "{} kinds of lies, {} violations reported with field and process, {} honest calls beside them, all right",
        all.len(),
        stage.violations,
        honest_calls
    );
    let lying = Outcome { tried: told as u64, failed: 0, stall_ns: Some(stage.stall_ns), note };
    let grown = Outcome {
        tried: growth.len() as u64,
        failed: grows.into(),
        note: text,
        ..Outcome::default()
    };
    let mut rows = vec![("lying clients".into(), lying)];
    rows.extend(mutator.map(|outcome| ("a client that mutates all it may write".into(), outcome)));
    rows.push(("server's growth".into(), grown));
    if plan.rounds > 0 {
        rows.push(("half-open".into(), stage.half_open(&mut rng)));
        rows.push(("p99 beside lying clients".into(), stage.latencies(plan, &mut rng)));
        rows.push(("a worker's turns beside lying clients".into(), stage.turns(plan, &mut rng)));
    }
    rows
}

impl Stage {
    fn new() -> Self {
        let place = Place::new();
        let path = format!("path={}", place.name());
        let host = spawn("host", &[&path]);
        host.expect("serving");
        let small = spawn("honest", &[&path, "number=1"]);
        let mixed = spawn("honest", &[&path, "number=2", "mixed=1"]);
        small.expect("ready");
        mixed.expect("ready");
        let liar = spawn("client", &[&path]);
        liar.expect("ready");
        let growth = Growth::default();
        Self {
            place,
            host,
            small,
            mixed,
            liar,
            growth,
            stall_ns: 0,
            honest_calls: 0,
            violations: 0,
        }
    }

    /// Tells one lie, and holds what comes of it against what must.
    fn lie(&mut self, name: &str, expect: Expect, rng: &mut Rng) {
        let (seed, calls) = (rng.next() >> 1, rng.below(40));
        let what = format!("the lie \"{name}\" with seed {seed} after {calls} calls");
        self.liar.tell(&format!("lie {seed} {calls} {name}"));
        // The liar gives up before that, and says why.
        let told = self.liar.line_within(3 * BOUND);
        let told = told.unwrap_or_else(|| panic!("{what} has no end:\n{}", self.liar.errors()));
        let ended = told.strip_prefix("lie ").unwrap_or(&told);
        assert!(self.host.is_alive(), "{what}: the server died\n{}", self.host.errors());
        let mut noted = Vec::new();
        until(&format!("only the honest are left after {what}"), || {
            self.host.ask("release");
            noted.extend(notes(&mut self.host));
            let clients = self.host.ask("status").number("clients");
            (clients == HONEST).then_some(())
        });
        noted.extend(notes(&mut self.host));
        let liar = self.liar.pid().to_string();
        for (pid, field) in &noted {
            assert_eq!(*pid, liar, "{what}: {field} is reported of another");
        }
        let fields: Vec<&str> = noted.iter().map(|(_, field)| field.as_str()).collect();
        match expect {
            Expect::Noticed(allowed) => {
                assert_eq!(fields.len(), 1, "{what}: {fields:?} reported, allowed {allowed:?}");
                assert!(allowed.contains(&fields[0]), "{what}: {fields:?}, allowed {allowed:?}");
                assert!(ended == "ended=closed" || ended == "ended=refused", "{what}: {ended}");
            }
            Expect::Harmless => {
                assert!(fields.is_empty(), "{what}: {fields:?} reported");
                assert_eq!(ended, "ended=right", "{what}");
            }
            Expect::Quiet => assert!(fields.is_empty(), "{what}: {fields:?} reported"),
            Expect::Any => assert!(fields.len() <= 1, "{what}: {fields:?} reported"),
        }
        self.violations += fields.len() as u64;
    }

    /// A client writes random and chosen values into its control region for so long, over ever new connections.
    fn mutate(&mut self, time: Duration, rng: &mut Rng) -> Option<Outcome> {
        let (began, calls_before, liar) =
            (Instant::now(), self.honest_calls, self.liar.pid().to_string());
        let (mut outcome, mut noticed) = (Outcome::default(), 0);
        while began.elapsed() < time {
            self.liar.tell(&format!("flood {} 1000 scribbles", rng.next() >> 1));
            let told = self.liar.line_within(3 * BOUND);
            let told = told.unwrap_or_else(|| panic!("no end:\n{}", self.liar.errors()));
            outcome.tried += Words::parse(&told).number("count");
            assert!(self.host.is_alive(), "the server died\n{}", self.host.errors());
            until("only the honest are left", || {
                (self.host.ask("status").number("clients") == HONEST).then_some(())
            });
            for (pid, field) in notes(&mut self.host) {
                assert_eq!(pid, liar, "{field} is reported of another");
                noticed += 1;
            }
            self.rest();
        }
        let calls = self.honest_calls - calls_before;
        outcome.stall_ns = Some(self.stall_ns);
        outcome.note = format!(
            "connections over {} s, {noticed} of them found out, {calls} honest calls beside them, all right",
            time.as_secs()
        );
        let (text, grows) = self.growth.judge();
        outcome.failed += u64::from(grows);
        outcome.note += &format!("; of the server, {text}");
        (outcome.tried > 0).then_some(outcome)
    }

    /// Takes a sample; the honest were served all the while.
    fn rest(&mut self) {
        let small = self.small.ask("slice");
        let mixed = self.mixed.ask("slice");
        for slice in [&small, &mixed] {
            assert!(slice.number("calls") > 0, "an honest client starves: {}", slice.text());
            self.stall_ns = self.stall_ns.max(check_honest("an honest client", slice));
            self.honest_calls += slice.number("calls");
        }
        let errors = self.host.errors();
        assert!(!errors.contains("panicked"), "{errors}");
        self.growth.add(self.host.usage());
        eprintln!(
            "liars: {} violations noticed, {} honest calls, slowest {:.1} ms, server {:?}",
            self.violations,
            self.honest_calls,
            self.stall_ns as f64 / 1e6,
            self.host.usage()
        );
    }

    /// More unfinished handshakes than the server keeps: who is honest gets in.
    fn half_open(&mut self, rng: &mut Rng) -> Outcome {
        self.liar.tell(&format!("flood {} 2000 half-open", rng.next() >> 1));
        let mut outcome = Outcome::default();
        let mut slowest_ns = 0;
        for id in 0.. {
            let began = Instant::now();
            let client = callgate::Client::connect(self.place.name()).expect("the honest get in");
            let options = callgate::CallOptions::new().method(method::CHECKED).timeout(BOUND);
            let reply = client.call_with(options, &request(id, 100, 100)).expect("a reply");
            assert!(is_reply(&reply.to_vec(), id, 100), "wrong bytes");
            slowest_ns = slowest_ns.max(began.elapsed().as_nanos() as u64);
            outcome.tried += 1;
            if let Some(line) = self.liar.try_line() {
                let count = line.trim_start_matches("flood count=").to_owned();
                outcome.note = format!(
                    "connects and calls of honest clients while {count} sockets were opened and left alone, 1,500 at a time"
                );
                break;
            }
        }
        until("only the honest are left", || {
            (self.host.ask("status").number("clients") == HONEST).then_some(())
        });
        self.host.ask("notes");
        outcome.stall_ns = Some(slowest_ns);
        outcome
    }

    /// CPU time of the server and the liar.
    fn cpu_ticks(&self) -> u64 {
        cpu_ticks(self.host.pid()) + cpu_ticks(self.liar.pid())
    }

    /// What honest calls take beside floods, against what they take beside an honest client that is as busy.
    fn latencies(&mut self, plan: Plan, rng: &mut Rng) -> Outcome {
        let mut slices = Slices::new(&floods::HONEST, &floods::NAMES, &["large replies"]);
        for (pace, think_us) in [("busy", 0), ("sparse", 200)] {
            self.small.ask(&format!("think {think_us}"));
            for _ in 0..plan.rounds {
                self.small.ask("slice");
                std::thread::sleep(plan.slice);
                slices.add(pace, "alone", &self.small.ask("slice"), 0);
                for name in floods::HONEST.into_iter().chain(floods::NAMES) {
                    let ms = plan.slice.as_millis();
                    let seed = rng.next() >> 1;
                    self.small.ask("slice");
                    let before = self.cpu_ticks();
                    self.liar.tell(&format!("flood {seed} {ms} {name}"));
                    self.liar.expect("flood");
                    let used = self.cpu_ticks() - before;
                    slices.add(pace, name, &self.small.ask("slice"), used);
                    until("the flood is over", || {
                        (self.host.ask("status").number("clients") == HONEST).then_some(())
                    });
                }
            }
        }
        self.small.ask("think 200");
        assert!(self.host.is_alive(), "the server died\n{}", self.host.errors());
        slices.judge()
    }
}

impl Stage {
    /// What the worker does before it begins an honest call, beside floods, against the same beside honest load.
    fn turns(&mut self, plan: Plan, rng: &mut Rng) -> Outcome {
        let honest = floods::HONEST.into_iter().chain(floods::HONEST_TURNS);
        let mut turns = Turns::new(honest.clone().collect(), &floods::NAMES, &["large replies"]);
        for (pace, think_us) in [("busy", 0), ("sparse", 200)] {
            self.host.ask(&format!("probe-think {think_us}"));
            for _ in 0..plan.rounds {
                for name in honest.clone().chain(floods::NAMES) {
                    let (ms, seed) = (plan.slice.as_millis(), rng.next() >> 1);
                    self.host.ask("probe");
                    self.liar.tell(&format!("flood {seed} {ms} {name}"));
                    self.liar.expect("flood");
                    turns.add(pace, name, &self.host.ask("probe"));
                    until("the flood is over", || {
                        let clients = self.host.ask("status").number("clients");
                        (clients == HONEST + 1).then_some(())
                    });
                }
            }
        }
        turns.judge()
    }
}

/// What the server reported: processes and fields.
fn notes(host: &mut Peer) -> Vec<(String, String)> {
    let words = host.ask("notes");
    let pairs = words.text().split(' ').filter_map(|word| word.split_once('='));
    pairs
        .flat_map(|(pid, fields)| fields.split(',').map(|field| (pid.to_owned(), field.to_owned())))
        .collect()
}
