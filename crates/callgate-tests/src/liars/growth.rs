//! Whether a process grows: samples at rest, and the slope through them.

use crate::usage::Usage;

/// What one process used, sample after sample.
#[derive(Default)]
pub struct Growth {
    samples: Vec<Usage>,
}

/// Samples before which nothing is judged: allocators and caches fill.
const LEAST: usize = 6;

impl Growth {
    /// Takes a sample.
    pub fn add(&mut self, usage: Usage) {
        self.samples.push(usage);
    }

    /// How many were taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether none was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// What was found, in words, and whether that is growth. The first third is warm-up.
    ///
    /// Judged is the growth over the rest by the median of the slopes between its samples: a whole descriptor, thread or
    /// shared mapping; more than 8 other mappings, which the allocator makes; or more than 1 MiB and 5 % of memory.
    #[must_use]
    pub fn judge(&self) -> (String, bool) {
        let rest = &self.samples[self.samples.len() / 3..];
        let (Some(first), Some(last)) = (rest.first(), rest.last()) else {
            return ("no samples".into(), false);
        };
        let grown = |what: fn(&Usage) -> usize| grown(rest, what);
        let (fds, threads) = (grown(|u| u.fds), grown(|u| u.threads));
        let (shared, maps) = (grown(|u| u.shared), grown(|u| u.maps));
        let rss_kib = grown(|u| u.rss_kib);
        let rss_max_kib = (first.rss_kib as f64 / 20.0).max(1_024.0);
        let grows = rest.len() >= LEAST
            && (fds >= 1.0
                || threads >= 1.0
                || shared >= 1.0
                || maps > 8.0
                || rss_kib > rss_max_kib);
        let text = format!(
            "{} samples at rest; growth by slope: fds {fds:.1}, threads {threads:.1}, shared maps {shared:.1}, \
             maps {maps:.1}, RSS {rss_kib:.0} KiB; last: {} fds, {} threads, {} shared of {} maps, {} KiB",
            rest.len(),
            last.fds,
            last.threads,
            last.shared,
            last.maps,
            last.rss_kib
        );
        (text, grows)
    }
}

/// The median of all slopes between two samples, times the number of steps.
fn grown(samples: &[Usage], what: fn(&Usage) -> usize) -> f64 {
    // Long runs have thousands of samples: some hundred of them tell the same.
    let step = samples.len().div_ceil(300).max(1);
    let values: Vec<f64> = samples.iter().step_by(step).map(|usage| what(usage) as f64).collect();
    let mut slopes = Vec::new();
    for (at, a) in values.iter().enumerate() {
        for (steps, b) in values[at..].iter().enumerate().skip(1) {
            slopes.push((b - a) / steps as f64);
        }
    }
    slopes.sort_by(f64::total_cmp);
    let median = slopes.get(slopes.len() / 2).copied().unwrap_or(0.0);
    median * values.len().saturating_sub(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(step_kib: usize, fds: usize) -> Growth {
        let mut growth = Growth::default();
        for at in 0..30 {
            let rss_kib = 10_000 + at * step_kib + at * 7_919 % 300;
            growth.add(Usage { fds: 10 + fds * at, threads: 3, shared: 4, maps: 50, rss_kib });
        }
        growth
    }

    #[test]
    fn growth_is_told_from_noise() {
        assert!(!growth(0, 0).judge().1, "{}", growth(0, 0).judge().0);
        assert!(growth(100, 0).judge().1, "{}", growth(100, 0).judge().0);
        assert!(growth(0, 1).judge().1);
    }
}
