//! What the demo prints when it is over.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::chaos::{Kill, client_name};
use super::message::Skip;
use super::tally::{Figures, Tally};
use super::walk::Tree;
use crate::exit::Failure;
use crate::output::{self, BAD, GOOD, HEAD, Out, Table, WARN, bytes, count, nanos, span, styled};

/// The whole result.
#[derive(Serialize)]
pub struct Report {
    path: String,
    /// Files found in the tree.
    files: u64,
    /// How often the tree was gone through, so that there was enough to interrupt.
    rounds: u32,
    seconds: f64,
    clients: Vec<Figures>,
    total: Figures,
    skipped: Skipped,
    /// What is not right: files, with what came out.
    wrong: Vec<String>,
    failed: Vec<String>,
    kills: Vec<Kill>,
    /// Calls that ended with an error and were repeated, by client and error.
    repeated: BTreeMap<String, BTreeMap<String, u64>>,
    right: bool,
}

#[derive(Serialize)]
struct Skipped {
    vanished: u64,
    unreadable: u64,
    changed: u64,
    unreadable_directories: u64,
    over_the_limit: u64,
}

impl Report {
    /// Gathers the result.
    pub fn new(path: &Path, tree: &Tree, rounds: u32, time: Duration, tallies: &[Tally]) -> Report {
        let mut all = Tally::new();
        let mut repeated = BTreeMap::new();
        for (number, tally) in tallies.iter().enumerate() {
            all.merge(tally);
            if !tally.errors.is_empty() {
                repeated.insert(client_name(number), tally.errors.clone());
            }
        }
        Report {
            path: path.display().to_string(),
            files: tree.files.len() as u64,
            rounds,
            seconds: time.as_secs_f64(),
            clients: tallies.iter().map(|tally| tally.figures(time)).collect(),
            total: all.figures(time),
            skipped: Skipped {
                vanished: all.skipped(Skip::Vanished),
                unreadable: all.skipped(Skip::Unreadable),
                changed: all.skipped(Skip::Changed),
                unreadable_directories: tree.unreadable,
                over_the_limit: tree.left_out,
            },
            wrong: Vec::new(),
            failed: Vec::new(),
            kills: Vec::new(),
            repeated,
            right: true,
        }
    }

    /// Adds what went wrong, and what was broken on purpose.
    pub fn with(mut self, wrong: Vec<String>, failed: Vec<String>, kills: &[Kill]) -> Report {
        self.right = wrong.is_empty() && failed.is_empty();
        (self.wrong, self.failed, self.kills) = (wrong, failed, kills.to_vec());
        self
    }

    /// Whether every digest was right.
    pub fn is_right(&self) -> bool {
        self.right
    }

    /// Prints it for people.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn print(&self) -> Result<(), Failure> {
        let mut out = output::out();
        write!(out, "{}", self.table().render())?;
        for kill in &self.kills {
            self.print_kill(&mut out, kill)?;
        }
        self.print_repeated(&mut out)?;
        self.print_skipped(&mut out)?;
        for line in &self.wrong {
            writeln!(out, "{} {line}", styled(BAD, "wrong:"))?;
        }
        for line in &self.failed {
            writeln!(out, "{} {line}", styled(BAD, "failed:"))?;
        }
        let rounds = match self.rounds {
            1 => String::new(),
            rounds => format!(", gone through {rounds} times"),
        };
        let time = span(Duration::from_secs_f64(self.seconds));
        let verdict = match self.right {
            true => styled(GOOD, format_args!("all {} digests right", count(self.total.files))),
            false => styled(BAD, "not all right"),
        };
        writeln!(out, "{verdict}: {}{rounds}, in {time}", output::files(self.files))?;
        Ok(out.flush()?)
    }

    fn table(&self) -> Table {
        let head = ["", "files", "calls", "bytes", "throughput", "p50", "p99", "p99.9", "max"];
        let mut table = Table::new(1, &head);
        let time = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), nanos);
        let rows = self.clients.iter().enumerate();
        let rows = rows.map(|(number, figures)| (client_name(number), figures));
        for (name, figures) in rows.chain([(styled(HEAD, "all"), &self.total)]) {
            table.row([
                name,
                count(figures.files),
                count(figures.calls),
                bytes(figures.bytes),
                output::rate(figures.bytes, Duration::from_secs_f64(self.seconds)),
                time(figures.p50_ns),
                time(figures.p99_ns),
                time(figures.p999_ns),
                time(figures.max_ns),
            ]);
        }
        table
    }

    fn print_kill(&self, out: &mut Out, kill: &Kill) -> std::io::Result<()> {
        let replaced = match kill.replaced_ns {
            Some(time) => format!("its successor was at work {} later", nanos(time)),
            None => "it had no successor".to_owned(),
        };
        writeln!(
            out,
            "{} {} (pid {}), {} under way; {replaced}",
            styled(WARN, "killed:"),
            kill.victim,
            kill.pid,
            output::files(kill.jobs_held as u64)
        )?;
        for (survivor, noticed) in &kill.noticed_ns {
            match noticed {
                Some(time) => writeln!(out, "  {survivor} noticed after {}", nanos(*time))?,
                None if survivor == "server" => {
                    writeln!(out, "  {survivor} did not tell before its own end")?;
                }
                None => writeln!(out, "  {survivor} was in no call meanwhile")?,
            }
        }
        Ok(())
    }

    fn print_repeated(&self, out: &mut Out) -> std::io::Result<()> {
        let mut all: BTreeMap<&str, u64> = BTreeMap::new();
        for (error, number) in self.repeated.values().flatten() {
            *all.entry(error).or_default() += number;
        }
        if !all.is_empty() {
            let list: Vec<String> =
                all.iter().map(|(error, number)| format!("{number} {error}")).collect();
            writeln!(out, "repeated after an error: {}", list.join(", "))?;
        } else if !self.kills.is_empty() {
            writeln!(out, "repeated after an error: none")?;
        }
        Ok(())
    }

    fn print_skipped(&self, out: &mut Out) -> std::io::Result<()> {
        let skipped = &self.skipped;
        let directories = match skipped.unreadable_directories {
            1 => "unreadable directory",
            _ => "unreadable directories",
        };
        let parts = [
            (skipped.vanished, "vanished"),
            (skipped.unreadable, "unreadable"),
            (skipped.changed, "changed while read"),
            (skipped.over_the_limit, "over --max-bytes"),
            (skipped.unreadable_directories, directories),
        ];
        let parts = parts.iter().filter(|(number, _)| *number > 0);
        let list: Vec<String> = parts.map(|(number, why)| format!("{number} {why}")).collect();
        if !list.is_empty() {
            writeln!(out, "{} {}", styled(WARN, "skipped:"), list.join(", "))?;
        }
        Ok(())
    }
}
