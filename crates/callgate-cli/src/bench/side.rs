//! One of the things that a situation compares: callgate, or a limit. Each measures a round when
//! told to.

use std::path::PathBuf;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::bare::{Actor, Limit};
use super::crew::Client;
use super::peer::{Order, Work};
use super::process::{self, Partner};
use super::sample::{Pace, Sample, histogram};
use super::watch::{PATIENCE, await_input, patience};
use crate::exit::{Doing, Failure};
use crate::worker::Worker;

/// What one side measured in one round, all of its clients together.
#[derive(Clone, Debug)]
pub struct Round {
    /// How long each timed call took.
    pub times: Histogram<u64>,
    /// The mean where no call was timed by itself, in nanoseconds.
    pub mean: Option<f64>,
    /// Calls a second.
    pub rate: f64,
    /// The calls of the client with the fewest, over the mean of all.
    pub share: f64,
    /// CPU time of both processes for a call, in nanoseconds.
    pub cpu: f64,
}

/// Half of the coarsest step of a clock that is met on today's processors.
const HALF_STEP_NS: f64 = 5.0;

impl Round {
    /// Puts the samples of all clients together.
    pub fn of(samples: &[Sample]) -> Round {
        let mut times = histogram();
        let (mut rate, mut calls, mut cpu_ns) = (0.0, 0u64, 0u64);
        for sample in samples {
            sample.add_to(&mut times);
            rate += sample.trips as f64 * 1e9 / sample.elapsed_ns.max(1) as f64;
            calls += sample.trips;
            cpu_ns += sample.cpu_ns;
        }
        let fewest = samples.iter().map(|sample| sample.trips).min().unwrap_or(0);
        let mean = calls.max(1) as f64 / samples.len().max(1) as f64;
        Round {
            times,
            mean: samples.iter().find_map(|sample| sample.mean_ns),
            rate,
            share: fewest as f64 / mean,
            cpu: cpu_ns as f64 / calls.max(1) as f64,
        }
    }

    /// The median, interpolated: the clock of some processors goes in steps of 10 ns, a tenth of
    /// the shortest round trips. A recorded time stands for all that are nearer to it than to its
    /// neighbours, but no further off than half a step.
    pub fn p50(&self) -> f64 {
        let half = self.times.len() as f64 / 2.0;
        let mut steps = self.times.iter_recorded().peekable();
        let (mut below, mut last) = (0.0, f64::NEG_INFINITY);
        while let Some(step) = steps.next() {
            let (time, count) = (step.value_iterated_to() as f64, step.count_at_value() as f64);
            if below + count >= half {
                let next =
                    steps.peek().map_or(f64::INFINITY, |next| next.value_iterated_to() as f64);
                let from = last.midpoint(time).max(time - HALF_STEP_NS);
                let to = time.midpoint(next).min(time + HALF_STEP_NS);
                return from + (to - from) * (half - below) / count;
            }
            below += count;
            last = time;
        }
        0.0
    }

    /// A round of which nothing but a median is known.
    pub fn computed(ns: f64) -> Round {
        let mut times = histogram();
        times.saturating_record(ns as u64);
        Round { times, mean: None, rate: 0.0, share: 1.0, cpu: 0.0 }
    }
}

/// Something that can be measured in rounds.
pub trait Side {
    /// The name in tables: `callgate`, or the limit's.
    fn name(&self) -> &str;

    /// Measures a round; the pace's start and server are filled in by the side.
    ///
    /// # Errors
    /// When a process fails, or an answer was wrong.
    fn round(&mut self, pace: Pace) -> Result<Round, Failure>;
}

/// Who calls.
enum Caller {
    Forked(Actor),
    Started(Client),
}

impl Caller {
    fn pid(&self) -> u32 {
        match self {
            Caller::Forked(actor) => actor.pid(),
            Caller::Started(client) => client.borrow().pid(),
        }
    }

    fn tell(&mut self, work: Work, pace: Pace) -> Result<(), Failure> {
        match self {
            Caller::Forked(actor) => actor.tell(&pace).doing("a forked client"),
            Caller::Started(client) => client.borrow_mut().tell(&Order { work, pace }),
        }
    }

    fn hear(&mut self, patience: Duration, server: Option<&Partner>) -> Result<Sample, Failure> {
        match self {
            Caller::Forked(actor) => actor.hear(patience, server).doing("a forked client"),
            Caller::Started(client) => client.borrow_mut().hear(patience),
        }
    }
}

/// Clients that call one server at the same time.
pub struct Team {
    name: String,
    work: Work,
    callers: Vec<Caller>,
    /// A client that makes the server busy and is not measured.
    noise: Option<Caller>,
    server: u32,
    /// The limit's server.
    partner: Option<Partner>,
}

impl Team {
    /// callgate's clients do this work.
    pub fn callgate(clients: Vec<Client>, server: &Worker, work: Work) -> Team {
        let callers = clients.into_iter().map(Caller::Started).collect();
        let name = "callgate".to_owned();
        Team { name, work, callers, noise: None, server: server.pid(), partner: None }
    }

    /// A limit.
    pub fn limit(name: impl Into<String>, limit: Limit) -> Team {
        let callers = limit.clients.into_iter().map(Caller::Forked).collect();
        let server = limit.server.pid();
        // Limits know their work.
        let work = Work::Connect;
        let partner = Some(limit.server);
        Team { name: name.into(), work, callers, noise: None, server, partner }
    }

    /// Calls this side something else.
    pub fn named(mut self, name: &str) -> Team {
        name.clone_into(&mut self.name);
        self
    }

    /// Adds a client that calls in a closed loop in each round.
    pub fn beside(mut self, noise: Client) -> Team {
        self.noise = Some(Caller::Started(noise));
        self
    }

    /// Binds all processes: clients, server.
    ///
    /// # Errors
    /// When one is gone.
    pub fn pin(self, clients: &[usize], server: &[usize]) -> Result<Team, Failure> {
        for caller in self.callers.iter().chain(&self.noise) {
            process::pin_process(caller.pid(), clients).doing("sched_setaffinity")?;
        }
        process::pin_process(self.server, server).doing("sched_setaffinity")?;
        Ok(self)
    }
}

/// How long telling a client takes, at the most.
const TELL: Duration = Duration::from_micros(40);

impl Side for Team {
    fn name(&self) -> &str {
        &self.name
    }

    fn round(&mut self, pace: Pace) -> Result<Round, Failure> {
        let lead = Duration::from_millis(1) + TELL * self.callers.len() as u32;
        let start_ns = process::monotonic_ns() + lead.as_nanos() as u64;
        let pace = Pace { start_ns, server: self.server, ..pace };
        let small = Work::Small { size: 32, handler_ns: 0 };
        if let Some(noise) = &mut self.noise {
            let time = pace.time.max(pace.gap * pace.least as u32) + lead;
            noise.tell(small, Pace { start_ns, time, ..Pace::default() })?;
        }
        for caller in &mut self.callers {
            caller.tell(self.work, pace)?;
        }
        let (patience, partner) = (patience(pace), self.partner.as_ref());
        let hear = |caller: &mut Caller| caller.hear(patience, partner);
        let samples: Vec<Sample> = self.callers.iter_mut().map(hear).collect::<Result<_, _>>()?;
        if let Some(noise) = &mut self.noise {
            hear(noise)?;
        }
        Ok(Round::of(&samples))
    }
}

/// Processes that are started for one call each.
pub struct Fresh {
    name: String,
    args: Vec<PathBuf>,
    /// The server, where it is this side's own.
    partner: Option<Partner>,
}

impl Fresh {
    /// Starts `bench-fresh` with these arguments.
    pub fn new(name: &str, args: &[PathBuf], partner: Option<Partner>) -> Fresh {
        Fresh { name: name.to_owned(), args: args.to_vec(), partner }
    }
}

impl Side for Fresh {
    fn name(&self) -> &str {
        &self.name
    }

    fn round(&mut self, pace: Pace) -> Result<Round, Failure> {
        let mut times = histogram();
        for _ in 0..pace.least.max(1) {
            let args = std::iter::once(PathBuf::from("bench-fresh")).chain(self.args.clone());
            let (worker, mut said) = Worker::start(args).doing("start a client")?;
            await_input(said.input(), PATIENCE, self.partner.as_ref()).doing("bench-fresh")?;
            let took: u64 = said.expect().doing("bench-fresh")?;
            times.saturating_record(took);
            super::crew::ended(worker, "bench-fresh")?;
            std::thread::sleep(pace.gap);
        }
        Ok(Round::of(&[Sample::new(&times, Duration::ZERO)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(trips: u64, elapsed_ns: u64) -> Sample {
        Sample { pairs: vec![(100, trips)], trips, elapsed_ns, cpu_ns: 10 * trips, mean_ns: None }
    }

    #[test]
    fn samples_add_up() {
        let round = Round::of(&[sample(10, 1_000), sample(30, 1_000)]);
        assert_eq!(round.times.len(), 40);
        assert!((round.rate - 40e6).abs() < 1.0);
        assert!((round.share - 0.5).abs() < 1e-9);
        assert!((round.cpu - 10.0).abs() < 1e-9);
        assert!(round.mean.is_none());
    }

    #[test]
    fn medians_lie_between_the_steps_of_the_clock() {
        let median = |pairs: &[(u64, u64)]| {
            Round::of(&[Sample { pairs: pairs.to_vec(), ..Sample::default() }]).p50()
        };
        assert!((median(&[(100, 50), (110, 50)]) - 105.0).abs() < 0.1);
        assert!((median(&[(100, 10), (110, 80), (120, 10)]) - 110.0).abs() < 0.1);
        assert!((median(&[(120, 1)]) - 120.0).abs() < 0.1);
        assert!((median(&[(100, 2), (9_000, 2)]) - 105.0).abs() < 0.1);
    }

    #[test]
    fn no_samples_are_no_crash() {
        let round = Round::of(&[]);
        assert_eq!((round.times.len(), round.mean), (0, None));
    }
}
