//! What honest calls take beside a liar, against what they take beside honest peers that are as busy.
//!
//! A flood takes CPUs, and so would any busy program; on two CPUs three busy threads wait for each other, whoever they are.
//! So the measure is not an idle machine. It is honest load, of a few kinds, in the same places: the same processes make
//! honest calls one after another, with as many threads as a liar can keep busy. A flood is held against the worst of those
//! kinds that used no more CPU than it did, processes of both sides together. All slices of a round are interleaved; the
//! median of the rounds counts. What calls take alone is told, and not judged.

use std::collections::BTreeMap;

use super::{Outcome, check_honest};
use crate::liars::client::floods::{OF_REPLIES, REPLIES};
use crate::peer::Words;

/// Below this a tail is as good as any, in nanoseconds: a tick of the scheduler (4 ms), after which it lets another thread
/// run at the latest, and what is done then. One busy thread more or less than there are CPUs decides whether it is met.
const FLOOR_NS: u64 = 5_000_000;

/// Slices of one pace and one kind of load.
#[derive(Default)]
struct Load {
    p99_ns: Vec<u64>,
    ticks: u64,
}

impl Load {
    fn median_ns(&self) -> u64 {
        let mut all = self.p99_ns.clone();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or(0)
    }
}

/// p99 of slices, by pace and load.
pub struct Slices {
    honest: Vec<&'static str>,
    floods: Vec<&'static str>,
    told: Vec<&'static str>,
    loads: BTreeMap<(&'static str, &'static str), Load>,
    calls: u64,
    max_ns: u64,
}

impl Slices {
    /// For these kinds of honest load, and these floods; `told` are floods that are not judged.
    pub fn new(honest: &[&'static str], floods: &[&'static str], told: &[&'static str]) -> Self {
        Self {
            honest: honest.to_vec(),
            floods: floods.to_vec(),
            told: told.to_vec(),
            loads: BTreeMap::new(),
            calls: 0,
            max_ns: 0,
        }
    }

    /// Adds a slice, of which every call was right, and the CPU time that the load took in it.
    pub fn add(&mut self, pace: &'static str, name: &'static str, slice: &Words, ticks: u64) {
        self.max_ns = self.max_ns.max(check_honest(name, slice));
        self.calls += slice.number("calls");
        let load = self.loads.entry((pace, name)).or_default();
        load.p99_ns.push(slice.number("p99"));
        load.ticks += ticks;
    }

    /// Each flood against honest load.
    pub fn judge(&self) -> Outcome {
        let mut outcome = Outcome { stall_ns: Some(self.max_ns), ..Outcome::default() };
        let mut text = Vec::new();
        for pace in ["busy", "sparse"] {
            let load = |name: &'static str| &self.loads[&(pace, name)];
            let us = |name| format!("{name} {:.0}", load(name).median_ns() as f64 / 1e3);
            let honest: Vec<String> = self.honest.iter().map(|name| us(name)).collect();
            text.push(format!("{pace}: {}, {}; liars:", us("alone"), honest.join(", ")));
            let mut lying = Vec::new();
            for name in &self.floods {
                let flood = load(name);
                // A tenth and a tick of either side more or less is the same.
                let as_busy = |other: &&Load| other.ticks <= flood.ticks * 11 / 10 + 2;
                let first = load(self.honest[0]);
                let others = self.honest.iter().map(|name| load(name)).filter(as_busy);
                let allowed_ns = 2 * others.chain([first]).map(Load::median_ns).max().unwrap_or(0);
                if self.told.contains(name) {
                    lying.push(format!("({})", us(name)));
                    continue;
                }
                outcome.tried += 1;
                let too_much = flood.median_ns() > allowed_ns.max(FLOOR_NS);
                outcome.failed += u64::from(too_much);
                lying.push(format!("{}{}", us(name), if too_much { " TOO MUCH" } else { "" }));
            }
            text.push(lying.join(", "));
        }
        outcome.note = format!("p99 of {} honest calls, us; {}", self.calls, text.join(" "));
        eprintln!("liars: {}", outcome.note);
        outcome
    }
}

/// What a worker does before it begins an honest call, by pace and load: p99 of slices, in CPU time of its own.
///
/// A scheduler has no part in it, so there is no floor: beside any flood it is twice at most of what it is beside honest
/// load. The least of the rounds counts.
pub struct Turns {
    honest: Vec<&'static str>,
    floods: Vec<&'static str>,
    told: Vec<&'static str>,
    p99_ns: BTreeMap<(&'static str, &'static str), Vec<u64>>,
    calls: u64,
}

impl Turns {
    /// As [`Slices::new`].
    pub fn new(honest: Vec<&'static str>, floods: &[&'static str], told: &[&'static str]) -> Self {
        let (floods, told) = (floods.to_vec(), told.to_vec());
        Self { honest, floods, told, p99_ns: BTreeMap::new(), calls: 0 }
    }

    /// Adds a slice.
    pub fn add(&mut self, pace: &'static str, name: &'static str, slice: &Words) {
        self.calls += slice.number("calls");
        self.p99_ns.entry((pace, name)).or_default().push(slice.number("p99"));
    }

    /// Each flood against honest load.
    pub fn judge(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let mut text = Vec::new();
        for pace in ["busy", "sparse"] {
            // What disturbs a slice only adds to it, and what a flood does to a worker it does in each.
            let least = |all: &Vec<u64>| all.iter().min().copied().unwrap_or(0);
            let turn_ns = |name: &&'static str| least(&self.p99_ns[&(pace, *name)]);
            let us = |name: &&'static str| format!("{name} {:.1}", turn_ns(name) as f64 / 1e3);
            let honest: Vec<String> = self.honest.iter().map(us).collect();
            text.push(format!("{pace}: {}; liars:", honest.join(", ")));
            let mut lying = Vec::new();
            for name in &self.floods {
                if self.told.contains(name) {
                    lying.push(format!("({})", us(name)));
                    continue;
                }
                outcome.tried += 1;
                // Who has no memory made has no part in what that costs.
                let is_alike = |honest: &&&str| **honest != REPLIES || OF_REPLIES.contains(name);
                let alike = self.honest.iter().filter(is_alike).map(turn_ns);
                let too_much = turn_ns(name) > 2 * alike.max().unwrap_or(0);
                outcome.failed += u64::from(too_much);
                lying.push(format!("{}{}", us(name), if too_much { " TOO MUCH" } else { "" }));
            }
            text.push(lying.join(", "));
        }
        let text = text.join(" ");
        outcome.note = format!("p99 of its CPU time before {} calls, us; {text}", self.calls);
        eprintln!("liars: {}", outcome.note);
        outcome
    }
}
