//! The rounds of a situation: its sides take turns, and what is unclear gets more of them.

use std::time::{Duration, Instant};

use super::effort::Effort;
use super::moods::steady;
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

/// What was measured in a situation.
pub struct Found {
    /// callgate, then the limits.
    pub sides: Vec<Measured>,
    /// What a bare line took in each round, in nanoseconds; `None` where that changed meanwhile.
    /// Empty where nobody looked.
    pub line_ns: Vec<Option<f64>>,
}

/// How long a trip of a bare line takes at this moment; `None` where there are no two CPUs.
pub type Look<'a> = &'a mut dyn FnMut() -> Result<Option<f64>, Failure>;

/// Measures the planned rounds of all sides. While `unclear` says so, measures half as many again,
/// up to the effort's bound and the allowance.
///
/// Before and after each side `look` looks. A round in which that changed is thrown away and repeated;
/// at most half as many as planned are, and those that change beyond that have no `line_ns`.
///
/// `each_round` is told the number of each round before it begins.
///
/// # Errors
/// When a side fails.
pub fn measure(
    sides: &mut [Box<dyn Side>],
    effort: Effort,
    allowance: &mut Allowance,
    look: Look<'_>,
    each_round: &mut dyn FnMut(usize),
    unclear: &mut dyn FnMut(&Found) -> bool,
) -> Result<Found, Failure> {
    let mut found = Found { sides: Vec::new(), line_ns: Vec::new() };
    for side in &*sides {
        found.sides.push(Measured { name: side.name().to_owned(), rounds: Vec::new() });
    }
    let mut repeats = effort.rounds / 2;
    let mut done = 0;
    let mut wanted = effort.rounds;
    loop {
        let begun = Instant::now();
        for round in done..wanted {
            let looks = loop {
                each_round(round);
                let looks = turns(sides, round, effort, look, &mut found.sides)?;
                if looks.is_empty() || steady(&looks).is_some() || repeats == 0 {
                    break looks;
                }
                repeats -= 1;
                for side in &mut found.sides {
                    side.rounds.pop();
                }
            };
            if !looks.is_empty() {
                found.line_ns.push(steady(&looks));
            }
        }
        if done > 0 {
            allowance.0 = allowance.0.saturating_sub(begun.elapsed());
        }
        done = wanted;
        wanted = (done + effort.rounds.div_ceil(2)).min(effort.rounds_max);
        if wanted <= done || allowance.0.is_zero() || !unclear(&found) {
            return Ok(found);
        }
    }
}

/// One round of each side; who goes first alternates. Returns the looks before and after each.
fn turns(
    sides: &mut [Box<dyn Side>],
    round: usize,
    effort: Effort,
    look: Look<'_>,
    all: &mut [Measured],
) -> Result<Vec<f64>, Failure> {
    let Effort { discard, time, untimed, least, gap, .. } = effort;
    let pace = Pace { discard, time, untimed, least, gap, ..Pace::default() };
    let mut order: Vec<usize> = (0..sides.len()).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    let mut looks: Vec<f64> = look()?.into_iter().collect();
    for index in order {
        let side = &mut sides[index];
        let measured = side.round(pace).map_err(|failure| failure.of(side.name()))?;
        all[index].rounds.push(measured);
        std::thread::sleep(SETTLE);
        looks.extend(look()?);
    }
    Ok(looks)
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

    fn sides() -> Vec<Box<dyn Side>> {
        vec![Box::new(Counting("one")), Box::new(Counting("two"))]
    }

    fn rounds(effort: Effort, allowance: Duration, unclear: bool) -> Result<usize, Failure> {
        let mut told = 0;
        let found = measure(
            &mut sides(),
            effort,
            &mut Allowance(allowance),
            &mut || Ok(None),
            &mut |round| told = round + 1,
            &mut |_| unclear,
        )?;
        assert!(found.sides.iter().all(|side| side.rounds.len() == told));
        assert!(found.line_ns.is_empty());
        Ok(told)
    }

    #[test]
    fn rounds_in_which_the_mood_changes_come_again_a_few_times() {
        let effort = Effort { rounds: 6, rounds_max: 6, ..Situation::OneCpu.effort(false) };
        let with = |look: &mut dyn FnMut(u32) -> f64| {
            let (mut looks, mut told) = (0, Vec::new());
            let mut look = || {
                looks += 1;
                Ok(Some(look(looks)))
            };
            let mut allowance = Allowance(Duration::ZERO);
            let each = &mut |round| told.push(round);
            let unclear = &mut |_: &Found| false;
            let mut sides = sides();
            let found =
                measure(&mut sides, effort, &mut allowance, &mut look, each, unclear).unwrap();
            assert!(found.sides.iter().all(|side| side.rounds.len() == 6));
            (told, found.line_ns)
        };
        // Three looks a round: the second round sees a change, and the third is on the other side.
        let (told, line_ns) = with(&mut |look| if look <= 4 { 70.0 } else { 310.0 });
        assert_eq!(told, [0, 1, 1, 2, 3, 4, 5]);
        assert_eq!(line_ns[..2], [Some(70.0), Some(310.0)]);
        let (told, line_ns) = with(&mut |look| if look % 2 == 0 { 70.0 } else { 310.0 });
        assert_eq!(told, [0, 0, 0, 0, 1, 2, 3, 4, 5]);
        assert_eq!(line_ns, [None; 6]);
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
