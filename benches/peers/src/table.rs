//! A report as Markdown.

use std::fmt::Write;

use crate::report::{Cell, Report, Spread};
use crate::round::Round;
use crate::situation::{ALL, Figure, Situation, Work};

/// Whom the others are compared with.
const OURS: &str = "callgate";

/// One of the figures that a table shows.
struct Column {
    name: &'static str,
    of: fn(&Round) -> u64,
    show: fn(u64) -> String,
    /// Whether more is better.
    more: bool,
}

const P50: Column = Column { name: "p50", of: |round| round.p50, show: time, more: false };
const P99: Column = Column { name: "p99", of: |round| round.p99, show: time, more: false };
const P999: Column = Column { name: "p99.9", of: |round| round.p999, show: time, more: false };
const MAX: Column = Column { name: "max", of: |round| round.max, show: time, more: false };
const RATE: Column = Column { name: "calls/s", of: |round| round.rate, show: count, more: true };
const SHARE: Column =
    Column { name: "least share", of: |round| round.share, show: percent, more: true };
const CPU: Column = Column { name: "CPU a call", of: |round| round.cpu, show: time, more: false };

/// Tables of all situations, and what callgate was beaten in.
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(report, &mut text);
    text
}

fn write(report: &Report, text: &mut String) -> std::fmt::Result {
    let machine = &report.machine;
    writeln!(
        text,
        "{}, {} CPUs, {}, {}.\n",
        machine.cpu, machine.cpus, machine.kernel, machine.date
    )?;
    writeln!(text, "| peer | version | used as |\n| --- | --- | --- |")?;
    for peer in &report.peers {
        let package = peer.package.as_deref().unwrap_or("of the system");
        writeln!(text, "| {} | {package} | {} |", peer.name, peer.about)?;
    }
    let mut beaten = Vec::new();
    for situation in ALL {
        let cells: Vec<&Cell> =
            report.cells.iter().filter(|cell| cell.situation == situation.name).collect();
        if !cells.is_empty() {
            table(situation, &cells, text)?;
            beaten.extend(beats(situation, &cells));
        }
    }
    writeln!(text, "\n## Where a peer beats callgate\n")?;
    writeln!(
        text,
        "Medians that are better than callgate's: the first figure of a table always, the others"
    )?;
    writeln!(text, "where no round of the two overlaps.\n")?;
    writeln!(text, "| situation | figure | peer | its | callgate's | rounds overlap |")?;
    writeln!(text, "| --- | --- | --- | ---: | ---: | --- |")?;
    beaten.iter().try_for_each(|line| writeln!(text, "{line}"))
}

/// The figures of a situation, the one that it is about first.
fn columns(situation: &Situation) -> Vec<Column> {
    match (situation.figure(), situation.work) {
        (_, Work::Killed) => vec![P50],
        (_, Work::Window(_)) => vec![RATE, CPU],
        (Figure::Rate, _) => vec![RATE, SHARE, P50, P99, P999, MAX, CPU],
        (Figure::Time, _) => vec![P50, P99, P999, MAX, CPU],
    }
}

fn table(situation: &Situation, cells: &[&Cell], text: &mut String) -> std::fmt::Result {
    let columns = columns(situation);
    writeln!(text, "\n## {}\n\n{}.\n", situation.name, capital(situation.about))?;
    let mut names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    names.splice(1..1, ["lowest – highest round", "worse by"]);
    writeln!(text, "| peer | {} |", names.join(" | "))?;
    writeln!(text, "| --- |{}", " ---: |".repeat(names.len()))?;
    let main = &columns[0];
    let ours = cells.iter().find(|cell| cell.peer == OURS).and_then(|cell| cell.spread(main.of));
    let mut ranked: Vec<&&Cell> = cells.iter().collect();
    ranked.sort_by_key(|cell| rank(cell, main));
    for cell in ranked {
        let Some(spread) = cell.spread(main.of) else {
            let why = cell.failure.as_deref().unwrap_or("not measured");
            writeln!(text, "| {} | {why} |{}", cell.peer, " |".repeat(columns.len() + 1))?;
            continue;
        };
        let (low, high) = ((main.show)(spread.low), (main.show)(spread.high));
        let median = (main.show)(spread.median);
        let worse = ours.map_or(String::new(), |ours| worse_by(main, spread, ours));
        write!(text, "| {} | {median} | {low} – {high} | {worse} |", cell.peer)?;
        for column in &columns[1..] {
            let shown = cell.spread(column.of).map(|spread| (column.show)(spread.median));
            write!(text, " {} |", shown.unwrap_or_default())?;
        }
        writeln!(text)?;
    }
    for cell in cells.iter().filter(|cell| !cell.rounds.is_empty()) {
        if let Some(failure) = &cell.failure {
            let well = cell.rounds.len();
            writeln!(text, "\n{}: after {well} rounds that went well, {failure}.", cell.peer)?;
        }
    }
    Ok(())
}

/// Best first, and those without a figure last.
fn rank(cell: &Cell, main: &Column) -> u64 {
    match cell.spread(main.of) {
        Some(spread) if main.more => u64::MAX - 1 - spread.median,
        Some(spread) => spread.median,
        None => u64::MAX,
    }
}

/// How many times worse than callgate; below 1 is better.
fn worse_by(column: &Column, theirs: Spread, ours: Spread) -> String {
    let ratio = theirs.median as f64 / ours.median.max(1) as f64;
    let ratio = if column.more { 1.0 / ratio } else { ratio };
    if ratio < 10.0 { format!("{ratio:.2}") } else { format!("{ratio:.0}") }
}

/// Lines about the figures in which a peer's median is better than callgate's.
fn beats(situation: &Situation, cells: &[&Cell]) -> Vec<String> {
    let mut lines = Vec::new();
    let Some(ours) = cells.iter().find(|cell| cell.peer == OURS) else { return lines };
    for (at, column) in columns(situation).iter().enumerate() {
        let Some(our) = ours.spread(column.of) else { continue };
        for cell in cells {
            let Some(their) = cell.spread(column.of) else { continue };
            let (better, overlap) = if column.more {
                (their.median > our.median, their.low <= our.high)
            } else {
                (their.median < our.median, their.high >= our.low)
            };
            if better && (at == 0 || !overlap) {
                lines.push(format!(
                    "| {} | {} | {} | {} | {} | {} |",
                    situation.name,
                    column.name,
                    cell.peer,
                    (column.show)(their.median),
                    (column.show)(our.median),
                    if overlap { "yes" } else { "no" }
                ));
            }
        }
    }
    lines
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// Nanoseconds to three digits.
fn time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} us", three_digits(ns as f64 / 1e3)),
        1_000_000..1_000_000_000 => format!("{} ms", three_digits(ns as f64 / 1e6)),
        _ => format!("{} s", three_digits(ns as f64 / 1e9)),
    }
}

fn three_digits(value: f64) -> String {
    let decimals = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.decimals$}")
}

fn percent(share: u64) -> String {
    format!("{share} %")
}

/// A number, with its thousands set apart.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(time(999), "999 ns");
        assert_eq!(time(1_234), "1.23 us");
        assert_eq!(time(12_345_678), "12.3 ms");
        assert_eq!(time(10_000_000_000), "10.0 s");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(12), "12");
    }

    #[test]
    fn worse_is_above_one() {
        let spread = |median| Spread { median, low: median, high: median };
        assert_eq!(worse_by(&P50, spread(200), spread(100)), "2.00");
        assert_eq!(worse_by(&RATE, spread(50), spread(100)), "2.00");
        assert_eq!(worse_by(&RATE, spread(200), spread(100)), "0.50");
    }
}
