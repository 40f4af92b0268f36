//! Handlers that work for a while: what a call may take then.
//!
//! The short ones are asked to take no longer than the handler and 1.2 times the best line without
//! one, both measured in the same rounds. The long ones are compared with a futex pair whose server
//! works as long.

use super::bare::line::Beat;
use super::rows::Measured;
use super::side::Round;

/// The name of the computed limit.
pub const COMPUTED: &str = "handler + 1.2 line";

/// How lines whose server works begin; the others are for the computed limit alone.
pub const WORKING: &str = "working ";

/// What a call may take over a line's trip.
const OVER_LINE: f64 = 1.2;

/// The name of a line whose server works.
pub fn working(beat: Beat) -> String {
    format!("{WORKING}{}", beat.name())
}

/// Adds the computed limit: in each round the handler's time, as measured in it, and the trip of
/// that line without a handler whose median over all rounds is the lowest.
pub fn add_computed(sides: &mut Vec<Measured>, handler_ns: &[f64]) {
    let median = |side: &Measured| {
        let mut values: Vec<f64> = side.rounds.iter().map(Round::p50).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::INFINITY)
    };
    let lines = sides.iter().filter(|side| side.name.starts_with("line"));
    let Some(best) = lines.min_by(|one, other| median(one).total_cmp(&median(other))) else {
        return;
    };
    let allowed =
        |(round, handler): (&Round, &f64)| Round::computed(handler + OVER_LINE * round.p50());
    let rounds = best.rounds.iter().zip(handler_ns).map(allowed).collect();
    sides.push(Measured { name: COMPUTED.to_owned(), rounds });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_line_counts() {
        let side = |name: &str, ns: f64| Measured {
            name: name.to_owned(),
            rounds: vec![Round::computed(ns), Round::computed(ns)],
        };
        let mut sides = vec![
            side("callgate", 1_500.0),
            side("line, 0 pauses", 200.0),
            side("line, fence", 100.0),
        ];
        sides.push(side("working line, fence", 10.0));
        add_computed(&mut sides, &[1_000.0, 2_000.0]);
        let computed = sides.last().unwrap();
        assert_eq!(computed.name, COMPUTED);
        let values: Vec<u64> =
            computed.rounds.iter().map(|round| round.times.value_at_quantile(0.5)).collect();
        assert!((1_119..=1_121).contains(&values[0]), "{values:?}");
        assert!((2_118..=2_122).contains(&values[1]), "{values:?}");
    }
}
