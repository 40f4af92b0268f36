//! Which situations `bench` measures, what is asked for in each, and how much it measures.

use std::time::Duration;

use super::bare::ring;
use super::handler;
use super::report::Goal;

/// One situation: a line of the table of goals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Situation {
    /// A closed loop with a small message.
    Busy {
        /// 32 or 48.
        size: usize,
        /// Client and server on a CPU each.
        pinned: bool,
    },
    /// A closed loop with a large message, pinned.
    Size {
        /// Bytes there, and back.
        size: usize,
        /// From and into private buffers.
        copied: bool,
    },
    /// A call now and then.
    Gap(Duration),
    /// Both processes on one CPU.
    OneCpu,
    /// Many clients of one server, each in a closed loop.
    Crowd {
        /// How many.
        clients: usize,
        /// With two other processes that never stop.
        loaded: bool,
    },
    /// One client in a closed loop beside that many that do nothing.
    Beside(u32),
    /// The first call of a client that was quiet, beside one in a closed loop.
    Quiet,
    /// That many calls in flight from one thread.
    Flight(usize),
    /// That many threads of one client.
    Threads(usize),
    /// That many clients that do nothing.
    Idle(u32),
    /// A process that has connected before connects.
    Connect,
    /// A process that was just started connects.
    Fresh,
    /// A handler that works for that many nanoseconds.
    Handler(u32),
}

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
    /// Everybody has the same.
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

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Every situation, in the order of the table.
pub fn situations(quick: bool) -> Vec<Situation> {
    let mut all = Vec::new();
    for size in [32, 48] {
        all.extend([true, false].map(|pinned| Situation::Busy { size, pinned }));
    }
    for size in [256, 4 * KIB, 64 * KIB, MIB, 16 * MIB] {
        all.extend([false, true].map(|copied| Situation::Size { size, copied }));
    }
    let gaps = [100, 1_000, 10_000, 100_000].map(Duration::from_micros);
    all.extend(gaps.map(Situation::Gap));
    all.push(Situation::OneCpu);
    all.extend([2, 4, 16, 64].map(|clients| Situation::Crowd { clients, loaded: false }));
    all.extend([1, 4, 16].map(|clients| Situation::Crowd { clients, loaded: true }));
    all.push(Situation::Beside(1_000));
    if !quick {
        all.push(Situation::Beside(10_000));
    }
    all.extend([Situation::Quiet, Situation::Flight(64), Situation::Threads(8)]);
    all.push(Situation::Idle(if quick { 1_000 } else { 10_000 }));
    all.extend([Situation::Connect, Situation::Fresh]);
    all.extend([1_000, 10_000, 100_000, 1_000_000].map(Situation::Handler));
    all
}

impl Situation {
    /// The stable name.
    pub fn name(self) -> String {
        match self {
            Situation::Busy { size, pinned: true } => format!("busy/{size}/pinned"),
            Situation::Busy { size, pinned: false } => format!("busy/{size}/free"),
            Situation::Size { size, copied } => {
                let way = if copied { "copied" } else { "in-place" };
                format!("size/{}/{way}", short_bytes(size))
            }
            Situation::Gap(gap) => format!("gap/{}", short_time(gap.as_nanos() as u64)),
            Situation::OneCpu => "onecpu/32".to_owned(),
            Situation::Crowd { clients, loaded: false } => format!("crowd/{clients}"),
            Situation::Crowd { clients, loaded: true } => format!("loaded/{clients}"),
            Situation::Beside(idle) => format!("beside/{idle}"),
            Situation::Quiet => "quiet/first".to_owned(),
            Situation::Flight(window) => format!("flight/{window}"),
            Situation::Threads(threads) => format!("threads/{threads}"),
            Situation::Idle(clients) => format!("idle/{clients}"),
            Situation::Connect => "connect/echo".to_owned(),
            Situation::Fresh => "connect/fresh".to_owned(),
            Situation::Handler(ns) => format!("handler/{}", short_time(ns.into())),
        }
    }

    /// CPUs without which it says nothing.
    pub fn cpus_needed(self) -> usize {
        match self {
            Situation::Busy { .. } | Situation::Size { .. } | Situation::Flight(_) => 2,
            // Their limit is a line that both sides poll.
            Situation::Handler(..=10_000) => 2,
            _ => 1,
        }
    }

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
            Situation::Size { size, .. } if size >= 8 * MIB => {
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

fn ask(figure: Figure, goal: Option<Goal>) -> Ask {
    Ask { figure, against: Against::All, goal }
}

/// `256`, `4k`, `16m`.
fn short_bytes(bytes: usize) -> String {
    match bytes {
        ..KIB => bytes.to_string(),
        KIB..MIB => format!("{}k", bytes / KIB),
        _ => format!("{}m", bytes / MIB),
    }
}

/// `1us`, `100ms`.
fn short_time(ns: u64) -> String {
    match ns {
        ..1_000_000 => format!("{}us", ns / 1_000),
        _ => format!("{}ms", ns / 1_000_000),
    }
}

/// Whether a pattern names a situation: the whole name or the parts before a slash, or, with `*` in
/// it, any text in place of each star.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        let rest = name.strip_prefix(pattern.trim_end_matches('/'));
        return rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    };
    let Some(mut rest) = name.strip_prefix(head) else { return false };
    let parts: Vec<&str> = tail.split('*').collect();
    let Some((last, middle)) = parts.split_last() else { return true };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_differ() {
        let names: Vec<String> = situations(false).into_iter().map(Situation::name).collect();
        for name in [
            "busy/32/pinned",
            "busy/48/free",
            "size/256/in-place",
            "size/16m/copied",
            "gap/100us",
            "gap/1ms",
            "gap/100ms",
            "onecpu/32",
            "crowd/64",
            "loaded/1",
            "beside/10000",
            "quiet/first",
            "flight/64",
            "threads/8",
            "idle/10000",
            "connect/echo",
            "connect/fresh",
            "handler/1us",
            "handler/1ms",
        ] {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        assert!(names.iter().all(|name| !name.contains(' ')));
    }

    #[test]
    fn every_situation_asks_for_something() {
        for situation in situations(false) {
            let asks = situation.asks();
            let idle = matches!(situation, Situation::Idle(_));
            assert!(idle || asks.iter().any(|ask| ask.goal.is_some()), "{}", situation.name());
        }
    }

    #[test]
    fn patterns() {
        assert!(matches("busy", "busy/32/pinned"));
        assert!(matches("busy/32", "busy/32/pinned") && matches("busy/32/", "busy/32/pinned"));
        assert!(!matches("busy/3", "busy/32/pinned"));
        assert!(!matches("crowd/1", "crowd/16") && matches("crowd/1*", "crowd/16"));
        assert!(matches("size/*/copied", "size/4k/copied"));
        assert!(!matches("size/*/copied", "size/4k/in-place"));
        assert!(matches("*", "gap/1ms") && matches("*/*/free", "busy/32/free"));
        assert!(!matches("x*", "gap/1ms"));
    }
}
