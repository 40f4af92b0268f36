//! `bench idle`: what clients that do nothing cost a server.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use super::crew::ended;
use super::peer::Ready;
use super::report::{Goal, Row};
use super::rows::plain;
use super::situations::Outcome;
use super::usage::{Holding, MemoryGroup, Usage};
use super::watch::{PATIENCE, await_input};
use crate::exit::{Doing, Failure};
use crate::output::{self, HEAD, bytes, nanos, styled};
use crate::scratch;
use crate::signal::Pauses;
use crate::worker::{Said, Worker};

/// Options of `bench idle`.
#[derive(Args, Debug)]
pub struct IdleArgs {
    /// Idle connections
    #[arg(
        long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    clients: u32,
    /// How long to look, in seconds
    #[arg(long, value_name = "S", default_value_t = 5)]
    seconds: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How long nothing must change before the look begins, so that no spinning of the last call and
/// no memory that goes back counts.
const QUIET: Duration = Duration::from_millis(500);

/// When to begin all the same.
const QUIET_ROUNDS_MAX: usize = 20;

#[derive(Serialize)]
struct Report {
    clients: u32,
    seconds: u32,
    /// What the server's threads used in that time.
    server: Usage,
    descriptors_per_client: f64,
    mappings_per_client: f64,
    /// Growth of the memory cgroup, kernel memory included, both ends of the connections.
    memory_per_client: Option<f64>,
    memory_per_client_in_server: Option<f64>,
    /// Connects that the server refused at first.
    refused: Refused,
}

/// Sleeps, or fails when the run is to end.
type Pause<'a> = &'a dyn Fn(Duration) -> Result<(), Failure>;

/// Runs `bench idle`.
///
/// # Errors
/// When a helper fails.
pub fn run(args: &IdleArgs) -> Result<(), Failure> {
    let pauses = Pauses::new().doing("signals")?;
    let time = Duration::from_secs(args.seconds.into());
    let report = measure(args.clients, time, &|time| pauses.pause(time))?;
    if args.json { Ok(output::json(&report)?) } else { print(&report) }
}

/// Measures idle clients as a situation of `bench`; what was odd goes to `notes`.
///
/// # Errors
/// When a helper fails.
pub fn rows(
    situation: &str,
    clients: u32,
    time: Duration,
    notes: &mut Vec<String>,
) -> Result<Outcome, Failure> {
    if let Err(reason) = enough_descriptors(clients) {
        return Ok(Outcome::Skipped(reason));
    }
    let report = measure(clients, time, &|time| {
        std::thread::sleep(time);
        Ok(())
    })?;
    notes.extend(report.refused.note(situation));
    let row = |figure: &str, unit: &str, value: f64, most: f64| Row {
        situation: situation.to_owned(),
        figure: figure.to_owned(),
        unit: unit.to_owned(),
        callgate: plain("callgate", vec![value]),
        limits: Vec::new(),
        goal: Some(Goal::Absolute(most)),
        line_ns: Vec::new(),
    };
    let mut rows = vec![
        row("cpu", "ns", report.server.cpu_ns as f64, 0.0),
        row("switches", "1", report.server.switches as f64, 0.0),
    ];
    rows.extend(report.memory_per_client.map(|each| row("memory", "bytes", each, MEMORY_MAX)));
    Ok(Outcome::Rows(rows))
}

/// Bytes that an idle client may take, both ends and the kernel's memory for it together.
const MEMORY_MAX: f64 = 32_768.0;

/// Whether a server can have that many clients; the program's limit is raised as far as it goes.
///
/// # Errors
/// The reason why not.
pub fn enough_descriptors(clients: u32) -> Result<(), String> {
    let needed = u64::from(clients) + SPARE;
    let limit = getrlimit(Resource::Nofile);
    // None: no limit.
    let Some(most) = limit.maximum else { return Ok(()) };
    if most < needed {
        return Err(format!(
            "{clients} clients need {needed} descriptors, and the hard limit is {most}"
        ));
    }
    if limit.current.is_some_and(|current| current < most) {
        let raised = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(Resource::Nofile, raised).map_err(|error| format!("setrlimit: {error}"))?;
    }
    Ok(())
}

/// Descriptors that a server needs besides those of its clients.
const SPARE: u64 = 64;

fn measure(clients: u32, time: Duration, pause: Pause<'_>) -> Result<Report, Failure> {
    let name = scratch::Name::new("bench-idle");
    // Dropped after the processes in them have ended, since only empty groups can be removed.
    let mut groups = Groups::new();
    let (server, mut said) =
        Worker::start(["bench-server", name.as_str()]).doing("start a server")?;
    said.expect::<Ready>().doing("bench-server")?;
    let mut idlers = Idlers::start(&name, clients)?;
    groups.adopt(&server, &idlers);
    // The first connections set up what is there once; they are not counted.
    let first = idlers.connect(0)?;
    let (_, before) = settled(&server, &groups, pause)?;
    let counted = idlers.connect(clients)? - first;
    if counted != clients {
        let message = format!("{counted} of {clients} clients are connected");
        return Err(Failure::internal(message));
    }
    let (usage, after) = settled(&server, &groups, pause)?;
    pause(time)?;
    let used = Usage::of(server.pid()).doing("/proc")?.since(usage);
    let each = |after: u64, before: u64| (after as f64 - before as f64) / f64::from(clients);
    let growth = |after: Option<u64>, before: Option<u64>| Some(each(after?, before?));
    let report = Report {
        clients,
        seconds: time.as_secs() as u32,
        server: used,
        descriptors_per_client: each(after.holding.descriptors, before.holding.descriptors),
        mappings_per_client: each(after.holding.mappings, before.holding.mappings),
        memory_per_client: growth(after.all_bytes(), before.all_bytes()),
        memory_per_client_in_server: growth(after.server_bytes, before.server_bytes),
        refused: idlers.refused().clone(),
    };
    idlers.stop()?;
    ended(server, "bench-server")?;
    Ok(report)
}

/// Connections that one process holds; each takes two descriptors of the client.
const HELD_MAX: u32 = 4_000;

/// The processes that hold connections.
pub struct Idlers {
    held: Vec<(Worker, Said)>,
    refused: Refused,
}

/// Connects that the server refused; they were tried again.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Refused {
    count: u64,
    /// What the server said to one of them.
    reason: String,
}

impl Idlers {
    /// Starts the processes for that many connections.
    ///
    /// # Errors
    /// When one fails.
    pub fn start(name: &scratch::Name, clients: u32) -> Result<Idlers, Failure> {
        let mut idlers = Vec::new();
        for _ in 0..clients.div_ceil(HELD_MAX) {
            let (idler, mut told) =
                Worker::start(["bench-idlers", name.as_str()]).doing("start the clients")?;
            told.expect::<Ready>().doing("bench-idlers")?;
            idlers.push((idler, told));
        }
        Ok(Idlers { held: idlers, refused: Refused::default() })
    }

    /// Holds that many connections, and one more in each process.
    ///
    /// # Errors
    /// When a process fails.
    pub fn connect(&mut self, clients: u32) -> Result<u32, Failure> {
        let mut left = clients;
        let mut held = 0;
        for (idler, told) in &mut self.held {
            let share = left.min(HELD_MAX);
            left -= share;
            idler.tell(&(share + 1)).doing("bench-idlers")?;
            await_input(told.input(), PATIENCE, None).doing("bench-idlers")?;
            let ready: Ready = told.expect().doing("bench-idlers")?;
            held += ready.connections as u32;
            self.refused.count += ready.refused;
            self.refused.reason = ready.reason.unwrap_or(std::mem::take(&mut self.refused.reason));
        }
        Ok(held)
    }

    /// What the server refused so far.
    pub fn refused(&self) -> &Refused {
        &self.refused
    }

    /// Lets the processes end.
    ///
    /// # Errors
    /// When one does so with an error.
    pub fn stop(self) -> Result<(), Failure> {
        self.held.into_iter().try_for_each(|(idler, _)| ended(idler, "bench-idlers"))
    }
}

impl Refused {
    /// Says so, if there were any.
    pub fn note(&self, situation: &str) -> Option<String> {
        let Refused { count, reason } = self;
        let note = || format!("{situation}: {count} connects were refused at first: {reason}");
        (*count > 0).then(note)
    }
}

/// Memory cgroups of server and clients, where we may make some.
struct Groups {
    server: Option<MemoryGroup>,
    clients: Option<MemoryGroup>,
}

impl Groups {
    fn new() -> Groups {
        let own = std::process::id();
        let group = |what: &str| MemoryGroup::new(&format!("callgate-{own}-{what}"));
        Groups { server: group("server"), clients: group("clients") }
    }

    /// Moves the processes in; a group that can't take its process is given up.
    fn adopt(&mut self, server: &Worker, clients: &Idlers) {
        self.server = self.server.take().filter(|group| group.adopt(server.pid()).is_ok());
        let adopt = |group: &MemoryGroup| {
            clients.held.iter().all(|(idler, _)| group.adopt(idler.pid()).is_ok())
        };
        self.clients = self.clients.take().filter(adopt);
    }
}

/// What the server holds, and the memory of both ends.
struct State {
    holding: Holding,
    server_bytes: Option<u64>,
    clients_bytes: Option<u64>,
}

impl State {
    fn all_bytes(&self) -> Option<u64> {
        Some(self.server_bytes? + self.clients_bytes?)
    }
}

/// Waits until the server has not run for a while.
fn settled(server: &Worker, groups: &Groups, pause: Pause<'_>) -> Result<(Usage, State), Failure> {
    let pid = server.pid();
    let mut usage = Usage::of(pid).doing("/proc")?;
    for _ in 0..QUIET_ROUNDS_MAX {
        pause(QUIET)?;
        let now = Usage::of(pid).doing("/proc")?;
        if now == usage {
            break;
        }
        usage = now;
    }
    let bytes = |group: &Option<MemoryGroup>| group.as_ref().and_then(|group| group.bytes().ok());
    let state = State {
        holding: Holding::of(pid).doing("/proc")?,
        server_bytes: bytes(&groups.server),
        clients_bytes: bytes(&groups.clients),
    };
    Ok((usage, state))
}

fn print(report: &Report) -> Result<(), Failure> {
    let mut out = output::out();
    let Report { clients, seconds, server, .. } = report;
    writeln!(
        out,
        "{}",
        styled(HEAD, format_args!("A server with {clients} idle clients, {seconds} s"))
    )?;
    let memory = |bytes_each: Option<f64>| match bytes_each {
        Some(each) => bytes(each.max(0.0) as u64),
        None => "unknown (no memory cgroup can be made here)".to_owned(),
    };
    for (what, value) in [
        ("CPU time", format!("{} in {} threads", nanos(server.cpu_ns), server.threads)),
        ("context switches", output::count(server.switches)),
        ("refused connects", output::count(report.refused.count)),
        ("each client:", String::new()),
        ("  descriptors", format!("{:.2}", report.descriptors_per_client)),
        ("  mappings", format!("{:.2}", report.mappings_per_client)),
        ("  memory, server's", memory(report.memory_per_client_in_server)),
        ("  memory, both ends", memory(report.memory_per_client)),
    ] {
        writeln!(out, "{}", format!("{what:<20} {value}").trim_end())?;
    }
    Ok(out.flush()?)
}
