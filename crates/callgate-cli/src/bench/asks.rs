//! What is asked for in each situation: which figures, against which limits, and how good.

use std::time::Duration;

use super::bare::ring;
use super::handler;
use super::plan::Situation;
use super::report::Goal;

/// Which number is taken from a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Half of the calls took at most this long.
    P50,
    /// The same, told beside a second kind of limit.
    P50BesideLine,
    /// 99 %.
    P99,
    /// 99.9 %.
    P999,
    /// The slowest call.
    Max,
    /// Where calls are not timed one by one.
    Mean,
    /// CPU time of both processes for a call.
    Cpu,
    /// Calls a second.
    Rate,
    /// The same, told beside a second kind of limit.
    RateBesideBatches,
    /// The calls of the client with the fewest over the mean.
    Share,
}

impl Figure {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Figure::P50 => "p50",
            Figure::P50BesideLine => "p50, beside working line",
            Figure::P99 => "p99",
            Figure::P999 => "p99.9",
            Figure::Max => "max",
            Figure::Mean => "mean",
            Figure::Cpu => "cpu",
            Figure::Rate => "calls/s",
            Figure::RateBesideBatches => "calls/s, beside batching rings",
            Figure::Share => "share",
        }
    }

    /// The unit in reports.
    pub fn unit(self) -> &'static str {
        match self {
            Figure::Rate | Figure::RateBesideBatches => "calls/s",
            Figure::Share => "1",
            _ => "ns",
        }
    }
}

/// With what callgate's figure is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// Every limit of the situation.
    All,
    /// The limits whose name begins so.
    Named(&'static str),
    /// Everybody has the same, which is the best that a share can be; the limits are told beside it.
    Even,
}

/// One row of a situation.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Which number.
    pub figure: Figure,
    /// Against what.
    pub against: Against,
    /// What it must be; None: it is only told.
    pub goal: Option<Goal>,
}

impl Situation {
    /// What is asked for. Empty for idle clients, which are no rounds of calls.
    pub fn asks(self) -> Vec<Ask> {
        let most = |figure, goal| ask(figure, Some(Goal::AtMost(goal)));
        let least = |figure, goal| ask(figure, Some(Goal::AtLeast(goal)));
        let told = |figure| ask(figure, None);
        let latency = |goal| vec![most(Figure::P50, goal), told(Figure::P99), told(Figure::Max)];
        match self {
            Situation::Busy { .. } => vec![
                most(Figure::P50, 1.2),
                most(Figure::Mean, 1.2),
                most(Figure::P99, 1.5),
                told(Figure::P999),
                told(Figure::Max),
            ],
            Situation::Size { copied: true, .. } => latency(1.1),
            Situation::Size { size: 256, .. } => latency(1.2),
            Situation::Size { .. } => latency(1.05),
            Situation::Gap(gap) if gap <= Duration::from_millis(1) => {
                let cpu = Ask { against: Against::Named("futex"), ..most(Figure::Cpu, 1.2) };
                vec![most(Figure::P50, 1.0), most(Figure::P99, 1.2), cpu, told(Figure::Max)]
            }
            Situation::Gap(_) => latency(1.15),
            Situation::OneCpu => {
                vec![
                    most(Figure::P50, 0.8),
                    told(Figure::Mean),
                    told(Figure::P99),
                    told(Figure::Max),
                ]
            }
            Situation::Crowd { loaded: false, .. } => {
                let goal = Some(Goal::AtLeast(0.8));
                let share = Ask { figure: Figure::Share, against: Against::Even, goal };
                let (rate, p999) = (least(Figure::Rate, 2.5), most(Figure::P999, 0.5));
                vec![rate, p999, share, told(Figure::P50), told(Figure::Max)]
            }
            Situation::Crowd { loaded: true, .. } => {
                let (rate, p999) = (least(Figure::Rate, 0.8), most(Figure::P999, 1.2));
                vec![rate, p999, told(Figure::Share), told(Figure::P50), told(Figure::Max)]
            }
            Situation::Beside(_) => latency(1.1),
            Situation::Quiet => vec![told(Figure::P50), most(Figure::P99, 1.5), told(Figure::Max)],
            Situation::Flight(_) => {
                let goal = least(Figure::Rate, 0.8);
                vec![
                    Ask { against: Against::Named(ring::AT_ONCE), ..goal },
                    Ask {
                        against: Against::Named(ring::BATCHED),
                        ..told(Figure::RateBesideBatches)
                    },
                ]
            }
            Situation::Threads(_) => {
                vec![least(Figure::Rate, 1.0), told(Figure::P50), told(Figure::P999)]
            }
            Situation::Idle(_) => Vec::new(),
            Situation::Connect => latency(1.2),
            Situation::Fresh => latency(1.1),
            Situation::Handler(..=10_000) => {
                let against = Against::Named(handler::COMPUTED);
                let p50 = Ask { against, ..most(Figure::P50, 1.0) };
                let beside =
                    |figure| Ask { against: Against::Named(handler::WORKING), ..told(figure) };
                vec![p50, beside(Figure::P50BesideLine), beside(Figure::P99), beside(Figure::Max)]
            }
            Situation::Handler(_) => {
                vec![most(Figure::P50, 1.0), most(Figure::Cpu, 1.2), told(Figure::P99)]
            }
        }
    }
}

fn ask(figure: Figure, goal: Option<Goal>) -> Ask {
    Ask { figure, against: Against::All, goal }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::situations;

    #[test]
    fn every_situation_asks_for_something() {
        for situation in situations(false) {
            let asks = situation.asks();
            let idle = matches!(situation, Situation::Idle(_));
            assert!(idle || asks.iter().any(|ask| ask.goal.is_some()), "{}", situation.name());
        }
    }
}
