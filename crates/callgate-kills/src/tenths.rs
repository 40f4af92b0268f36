//! How long honest calls take in each tenth of a run, as histograms in shared memory: whether they become slower.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use callgate_sys::clock;

const TENTHS: usize = 10;
/// Four to a doubling.
const BUCKETS: usize = 4 * 64;
/// Calls of a tenth below which nothing is said.
const CALLS_MIN: u64 = 200;
/// The last tenth's p99 may be so many times the first's; and what is faster than this is never slow: the victims keep
/// all CPUs busy.
const TIMES_MAX: f64 = 4.0;
const FAST_MS: f64 = 10.0;

/// Zeros are a valid beginning; nothing counts before [`Tenths::begin`].
pub struct Tenths {
    began_ns: AtomicU64,
    whole_ns: AtomicU64,
    counts: [[AtomicU64; BUCKETS]; TENTHS],
}

impl Tenths {
    /// From now on calls count, for so long.
    pub fn begin(&self, whole: Duration) {
        self.whole_ns.store(whole.as_nanos() as u64, Relaxed);
        self.began_ns.store(clock::now_ns(), Relaxed);
    }

    /// A call has ended now.
    pub fn add(&self, took_ns: u64) {
        let (began_ns, whole_ns) = (self.began_ns.load(Relaxed), self.whole_ns.load(Relaxed));
        let since_ns = clock::now_ns().saturating_sub(began_ns);
        if began_ns != 0 && since_ns < whole_ns {
            let tenth = (since_ns as u128 * TENTHS as u128 / u128::from(whole_ns)) as usize;
            self.counts[tenth][bucket(took_ns)].fetch_add(1, Relaxed);
        }
    }

    /// Takes another's in.
    pub fn merge(&self, other: &Self) {
        for (ours, theirs) in self.counts.iter().flatten().zip(other.counts.iter().flatten()) {
            ours.fetch_add(theirs.load(Relaxed), Relaxed);
        }
    }

    fn p99_ms(&self, tenth: usize) -> Option<f64> {
        let counts: Vec<u64> = self.counts[tenth].iter().map(|count| count.load(Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        let mut left = all - all / 100;
        let at = counts.iter().position(|count| {
            left = left.saturating_sub(*count);
            left == 0
        });
        at.filter(|_| all >= CALLS_MIN).map(|at| 2f64.powf((at + 1) as f64 / 4.0) / 1e6)
    }

    /// The first and the last tenth in words, and whether the last is not slower.
    pub fn tell(&self) -> (String, bool) {
        match (self.p99_ms(0), self.p99_ms(TENTHS - 1)) {
            (Some(first), Some(last)) => (
                format!("p99 of others {first:.2} ms in the first tenth, {last:.2} in the last"),
                last <= (first * TIMES_MAX).max(FAST_MS),
            ),
            _ => ("too few calls of others for a p99".into(), true),
        }
    }
}

fn bucket(took_ns: u64) -> usize {
    ((took_ns.max(1) as f64).log2() * 4.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Shared;

    #[test]
    fn slower_ends_are_seen() {
        for (last_ns, fine) in [(900_000, true), (9_000_000, true), (90_000_000, false)] {
            // SAFETY: zeroed atomics are valid, and there is nothing else in it.
            let tenths: Shared<Tenths> = unsafe { Shared::new() };
            for (tenth, took_ns) in [(0, 1_000_000), (9, last_ns)] {
                tenths.counts[tenth][bucket(took_ns)].fetch_add(990, Relaxed);
                tenths.counts[tenth][bucket(1_000_000_000)].fetch_add(9, Relaxed);
            }
            let (text, steady) = tenths.tell();
            assert_eq!(steady, fine, "{text}");
            let (Some(first), Some(last)) = (tenths.p99_ms(0), tenths.p99_ms(9)) else {
                panic!("enough calls");
            };
            assert!((1.0..1.3).contains(&first), "{first}");
            assert!((1.0..1.3).contains(&(last / (last_ns as f64 / 1e6))), "{last}");
        }
    }
}
