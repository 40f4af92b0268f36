//! Reads reports from files, and refuses those that can't be judged.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use super::report::{FORMAT, Report, Row, Series};
use super::table;
use crate::exit::{Code, Doing, Failure};

/// Options of `bench show`.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// What `bench --json` wrote
    file: PathBuf,
}

/// Runs `bench show`.
///
/// # Errors
/// When the file is no report of this format.
pub fn show(args: &ShowArgs) -> Result<(), Failure> {
    table::print(&read(&args.file)?)
}

/// The one field that reports of all formats have.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Reads a report.
///
/// # Errors
/// When the file can't be read, is of another format, or is no report.
pub fn read(path: &Path) -> Result<Report, Failure> {
    let text = fs::read_to_string(path).doing(path.display())?;
    parse(&text)
        .map_err(|what| Failure::new(Code::Usage, format_args!("{}: {what}", path.display())))
}

/// Reads the text of a report.
///
/// # Errors
/// Says why it is none.
pub fn parse(text: &str) -> Result<Report, String> {
    let no_report = |error| format!("not a report of `bench --json`: {error}");
    // The format comes first: fields of another one would be called missing.
    let Format { format } = serde_json::from_str(text).map_err(no_report)?;
    if format != FORMAT {
        return Err(format!("a report of format {format}; this program reads format {FORMAT}"));
    }
    let report: Report = serde_json::from_str(text).map_err(no_report)?;
    check(&report)?;
    Ok(report)
}

/// Finds what would be judged wrongly: pairs that are none, rows that can't be told apart.
fn check(report: &Report) -> Result<(), String> {
    let mut known = HashSet::new();
    for row in &report.rows {
        let name = name(row);
        if !known.insert((&row.situation, &row.figure)) {
            return Err(format!("two rows are called {name}"));
        }
        let rounds = row.callgate.rounds.len();
        if rounds == 0 {
            return Err(format!("{name}: no rounds"));
        }
        let unpaired = |limit: &&Series| limit.rounds.len() != rounds;
        if let Some(limit) = row.limits.iter().find(unpaired) {
            let (other, count) = (&limit.name, limit.rounds.len());
            return Err(format!("{name}: {rounds} rounds of callgate, {count} of {other}"));
        }
    }
    Ok(())
}

/// How a row is called: situation and figure.
pub fn name(row: &Row) -> String {
    format!("{} {}", row.situation, row.figure)
}

#[cfg(test)]
mod tests {
    use super::super::synthetic;
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let text = serde_json::to_string(&synthetic::report()).unwrap();
        assert_eq!(parse(&text).unwrap().rows.len(), synthetic::report().rows.len());
    }

    #[test]
    fn other_files_are_refused() {
        let refused = |text: &str| parse(text).map(|_| ()).unwrap_err();
        assert!(refused("no JSON").starts_with("not a report"));
        assert!(refused("{\"rounds\": 3}").contains("missing field `format`"));
        assert!(refused("{\"format\": 7}").contains("a report of format 7"));
        assert!(refused("{\"format\": 1}").starts_with("not a report"));
    }

    #[test]
    fn what_can_not_be_judged_is_refused() {
        let mut twice = synthetic::report();
        twice.rows.push(twice.rows[0].clone());
        assert_eq!(check(&twice), Err("two rows are called busy/32/pinned p50".to_owned()));
        let mut uneven = synthetic::report();
        uneven.rows[0].limits[1].rounds.pop();
        let what = "busy/32/pinned p50: 15 rounds of callgate, 14 of line, 1 pause";
        assert_eq!(check(&uneven), Err(what.to_owned()));
        let mut empty = synthetic::report();
        empty.rows[1].callgate.rounds.clear();
        assert_eq!(check(&empty), Err("busy/32/pinned p99: no rounds".to_owned()));
    }
}
