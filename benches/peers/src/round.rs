//! One round: one peer in one situation, in processes of its own.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::monotonic_ns;
use crate::measure::histogram;
use crate::order::{Go, Order, Outcome, Ready, Role, Said, Task};
use crate::peer::{Peer, Place, Result};
use crate::process::{Process, Scene};
use crate::situation::{Cpus, Situation, Work};

/// How long a process may take to set itself up.
const SETUP: Duration = Duration::from_secs(20);
/// How long a client may take beyond its time; also until an error after the server was killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a call is in flight before the server is killed.
const IN_FLIGHT: Duration = Duration::from_millis(100);

/// What one round gave. Times are nanoseconds, and zero where calls were only counted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Round {
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile; the slowest call when there were fewer than a thousand.
    pub p999: u64,
    /// The slowest call.
    pub max: u64,
    /// Calls of all clients.
    pub calls: u64,
    /// Calls a second of all clients.
    pub rate: u64,
    /// Calls of the client that made the fewest, in percent of the mean of all clients.
    pub share: u64,
    /// CPU time of all processes for a call, in nanoseconds.
    pub cpu: u64,
}

/// Runs a round in which clients measure for `time`.
///
/// # Errors
/// What went wrong, also when something took too long.
pub fn round(peer: &dyn Peer, situation: &Situation, time: Duration) -> Result<Round> {
    let scene = Scene::new()?;
    let stage = Stage { peer, situation, scene: &scene, cpus: cpus()? };
    let mut burners = Vec::new();
    for _ in 0..situation.foreign {
        burners.push(stage.start(Role::Burner, 0, "burner")?);
    }
    let mut charged = Vec::new();
    let mut driver = None;
    if peer.has_driver() {
        let started = stage.started(Role::Driver, 0, "driver")?;
        charged.push(started.pid());
        driver = Some(started);
    }
    let mut server = stage.started(Role::Server, 0, "server")?;
    charged.push(server.pid());
    let ran = clients(&stage, time, &mut server, charged);
    drop(driver);
    ran.map_err(|error| match server.complaint() {
        Some(complaint) => format!("{error} (server: {complaint})").into(),
        None => error,
    })
}

fn clients(
    stage: &Stage<'_>,
    time: Duration,
    server: &mut Process,
    mut charged: Vec<u32>,
) -> Result<Round> {
    let task = Task { work: stage.situation.work, time };
    let mut clients = Vec::new();
    for number in 0..stage.situation.clients {
        clients.push(stage.start(Role::Client(task), number, &format!("client-{number}"))?);
    }
    for client in &clients {
        is_ready(client, "a client")?;
    }
    for client in &mut clients {
        // The first is charged for the server too.
        client.tell(&Go { charged: std::mem::take(&mut charged) })?;
    }
    if task.work == Work::Killed {
        return killed(server, &clients[0]);
    }
    let limit = time + time / 10 + PATIENCE;
    let outcomes: Result<Vec<Outcome>> = clients
        .iter()
        .map(|client| match client.hear(limit)? {
            Some(Said::Outcome(outcome)) => Ok(outcome),
            Some(Said::Failed(failed)) => Err(failed.into()),
            None => Err(format!("hangs: not done {} s late", PATIENCE.as_secs()).into()),
        })
        .collect();
    Ok(sum(&outcomes?))
}

fn killed(server: &mut Process, client: &Process) -> Result<Round> {
    std::thread::sleep(IN_FLIGHT);
    let at = monotonic_ns();
    server.kill()?;
    let took = match client.hear(PATIENCE)? {
        Some(Said::Outcome(outcome)) if outcome.ended_ns > at => outcome.ended_ns - at,
        Some(Said::Outcome(_)) => return Err("a call ended before the server was killed".into()),
        Some(Said::Failed(failed)) => return Err(failed.into()),
        None => {
            return Err(format!("hangs: no error within {} s", PATIENCE.as_secs()).into());
        }
    };
    Ok(Round { p50: took, p99: took, p999: took, max: took, calls: 1, rate: 0, share: 100, cpu: 0 })
}

fn sum(outcomes: &[Outcome]) -> Round {
    let mut times = histogram();
    for (value, count) in outcomes.iter().flat_map(|outcome| &outcome.times) {
        times.saturating_record_n(*value, *count);
    }
    let calls: u64 = outcomes.iter().map(|outcome| outcome.calls).sum();
    let cpu: u64 = outcomes.iter().map(|outcome| outcome.cpu_ns).sum();
    let fewest = outcomes.iter().map(|outcome| outcome.calls).min().unwrap_or(0);
    let rate = |outcome: &Outcome| outcome.calls as f64 * 1e9 / outcome.elapsed_ns.max(1) as f64;
    Round {
        p50: times.value_at_quantile(0.5),
        p99: times.value_at_quantile(0.99),
        p999: times.value_at_quantile(0.999),
        max: times.max(),
        calls,
        rate: outcomes.iter().map(rate).sum::<f64>() as u64,
        share: 100 * fewest * outcomes.len() as u64 / calls.max(1),
        cpu: cpu / calls.max(1),
    }
}

/// Where a round's processes are started.
struct Stage<'a> {
    peer: &'a dyn Peer,
    situation: &'a Situation,
    scene: &'a Scene,
    cpus: Vec<usize>,
}

impl Stage<'_> {
    fn start(&self, role: Role, client: usize, label: &str) -> Result<Process> {
        let place = Place {
            dir: self.scene.dir.clone(),
            tag: self.scene.tag.clone(),
            size: self.situation.size,
            clients: self.situation.clients,
            client,
            window: self.situation.window(),
        };
        let (parent, peer) = (std::process::id(), self.peer.name().to_owned());
        let cpus = self.cpus_of(&role);
        Process::start(&Order { parent, peer, place, cpus, role }, label)
    }

    fn started(&self, role: Role, client: usize, label: &str) -> Result<Process> {
        let process = self.start(role, client, label)?;
        is_ready(&process, label)?;
        Ok(process)
    }

    fn cpus_of(&self, role: &Role) -> Vec<usize> {
        let first = self.cpus.first().copied();
        let last = self.cpus.last().copied();
        let wanted = match (self.situation.cpus, role) {
            (Cpus::Free, _) | (_, Role::Driver | Role::Burner) => None,
            (Cpus::Together, _) | (Cpus::Apart, Role::Server) => first,
            (Cpus::Apart, Role::Client(_)) => last,
        };
        wanted.into_iter().collect()
    }
}

fn is_ready(process: &Process, label: &str) -> Result<()> {
    match process.hear::<Heard>(SETUP)? {
        Some(Heard::Ready(Ready { ready: true })) => Ok(()),
        Some(Heard::Ready(_)) => Err(format!("{label} is not ready").into()),
        Some(Heard::Said(Said::Failed(failed))) => Err(failed.into()),
        Some(Heard::Said(Said::Outcome(_))) => Err("a client did not wait".into()),
        None => Err(format!("hangs: {label} not ready after {} s", SETUP.as_secs()).into()),
    }
}

/// What a process may say first.
#[derive(Deserialize)]
#[serde(untagged)]
enum Heard {
    Ready(Ready),
    Said(Said),
}

/// CPUs that this program may use.
fn cpus() -> Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}
