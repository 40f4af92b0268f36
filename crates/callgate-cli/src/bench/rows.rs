//! From measured rounds to the rows of the report.

use hdrhistogram::Histogram;

use super::asks::{Against, Ask, Figure};
use super::report::{Row, Series};
use super::sample::histogram;
use super::side::Round;

/// All rounds of one side.
pub struct Measured {
    /// Its name in tables.
    pub name: String,
    /// One entry a round; those of all sides of a situation are pairs.
    pub rounds: Vec<Round>,
}

/// Percentiles that are kept for plots.
const PERCENTILES: [f64; 11] = [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0];

/// Makes a situation's rows; the first side is callgate.
///
/// `line_ns` is what the bare line took in each round.
pub fn rows(
    situation: &str,
    asks: &[Ask],
    sides: &[&Measured],
    line_ns: &[Option<f64>],
) -> Vec<Row> {
    let Some((callgate, limits)) = sides.split_first() else { return Vec::new() };
    let row = |ask: &Ask| Row {
        situation: situation.to_owned(),
        figure: ask.figure.name().to_owned(),
        unit: ask.figure.unit().to_owned(),
        callgate: series(callgate, ask.figure),
        limits: against(ask, limits, callgate.rounds.len()),
        goal: ask.goal,
        line_ns: line_ns.to_vec(),
    };
    asks.iter().map(row).collect()
}

fn against(ask: &Ask, limits: &[&Measured], rounds: usize) -> Vec<Series> {
    let (mut against, start) = match ask.against {
        Against::All => (Vec::new(), ""),
        Against::Named(start) => (Vec::new(), start),
        Against::Even => (vec![plain("even", vec![1.0; rounds])], ""),
    };
    let wanted = limits.iter().filter(|limit| limit.name.starts_with(start));
    against.extend(wanted.map(|limit| series(limit, ask.figure)));
    against
}

/// A series without percentiles.
pub fn plain(name: &str, rounds: Vec<f64>) -> Series {
    Series { name: name.to_owned(), rounds, percentiles: Vec::new(), max_ns: None }
}

fn series(side: &Measured, figure: Figure) -> Series {
    let rounds = side.rounds.iter().map(|round| value(round, figure)).collect();
    let mut series = plain(&side.name, rounds);
    let mut all = histogram();
    for round in &side.rounds {
        // All histograms here have the same bounds.
        let _ = all.add(&round.times);
    }
    let latency = matches!(
        figure,
        Figure::P50 | Figure::P50BesideLine | Figure::P99 | Figure::P999 | Figure::Max
    );
    if latency && all.len() > side.rounds.len() as u64 {
        series.max_ns = Some(all.max() as f64);
        // Once for each situation and kind of limits is enough.
        if matches!(figure, Figure::P50 | Figure::P50BesideLine) {
            series.percentiles = percentiles(&all);
        }
    }
    series
}

fn percentiles(all: &Histogram<u64>) -> Vec<(f64, f64)> {
    let at = |percentile: f64| match percentile {
        0.0 => all.min(),
        _ => all.value_at_percentile(percentile),
    };
    PERCENTILES.iter().map(|percentile| (*percentile, at(*percentile) as f64)).collect()
}

fn value(round: &Round, figure: Figure) -> f64 {
    let quantile = |quantile| round.times.value_at_quantile(quantile) as f64;
    match figure {
        Figure::P50 | Figure::P50BesideLine => round.p50(),
        Figure::P99 => quantile(0.99),
        Figure::P999 => quantile(0.999),
        Figure::Max => round.times.max() as f64,
        Figure::Mean => round.mean.unwrap_or_else(|| round.times.mean()),
        Figure::Cpu => round.cpu,
        Figure::Rate | Figure::RateBesideBatches => round.rate,
        Figure::Share => round.share,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::Situation;
    use crate::bench::sample::Sample;

    fn measured(name: &str, ns: u64) -> Measured {
        let sample =
            Sample { pairs: vec![(ns, 99), (10 * ns, 1)], trips: 100, ..Sample::default() };
        Measured {
            name: name.to_owned(),
            rounds: vec![Round::of(std::slice::from_ref(&sample)); 2],
        }
    }

    #[test]
    fn rows_hold_both_sides_of_each_round() {
        let sides = [measured("callgate", 200), measured("futex", 100), measured("pipe", 400)];
        let sides: Vec<&Measured> = sides.iter().collect();
        let gap = Situation::Gap(std::time::Duration::from_millis(1));
        let rows = rows("gap/1ms", &gap.asks(), &sides, &[Some(80.0), None]);
        let row = |figure: &str| rows.iter().find(|row| row.figure == figure).unwrap();
        let near = |rounds: &[f64], ns: f64| rounds.iter().all(|round| (round - ns).abs() < 1.0);
        assert!(row("p50").callgate.rounds.len() == 2 && near(&row("p50").callgate.rounds, 200.0));
        assert_eq!(row("p50").limits.len(), 2);
        assert!(near(&row("p50").limits[0].rounds, 100.0));
        assert_eq!(row("p50").callgate.percentiles[3], (50.0, 200.0));
        assert_eq!(row("p50").callgate.percentiles.len(), 11);
        assert!(row("p99").callgate.percentiles.is_empty());
        assert!(row("p99").callgate.max_ns.unwrap() >= 2_000.0);
        assert!(rows.iter().all(|row| row.line_ns == [Some(80.0), None]));
        assert_eq!(row("cpu").limits.len(), 1);
        assert!(row("cpu").callgate.max_ns.is_none());
    }

    #[test]
    fn a_share_is_compared_with_an_even_one() {
        let asks = Situation::Crowd { clients: 2, loaded: false }.asks();
        let rows = rows("crowd/2", &asks, &[&measured("callgate", 5), &measured("futex", 5)], &[]);
        let share = rows.iter().find(|row| row.figure == "share").unwrap();
        assert_eq!(
            (share.limits[0].name.as_str(), &share.limits[0].rounds[..]),
            ("even", &[1.0, 1.0][..])
        );
    }
}
