//! What the rounds of a row say: medians, ratios with their intervals, verdicts.
//!
//! Intervals are bootstrap percentile intervals: B. Efron, "Bootstrap methods: another look at the
//! jackknife", Annals of Statistics 7 (1979), 1-26; B. Efron and R. Tibshirani, "An Introduction to
//! the Bootstrap" (1993), section 13.3. Knows nothing of how rounds are measured or shown.

use serde::Serialize;

use super::report::{Goal, Row, Series};

/// How many times the rounds are drawn anew.
const RESAMPLES: usize = 2_000;

/// Resamples cut off at each end; what is left holds 95 % of them.
const TAIL: usize = RESAMPLES / 40;

/// Where the draws begin: the same rounds always give the same interval.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// How far beyond the goal the end of an interval may lie.
pub const TOLERANCE: f64 = 0.03;

/// Fewer rounds can't tell: the lowest and highest of four hold the median in 7 of 8 cases only, so
/// no interval drawn from them is one of 95 %.
pub const ROUNDS_MIN: usize = 5;

/// An estimate, and the ends of its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// From the rounds as they were; never outside of the ends.
    pub estimate: f64,
    /// The upper end.
    pub high: f64,
}

/// Whether a goal is reached. The order is that of a growing ratio where a goal is `at_most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Reached, at the worse end of the interval too.
    Holds,
    /// The interval is too wide, or the rounds are too few.
    Unclear,
    /// Missed, at the better end of the interval too.
    Short,
}

/// What a row says.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// Median of callgate's rounds.
    pub callgate: f64,
    /// The best limit, and the median of its rounds.
    pub best: Option<(&'a Series, f64)>,
    /// callgate over the best limit.
    pub ratio: Option<Interval>,
    /// None for figures without a goal.
    pub verdict: Option<Verdict>,
}

/// The middle value, or the mean of the two in the middle; NaN when there is none.
pub fn median(values: &[f64]) -> f64 {
    median_of(&mut values.to_vec())
}

/// Whether more is better, for figures with and without a goal.
pub fn more_is_better(row: &Row) -> bool {
    match row.goal {
        Some(Goal::AtLeast(_)) => true,
        Some(Goal::AtMost(_) | Goal::Absolute(_)) => false,
        None => row.unit.ends_with("/s") || row.figure == "share",
    }
}

/// Judges a row.
pub fn judge(row: &Row) -> Judged<'_> {
    let callgate = median(&row.callgate.rounds);
    let more = more_is_better(row);
    let medians = row.limits.iter().map(|limit| (limit, median(&limit.rounds)));
    let best = medians.reduce(|one, two| if better(two.1, one.1, more) { two } else { one });
    let ratio = best.map(|_| paired(&row.callgate, &row.limits, more));
    let verdict = row.goal.map(|goal| match (goal, ratio) {
        (Goal::Absolute(most), _) if callgate <= most => Verdict::Holds,
        (Goal::Absolute(_), _) => Verdict::Short,
        (_, Some(ratio)) if row.callgate.rounds.len() >= ROUNDS_MIN => verdict(goal, ratio),
        _ => Verdict::Unclear,
    });
    Judged { callgate, best, ratio, verdict }
}

/// What an interval says of a goal; an absolute one is compared with the interval as it is.
pub fn verdict(goal: Goal, ratio: Interval) -> Verdict {
    let (holds, short) = match goal {
        Goal::AtMost(most) => (ratio.high <= most + TOLERANCE, ratio.low > most + TOLERANCE),
        Goal::AtLeast(least) => (ratio.low >= least - TOLERANCE, ratio.high < least - TOLERANCE),
        Goal::Absolute(most) => (ratio.high <= most, ratio.low > most),
    };
    match (holds, short) {
        (true, _) => Verdict::Holds,
        (_, true) => Verdict::Short,
        _ => Verdict::Unclear,
    }
}

/// callgate's median over the best limit's, with paired rounds.
///
/// A round is drawn as a whole, for all series at once, so that what slows everything in a round
/// cancels out. The best limit is chosen anew in each resample: which one is best is a finding of
/// the same rounds, and holding it fixed would make two limits that lie close together look more
/// certain than they are. What error the choice brings, it brings against callgate: the lowest of
/// several noisy medians is rather too low.
fn paired(callgate: &Series, limits: &[Series], more: bool) -> Interval {
    let limits: Vec<&[f64]> = limits.iter().map(|limit| limit.rounds.as_slice()).collect();
    let shortest = limits.iter().map(|rounds| rounds.len()).min().unwrap_or(0);
    let rounds = shortest.min(callgate.rounds.len());
    let mut buffer = Vec::with_capacity(rounds);
    let mut ratio = |drawn: &[usize]| {
        let mut of = |series: &[f64]| {
            buffer.clear();
            buffer.extend(drawn.iter().map(|&round| series[round]));
            median_of(&mut buffer)
        };
        let own = of(&callgate.rounds);
        let medians = limits.iter().map(|limit| of(limit));
        let best = medians.reduce(|one, two| if better(two, one, more) { two } else { one });
        over(own, best.unwrap_or(f64::NAN))
    };
    let all: Vec<usize> = (0..rounds).collect();
    let estimate = ratio(&all);
    let mut random = Random(SEED);
    let mut drawn = all;
    interval(estimate, || {
        drawn.iter_mut().for_each(|index| *index = random.below(rounds));
        ratio(&drawn)
    })
}

/// The median of `new` over that of `old`, two series of different runs: each is drawn by itself.
pub fn unpaired(new: &[f64], old: &[f64]) -> Interval {
    let mut random = Random(SEED);
    let mut buffer = Vec::new();
    let mut draw = |series: &[f64]| {
        buffer.clear();
        buffer.extend((0..series.len()).map(|_| series[random.below(series.len())]));
        median_of(&mut buffer)
    };
    interval(over(median(new), median(old)), || {
        let new = draw(new);
        over(new, draw(old))
    })
}

/// The middle 95 % of what `resample` gives, widened where the estimate itself lies outside.
fn interval(estimate: f64, resample: impl FnMut() -> f64) -> Interval {
    let mut ratios: Vec<f64> = std::iter::repeat_with(resample).take(RESAMPLES).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    let (low, high) = (ratios[TAIL - 1], ratios[RESAMPLES - TAIL]);
    Interval { low: low.min(estimate), estimate, high: high.max(estimate) }
}

fn better(one: f64, two: f64, more: bool) -> bool {
    if more { one > two } else { one < two }
}

/// A ratio in which nothing over nothing is one, as with CPU time that nobody used.
fn over(one: f64, two: f64) -> f64 {
    if one == two { 1.0 } else { one / two }
}

fn median_of(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

/// Marsaglia's xorshift with Vigna's multiplier (xorshift64*); never zero.
struct Random(u64);

impl Random {
    /// A number below `bound`; the bias of one in 2^64 does not matter here.
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(number) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::synthetic::{noisy, row, series};
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[5.0, 1.0, 9.0]), 5.0);
        assert_eq!(median(&[5.0, 1.0, 9.0, 7.0]), 6.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn draws_are_even() {
        let mut random = Random(SEED);
        let mut counts = [0; 10];
        (0..100_000).for_each(|_| counts[random.below(10)] += 1);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_best_limit_is_compared_with() {
        let limits = || vec![series("a", &[200.0; 9]), series("b", &[100.0; 9])];
        let lower = row("x", "p50", &[110.0; 9], limits(), Some(Goal::AtMost(1.2)));
        let judged = judge(&lower);
        assert_eq!(judged.best.unwrap().0.name, "b");
        assert_eq!(judged.ratio, Some(Interval { low: 1.1, estimate: 1.1, high: 1.1 }));
        assert_eq!(judged.verdict, Some(Verdict::Holds));
        let higher = row("x", "calls/s", &[110.0; 9], limits(), Some(Goal::AtLeast(0.8)));
        let judged = judge(&higher);
        assert_eq!(judged.best.unwrap().0.name, "a");
        assert_eq!(judged.verdict, Some(Verdict::Short));
    }

    #[test]
    fn what_slows_a_whole_round_cancels_out() {
        let slow = [1.0, 1.5, 0.8, 3.0, 1.2, 0.9, 2.0, 1.1, 1.0];
        let scaled = |by: f64| slow.map(|factor| factor * by);
        let limits = vec![series("limit", &scaled(100.0))];
        let wide = unpaired(&scaled(110.0), &scaled(100.0));
        let judged = row("x", "p50", &scaled(110.0), limits, Some(Goal::AtMost(1.2)));
        let ratio = judge(&judged).ratio.unwrap();
        assert!(ratio.high - ratio.low < 1e-9, "{ratio:?}");
        assert!(wide.high - wide.low > 0.3, "{wide:?}");
    }

    #[test]
    fn intervals_cover_what_they_should() {
        // With 15 rounds of 10 % noise each, the true ratio must be inside in 95 of 100 cases
        // at least, and not in all, which would be too wide. It is in 392 of 400.
        let inside = (0..400).filter(|seed| {
            let own = series("callgate", &noisy(120.0, 0.1, 15, 2 * seed));
            let limit = series("limit", &noisy(100.0, 0.1, 15, 2 * seed + 1));
            let ratio = paired(&own, &[limit], false);
            ratio.low <= 1.2 && 1.2 <= ratio.high
        });
        let inside = inside.count();
        assert!((380..=398).contains(&inside), "{inside} of 400");
    }

    #[test]
    fn few_rounds_can_not_tell() {
        let with = |rounds: usize| {
            let limits = vec![series("limit", &vec![100.0; rounds])];
            row("x", "p50", &vec![50.0; rounds], limits, Some(Goal::AtMost(1.0)))
        };
        assert_eq!(judge(&with(ROUNDS_MIN - 1)).verdict, Some(Verdict::Unclear));
        assert_eq!(judge(&with(ROUNDS_MIN)).verdict, Some(Verdict::Holds));
    }

    #[test]
    fn absolute_goals_need_no_limit() {
        let idle = |used: f64| row("idle", "cpu", &[used], vec![], Some(Goal::Absolute(0.0)));
        assert_eq!(judge(&idle(0.0)).verdict, Some(Verdict::Holds));
        assert_eq!(judge(&idle(1.0)).verdict, Some(Verdict::Short));
        assert!(judge(&idle(1.0)).ratio.is_none());
    }

    #[test]
    fn nothing_over_nothing_is_one() {
        assert_eq!(over(0.0, 0.0), 1.0);
        assert_eq!(over(1.0, 0.0), f64::INFINITY);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn intervals_hold_the_estimate(
            rounds in prop::collection::vec((1.0..1e9, 1.0..1e9, 1.0..1e9), 1..12),
            more: bool,
        ) {
            let own: Vec<f64> = rounds.iter().map(|round| round.0).collect();
            let one: Vec<f64> = rounds.iter().map(|round| round.1).collect();
            let two: Vec<f64> = rounds.iter().map(|round| round.2).collect();
            let limits = [series("one", &one), series("two", &two)];
            let best = if more { median(&one).max(median(&two)) } else { median(&one).min(median(&two)) };
            let ratio = paired(&series("callgate", &own), &limits, more);
            prop_assert_eq!(ratio.estimate, median(&own) / best);
            prop_assert!(ratio.low <= ratio.estimate && ratio.estimate <= ratio.high);
            let ratio = unpaired(&own, &one);
            prop_assert!(ratio.low <= ratio.estimate && ratio.estimate <= ratio.high);
        }

        #[test]
        fn verdicts_follow_the_interval(
            low in 0.1..3.0f64, up in 0.0..1.0f64, wide in 0.0..1.0f64, goal in 0.1..3.0f64,
        ) {
            let at = |low: f64| Interval { low, estimate: low, high: low + wide };
            let (one, two) = (at(low), at(low + up));
            prop_assert!(verdict(Goal::AtMost(goal), one) <= verdict(Goal::AtMost(goal), two));
            prop_assert!(verdict(Goal::AtLeast(goal), one) >= verdict(Goal::AtLeast(goal), two));
            prop_assert!(verdict(Goal::AtMost(goal), one) >= verdict(Goal::AtMost(goal + up), one));
        }
    }
}
