//! The rounds of a situation: its sides take turns, and what is unclear gets more of them.

use std::time::{Duration, Instant};

use super::effort::Effort;
use super::rows::Measured;
use super::sample::Pace;
use super::side::Side;
use crate::exit::Failure;

/// Between two sides' rounds: what polls a little after its last call is not to be met by the next
/// side.
const SETTLE: Duration = Duration::from_millis(2);

/// How much longer a whole run may take for rounds beyond the planned ones.
#[derive(Debug)]
pub struct Allowance(pub Duration);

/// Measures the planned rounds of all sides. While `unclear` says so, measures half as many again,
/// up to the effort's bound and the allowance.
///
/// `each_round` is told the number of each round before it begins.
///
/// # Errors
/// When a side fails.
pub fn measure(
    sides: &mut [Box<dyn Side>],
    effort: Effort,
    allowance: &mut Allowance,
    each_round: &mut dyn FnMut(usize),
    unclear: &mut dyn FnMut(&[Measured]) -> bool,
) -> Result<Vec<Measured>, Failure> {
    let mut all = Vec::new();
    for side in &*sides {
        all.push(Measured { name: side.name().to_owned(), rounds: Vec::new() });
    }
    let mut done = 0;
    let mut wanted = effort.rounds;
    loop {
        let begun = Instant::now();
        for round in done..wanted {
            each_round(round);
            turns(sides, round, effort, &mut all)?;
        }
        if done > 0 {
            allowance.0 = allowance.0.saturating_sub(begun.elapsed());
        }
        done = wanted;
        wanted = (done + effort.rounds.div_ceil(2)).min(effort.rounds_max);
        if wanted <= done || allowance.0.is_zero() || !unclear(&all) {
            return Ok(all);
        }
    }
}

/// One round of each side; who goes first alternates.
fn turns(
    sides: &mut [Box<dyn Side>],
    round: usize,
    effort: Effort,
    all: &mut [Measured],
) -> Result<(), Failure> {
    let Effort { discard, time, untimed, least, gap, .. } = effort;
    let pace = Pace { discard, time, untimed, least, gap, ..Pace::default() };
    let mut order: Vec<usize> = (0..sides.len()).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    for index in order {
        let side = &mut sides[index];
        let measured = side.round(pace).map_err(|failure| failure.of(side.name()))?;
        all[index].rounds.push(measured);
        std::thread::sleep(SETTLE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::Situation;
    use crate::bench::side::Round;

    struct Counting(&'static str);

    impl Side for Counting {
        fn name(&self) -> &str {
            self.0
        }

        fn round(&mut self, pace: Pace) -> Result<Round, Failure> {
            if pace.least == 0 { Err(Failure::internal("gone")) } else { Ok(Round::computed(1.0)) }
        }
    }

    fn rounds(effort: Effort, allowance: Duration, unclear: bool) -> Result<usize, Failure> {
        let mut sides: Vec<Box<dyn Side>> =
            vec![Box::new(Counting("one")), Box::new(Counting("two"))];
        let mut told = 0;
        let measured = measure(
            &mut sides,
            effort,
            &mut Allowance(allowance),
            &mut |round| told = round + 1,
            &mut |_| unclear,
        )?;
        assert!(measured.iter().all(|side| side.rounds.len() == told));
        Ok(told)
    }

    #[test]
    fn the_unclear_get_more_rounds_up_to_a_bound() {
        let effort = Effort { rounds: 4, rounds_max: 9, ..Situation::OneCpu.effort(false) };
        let long = Duration::from_secs(60);
        assert_eq!(rounds(effort, long, false).unwrap(), 4);
        assert_eq!(rounds(effort, long, true).unwrap(), 9);
        assert_eq!(rounds(effort, Duration::ZERO, true).unwrap(), 4);
        assert_eq!(rounds(effort, Duration::from_nanos(1), true).unwrap(), 6);
    }

    #[test]
    fn failures_say_whose_they_are() {
        let effort = Effort { least: 0, ..Situation::OneCpu.effort(true) };
        let failure = rounds(effort, Duration::ZERO, false).unwrap_err();
        assert_eq!(failure.message, "one: gone");
    }
}
