//! How far apart the machine's CPUs are, which the host of a virtual machine may change while a run
//! goes on.
//!
//! A short bare line between all sides of a round tells how long a cache line takes there and back.
//! Where the rounds of a run fall into two groups, far from each other, the CPUs were *near* in one
//! and *far* apart in the other, and each group is judged by itself.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bare::line::{self, Beat};
use super::process;
use super::report::{Report, Row, Series};
use super::sample::Pace;
use super::side::{Side, Team};
use super::stats::{Judged, ROUNDS_MIN, Verdict, judge, median};
use crate::exit::{Doing, Failure};

/// How long a look takes: thousands of trips of neighbours. However few they are on a machine that
/// is busy otherwise, it takes no longer.
const LOOK: Duration = Duration::from_micros(400);

/// Two groups of looks lie apart by this factor at the least; so do looks in a round that is thrown
/// away. Noise and clock speeds that rise under load do less, another core or cache does more.
const APART: f64 = 1.8;

/// A bare line on two CPUs, for short looks.
pub struct Probe(Team);

impl Probe {
    /// Starts it; none with a single CPU.
    ///
    /// # Errors
    /// When the system has no memory or no processes.
    pub fn start(cpus: &[usize]) -> Result<Option<Probe>, Failure> {
        let Some((one, two)) = process::two_cores(cpus) else { return Ok(None) };
        let limit = line::limit(Beat::Fence, 32, 0).doing("a line")?;
        Ok(Some(Probe(Team::limit("line between rounds", limit).pin(&[one], &[two])?)))
    }

    /// How long a trip takes now: half of them, in nanoseconds.
    ///
    /// # Errors
    /// When a process of it has ended.
    pub fn look(&mut self) -> Result<f64, Failure> {
        let pace = Pace { time: LOOK, ..Pace::default() };
        let round = self.0.round(pace).map_err(|failure| failure.of(self.0.name()))?;
        Ok(round.p50())
    }
}

/// What the looks of a round say together; `None` where they differ too much.
pub fn steady(looks: &[f64]) -> Option<f64> {
    let low = looks.iter().copied().fold(f64::INFINITY, f64::min);
    let high = looks.iter().copied().fold(0.0, f64::max);
    (!looks.is_empty() && high < APART * low).then(|| median(looks))
}

/// How far apart the CPUs were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mood {
    /// The group of quick looks.
    Near,
    /// The other one.
    Far,
}

impl Mood {
    const BOTH: [Mood; 2] = [Mood::Near, Mood::Far];

    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Mood::Near => "near",
            Mood::Far => "far",
        }
    }
}

/// The two groups of a run's rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moods {
    /// Looks below it are near, in nanoseconds.
    pub boundary_ns: f64,
    /// Rounds, and the median of their looks.
    pub near: Group,
    /// The same.
    pub far: Group,
}

/// One of the groups.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// How many rounds.
    pub rounds: usize,
    /// The median of their looks, in nanoseconds.
    pub line_ns: f64,
}

impl Moods {
    /// Finds two groups: on both sides of the widest gap between sorted looks, if that is wide
    /// enough. Fewer rounds than can be judged are no group, but looks that were disturbed.
    pub fn of(looks: &[f64]) -> Option<Moods> {
        let mut sorted = looks.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len().checked_sub(ROUNDS_MIN)?;
        let gap = |at: usize| sorted[at] / sorted[at - 1];
        let widest = (ROUNDS_MIN..=last).max_by(|one, two| gap(*one).total_cmp(&gap(*two)))?;
        let (near, far) = sorted.split_at(widest);
        let group = |looks: &[f64]| Group { rounds: looks.len(), line_ns: median(looks) };
        (gap(widest) >= APART).then(|| Moods {
            boundary_ns: (sorted[widest - 1] * sorted[widest]).sqrt(),
            near: group(near),
            far: group(far),
        })
    }

    /// The same for all rounds of some reports together.
    pub fn of_reports(reports: &[&Report]) -> Option<Moods> {
        let looks = reports.iter().flat_map(|report| looks(report)).collect::<Vec<_>>();
        Moods::of(&looks)
    }

    fn of_look(&self, look: f64) -> Mood {
        if look < self.boundary_ns { Mood::Near } else { Mood::Far }
    }
}

/// The looks of all rounds, each round once, though several rows have it.
fn looks(report: &Report) -> impl Iterator<Item = f64> {
    let first = |at: usize| at == 0 || report.rows[at - 1].situation != report.rows[at].situation;
    let rows = report.rows.iter().enumerate().filter(move |(at, _)| first(*at));
    rows.flat_map(|(_, row)| row.line_ns.iter().copied().flatten())
}

/// The rounds of a row that met one mood, as a row; `None`: all of them, as they are.
pub struct Part<'a> {
    /// Which.
    pub mood: Option<Mood>,
    /// Those rounds alone. Percentiles are still those of all.
    pub row: Cow<'a, Row>,
}

impl Part<'_> {
    /// The figure's name in tables.
    pub fn figure(&self) -> String {
        match self.mood {
            Some(mood) => format!("{}, {}", self.row.figure, mood.name()),
            None => self.row.figure.clone(),
        }
    }
}

/// Takes a row apart, where a run met two moods. A mood with fewer rounds than can be judged is left
/// out beside one with more.
pub fn parts<'a>(row: &'a Row, moods: Option<&Moods>) -> Vec<Part<'a>> {
    let whole = || vec![Part { mood: None, row: Cow::Borrowed(row) }];
    let Some(moods) = moods.filter(|_| row.line_ns.len() == row.callgate.rounds.len()) else {
        return whole();
    };
    let mood = |look: &Option<f64>| look.map(|look| moods.of_look(look));
    let of: Vec<Option<Mood>> = row.line_ns.iter().map(mood).collect();
    let rounds = |mood: Mood| of.iter().filter(|met| **met == Some(mood)).count();
    let most = Mood::BOTH.map(rounds).into_iter().max().unwrap_or(0);
    if most == 0 {
        return whole();
    }
    let told = Mood::BOTH.into_iter().filter(|mood| rounds(*mood) >= ROUNDS_MIN.min(most));
    told.map(|mood| Part { mood: Some(mood), row: Cow::Owned(only(row, &of, mood)) }).collect()
}

fn only(row: &Row, of: &[Option<Mood>], mood: Mood) -> Row {
    fn kept<T: Copy>(values: &[T], of: &[Option<Mood>], mood: Mood) -> Vec<T> {
        let met = values.iter().zip(of).filter(|(_, met)| **met == Some(mood));
        met.map(|(value, _)| *value).collect()
    }
    let series = |series: &Series| Series {
        rounds: kept(&series.rounds, of, mood),
        name: series.name.clone(),
        percentiles: series.percentiles.clone(),
        max_ns: series.max_ns,
    };
    Row {
        situation: row.situation.clone(),
        figure: row.figure.clone(),
        unit: row.unit.clone(),
        callgate: series(&row.callgate),
        limits: row.limits.iter().map(series).collect(),
        goal: row.goal,
        line_ns: kept(&row.line_ns, of, mood),
    }
}

/// What a row says in all moods together: it holds where it does in each.
pub fn verdict(row: &Row, moods: Option<&Moods>) -> Option<Verdict> {
    let parts = parts(row, moods);
    parts.iter().filter_map(|part| judged(part).verdict).max()
}

/// Judges a part.
pub fn judged<'a>(part: &'a Part<'_>) -> Judged<'a> {
    judge(&part.row)
}

#[cfg(test)]
mod tests {
    use super::super::report::Goal;
    use super::super::synthetic::{report, row, series};
    use super::*;

    const SPLIT: Moods = Moods {
        boundary_ns: 150.0,
        near: Group { rounds: 9, line_ns: 80.0 },
        far: Group { rounds: 9, line_ns: 320.0 },
    };

    /// In rounds with a look of 80 ns callgate takes twice as long as the limit, in others as long.
    fn moody(looks: &[Option<f64>]) -> Row {
        let own: Vec<f64> =
            looks.iter().map(|look| if *look == Some(80.0) { 200.0 } else { 100.0 }).collect();
        let limit = series("limit", &vec![100.0; looks.len()]);
        let row = row("busy/32", "p50", &own, vec![limit], Some(Goal::AtMost(1.2)));
        Row { line_ns: looks.to_vec(), ..row }
    }

    fn rounds(near: usize, far: usize) -> Vec<Option<f64>> {
        [vec![Some(80.0); near], vec![Some(320.0); far]].concat()
    }

    #[test]
    fn two_groups_are_found_and_noise_is_none() {
        let bimodal = [63.0, 310.0, 70.0, 320.0, 75.0, 64.0, 305.0, 90.0, 340.0, 301.0, 2_000.0];
        let moods = Moods::of(&bimodal).unwrap();
        assert_eq!((moods.near.rounds, moods.far.rounds), (5, 6));
        assert!((90.0..301.0).contains(&moods.boundary_ns), "{moods:?}");
        assert_eq!(moods.near.line_ns, 70.0);
        let even: Vec<f64> = (0..100).map(|at| 100.0 + f64::from(at)).collect();
        assert_eq!(Moods::of(&even), None, "no gap, though the last is twice the first");
        let disturbed = [&[70.0; 40][..], &[900.0; ROUNDS_MIN - 1]].concat();
        assert_eq!(Moods::of(&disturbed), None, "a few are no mood");
        assert_eq!(Moods::of(&[]), None);
        assert_eq!(Moods::of(&[70.0; 9]), None);
    }

    #[test]
    fn a_round_in_which_the_mood_changes_is_known() {
        assert_eq!(steady(&[70.0, 75.0, 90.0]), Some(75.0));
        assert_eq!(steady(&[70.0, 75.0, 310.0]), None);
        assert_eq!(steady(&[]), None);
    }

    #[test]
    fn a_row_holds_where_each_mood_does() {
        let verdict = |looks: &[Option<f64>]| verdict(&moody(looks), Some(&SPLIT));
        assert_eq!(verdict(&rounds(9, 9)), Some(Verdict::Short));
        assert_eq!(verdict(&rounds(0, 9)), Some(Verdict::Holds));
        assert_eq!(verdict(&rounds(4, 9)), Some(Verdict::Holds), "four can't tell");
        assert_eq!(verdict(&rounds(4, 4)), Some(Verdict::Unclear));
        // Rounds of no mood count for none.
        let mixed = [rounds(0, 5), vec![None; 9]].concat();
        let row = moody(&mixed);
        let parts = parts(&row, Some(&SPLIT));
        assert_eq!(parts.len(), 1);
        assert_eq!((parts[0].mood, parts[0].row.callgate.rounds.len()), (Some(Mood::Far), 5));
        assert_eq!(parts[0].figure(), "p50, far");
    }

    #[test]
    fn one_mood_or_an_older_report_is_one_part() {
        let row = moody(&rounds(9, 9));
        assert!(matches!(&parts(&row, None)[..], [Part { mood: None, .. }]));
        let old = Row { line_ns: Vec::new(), ..row };
        assert!(matches!(&parts(&old, Some(&SPLIT))[..], [Part { mood: None, .. }]));
        let unknown = moody(&[None; 9]);
        assert!(matches!(&parts(&unknown, Some(&SPLIT))[..], [Part { mood: None, .. }]));
    }

    #[test]
    fn rounds_count_once_though_several_rows_have_them() {
        let p99 = Row { figure: "p99".to_owned(), ..moody(&rounds(3, 9)) };
        let mut report = report();
        report.rows = vec![moody(&rounds(3, 9)), p99];
        assert_eq!(Moods::of_reports(&[&report]), None, "three rounds, not six");
        let moods = Moods::of_reports(&[&report, &report]).unwrap();
        assert_eq!((moods.near.rounds, moods.far.rounds), (6, 18));
    }
}
