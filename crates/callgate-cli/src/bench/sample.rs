//! Latency samples: one histogram a round, and what several rounds together say.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Makes an empty histogram of nanoseconds up to five minutes, exact to three digits.
pub fn histogram() -> Histogram<u64> {
    // Fails only for bounds and digits other than these.
    Histogram::new_with_bounds(1, 300_000_000_000, 3).expect("constant bounds are valid")
}

/// What reading the clock twice costs, in nanoseconds: the median over many pairs.
///
/// A measured interval holds about this much of the clock's own time, so that it is subtracted.
pub fn clock_cost() -> u64 {
    let mut costs: Vec<u64> = (0..2_001)
        .map(|_| {
            let start = Instant::now();
            start.elapsed().as_nanos() as u64
        })
        .collect();
    costs.sort_unstable();
    costs[costs.len() / 2]
}

/// The median over rounds, and how far the rounds lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// The middle round.
    pub median: u64,
    /// The lowest round.
    pub low: u64,
    /// The highest round.
    pub high: u64,
}

impl Spread {
    /// Sorts `values`; all zero when there are none.
    pub fn of(values: impl IntoIterator<Item = u64>) -> Spread {
        let mut values: Vec<u64> = values.into_iter().collect();
        values.sort_unstable();
        let at = |index: usize| values.get(index).copied().unwrap_or(0);
        Spread {
            median: at(values.len() / 2),
            low: at(0),
            high: at(values.len().saturating_sub(1)),
        }
    }
}

/// Several rounds of one measurement.
#[derive(Clone, Debug, Default)]
pub struct Rounds {
    p50: Vec<u64>,
    p99: Vec<u64>,
    all: Option<Histogram<u64>>,
}

/// What several rounds say.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    /// Medians of the rounds.
    pub p50: Spread,
    /// 99th percentiles of the rounds.
    pub p99: Spread,
    /// 99.9th percentile of all rounds together.
    pub p999: u64,
    /// The slowest of all rounds.
    pub max: u64,
    /// Measured in all rounds together.
    pub count: u64,
}

impl Rounds {
    /// Adds a round.
    pub fn add(&mut self, round: &Histogram<u64>) {
        self.p50.push(round.value_at_quantile(0.5));
        self.p99.push(round.value_at_quantile(0.99));
        let all = self.all.get_or_insert_with(histogram);
        // All histograms here have the same bounds.
        let _ = all.add(round);
    }

    /// Rounds so far.
    pub fn len(&self) -> usize {
        self.p50.len()
    }

    /// Sums up; all zero when there was no round.
    pub fn summary(&self) -> Summary {
        let all = self.all.as_ref();
        Summary {
            p50: Spread::of(self.p50.iter().copied()),
            p99: Spread::of(self.p99.iter().copied()),
            p999: all.map_or(0, |all| all.value_at_quantile(0.999)),
            max: all.map_or(0, Histogram::max),
            count: all.map_or(0, Histogram::len),
        }
    }
}

/// One kind of round trip. Only [`Trip::go`] is timed.
pub trait Trip {
    /// Gets the next message ready.
    fn prepare(&mut self) {}

    /// Goes there and back.
    ///
    /// # Errors
    /// Those of the transport.
    fn go(&mut self) -> io::Result<()>;

    /// Looks at what came back.
    ///
    /// # Errors
    /// When it is wrong.
    fn check(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long and how often to repeat a trip.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Pace {
    /// About how long.
    pub time: Duration,
    /// How many trips at the least.
    pub least: u64,
    /// Pause before each.
    pub gap: Duration,
    /// What the clock costs, in nanoseconds, subtracted from each time.
    pub clock: u64,
}

/// Repeats a trip and records what each took.
///
/// # Errors
/// The first of the trip's.
pub fn repeat(trip: &mut impl Trip, pace: Pace) -> io::Result<Histogram<u64>> {
    let mut histogram = histogram();
    let end = Instant::now() + pace.time;
    loop {
        trip.prepare();
        if !pace.gap.is_zero() {
            std::thread::sleep(pace.gap);
        }
        let start = Instant::now();
        trip.go()?;
        let stop = Instant::now();
        let took = (stop - start).as_nanos() as u64;
        histogram.saturating_record(took.saturating_sub(pace.clock).max(1));
        trip.check()?;
        if stop >= end && histogram.len() >= pace.least {
            return Ok(histogram);
        }
    }
}

/// A histogram as pairs of value and count, for a line of JSON.
pub fn pack(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    let steps = histogram.iter_recorded();
    steps.map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
}

/// Adds what [`pack`] made to a histogram.
pub fn unpack(pairs: &[(u64, u64)], histogram: &mut Histogram<u64>) {
    for (value, count) in pairs {
        histogram.saturating_record_n(*value, *count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_takes_the_middle() {
        assert_eq!(Spread::of([5, 1, 9]), Spread { median: 5, low: 1, high: 9 });
        assert_eq!(Spread::of([]), Spread { median: 0, low: 0, high: 0 });
    }

    struct Counting {
        trips: u64,
        checks: u64,
        broken: bool,
    }

    impl Trip for Counting {
        fn go(&mut self) -> io::Result<()> {
            self.trips += 1;
            if self.broken { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        }

        fn check(&mut self) -> io::Result<()> {
            self.checks += 1;
            Ok(())
        }
    }

    #[test]
    fn repeat_counts_and_checks_each() {
        let pace = Pace { time: Duration::ZERO, least: 7, gap: Duration::ZERO, clock: 0 };
        let mut trip = Counting { trips: 0, checks: 0, broken: false };
        assert_eq!(repeat(&mut trip, pace).unwrap().len(), 7);
        assert_eq!((trip.trips, trip.checks), (7, 7));
        assert!(repeat(&mut Counting { broken: true, ..trip }, pace).is_err());
    }

    #[test]
    fn histograms_travel() {
        let mut one = histogram();
        for value in [1, 130, 130, 75_000, 12_345_678] {
            one.saturating_record(value);
        }
        let mut two = histogram();
        unpack(&pack(&one), &mut two);
        assert_eq!(one, two);
    }
}
