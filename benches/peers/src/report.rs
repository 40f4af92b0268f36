//! What a run found, as it is written to JSON.

use std::collections::BTreeMap;
use std::fs;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::peer::{Peer, version};
use crate::round::Round;

/// Everything that a run found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// What decided the order of the peers.
    pub seed: u64,
    /// Who was measured.
    pub peers: Vec<Measured>,
    /// One for each peer in each situation.
    pub cells: Vec<Cell>,
}

/// One peer that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// Its crate and version; none for what the system gives.
    pub package: Option<String>,
    /// How it was used.
    pub about: String,
}

/// The rounds of one peer in one situation.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cell {
    /// The situation's name.
    pub situation: String,
    /// The peer's name.
    pub peer: String,
    /// The rounds that went well.
    pub rounds: Vec<Round>,
    /// What ended the first that did not.
    pub failure: Option<String>,
}

/// The machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The CPU's own name.
    pub cpu: String,
    /// CPUs that the program could use.
    pub cpus: usize,
    /// The kernel's name and release.
    pub kernel: String,
    /// The day, in UTC.
    pub date: String,
}

impl Report {
    /// Makes a report of no cells.
    pub fn new(machine: Machine, seed: u64, peers: &[Box<dyn Peer>]) -> Report {
        let measured = |peer: &dyn Peer| Measured {
            name: peer.name().to_owned(),
            package: peer
                .package()
                .map(|package| format!("{package} {}", version(package).unwrap_or("unknown"))),
            about: peer.about().to_owned(),
        };
        Report {
            machine,
            seed,
            peers: peers.iter().map(|peer| measured(&**peer)).collect(),
            cells: Vec::new(),
        }
    }

    /// Adds the cells of another run on the same machine.
    pub fn merge(&mut self, other: Report) {
        for peer in other.peers {
            if !self.peers.iter().any(|known| known.name == peer.name) {
                self.peers.push(peer);
            }
        }
        for cell in other.cells {
            let same =
                |known: &&mut Cell| known.situation == cell.situation && known.peer == cell.peer;
            match self.cells.iter_mut().find(same) {
                Some(known) => {
                    known.rounds.extend(cell.rounds);
                    known.failure = known.failure.take().or(cell.failure);
                }
                None => self.cells.push(cell),
            }
        }
    }
}

impl Cell {
    /// Makes a cell without rounds.
    pub fn new(situation: &str, peer: &str) -> Cell {
        let (situation, peer) = (situation.to_owned(), peer.to_owned());
        Cell { situation, peer, rounds: Vec::new(), failure: None }
    }

    /// The median of a figure over the rounds, with the lowest and the highest; none without any.
    pub fn spread(&self, figure: impl Fn(&Round) -> u64) -> Option<Spread> {
        let mut values: Vec<u64> = self.rounds.iter().map(figure).collect();
        values.sort_unstable();
        let median = *values.get(values.len() / 2)?;
        Some(Spread { median, low: *values.first()?, high: *values.last()? })
    }
}

/// A median over rounds, and how far the rounds lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The middle round.
    pub median: u64,
    /// The lowest round.
    pub low: u64,
    /// The highest round.
    pub high: u64,
}

impl Machine {
    /// This one, today.
    pub fn this() -> Machine {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let fields: BTreeMap<&str, &str> = info
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        let field = |name| fields.get(name).copied().unwrap_or("unknown");
        let uname = rustix::system::uname();
        Machine {
            cpu: format!(
                "{} (family {}, model {})",
                field("model name"),
                field("cpu family"),
                field("model")
            ),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!(
                "{} {}",
                uname.sysname().to_string_lossy(),
                uname.release().to_string_lossy()
            ),
            date: today(),
        }
    }
}

fn today() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mut days = now.map_or(0, |now| now.as_secs() / 86_400);
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(rates: &[u64]) -> Cell {
        let none = Round { p50: 0, p99: 0, p999: 0, max: 0, calls: 0, rate: 0, share: 100, cpu: 0 };
        let rounds = rates.iter().map(|rate| Round { rate: *rate, ..none }).collect();
        Cell { rounds, ..Cell::new("here", "who") }
    }

    #[test]
    fn the_middle_round_counts() {
        let spread = cell(&[5, 1, 9]).spread(|round| round.rate);
        assert_eq!(spread, Some(Spread { median: 5, low: 1, high: 9 }));
        assert_eq!(cell(&[]).spread(|round| round.rate), None);
    }

    #[test]
    fn runs_are_taken_together() {
        let machine = Machine::this();
        let mut first = Report::new(machine, 1, &[]);
        first.cells.push(cell(&[1, 2]));
        let mut second = Report::new(Machine::this(), 2, &[]);
        second.cells.push(Cell { failure: Some("hangs".to_owned()), ..cell(&[3]) });
        first.merge(second);
        assert_eq!(first.cells.len(), 1);
        assert_eq!(first.cells[0].rounds.len(), 3);
        assert_eq!(first.cells[0].failure.as_deref(), Some("hangs"));
    }
}
