//! `callgate ls`: the endpoints in this user's private directory.

use std::io::Write;
use std::thread;
use std::time::Duration;

use callgate::{EndpointEntry, ServerStatus};
use clap::Args;
use serde::Serialize;

use crate::exit::{Doing, Failure};
use crate::output::{self, DIM, Table, WARN, styled};

/// Options of `ls`.
#[derive(Args, Debug)]
pub struct LsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How long a server may take to say how it is.
const PATIENCE: Duration = Duration::from_millis(500);

/// Servers asked at the same time.
const ASKED_AT_ONCE: usize = 16;

#[derive(Serialize)]
struct Entry {
    name: String,
    state: State,
    pid: Option<u32>,
    uptime_seconds: Option<f64>,
    clients: Option<u64>,
    calls: Option<u64>,
}

#[derive(Clone, Copy, Serialize, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
enum State {
    Running,
    /// It holds the name, but did not answer in time.
    Silent,
    /// Left by a server that is gone; the next server takes the name over.
    Stale,
}

/// Runs `ls`.
///
/// # Errors
/// When the directory can't be read.
pub fn run(args: &LsArgs) -> Result<(), Failure> {
    let mut entries = callgate::endpoints()?;
    entries.sort_by_cached_key(|entry| entry.endpoint.to_string());
    let mut rows = Vec::new();
    for group in entries.chunks(ASKED_AT_ONCE) {
        rows.extend(ask(group).doing("thread")?);
    }
    if args.json {
        return Ok(output::json(&rows)?);
    }
    let mut out = output::out();
    if rows.is_empty() {
        writeln!(out, "{}", styled(DIM, "no endpoints"))?;
    } else {
        write!(out, "{}", table(&rows).render())?;
    }
    Ok(out.flush()?)
}

fn ask(group: &[EndpointEntry]) -> std::io::Result<Vec<Entry>> {
    thread::scope(|scope| {
        let asked: Vec<_> = group
            .iter()
            .map(|entry| thread::Builder::new().spawn_scoped(scope, || Entry::of(entry)))
            .collect::<Result<_, _>>()?;
        let joined = asked.into_iter().map(|thread| thread.join());
        joined.collect::<Result<_, _>>().map_err(|_| std::io::Error::other("panicked"))
    })
}

impl Entry {
    fn of(entry: &EndpointEntry) -> Entry {
        let status =
            if entry.stale { None } else { callgate::status(&entry.endpoint, PATIENCE).ok() };
        let state = match (&status, entry.stale) {
            (_, true) => State::Stale,
            (Some(_), false) => State::Running,
            (None, false) => State::Silent,
        };
        Entry::new(entry.endpoint.to_string(), state, entry.pid, status.as_ref())
    }

    fn new(name: String, state: State, pid: Option<u32>, status: Option<&ServerStatus>) -> Entry {
        Entry {
            name,
            state,
            pid: pid.or(status.map(|status| status.pid)),
            uptime_seconds: status.map(|status| status.uptime.as_secs_f64()),
            clients: status.map(|status| status.clients),
            calls: status.map(|status| status.calls),
        }
    }
}

fn table(rows: &[Entry]) -> Table {
    let mut table = Table::new(2, &["NAME", "STATE", "PID", "UPTIME", "CLIENTS", "CALLS"]);
    let some = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for row in rows {
        let state = match row.state {
            State::Running => "running".to_owned(),
            State::Silent => styled(WARN, "no answer"),
            State::Stale => styled(WARN, "stale"),
        };
        table.row([
            row.name.clone(),
            state,
            some(row.pid.map(|pid| pid.to_string())),
            some(row.uptime_seconds.map(|time| output::span(Duration::from_secs_f64(time)))),
            some(row.clients.map(output::count)),
            some(row.calls.map(output::count)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_endpoint_has_no_figures() {
        let rows = [Entry::new("old".to_owned(), State::Stale, None, None)];
        let text = anstream::adapter::strip_str(&table(&rows).render()).to_string();
        let cells: Vec<&str> = text.lines().nth(1).unwrap_or("").split_whitespace().collect();
        assert_eq!(cells, ["old", "stale", "-", "-", "-", "-"]);
    }
}
