//! `bench idle`: what clients that do nothing cost a server.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::calls::ended;
use super::peer::Ready;
use super::usage::{Holding, MemoryGroup, Usage};
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
}

/// Runs `bench idle`.
///
/// # Errors
/// When a helper fails.
pub fn run(args: &IdleArgs) -> Result<(), Failure> {
    let pauses = Pauses::new().doing("signals")?;
    let name = scratch::Name::new("bench-idle");
    // Dropped after the processes in them have ended, since only empty groups can be removed.
    let mut groups = Groups::new();
    let (server, mut said) =
        Worker::start(["bench-server", name.as_str()]).doing("start a server")?;
    said.expect::<Ready>().doing("bench-server")?;
    let mut idlers = Idlers::start(&name, args.clients)?;
    groups.adopt(&server, &idlers);
    // The first connections set up what is there once; they are not counted.
    let first = idlers.connect(0)?;
    let (_, before) = settled(&server, &groups, &pauses)?;
    let counted = idlers.connect(args.clients)? - first;
    if counted != args.clients {
        let message = format!("{counted} of {} clients are connected", args.clients);
        return Err(Failure::internal(message));
    }
    let (usage, after) = settled(&server, &groups, &pauses)?;
    pauses.pause(Duration::from_secs(args.seconds.into()))?;
    let used = Usage::of(server.pid()).doing("/proc")?.since(usage);
    let each = |after: u64, before: u64| (after as f64 - before as f64) / f64::from(args.clients);
    let growth = |after: Option<u64>, before: Option<u64>| Some(each(after?, before?));
    let report = Report {
        clients: args.clients,
        seconds: args.seconds,
        server: used,
        descriptors_per_client: each(after.holding.descriptors, before.holding.descriptors),
        mappings_per_client: each(after.holding.mappings, before.holding.mappings),
        memory_per_client: growth(after.all_bytes(), before.all_bytes()),
        memory_per_client_in_server: growth(after.server_bytes, before.server_bytes),
    };
    for (idler, _) in idlers.0 {
        ended(idler, "bench-idlers")?;
    }
    ended(server, "bench-server")?;
    if args.json { Ok(output::json(&report)?) } else { print(&report) }
}

/// Connections that one process holds; each takes two descriptors of the client.
const HELD_MAX: u32 = 4_000;

/// The processes that hold connections.
struct Idlers(Vec<(Worker, Said)>);

impl Idlers {
    fn start(name: &scratch::Name, clients: u32) -> Result<Idlers, Failure> {
        let mut idlers = Vec::new();
        for _ in 0..clients.div_ceil(HELD_MAX) {
            let (idler, mut told) =
                Worker::start(["bench-idlers", name.as_str()]).doing("start the clients")?;
            told.expect::<Ready>().doing("bench-idlers")?;
            idlers.push((idler, told));
        }
        Ok(Idlers(idlers))
    }

    /// Holds that many connections, and one more in each process.
    fn connect(&mut self, clients: u32) -> Result<u32, Failure> {
        let mut left = clients;
        let mut held = 0;
        for (idler, told) in &mut self.0 {
            let share = left.min(HELD_MAX);
            left -= share;
            idler.tell(&(share + 1)).doing("bench-idlers")?;
            held += told.expect::<Ready>().doing("bench-idlers")?.connections as u32;
        }
        Ok(held)
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
            clients.0.iter().all(|(idler, _)| group.adopt(idler.pid()).is_ok())
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
fn settled(server: &Worker, groups: &Groups, pauses: &Pauses) -> Result<(Usage, State), Failure> {
    let pid = server.pid();
    let mut usage = Usage::of(pid).doing("/proc")?;
    for _ in 0..QUIET_ROUNDS_MAX {
        pauses.pause(QUIET)?;
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
