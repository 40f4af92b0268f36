//! Progress on standard error: one line that is redrawn on a terminal, a few plain lines elsewhere.

use std::fmt::Display;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use crate::output::{GOOD, styled};

/// Redraws are at least that far apart.
const PACE: Duration = Duration::from_millis(80);

/// Parts of the whole after which a plain line is written.
const STEPS: u64 = 4;

/// Columns of the bar.
const BAR: usize = 24;

/// How far something is.
pub struct Progress {
    terminal: bool,
    drawn: Option<Instant>,
    steps: u64,
}

impl Progress {
    /// Looks whether standard error is a terminal.
    pub fn new() -> Progress {
        Progress { terminal: stderr().is_terminal(), drawn: None, steps: 0 }
    }

    /// Says that `done` of `all` is done; `text` is asked for only when something is written.
    pub fn update<T: Display>(&mut self, done: u64, all: u64, text: impl FnOnce() -> T) {
        if self.terminal {
            if self.drawn.is_none_or(|drawn| drawn.elapsed() >= PACE) {
                self.drawn = Some(Instant::now());
                let (bar, percent) = bar(done, all);
                let line = format!("\r\x1b[2K{} {percent:>3} %  {}", styled(GOOD, bar), text());
                let _ = write!(anstream::stderr(), "{line}");
            }
            return;
        }
        let steps = part(done, all, STEPS);
        if steps > self.steps {
            self.steps = steps;
            let _ = writeln!(stderr(), "{:>3} %  {}", part(done, all, 100), text());
        }
    }

    /// Writes a line that stays.
    pub fn line(&mut self, text: impl Display) {
        self.clear();
        let _ = writeln!(anstream::stderr(), "{text}");
    }

    /// Takes the redrawn line away.
    pub fn clear(&mut self) {
        if self.terminal && self.drawn.take().is_some() {
            let _ = write!(stderr(), "\r\x1b[2K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn part(done: u64, all: u64, parts: u64) -> u64 {
    (u128::from(done.min(all)) * u128::from(parts) / u128::from(all.max(1))) as u64
}

fn bar(done: u64, all: u64) -> (String, u64) {
    let full = part(done, all, BAR as u64) as usize;
    (format!("[{}{}]", "#".repeat(full), "-".repeat(BAR - full)), part(done, all, 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stay_in_bounds() {
        assert_eq!(bar(0, 0), (format!("[{}]", "-".repeat(BAR)), 0));
        assert_eq!(bar(7, 7), (format!("[{}]", "#".repeat(BAR)), 100));
        assert_eq!(bar(9, 7).1, 100);
        assert_eq!(bar(u64::MAX / 2, u64::MAX).1, 49);
    }
}
