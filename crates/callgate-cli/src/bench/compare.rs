//! `bench compare`: what changed between two runs on the same machine.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::load::{self, name};
use super::moods::{Mood, Moods, Part, parts};
use super::report::{Report, Row};
use super::stats::{Interval, ROUNDS_MIN, judge, median, more_is_better, unpaired};
use super::table::{ends, figure};
use crate::exit::Failure;
use crate::output::{self, BAD, DIM, GOOD, HEAD, Table, WARN, complain, digits, styled};

/// Options of `bench compare`.
#[derive(Args, Debug)]
#[command(after_help = "The exit code is 0 however the figures differ: of 100 rows that did not \
    change, about 5 are marked by chance. It is 2 where a file is no report of \
    this format, and 70 where it can not be read.")]
pub struct CompareArgs {
    /// What `bench --json` wrote before
    old: PathBuf,
    /// What `bench --json` wrote after
    new: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Two runs, row by row.
#[derive(Serialize)]
struct Comparison {
    /// Why the two may not be comparable.
    warnings: Vec<String>,
    rows: Vec<Change>,
    /// Rows that the other file lacks; the situation alone, where it lacks all of it.
    only_old: Vec<String>,
    only_new: Vec<String>,
}

/// One figure in both runs.
#[derive(Serialize)]
struct Change {
    situation: String,
    figure: String,
    unit: String,
    old: f64,
    new: f64,
    /// `new` over `old`.
    ratio: Interval,
    /// The same of the best limits; where it moves too, the machine has changed.
    limit_ratio: Option<f64>,
    mark: Mark,
}

/// What the interval says of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mark {
    Better,
    Worse,
    /// The interval holds 1.
    None,
    /// Too few rounds to say anything.
    FewRounds,
}

/// Runs `bench compare`.
///
/// # Errors
/// When a file is no report of this format.
pub fn run(args: &CompareArgs) -> Result<(), Failure> {
    let comparison = compare(&load::read(&args.old)?, &load::read(&args.new)?);
    for warning in &comparison.warnings {
        complain(WARN, warning);
    }
    if args.json {
        return Ok(output::json(&comparison)?);
    }
    let mut out = output::out();
    write!(out, "{}", comparison.render())?;
    Ok(out.flush()?)
}

/// What `bench compare` prints of two reports.
pub fn text(old: &Report, new: &Report) -> String {
    compare(old, new).render()
}

fn compare(old: &Report, new: &Report) -> Comparison {
    let find = |report: &Report, row: &Row| {
        let same = |other: &&Row| other.situation == row.situation && other.figure == row.figure;
        report.rows.iter().find(same).cloned()
    };
    let mut comparison = Comparison {
        warnings: warnings(old, new),
        rows: Vec::new(),
        only_old: Vec::new(),
        only_new: Vec::new(),
    };
    let moods = Moods::of_reports(&[old, new]);
    for row in &old.rows {
        match find(new, row) {
            None => note(&mut comparison.only_old, row, new),
            Some(other) if other.unit != row.unit => {
                let (name, was, is) = (name(row), &row.unit, &other.unit);
                comparison.warnings.push(format!("{name}: left out, its unit was {was}, is {is}"));
            }
            Some(other) => comparison.rows.extend(changes(row, &other, moods.as_ref())),
        }
    }
    for row in new.rows.iter().filter(|row| find(old, row).is_none()) {
        note(&mut comparison.only_new, row, old);
    }
    comparison
}

/// What changed in a row, in each mood that both runs have met. Where they have none in common, all
/// rounds are compared.
fn changes(old: &Row, new: &Row, moods: Option<&Moods>) -> Vec<Change> {
    let (before, after) = (parts(old, moods), parts(new, moods));
    let common: Vec<Change> = before
        .iter()
        .filter_map(|part| {
            let same = after.iter().find(|other| other.mood == part.mood)?;
            Some(Change { figure: same.figure(), ..Change::of(&part.row, &same.row) })
        })
        .collect();
    if !common.is_empty() {
        return common;
    }
    let met = |parts: &[Part<'_>]| {
        let names = parts.iter().map(|part| part.mood.map_or("any", Mood::name));
        names.collect::<Vec<_>>().join(" and ")
    };
    let figure = format!("{}, {} to {}", new.figure, met(&before), met(&after));
    vec![Change { figure, ..Change::of(old, new) }]
}

/// Notes a row that `other` lacks.
fn note(only: &mut Vec<String>, row: &Row, other: &Report) {
    let known = other.rows.iter().any(|one| one.situation == row.situation);
    let what = if known { name(row) } else { row.situation.clone() };
    if !only.contains(&what) {
        only.push(what);
    }
}

/// Finds why two runs may differ for other reasons than callgate.
fn warnings(old: &Report, new: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut differ = |what: &str, was: String, is: String| {
        if was != is {
            warnings.push(format!("{what}: {was} before, {is} after; figures may differ for that"));
        }
    };
    let (was, is) = (&old.machine, &new.machine);
    differ("another processor", was.processor.clone(), is.processor.clone());
    differ("another number of CPUs", was.cpus.to_string(), is.cpus.to_string());
    differ("another kernel", was.kernel.clone(), is.kernel.clone());
    let length = |report: &Report| if report.quick { "quick" } else { "full" }.to_owned();
    differ("runs of different length", length(old), length(new));
    for (when, machine) in [("before", was), ("after", is)] {
        // A run of the benchmark just before this one counts as well, and has ended by now.
        if machine.load > 1.0 {
            let load = digits(machine.load);
            warnings.push(format!("load {load} at the start of the run {when}: was all quiet?"));
        }
    }
    warnings
}

impl Change {
    fn of(old: &Row, new: &Row) -> Change {
        let ratio = unpaired(&new.callgate.rounds, &old.callgate.rounds);
        let best = |row: &Row| judge(row).best.map(|(_, median)| median);
        let limit_ratio = best(old).zip(best(new)).map(|(old, new)| new / old);
        let rounds = old.callgate.rounds.len().min(new.callgate.rounds.len());
        Change {
            situation: new.situation.clone(),
            figure: new.figure.clone(),
            unit: new.unit.clone(),
            old: median(&old.callgate.rounds),
            new: median(&new.callgate.rounds),
            ratio,
            limit_ratio: limit_ratio.filter(|ratio| ratio.is_finite()),
            mark: Mark::of(ratio, more_is_better(new), rounds),
        }
    }
}

impl Mark {
    fn of(ratio: Interval, more_is_better: bool, rounds: usize) -> Mark {
        if rounds < ROUNDS_MIN {
            Mark::FewRounds
        } else if ratio.low <= 1.0 && 1.0 <= ratio.high {
            Mark::None
        } else if (ratio.low > 1.0) == more_is_better {
            Mark::Better
        } else {
            Mark::Worse
        }
    }

    fn word(self) -> String {
        match self {
            Mark::Better => styled(GOOD, "better"),
            Mark::Worse => styled(BAD, "worse"),
            Mark::None => String::new(),
            Mark::FewRounds => styled(DIM, "few rounds"),
        }
    }
}

impl Comparison {
    fn render(&self) -> String {
        let head =
            ["situation", "figure", "before", "after", "ratio", "95 %", "best limit's", "change"];
        let mut table = Table::new(2, &head);
        let mut last = "";
        for change in &self.rows {
            let first = change.situation != last;
            last = &change.situation;
            table.row([
                if first { styled(HEAD, &change.situation) } else { String::new() },
                change.figure.clone(),
                figure(change.old, &change.unit),
                figure(change.new, &change.unit),
                digits(change.ratio.estimate),
                ends(change.ratio),
                change.limit_ratio.map_or_else(String::new, digits),
                change.mark.word(),
            ]);
        }
        let marked = |mark| self.rows.iter().filter(|change| change.mark == mark).count();
        let mut text = table.render();
        let _ = writeln!(
            text,
            "\n{} rows: {} better, {} worse; by chance alone about {} would be marked",
            self.rows.len(),
            marked(Mark::Better),
            marked(Mark::Worse),
            digits(0.05 * (self.rows.len() - marked(Mark::FewRounds)) as f64),
        );
        for (when, names) in [("before", &self.only_old), ("after", &self.only_new)] {
            if !names.is_empty() {
                let _ = writeln!(text, "only {when}: {}", names.join(", "));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{self, noisy, row, series};
    use super::*;

    fn one(figure: &str, middle: f64, rounds: usize, seed: u64) -> Row {
        let limits = vec![series("limit", &noisy(100.0, 0.02, rounds, 99))];
        row("busy/32", figure, &noisy(middle, 0.02, rounds, seed), limits, None)
    }

    fn mark(old: Row, new: Row) -> Mark {
        Change::of(&old, &new).mark
    }

    #[test]
    fn changes_are_marked_by_their_direction() {
        assert_eq!(mark(one("p50", 100.0, 15, 1), one("p50", 110.0, 15, 2)), Mark::Worse);
        assert_eq!(mark(one("p50", 110.0, 15, 1), one("p50", 100.0, 15, 2)), Mark::Better);
        assert_eq!(mark(one("calls/s", 100.0, 15, 1), one("calls/s", 110.0, 15, 2)), Mark::Better);
        assert_eq!(mark(one("p50", 100.0, 15, 1), one("p50", 100.1, 15, 2)), Mark::None);
        assert_eq!(mark(one("p50", 100.0, 3, 1), one("p50", 900.0, 15, 2)), Mark::FewRounds);
    }

    #[test]
    fn runs_are_compared_in_the_moods_that_both_met() {
        let with = |near: usize, far: usize, by: f64| {
            let looks = [vec![70.0; near], vec![310.0; far]].concat();
            let own: Vec<f64> = looks.iter().map(|look| look * by).collect();
            let row = row("busy/32", "p50", &own, vec![], None);
            let line_ns = looks.into_iter().map(Some).collect();
            Report { rows: vec![Row { line_ns, ..row }], ..synthetic::report() }
        };
        let figures = |old: &Report, new: &Report| -> Vec<(String, f64)> {
            let rows = compare(old, new).rows;
            rows.into_iter().map(|change| (change.figure, change.ratio.estimate)).collect()
        };
        let near = |by: f64| ("p50, near".to_owned(), by);
        assert_eq!(figures(&with(9, 0, 1.0), &with(9, 9, 2.0)), [near(2.0)]);
        assert_eq!(figures(&with(9, 9, 1.0), &with(9, 9, 2.0)).len(), 2);
        assert_eq!(figures(&with(9, 0, 1.0), &with(0, 9, 1.0))[0].0, "p50, near to far");
        assert_eq!(figures(&with(9, 0, 1.0), &with(9, 0, 1.0))[0].0, "p50");
        let mut older = with(9, 9, 1.0);
        older.rows[0].line_ns.clear();
        assert_eq!(figures(&older, &with(9, 9, 1.0))[0].0, "p50, any to near and far");
    }

    #[test]
    fn rows_of_one_file_are_listed() {
        let (mut old, mut new) = (synthetic::report(), synthetic::report());
        old.rows.remove(0);
        new.rows.pop();
        let comparison = compare(&old, &new);
        assert!(comparison.warnings.is_empty());
        assert_eq!(comparison.rows.len(), synthetic::report().rows.len() - 2);
        let text = anstream::adapter::strip_str(&comparison.render()).to_string();
        assert!(text.contains("only before: idle/10000\n"), "{text}");
        assert!(text.contains("only after: busy/32/pinned p50\n"), "{text}");
        assert!(text.contains(" 0 better, 0 worse;"), "{text}");
    }

    #[test]
    fn other_conditions_are_warned_of() {
        let (old, mut new) = (synthetic::report(), synthetic::report());
        new.quick = true;
        new.machine.cpus = 16;
        new.machine.kernel = "6.18".to_owned();
        new.machine.load = 3.0;
        let warnings = warnings(&old, &new);
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert!(warnings[2].contains("full before, quick after"), "{warnings:?}");
    }
}
