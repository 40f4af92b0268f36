//! Handlers that work for a while: what a call may take then.
//!
//! The short ones are asked to take no longer than the handler and 1.2 times the best line without
//! one, both measured in the same rounds. The long ones are compared with a futex pair whose server
//! works as long.

use super::bare::line::Beat;
use super::rows::Measured;
use super::side::Round;

/// How the computed limits begin.
pub const COMPUTED: &str = "handler + 1.2 ";

/// How lines whose server works begin; the others are for the computed limit alone.
pub const WORKING: &str = "working ";

/// What a call may take over a line's trip.
const OVER_LINE: f64 = 1.2;

/// The name of a line whose server works.
pub fn working(beat: Beat) -> String {
    format!("{WORKING}{}", beat.name())
}

/// The computed limits, one for each line without a handler: in each round the handler's time, as
/// measured in it, and the trip of that line. None where no handler's time was measured.
pub fn computed(sides: &[Measured], handler_ns: &[f64]) -> Vec<Measured> {
    if handler_ns.is_empty() {
        return Vec::new();
    }
    let allowed =
        |(round, handler): (&Round, &f64)| Round::computed(handler + OVER_LINE * round.p50());
    let lines = sides.iter().filter(|side| side.name.starts_with("line"));
    let computed = |line: &Measured| Measured {
        name: format!("{COMPUTED}{}", line.name),
        rounds: line.rounds.iter().zip(handler_ns).map(allowed).collect(),
    };
    lines.map(computed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_counts() {
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
        assert!(computed(&sides, &[]).is_empty());
        let computed = computed(&sides, &[1_000.0, 2_000.0]);
        let names: Vec<&str> = computed.iter().map(|side| side.name.as_str()).collect();
        assert_eq!(names, ["handler + 1.2 line, 0 pauses", "handler + 1.2 line, fence"]);
        let values: Vec<u64> =
            computed[1].rounds.iter().map(|round| round.times.value_at_quantile(0.5)).collect();
        assert!((1_119..=1_121).contains(&values[0]), "{values:?}");
        assert!((2_118..=2_122).contains(&values[1]), "{values:?}");
    }
}
