//! Measured times: what they are collected in, and what measuring costs.

use std::time::Instant;

use hdrhistogram::Histogram;

/// Makes an empty histogram of nanoseconds up to five minutes, exact to three digits.
pub fn histogram() -> Histogram<u64> {
    // Fails only for bounds and digits other than these.
    Histogram::new_with_bounds(1, 300_000_000_000, 3).expect("constant bounds are valid")
}

/// What reading the clock twice costs, in nanoseconds: the median over many pairs.
///
/// Every timed round trip holds about this much of the clock's own time.
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
