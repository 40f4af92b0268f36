//! `bench calls`: round trips of calls, each beside the bare primitives, in interleaved rounds.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::bare::{self, Bare};
use super::peer::{Measured, Order, Ready};
use super::process;
use super::rows::{self, Plan, Row};
use super::sample::{Pace, Rounds, Summary, clock_cost, histogram, unpack};
use crate::exit::{Code, Doing, Failure};
use crate::output::{self, HEAD, Table, bytes, nanos, styled};
use crate::progress::Progress;
use crate::scratch;
use crate::worker::{Said, Worker};

/// Options of `bench calls`.
#[derive(Args, Debug)]
pub struct CallsArgs {
    /// Fewer sizes and clients, shorter rounds
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Rounds over all measurements, one after the other
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Only the measurements with that many clients
    #[arg(long, value_name = "N")]
    clients: Option<usize>,
    /// Only the measurements with messages of that size
    #[arg(long, value_name = "SIZE", value_parser = crate::duration::parse_bytes)]
    size: Option<u64>,
    /// Only the measurements with that pause before each call; 0: those without
    #[arg(long, value_name = "TIME", value_parser = crate::duration::parse)]
    pause: Option<Duration>,
    /// Threads of the server that run the handler
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
}

/// A row of the plan, and what was measured for it.
struct Measure {
    row: Row,
    rounds: Rounds,
    /// Time spent calling, over all rounds.
    elapsed: Duration,
}

/// A primitive that is measured beside some rows.
struct Beside {
    bare: Bare,
    clients: usize,
    size: usize,
    gap: Duration,
    rounds: Rounds,
}

#[derive(Serialize)]
struct Report {
    rounds: usize,
    cpus: usize,
    clock_ns: u64,
    rows: Vec<RowReport>,
}

#[derive(Serialize)]
struct RowReport {
    clients: usize,
    bytes: usize,
    in_place: bool,
    gap_ns: u64,
    round_trip_ns: Summary,
    /// Of all clients together, checking of replies included.
    calls_per_second: f64,
    bare: Vec<BareReport>,
}

#[derive(Serialize)]
struct BareReport {
    primitive: Bare,
    round_trip_ns: Summary,
    /// The call's median over the primitive's.
    ratio_p50: f64,
}

/// Runs `bench calls`.
///
/// # Errors
/// When a process of the measurement fails, or a reply was wrong.
pub fn run(args: &CallsArgs) -> Result<(), Failure> {
    let cpus = process::cpus().doing("sched_getaffinity")?.len();
    let mut plan = rows::plan(args.quick, cpus);
    plan.rows.retain(|row| args.wants(row));
    if plan.rows.is_empty() {
        let message = "no measurement has these clients, size and pause; see a run without them";
        return Err(Failure::new(Code::Usage, message));
    }
    let rounds = args.rounds.unwrap_or(plan.rounds).max(1);
    let crowd = plan.rows.iter().map(|row| row.clients).max().unwrap_or(1);
    let mut crew = Crew::start(crowd, args.workers)?;
    let clock = clock_cost();
    let measure =
        |row: &Row| Measure { row: *row, rounds: Rounds::default(), elapsed: Duration::ZERO };
    let mut measures: Vec<Measure> = plan.rows.iter().map(measure).collect();
    let mut besides: Vec<Beside> = Vec::new();
    let mut progress = Progress::new();
    let all = (rounds * measures.len()) as u64;
    for round in 0..rounds {
        for (index, measure) in measures.iter_mut().enumerate() {
            let row = &measure.row;
            let done = (round * plan.rows.len() + index) as u64;
            progress
                .update(done, all, || format!("round {} of {rounds}: {}", round + 1, name(row)));
            for bare in row.bare {
                let beside = Beside::find(&mut besides, *bare, row);
                if beside.rounds.len() == round {
                    beside.measure(pace(&plan, row.gap, clock)).doing(bare.name())?;
                }
            }
            measure.elapsed +=
                crew.measure(row, pace(&plan, row.gap, clock), &mut measure.rounds)?;
        }
    }
    progress.clear();
    crew.stop()?;
    let rows = measures.iter().map(|measure| measure.report(&besides)).collect();
    let report = Report { rounds, cpus, clock_ns: clock, rows };
    if args.json { Ok(output::json(&report)?) } else { print(&report) }
}

impl CallsArgs {
    fn wants(&self, row: &Row) -> bool {
        self.clients.is_none_or(|clients| clients == row.clients)
            && self.size.is_none_or(|size| size == row.size as u64)
            && self.pause.is_none_or(|pause| pause == row.gap)
    }
}

fn pace(plan: &Plan, gap: Duration, clock: u64) -> Pace {
    let time = if gap.is_zero() { plan.busy } else { gap * plan.sleeps };
    Pace { time, least: 5, gap, clock }
}

fn name(row: &Row) -> String {
    let way = if row.in_place { "in place" } else { "copied" };
    format!("{} clients, {} {way}", row.clients, bytes(row.size as u64))
}

impl Measure {
    fn report(&self, besides: &[Beside]) -> RowReport {
        let round_trip_ns = self.rounds.summary();
        let bare = self.row.bare.iter().filter_map(|bare| {
            let beside = besides.iter().find(|beside| beside.is_for(*bare, &self.row))?;
            let summary = beside.rounds.summary();
            let ratio_p50 = round_trip_ns.p50.median as f64 / summary.p50.median.max(1) as f64;
            Some(BareReport { primitive: *bare, round_trip_ns: summary, ratio_p50 })
        });
        RowReport {
            clients: self.row.clients,
            bytes: self.row.size,
            in_place: self.row.in_place,
            gap_ns: self.row.gap.as_nanos() as u64,
            calls_per_second: round_trip_ns.count as f64 / self.elapsed.as_secs_f64().max(1e-9),
            round_trip_ns,
            bare: bare.collect(),
        }
    }
}

impl Beside {
    fn find<'a>(besides: &'a mut Vec<Beside>, bare: Bare, row: &Row) -> &'a mut Beside {
        let found = besides.iter().position(|beside| beside.is_for(bare, row));
        let index = found.unwrap_or_else(|| {
            let (clients, size, gap) = (row.clients, row.size, row.gap);
            besides.push(Beside { bare, clients, size, gap, rounds: Rounds::default() });
            besides.len() - 1
        });
        &mut besides[index]
    }

    fn is_for(&self, bare: Bare, row: &Row) -> bool {
        // What carries no message of its own is the same for every size.
        let sized = matches!(bare, Bare::LineAndCopies | Bare::Socket);
        self.bare == bare
            && (self.clients, self.gap) == (row.clients, row.gap)
            && (!sized || self.size == row.size)
    }

    fn measure(&mut self, pace: Pace) -> std::io::Result<()> {
        self.rounds.add(&bare::measure(self.bare, self.clients, self.size, pace)?);
        Ok(())
    }
}

/// The server and the clients, all connected from the beginning.
struct Crew {
    clients: Vec<(Worker, Said)>,
    server: Worker,
    /// Behind the processes, since it is to be dropped after them.
    name: scratch::Name,
}

impl Crew {
    fn start(clients: usize, workers: Option<usize>) -> Result<Crew, Failure> {
        let name = scratch::Name::new("bench");
        let mut args = vec!["bench-server".to_owned(), name.as_str().to_owned()];
        args.extend(workers.map(|workers| format!("--workers={workers}")));
        let (server, mut said) = Worker::start(&args).doing("start a server")?;
        said.expect::<Ready>().doing("bench-server")?;
        let mut crew = Crew { clients: Vec::new(), server, name };
        for _ in 0..clients {
            let (client, mut said) =
                Worker::start(["bench-client", crew.name.as_str()]).doing("start a client")?;
            said.expect::<Ready>().doing("bench-client")?;
            crew.clients.push((client, said));
        }
        Ok(crew)
    }

    /// Lets the first clients of the crew call; adds a round, tells how long the slowest took.
    fn measure(&mut self, row: &Row, pace: Pace, rounds: &mut Rounds) -> Result<Duration, Failure> {
        let order = Order { size: row.size, in_place: row.in_place, pace };
        let clients = &mut self.clients[..row.clients];
        for (client, _) in &mut *clients {
            client.tell(&order).doing("bench-client")?;
        }
        let mut all = histogram();
        let mut slowest = 0;
        for (_, said) in clients {
            let measured: Measured = said.expect().doing("bench-client")?;
            let times = measured.map_err(|error| {
                Failure::internal(format_args!("a call failed ({}): {error}", name(row)))
            })?;
            unpack(&times.pairs, &mut all);
            slowest = slowest.max(times.elapsed_ns);
        }
        rounds.add(&all);
        Ok(Duration::from_nanos(slowest))
    }

    fn stop(self) -> Result<(), Failure> {
        for (client, _) in self.clients {
            ended(client, "bench-client")?;
        }
        ended(self.server, "bench-server")
    }
}

/// Waits for a helper that has nothing left to do.
pub fn ended(worker: Worker, what: &str) -> Result<(), Failure> {
    let status = worker.join().doing(what)?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::internal(format_args!("{what} ended with {status}")))
    }
}

fn print(report: &Report) -> Result<(), Failure> {
    let mut out = output::out();
    writeln!(
        out,
        "Round trips of calls between processes, {} CPUs; {} rounds, interleaved. p50 and p99 are\n\
         medians of the rounds; p99.9 and max are over all rounds. The clock's {} are subtracted;\n\
         replies are checked outside of the timed part. A ratio is the call's p50 over that of a\n\
         bare primitive measured in the same rounds.",
        report.cpus,
        report.rounds,
        nanos(report.clock_ns),
    )?;
    for (title, sleeping) in
        [("\nBusy: closed loop", false), ("\nSleeping: a pause before each call", true)]
    {
        let head = [
            "clients", "size", "way", "pause", "p50", "rounds", "p99", "p99.9", "max", "calls/s",
            "ratio to",
        ];
        let mut table = Table::new(0, &head);
        for row in report.rows.iter().filter(|row| (row.gap_ns > 0) == sleeping) {
            table.row(cells(row));
        }
        writeln!(out, "{}", styled(HEAD, title))?;
        write!(out, "{}", table.render())?;
    }
    Ok(out.flush()?)
}

fn cells(row: &RowReport) -> [String; 11] {
    let trip = &row.round_trip_ns;
    let ratios: Vec<String> = row
        .bare
        .iter()
        .map(|bare| {
            let median = nanos(bare.round_trip_ns.p50.median);
            format!("{} {median}: {}", bare.primitive.name(), output::digits(bare.ratio_p50))
        })
        .collect();
    [
        row.clients.to_string(),
        bytes(row.bytes as u64),
        if row.in_place { "in place" } else { "copied" }.to_owned(),
        if row.gap_ns == 0 { "-".to_owned() } else { nanos(row.gap_ns) },
        nanos(trip.p50.median),
        format!("{} to {}", nanos(trip.p50.low), nanos(trip.p50.high)),
        nanos(trip.p99.median),
        nanos(trip.p999),
        nanos(trip.max),
        output::count(row.calls_per_second as u64),
        ratios.join(", "),
    ]
}
