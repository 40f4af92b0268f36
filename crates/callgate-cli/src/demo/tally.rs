//! What the demo counts, per client and in all.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::message::{CallFailed, Did, Outcome, Skip};
use crate::times::histogram;

/// What one client did, its successors included.
#[derive(Debug)]
pub struct Tally {
    /// Files whose digests agree.
    pub right: u64,
    /// Files that were not checked, by reason.
    pub skipped: [u64; 3],
    /// Bytes digested by the server.
    pub bytes: u64,
    /// Round trips of the calls that were answered, in nanoseconds.
    pub round_trips: Histogram<u64>,
    /// Calls that ended with an error and were repeated, by error.
    pub errors: BTreeMap<String, u64>,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Tally {
        let (right, skipped, bytes) = (0, [0; 3], 0);
        Tally { right, skipped, bytes, round_trips: histogram(), errors: BTreeMap::new() }
    }

    /// Adds bytes and calls of a report; outcomes are counted one by one.
    pub fn add(&mut self, did: &Did) {
        self.bytes += did.bytes;
        for took in &did.round_trips {
            self.round_trips.saturating_record((*took).max(1));
        }
    }

    /// Counts how a file ended.
    pub fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Right => self.right += 1,
            Outcome::Skipped(skip) => self.skipped[*skip as usize] += 1,
            Outcome::Wrong { .. } | Outcome::Failed(_) => {}
        }
    }

    /// Counts an error.
    pub fn fail(&mut self, failed: &CallFailed) {
        *self.errors.entry(failed.error.clone()).or_default() += 1;
    }

    /// Adds another client's.
    pub fn merge(&mut self, other: &Tally) {
        self.right += other.right;
        for (mine, theirs) in self.skipped.iter_mut().zip(other.skipped) {
            *mine += theirs;
        }
        self.bytes += other.bytes;
        // All histograms have the same bounds.
        let _ = self.round_trips.add(&other.round_trips);
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
    }

    /// Files skipped, for a reason.
    pub fn skipped(&self, skip: Skip) -> u64 {
        self.skipped[skip as usize]
    }

    /// The figures of a table's row, over that time.
    pub fn figures(&self, time: Duration) -> Figures {
        let some = !self.round_trips.is_empty();
        let at = |quantile| some.then(|| self.round_trips.value_at_quantile(quantile));
        Figures {
            files: self.right,
            calls: self.round_trips.len(),
            bytes: self.bytes,
            bytes_per_second: self.bytes as f64 / time.as_secs_f64().max(1e-9),
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: some.then(|| self.round_trips.max()),
        }
    }
}

/// A row of the demo's table.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// Files whose digests agree.
    pub files: u64,
    /// Calls answered.
    pub calls: u64,
    /// Bytes digested by the server.
    pub bytes: u64,
    /// Those over the time of the whole demo.
    pub bytes_per_second: f64,
    /// Median round trip; none when there were no calls, as with the others.
    pub p50_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// 99.9th percentile.
    pub p999_ns: Option<u64>,
    /// The slowest.
    pub max_ns: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut one = Tally::new();
        one.add(&Did { jobs: Vec::new(), bytes: 10, round_trips: vec![0, 500, 900] });
        one.count(&Outcome::Right);
        one.count(&Outcome::Skipped(Skip::Changed));
        one.fail(&CallFailed { error: "Disconnected".to_owned(), began_ns: 1, ended_ns: 2 });
        let mut all = Tally::new();
        all.merge(&one);
        all.merge(&one);
        let figures = all.figures(Duration::from_secs(2));
        assert_eq!((figures.files, figures.calls, figures.bytes), (2, 6, 20));
        assert_eq!(figures.bytes_per_second, 10.0);
        assert!(figures.p50_ns.is_some() && figures.max_ns >= figures.p50_ns);
        let idle = Tally::new().figures(Duration::from_secs(2));
        assert_eq!((idle.calls, idle.p50_ns, idle.p999_ns, idle.max_ns), (0, None, None, None));
        assert_eq!((all.skipped(Skip::Changed), all.errors["Disconnected"]), (2, 2));
    }
}
