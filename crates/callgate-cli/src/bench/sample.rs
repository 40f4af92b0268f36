//! Latency samples: what one client measures in one round, and what several rounds together say.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::process;
pub use crate::times::{clock_cost, histogram};

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
    pub fn add(&mut self, round: &Sample) {
        let mut histogram = histogram();
        round.add_to(&mut histogram);
        self.p50.push(histogram.value_at_quantile(0.5));
        self.p99.push(histogram.value_at_quantile(0.99));
        round.add_to(self.all.get_or_insert_with(self::histogram));
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
    /// Wakes the other side for a round.
    ///
    /// # Errors
    /// Those of the transport.
    fn begin(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Lets the other side sleep, after a round.
    fn end(&mut self) {}

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
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Pace {
    /// When to begin, on the monotonic clock in nanoseconds, so that many begin together; a time
    /// in the past: at once.
    pub start_ns: u64,
    /// Trips to throw away first, but no more than fit in a fifth of `time`.
    pub discard: u64,
    /// About how long to time each trip.
    pub time: Duration,
    /// How many trips to time at the least.
    pub least: u64,
    /// About how long to go on without a clock in each trip; zero: not at all.
    pub untimed: Duration,
    /// From one trip's begin to the next; zero: a closed loop.
    pub gap: Duration,
    /// The process whose CPU time counts beside our own; 0: none.
    pub server: u32,
}

/// What one client measured in one round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// How long the timed trips took, as pairs of nanoseconds and count.
    pub pairs: Vec<(u64, u64)>,
    /// Timed trips.
    pub trips: u64,
    /// From the first timed trip's begin to the last's end.
    pub elapsed_ns: u64,
    /// What a trip took on the average where none was timed by itself.
    pub mean_ns: Option<f64>,
    /// CPU time of both processes during the timed trips.
    pub cpu_ns: u64,
}

impl Sample {
    /// Packs the times of trips that took `elapsed` together.
    pub fn new(times: &Histogram<u64>, elapsed: Duration) -> Sample {
        let steps = times.iter_recorded();
        let pairs = steps.map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
        let elapsed_ns = elapsed.as_nanos() as u64;
        Sample { pairs, trips: times.len(), elapsed_ns, ..Sample::default() }
    }

    /// Adds the times to a histogram.
    pub fn add_to(&self, histogram: &mut Histogram<u64>) {
        for (value, count) in &self.pairs {
            histogram.saturating_record_n(*value, *count);
        }
    }
}

/// Repeats a trip: some thrown away, then each timed, then some without a clock.
///
/// # Errors
/// The first of the trip's.
pub fn repeat(trip: &mut impl Trip, pace: Pace) -> io::Result<Sample> {
    trip.begin()?;
    process::sleep_until(pace.start_ns);
    let enough = Instant::now() + pace.time / 5;
    for _ in 0..pace.discard {
        once(trip)?;
        if Instant::now() >= enough {
            break;
        }
    }
    let cpu_before = process::cpu_ns(pace.server)?;
    let begun = Instant::now();
    let times = timed(trip, pace)?;
    let elapsed = begun.elapsed();
    let mut sample = Sample::new(&times, elapsed);
    sample.cpu_ns = process::cpu_ns(pace.server)?.saturating_sub(cpu_before);
    if !pace.untimed.is_zero() {
        let each = times.value_at_quantile(0.5).max(1);
        let trips = (pace.untimed.as_nanos() as u64 / each).max(pace.least).max(1);
        let begun = Instant::now();
        for _ in 0..trips {
            once(trip)?;
        }
        sample.mean_ns = Some(begun.elapsed().as_nanos() as f64 / trips as f64);
    }
    trip.end();
    Ok(sample)
}

fn timed(trip: &mut impl Trip, pace: Pace) -> io::Result<Histogram<u64>> {
    let mut times = histogram();
    let mut next_ns = process::monotonic_ns();
    let end = Instant::now() + pace.time;
    loop {
        trip.prepare();
        if !pace.gap.is_zero() {
            next_ns = (next_ns + pace.gap.as_nanos() as u64).max(process::monotonic_ns());
            process::sleep_until(next_ns);
        }
        let start = Instant::now();
        trip.go()?;
        let stop = Instant::now();
        times.saturating_record(((stop - start).as_nanos() as u64).max(1));
        trip.check()?;
        if stop >= end && times.len() >= pace.least {
            return Ok(times);
        }
    }
}

#[inline]
fn once(trip: &mut impl Trip) -> io::Result<()> {
    trip.prepare();
    trip.go()?;
    trip.check()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_takes_the_middle() {
        assert_eq!(Spread::of([5, 1, 9]), Spread { median: 5, low: 1, high: 9 });
        assert_eq!(Spread::of([]), Spread { median: 0, low: 0, high: 0 });
    }

    #[derive(Default)]
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
        let pace = Pace { least: 7, ..Pace::default() };
        let mut trip = Counting::default();
        let sample = repeat(&mut trip, pace).unwrap();
        assert_eq!((sample.trips, trip.trips, trip.checks), (7, 7, 7));
        assert!(sample.mean_ns.is_none());
        assert!(repeat(&mut Counting { broken: true, ..trip }, pace).is_err());
    }

    #[test]
    fn thrown_away_and_untimed_trips_are_not_in_the_times() {
        let time = Duration::from_millis(20);
        let pace = Pace { discard: 3, least: 5, time, untimed: time, ..Pace::default() };
        let mut trip = Counting::default();
        let sample = repeat(&mut trip, pace).unwrap();
        assert!(trip.trips >= 3 + sample.trips + 5, "{} {}", trip.trips, sample.trips);
        assert!(sample.mean_ns.unwrap() > 0.0);
    }

    #[test]
    fn samples_keep_the_times() {
        let mut one = histogram();
        for value in [1, 130, 130, 75_000, 12_345_678] {
            one.saturating_record(value);
        }
        let mut two = histogram();
        Sample::new(&one, Duration::ZERO).add_to(&mut two);
        assert_eq!(one, two);
    }
}
