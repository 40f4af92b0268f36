//! Handlers that work for a while: what a call may take then.
//!
//! The short ones are asked to take no longer than the handler and 1.2 times the best line without
//! one, both measured in the same rounds. The long ones are compared with a futex pair whose server
//! works as long.

use super::bare::line::Beat;
use super::rows::Measured;
use super::side::Round;
use super::stats::median;

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

/// The computed limit: in each round the handler's time, as measured in it, and the trip of that
/// line without a handler whose median over all rounds is the lowest. None where no handler's
/// time was measured.
pub fn computed(sides: &[Measured], handler_ns: &[f64]) -> Option<Measured> {
    if handler_ns.is_empty() {
        return None;
    }
    let median = |side: &Measured| median(&side.rounds.iter().map(Round::p50).collect::<Vec<_>>());
    let lines = sides.iter().filter(|side| side.name.starts_with("line"));
    let best = lines.min_by(|one, other| median(one).total_cmp(&median(other)))?;
    let allowed =
        |(round, handler): (&Round, &f64)| Round::computed(handler + OVER_LINE * round.p50());
    let rounds = best.rounds.iter().zip(handler_ns).map(allowed).collect();
    Some(Measured { name: COMPUTED.to_owned(), rounds })
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
        assert!(super::computed(&sides, &[]).is_none());
        let computed = computed(&sides, &[1_000.0, 2_000.0]).unwrap();
        assert_eq!(computed.name, COMPUTED);
        let values: Vec<u64> =
            computed.rounds.iter().map(|round| round.times.value_at_quantile(0.5)).collect();
        assert!((1_119..=1_121).contains(&values[0]), "{values:?}");
        assert!((2_118..=2_122).contains(&values[1]), "{values:?}");
    }
}
