//! Whether anything grows: straight lines through what survivors used, from look to look.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What one look found.
pub struct Sample {
    pub seconds: f64,
    pub rss_kib: f64,
    pub live: f64,
    pub fds: f64,
    pub threads: f64,
    pub shared: f64,
    pub longest_ms: f64,
}

const LANES: usize = 16;
const KINDS: usize = 6;
/// What is looked at, and what may be measured as its growth, from the first to the last look, where there is none:
/// memory that the allocator keeps, and tables. Of times a line says nothing; they have tenths of their own.
const MOST: [(&str, f64); KINDS] = [
    ("allocated bytes", 64.0 * 1024.0),
    ("descriptors", 0.5),
    ("threads", 0.5),
    ("shared mappings", 0.5),
    ("KiB resident", 16.0 * 1024.0),
    ("ms of the longest call of others", f64::INFINITY),
];

/// Sums for least squares, by lane and kind, in shared memory.
pub struct Slopes {
    sums: [[[AtomicU64; 5]; KINDS]; LANES],
}

impl Slopes {
    /// Takes a sample in. One lane is one process, so nobody else writes there.
    pub fn add(&self, lane: usize, sample: Sample) {
        let x = sample.seconds;
        let Sample { live, fds, threads, shared, rss_kib, longest_ms, .. } = sample;
        let values = [live, fds, threads, shared, rss_kib, longest_ms];
        for (sums, y) in self.sums[lane % LANES].iter().zip(values) {
            for (sum, more) in sums.iter().zip([1.0, x, y, x * x, x * y]) {
                let now = f64::from_bits(sum.load(Relaxed)) + more;
                sum.store(now.to_bits(), Relaxed);
            }
        }
    }

    /// The steepest slopes of all lanes in words, for an hour, and whether what must be flat is.
    pub fn tell(&self) -> (String, bool) {
        let mut steepest = [0.0f64; KINDS];
        let mut grown = [0.0f64; KINDS];
        for lane in &self.sums {
            for (kind, sums) in lane.iter().enumerate() {
                let [n, x, y, xx, xy] =
                    [0, 1, 2, 3, 4].map(|at| f64::from_bits(sums[at].load(Relaxed)));
                let spread = n * xx - x * x;
                if n < 3.0 || spread <= 0.0 {
                    continue;
                }
                let slope = (n * xy - x * y) / spread;
                // Over the time that was looked at: that of a uniform spread has this width.
                let width = (12.0 * spread).sqrt() / n;
                if slope.abs() > steepest[kind].abs() {
                    steepest[kind] = slope;
                }
                grown[kind] = grown[kind].max(slope * width);
            }
        }
        let words = |numbers: &[f64]| {
            let words = numbers.iter().zip(MOST).map(|(n, (what, _))| format!("{n:.2} {what}"));
            words.collect::<Vec<_>>().join(", ")
        };
        let hour = steepest.map(|slope| slope * 3_600.0);
        let text = format!(
            "steepest slopes of survivors an hour: {}; grown in all by {}",
            words(&hour),
            words(&grown[..KINDS - 1]),
        );
        let steady = MOST.iter().zip(grown).all(|((_, most), grown)| grown <= *most);
        (text, steady)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slopes() -> Box<Slopes> {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Box::new(Slopes { sums: std::array::from_fn(|_| std::array::from_fn(|_| zeros())) })
    }

    fn sample(seconds: f64, live: f64) -> Sample {
        Sample {
            seconds,
            rss_kib: 4_000.0,
            live,
            fds: 10.0,
            threads: 4.0,
            shared: 2.0,
            longest_ms: 1.0,
        }
    }

    #[test]
    fn growth_is_seen_and_noise_is_not() {
        let flat = slopes();
        (0..100).for_each(|at| flat.add(1, sample(f64::from(at), 1e6 + f64::from(at % 3))));
        assert!(flat.tell().1, "{}", flat.tell().0);
        let steep = slopes();
        (0..100).for_each(|at| steep.add(1, sample(f64::from(at), 1e6 + 1e4 * f64::from(at))));
        let (text, steady) = steep.tell();
        assert!(!steady && text.contains("36000000.00 allocated bytes"), "{text}");
        assert!(text.contains("grown in all by 9"), "{text}");
    }
}
