//! Servers that lie to a client process, which calls an honest server too.

use std::time::{Duration, Instant};

use super::latency::Slices;
use super::{Outcome, Plan, check_honest, spawn};
use crate::liars::growth::Growth;
use crate::liars::server::{FLOODS, HONEST, lies};
use crate::peer::{Peer, Place};
use crate::rng::Rng;
use crate::usage::cpu_ticks;

/// Lies between two samples.
const PER_SAMPLE: usize = 10;

struct Stage {
    _places: [Place; 2],
    host: Peer,
    liar: Peer,
    guest: Peer,
    growth: Growth,
    stall_ns: u64,
    honest_calls: u64,
    violations: u64,
    longest_ms: u64,
}

/// Runs the part.
pub fn run(plan: Plan) -> Vec<(String, Outcome)> {
    let mut stage = Stage::new();
    let mut rng = Rng::new(plan.seed ^ 1);
    let all: Vec<_> = lies().collect();
    for _ in 0..if plan.lying.is_zero() { 1 } else { 2 } {
        for (name, fields, kinds) in &all {
            stage.lie(name, fields, kinds, &mut rng);
        }
        stage.rest();
    }
    stage.growth = Growth::default();
    let mut told = all.len();
    let began = Instant::now();
    while began.elapsed() < plan.lying {
        for _ in 0..PER_SAMPLE {
            let (name, fields, kinds) = all[rng.below(all.len())];
            stage.lie(name, fields, kinds, &mut rng);
            told += 1;
        }
        stage.rest();
    }
    let honest_calls = stage.honest_calls;
    let growth = std::mem::take(&mut stage.growth);
    let (text, grows) = growth.judge();
    let mutator = stage.mutate(plan.mutating, &mut rng);
    let note = format!(
        "{} kinds of lies, {} violations reported with field and side, {} calls to an honest server beside them, all \
         right; the longest meeting took {} ms, deadlines included",
        all.len(),
        stage.violations,
        honest_calls,
        stage.longest_ms
    );
    let lying = Outcome { tried: told as u64, failed: 0, stall_ns: Some(stage.stall_ns), note };
    let grown = Outcome {
        tried: growth.len() as u64,
        failed: grows.into(),
        note: text,
        ..Outcome::default()
    };
    let mut rows = vec![("lying servers".into(), lying)];
    rows.extend(mutator.map(|outcome| ("a server that mutates all it may write".into(), outcome)));
    rows.push(("client's growth".into(), grown));
    if plan.rounds > 0 {
        rows.push(("p99 beside lying servers".into(), stage.latencies(plan, &mut rng)));
    }
    rows
}

impl Stage {
    fn new() -> Self {
        let places = [Place::new(), Place::new()];
        let path = format!("path={}", places[0].name());
        let host = spawn("host", &[&path]);
        host.expect("serving");
        let liar = spawn("server", &[&format!("path={}", places[1].name())]);
        liar.expect("serving");
        let guest = spawn("guest", &[&path, &format!("liar={}", places[1].name())]);
        guest.expect("ready");
        Self {
            _places: places,
            host,
            liar,
            guest,
            growth: Growth::default(),
            stall_ns: 0,
            honest_calls: 0,
            violations: 0,
            longest_ms: 0,
        }
    }

    fn lie(&mut self, name: &str, fields: &[&str], kinds: &[&str], rng: &mut Rng) {
        let (seed, calls) = (rng.next() >> 1, rng.below(30) as u64);
        let what = format!("the lie \"{name}\" with seed {seed} after {calls} calls");
        self.liar.ask(&format!("mode {seed} {calls} {name}"));
        // Where an end must come without a deadline, there is none in sight.
        let timeout_ms = if kinds.contains(&"deadline") { 700 } else { 20_000 };
        let met = self.guest.ask(&format!("meet {seed} {calls} {timeout_ms}"));
        let ended: String = met.find("ended").expect("an end");
        assert!(kinds.contains(&ended.as_str()), "{what}: allowed {kinds:?}: {}", met.text());
        if ended == "violation" {
            let field: String = met.find("field").expect("a field");
            assert!(fields.contains(&field.as_str()), "{what}: allowed {fields:?}: {}", met.text());
            self.violations += 1;
        }
        let before_calls = matches!(ended.as_str(), "refused" | "not-running" | "version");
        let told_first = name.starts_with("answer") || met.text().contains("answer.");
        if !before_calls && !told_first && name != "silence" {
            assert_eq!(met.number("right"), calls, "{what}: {}", met.text());
        }
        // A caller who was moved to another word asks the kernel itself, after a second at first.
        let took_ms = met.number("ms");
        assert!(took_ms < 6_000, "{what}: {}", met.text());
        self.longest_ms = self.longest_ms.max(took_ms);
        assert!(self.liar.is_alive(), "{what}: the liar died\n{}", self.liar.errors());
    }

    /// A server writes random and chosen values into its clients' control regions for so long, over ever new connections.
    fn mutate(&mut self, time: Duration, rng: &mut Rng) -> Option<Outcome> {
        let (began, calls_before) = (Instant::now(), self.honest_calls);
        let mut outcome = Outcome::default();
        while began.elapsed() < time {
            self.liar.ask(&format!("mode {} 0 scribbles", rng.next() >> 1));
            self.guest.ask("visit 2");
            std::thread::sleep(Duration::from_secs(1));
            outcome.tried += self.guest.ask("leave").number("calls");
            assert!(self.liar.is_alive(), "the liar died\n{}", self.liar.errors());
            self.rest();
        }
        let calls = self.honest_calls - calls_before;
        outcome.stall_ns = Some(self.stall_ns);
        outcome.note = format!(
            "calls to it over {} s; {calls} calls to an honest server beside them, all right",
            time.as_secs()
        );
        let (text, grows) = self.growth.judge();
        outcome.failed += u64::from(grows);
        outcome.note += &format!("; of the client, {text}");
        (outcome.tried > 0).then_some(outcome)
    }

    fn rest(&mut self) {
        let slice = self.guest.ask("slice");
        assert!(slice.number("calls") > 0, "calls to the honest server starve: {}", slice.text());
        self.stall_ns = self.stall_ns.max(check_honest("the guest", &slice));
        self.honest_calls += slice.number("calls");
        let errors = self.guest.errors();
        assert!(!errors.contains("panicked"), "{errors}");
        let usage = self.guest.usage();
        self.growth.add(usage);
        eprintln!(
            "liars: {} violations noticed, {} honest calls, slowest {:.1} ms, client {usage:?}",
            self.violations,
            self.honest_calls,
            self.stall_ns as f64 / 1e6
        );
    }

    /// CPU time of all three.
    fn cpu_ticks(&self) -> u64 {
        [&self.host, &self.liar, &self.guest].iter().map(|peer| cpu_ticks(peer.pid())).sum()
    }

    /// What calls to the honest server take while a thread of the same process calls the liar.
    fn latencies(&mut self, plan: Plan, rng: &mut Rng) -> Outcome {
        let mut slices = Slices::new(&HONEST, &FLOODS, &[]);
        for (pace, think_us) in [("busy", 0), ("sparse", 200)] {
            self.guest.ask(&format!("think {think_us}"));
            for _ in 0..plan.rounds {
                self.guest.ask("slice");
                std::thread::sleep(plan.slice);
                slices.add(pace, "alone", &self.guest.ask("slice"), 0);
                for name in HONEST.into_iter().chain(FLOODS) {
                    let threads = HONEST.iter().position(|honest| *honest == name).unwrap_or(0) + 1;
                    self.liar.ask(&format!("mode {} 0 {name}", rng.next() >> 1));
                    self.guest.ask("slice");
                    let before = self.cpu_ticks();
                    self.guest.ask(&format!("visit {threads}"));
                    std::thread::sleep(plan.slice);
                    let slice = self.guest.ask("slice");
                    let used = self.cpu_ticks() - before;
                    self.guest.ask("leave");
                    slices.add(pace, name, &slice, used);
                }
            }
        }
        assert!(self.host.is_alive() && self.guest.is_alive(), "somebody died");
        slices.judge()
    }
}
