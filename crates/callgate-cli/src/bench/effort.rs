//! How much is measured in each situation, in a quick run and in a full one.

use std::time::Duration;

use super::plan::Situation;

/// How much is measured in a situation.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds.
    pub rounds: usize,
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

impl Situation {
    /// How much is measured.
    pub fn effort(self, quick: bool) -> Effort {
        let pick = |short: u64, long: u64| if quick { short } else { long };
        let busy = Effort {
            rounds: pick(6, 24) as usize,
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
                    10..100 => (pick(4, 12), pick(8, 20)),
                    _ => (pick(3, 10), pick(2, 5)),
                };
                calls(rounds, least, gap)
            }
            Situation::Crowd { loaded: false, .. } => effort(pick(6, 14), pick(80, 250)),
            Situation::Crowd { loaded: true, .. } => effort(pick(5, 12), pick(120, 400)),
            Situation::Quiet => calls(pick(4, 10), pick(20, 50), Duration::from_millis(20)),
            Situation::Flight(_) => busy,
            Situation::Threads(_) => effort(pick(6, 16), pick(60, 150)),
            // One look, of that many seconds.
            Situation::Idle(_) => effort(1, pick(2, 5) * 1_000),
            Situation::Connect => calls(pick(4, 12), pick(10, 40), Duration::from_millis(5)),
            Situation::Fresh => calls(pick(4, 20), pick(6, 12), Duration::from_millis(1)),
            Situation::Handler(..=10_000) => busy,
            Situation::Handler(_) => effort(pick(6, 16), pick(40, 150)),
        }
    }
}
