//! The table of a report, for people: each figure beside the best limit, and whether it holds.

use std::io::Write;

use super::load::name;
use super::moods::{Moods, judged, parts, verdict};
use super::report::{Goal, Missing, Report, Row, Series};
use super::stats::{Interval, TOLERANCE, Verdict};
use crate::exit::Failure;
use crate::output::{self, BAD, DIM, GOOD, HEAD, Table, WARN, bytes, count, digits, nanos, styled};

/// Prints a report.
///
/// # Errors
/// Those of standard output.
pub fn print(report: &Report) -> Result<(), Failure> {
    let mut out = output::out();
    write!(out, "{}", render(report))?;
    Ok(out.flush()?)
}

/// Renders a report: where it was measured, the table, and how many rows hold.
pub fn render(report: &Report) -> String {
    let mut table = Table::new(
        2,
        &[
            "situation",
            "figure",
            "callgate",
            "best limit",
            "",
            "ratio",
            "95 %",
            "goal",
            "verdict",
            "p99.9",
            "max",
        ],
    );
    let mut tally = Tally::default();
    let mut last = "";
    let mut tail_told = false;
    for row in &report.rows {
        let first = row.situation != last;
        last = &row.situation;
        tail_told &= !first;
        if let Some(verdict) = verdict(row, report.moods.as_ref()) {
            tally.add(verdict, row);
        }
        let parts = parts(row, report.moods.as_ref());
        for part in &parts {
            let first = first && std::ptr::eq(part, &parts[0]);
            let judged = judged(part);
            let (limit, limit_median) =
                judged.best.map_or_else(Default::default, |(limit, median)| {
                    (limit.name.clone(), figure(median, &row.unit))
                });
            let (p999, max) = if tail_told { Default::default() } else { tail(&row.callgate) };
            tail_told |= !p999.is_empty() || !max.is_empty();
            table.row([
                if first { styled(HEAD, &row.situation) } else { String::new() },
                part.figure(),
                figure(judged.callgate, &row.unit),
                limit,
                limit_median,
                judged.ratio.map_or_else(String::new, |ratio| digits(ratio.estimate)),
                judged.ratio.map_or_else(String::new, ends),
                row.goal.map_or_else(String::new, |wanted| goal(wanted, &row.unit)),
                judged.verdict.map_or_else(|| styled(DIM, "told"), word),
                p999,
                max,
            ]);
        }
    }
    format!("{}\n{}\n{}{}", head(report), table.render(), beside(report), tally.render())
}

/// One line for each situation without rows, and for each note.
fn beside(report: &Report) -> String {
    let line = |missing: &Missing| {
        let style = if missing.failed { BAD } else { WARN };
        let Missing { situation, reason, .. } = missing;
        format!("{} {situation}: {reason}\n", styled(style, "not measured:"))
    };
    let notes = report.notes.iter().map(|note| format!("{} {note}\n", styled(WARN, "note:")));
    report.missing.iter().map(line).chain(notes).collect()
}

/// Rows with a goal, by verdict.
#[derive(Default)]
struct Tally {
    hold: usize,
    unclear: Vec<String>,
    short: Vec<String>,
}

impl Tally {
    fn add(&mut self, verdict: Verdict, row: &Row) {
        match verdict {
            Verdict::Holds => self.hold += 1,
            Verdict::Unclear => self.unclear.push(name(row)),
            Verdict::Short => self.short.push(name(row)),
        }
    }

    /// One line with the numbers, and one with names for each kind that needs a look.
    fn render(&self) -> String {
        let (unclear, short) = (self.unclear.len(), self.short.len());
        let hold = match self.hold {
            1 => "1 row holds".to_owned(),
            more => format!("{more} rows hold"),
        };
        let mut text = format!("{hold}, {unclear} unclear, {short} short\n");
        if unclear > 0 {
            let names = self.unclear.join(", ");
            text += &format!("{} {names}\n", styled(WARN, "unclear, run more rounds:"));
        }
        if short > 0 {
            text += &format!("{} {}\n", styled(BAD, "short:"), self.short.join(", "));
        }
        text
    }
}

/// Says where and how the report was measured.
fn head(report: &Report) -> String {
    let machine = &report.machine;
    let rounds = || report.rows.iter().map(|row| row.callgate.rounds.len());
    let rounds = match (rounds().min().unwrap_or(0), rounds().max().unwrap_or(0)) {
        (low, high) if low == high => format!("{low} rounds"),
        (low, high) => format!("{low} to {high} rounds"),
    };
    format!(
        "callgate {}, {} CPUs of {}, Linux {}, load {} at the start\n\
         {}{rounds}, interleaved, seed {}; medians of the rounds; the clock costs {} in each timed call\n\
         a ratio holds where its whole interval is within the goal and {TOLERANCE}\n{}",
        report.callgate,
        machine.cpus,
        machine.processor,
        machine.kernel,
        digits(machine.load),
        if report.quick { "a quick run; " } else { "" },
        report.seed,
        nanos(report.clock_ns),
        report.moods.as_ref().map_or_else(String::new, moods),
    )
}

/// Says that there were two moods, and what a bare line took in each.
fn moods(moods: &Moods) -> String {
    let Moods { near, far, .. } = moods;
    let ns = |ns: f64| figure(ns, "ns");
    format!(
        "the CPUs were near each other in {} rounds (a bare trip of {}) and far apart in {} ({}); each is \
         judged by itself\n",
        near.rounds,
        ns(near.line_ns),
        far.rounds,
        ns(far.line_ns),
    )
}

/// Renders a figure in its unit.
pub fn figure(value: f64, unit: &str) -> String {
    match unit {
        "ns" => nanos(value.round() as u64),
        "bytes" => bytes(value.round() as u64),
        "calls/s" => format!("{}/s", count(value.round() as u64)),
        "1" => digits(value),
        _ => format!("{} {unit}", digits(value)),
    }
}

/// Renders the ends of an interval.
pub fn ends(interval: Interval) -> String {
    format!("{} to {}", digits(interval.low), digits(interval.high))
}

fn goal(goal: Goal, unit: &str) -> String {
    match goal {
        Goal::AtMost(most) => format!("<= {}", digits(most)),
        Goal::AtLeast(least) => format!(">= {}", digits(least)),
        Goal::Absolute(most) => format!("<= {}", figure(most, unit)),
    }
}

fn word(verdict: Verdict) -> String {
    match verdict {
        Verdict::Holds => styled(GOOD, "holds"),
        Verdict::Unclear => styled(WARN, "unclear"),
        Verdict::Short => styled(BAD, "short"),
    }
}

/// What is known of the slowest calls.
fn tail(series: &Series) -> (String, String) {
    let p999 = series.percentiles.iter().find(|(percentile, _)| *percentile == 99.9);
    (
        p999.map_or_else(String::new, |(_, ns)| figure(*ns, "ns")),
        series.max_ns.map_or_else(String::new, |ns| figure(ns, "ns")),
    )
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{self, row, series};
    use super::*;

    fn plain(report: &Report) -> String {
        anstream::adapter::strip_str(&render(report)).to_string()
    }

    #[test]
    fn rows_are_grouped_and_counted() {
        let text = plain(&synthetic::report());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("callgate 0.1.0, 2 CPUs of Test"), "{text}");
        assert!(lines[1].starts_with("15 rounds") || lines[1].starts_with("1 to 15 rounds"));
        let busy = lines.iter().position(|line| line.starts_with("busy/32/pinned")).unwrap();
        assert!(lines[busy].contains("line, fence"), "{text}");
        assert!(lines[busy + 1].trim_start().starts_with("p99"), "{text}");
        // The tail is told once a situation.
        assert_eq!(lines[busy].contains("40.5 us"), !lines[busy + 1].contains("40.5 us"), "{text}");
        assert!(text.lines().any(|line| line.ends_with(" told")), "{text}");
        assert!(text.contains("27.4 KiB") && text.contains("<= 32 KiB"), "{text}");
    }

    #[test]
    fn the_end_names_what_needs_a_look() {
        let with = |own: &[f64; 6]| {
            let limits = vec![series("limit", &[100.0; 6])];
            vec![row("busy/48", "p50", own, limits, Some(Goal::AtMost(1.2)))]
        };
        let end = |own: &[f64; 6]| {
            let text = plain(&Report { rows: with(own), ..synthetic::report() });
            text.lines().rev().take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(end(&[110.0; 6])[0], "1 row holds, 0 unclear, 0 short");
        assert_eq!(end(&[130.0; 6])[0], "short: busy/48 p50");
        assert_eq!(end(&[130.0; 6])[1], "0 rows hold, 0 unclear, 1 short");
        let unclear = [110.0, 130.0, 111.0, 131.0, 112.0, 132.0];
        assert_eq!(end(&unclear)[0], "unclear, run more rounds: busy/48 p50");
    }

    #[test]
    fn each_mood_has_a_line_and_a_row_counts_once() {
        let looks = [[70.0; 6], [310.0; 6]].concat();
        let own: Vec<f64> =
            looks.iter().map(|look| if *look < 100.0 { 130.0 } else { 110.0 }).collect();
        let limit = series("limit", &[100.0; 12]);
        let mut row = row("busy/48", "p50", &own, vec![limit], Some(Goal::AtMost(1.2)));
        row.line_ns = looks.into_iter().map(Some).collect();
        let mut report = Report { rows: vec![row], ..synthetic::report() };
        assert!(!plain(&report).contains("near"));
        report.moods = Moods::of_reports(&[&report]);
        let text = plain(&report);
        assert!(
            text.contains("near each other in 6 rounds (a bare trip of 70 ns) and far"),
            "{text}"
        );
        let line = |figure: &str| text.lines().find(|line| line.contains(figure)).unwrap();
        assert!(
            line("p50, near").contains("1.30") && line("p50, near").contains("short"),
            "{text}"
        );
        assert!(line("p50, far").contains("1.10") && line("p50, far").contains("holds"), "{text}");
        assert!(text.ends_with("0 rows hold, 0 unclear, 1 short\nshort: busy/48 p50\n"), "{text}");
    }

    #[test]
    fn what_is_missing_is_told() {
        let missing = |situation: &str, failed| Missing {
            situation: situation.to_owned(),
            reason: "why".to_owned(),
            failed,
        };
        let missing = vec![missing("gap/1ms", true), missing("beside/10000", false)];
        let text = plain(&Report { missing, notes: vec!["odd".to_owned()], ..synthetic::report() });
        assert!(text.contains(
            "\nnot measured: gap/1ms: why\nnot measured: beside/10000: why\nnote: odd\n"
        ));
    }
}
