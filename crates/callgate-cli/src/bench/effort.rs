//! How much is measured in each situation, in a quick run and in a full one.

use std::time::Duration;

use super::plan::Situation;

/// How much is measured in a situation.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds.
    pub rounds: usize,
    /// Rounds at the most, where fewer leave it unclear whether a goal is reached.
    pub rounds_max: usize,
    /// Calls that each round throws away first, on all sides.
    pub discard: u64,
    /// How long each side's calls are timed in a round.
    pub time: Duration,
    /// How long they go on without a clock.
    pub untimed: Duration,
    /// Calls at the least.
    pub least: u64,
    /// From the begin of one call to the next.
    pub gap: Duration,
}

/// How many times as many rounds an unclear situation gets at the most.
const MORE: usize = 3;

impl Situation {
    /// How much is measured. Quick runs have no more rounds than planned.
    pub fn effort(self, quick: bool) -> Effort {
        let planned = self.planned(quick);
        let rounds_max = if quick { planned.rounds } else { MORE * planned.rounds };
        Effort { rounds_max, ..planned }
    }

    /// With a median there is no interval of 95 % of fewer than 5 rounds.
    fn planned(self, quick: bool) -> Effort {
        let pick = |short: u64, long: u64| if quick { short } else { long };
        let busy = Effort {
            rounds: pick(6, 24) as usize,
            rounds_max: 0,
            discard: 100,
            time: Duration::from_millis(pick(8, 25)),
            untimed: Duration::ZERO,
            least: 10,
            gap: Duration::ZERO,
        };
        let effort = |rounds, time_ms| {
            let time = Duration::from_millis(time_ms);
            Effort { rounds: rounds as usize, discard: 0, time, ..busy }
        };
        let calls =
            |rounds, least, gap| Effort { least, gap, time: Duration::ZERO, ..effort(rounds, 0) };
        match self {
            Situation::Busy { .. } | Situation::OneCpu => Effort { untimed: busy.time, ..busy },
            Situation::Size { size, .. } if size >= 8 << 20 => {
                Effort { time: Duration::from_millis(pick(40, 150)), ..busy }
            }
            Situation::Size { .. } | Situation::Beside(_) => busy,
            Situation::Gap(gap) => {
                let (rounds, least) = match gap.as_millis() {
                    0 => (pick(6, 16), pick(200, 800)),
                    1..10 => (pick(5, 16), pick(60, 200)),
                    10..100 => (pick(5, 16), pick(8, 16)),
                    _ => (pick(5, 16), pick(2, 4)),
                };
                calls(rounds, least, gap)
            }
            Situation::Crowd { loaded: false, .. } => effort(pick(6, 16), pick(80, 200)),
            Situation::Crowd { loaded: true, .. } => effort(pick(5, 16), pick(120, 300)),
            Situation::Quiet => calls(pick(5, 16), pick(20, 50), Duration::from_millis(20)),
            Situation::Flight(_) => busy,
            Situation::Threads(_) => effort(pick(6, 16), pick(60, 150)),
            // One look, of that many seconds.
            Situation::Idle(_) => effort(1, pick(2, 5) * 1_000),
            Situation::Connect => calls(pick(5, 16), pick(10, 40), Duration::from_millis(5)),
            Situation::Fresh => calls(pick(5, 20), pick(6, 12), Duration::from_millis(1)),
            Situation::Handler(..=10_000) => busy,
            Situation::Handler(_) => effort(pick(6, 16), pick(40, 150)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::situations;
    use crate::bench::stats::ROUNDS_MIN;

    #[test]
    fn rounds_are_enough_to_judge() {
        for (quick, least) in [(true, ROUNDS_MIN), (false, 15)] {
            for situation in situations(quick) {
                let effort = situation.effort(quick);
                let idle = matches!(situation, Situation::Idle(_));
                assert!(idle || effort.rounds >= least, "{}", situation.name());
                assert!(effort.rounds_max >= effort.rounds);
            }
        }
    }
}
