//! How the program writes for people: tables, units, styles. JSON goes through [`json`].
//!
//! Everything is written with `write!`, never `println!`, since a closed pipe must not panic.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// Headings.
pub const HEAD: Style = Style::new().bold();
/// What went well.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// What went wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// What needs a look.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// What can be skipped over.
pub const DIM: Style = Style::new().dimmed();

/// Standard output that strips styles where the reader is not a terminal.
pub type Out = anstream::AutoStream<io::Stdout>;

/// Opens standard output.
pub fn out() -> Out {
    anstream::stdout()
}

/// Puts `text` into a style.
pub fn styled(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints `callgate: message` on standard error; errors doing so are ignored.
pub fn complain(style: Style, message: impl std::fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{} {message}", styled(style, "callgate:"));
}

/// Writes one JSON value and a newline.
///
/// # Errors
/// Those of standard output.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    out.flush()
}

/// A table of text cells: the first `left` columns are aligned left, the others right.
pub struct Table {
    left: usize,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Makes an empty table with these headings.
    pub fn new(left: usize, head: &[&str]) -> Table {
        Table { left, head: head.iter().map(|cell| (*cell).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Renders the table, one line a row, each ending in a newline.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0).max(self.head.len());
        let cell = |row: &[String], column: usize| row.get(column).map_or(0, |text| width(text));
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let widest = self.rows.iter().map(|row| cell(row, column)).max().unwrap_or(0);
                widest.max(cell(&self.head, column))
            })
            .collect();
        let mut text = self.line(&self.head, &widths, Some(HEAD));
        for row in &self.rows {
            text += &self.line(row, &widths, None);
        }
        text
    }

    fn line(&self, row: &[String], widths: &[usize], style: Option<Style>) -> String {
        let mut line = String::new();
        for (column, &wide) in widths.iter().enumerate() {
            let text = row.get(column).map_or("", String::as_str);
            let pad = " ".repeat(wide - width(text));
            if column > 0 {
                line += "  ";
            }
            if column < self.left {
                let _ = write!(line, "{text}{pad}");
            } else {
                let _ = write!(line, "{pad}{text}");
            }
        }
        let line = line.trim_end();
        match style {
            Some(style) => format!("{}\n", styled(style, line)),
            None => format!("{line}\n"),
        }
    }
}

/// Columns that a cell takes on a terminal, styles not counted.
fn width(text: &str) -> usize {
    anstream::adapter::strip_str(text).to_string().chars().count()
}

/// Renders a time of `ns` nanoseconds with three or four digits: `118 ns`, `4.27 us`, `12.3 ms`.
pub fn nanos(ns: u64) -> String {
    let value = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} us", digits(value / 1e3)),
        1_000_000..1_000_000_000 => format!("{} ms", digits(value / 1e6)),
        _ => format!("{} s", digits(value / 1e9)),
    }
}

/// Renders a byte count: `48 B`, `1.21 MiB`, whole units without a fraction.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = ((63 - (count | 1).leading_zeros()) / 10).min(4) as usize;
    let size = 1u64 << (10 * unit);
    if count.is_multiple_of(size) {
        format!("{} {}", count / size, UNITS[unit])
    } else {
        format!("{} {}", digits(count as f64 / size as f64), UNITS[unit])
    }
}

/// Renders a throughput.
pub fn rate(count: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds <= 0.0 {
        return "-".to_owned();
    }
    format!("{}/s", bytes((count as f64 / seconds) as u64))
}

/// Renders a count with thousands separated: `1 234 567`.
pub fn count(number: u64) -> String {
    let plain = number.to_string();
    let mut text = String::new();
    for (index, digit) in plain.chars().enumerate() {
        if index > 0 && (plain.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Renders a count of files.
pub fn files(number: u64) -> String {
    format!("{} file{}", count(number), if number == 1 { "" } else { "s" })
}

/// Renders a duration for people: `4.2 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => nanos(time.as_nanos() as u64),
        1..60 => format!("{} s", digits(time.as_secs_f64())),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Renders a number with three digits, or more where it is a thousand and more.
pub fn digits(value: f64) -> String {
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(nanos(118), "118 ns");
        assert_eq!(nanos(4_271), "4.27 us");
        assert_eq!(nanos(12_345_678), "12.3 ms");
        assert_eq!(nanos(2_000_000_000), "2.00 s");
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(65_536), "64 KiB");
        assert_eq!(bytes(1_268_000), "1.21 MiB");
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
        assert_eq!(count(1_234_567), "1 234 567");
        assert_eq!(count(123), "123");
        assert_eq!(span(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(span(Duration::from_millis(4_200)), "4.20 s");
        assert_eq!(rate(10, Duration::ZERO), "-");
    }

    #[test]
    fn tables_align_and_ignore_styles() {
        let mut table = Table::new(1, &["name", "calls"]);
        table.row(["a".to_owned(), "12345".to_owned()]);
        table.row([styled(BAD, "long one"), "7".to_owned()]);
        table.row(["short".to_owned()]);
        let text = anstream::adapter::strip_str(&table.render()).to_string();
        assert_eq!(text, "name      calls\na         12345\nlong one      7\nshort\n");
    }
}
