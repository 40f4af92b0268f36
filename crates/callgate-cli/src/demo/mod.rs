//! `callgate demo`: a digest server, client processes that send it the files of a tree, and every
//! digest compared; with `--chaos`, some of them are killed meanwhile.

mod chaos;
pub mod client;
mod crew;
pub mod message;
mod report;
pub mod server;
mod tally;
mod walk;
mod work;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use crate::exit::{Code, Failure};
use crate::output::{self, bytes, count};
use crate::progress::Progress;
use crate::signal;
use chaos::{Chaos, Sight, Step, client_name};
use crew::{Crew, Event, Victim};
use message::{Did, FromClient, FromServer, Job, Outcome, ToServer, now_ns};
use report::Report;
use tally::Tally;
use work::Work;

/// Options of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// The tree whose files are sent
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Kill a client, then the server, in the middle of the work
    #[arg(long)]
    chaos: bool,
    /// Client processes
    #[arg(
        long, value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    clients: u16,
    /// Leave out files beyond that many bytes in all; 0: no limit
    #[arg(
        long, value_name = "SIZE", default_value = "4G",
        value_parser = crate::duration::parse_bytes
    )]
    max_bytes: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// When nothing happened for so long, something is broken that should not be.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a file costs apart from its content, in bytes of content; for showing progress.
const FILE_EFFORT: u64 = 16 << 10;

/// Wrong or failed files that are listed.
const LISTED_MAX: usize = 20;

/// Runs `demo`.
///
/// # Errors
/// When there is nothing to digest, a process fails, or a digest is wrong.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let bytes_max = if args.max_bytes == 0 { u64::MAX } else { args.max_bytes };
    let path = &args.path;
    let tree = walk::walk(path, bytes_max)
        .map_err(|error| Failure::new(Code::Usage, format_args!("{}: {error}", path.display())))?;
    if tree.files.is_empty() {
        let message = format!("no files under {}", path.display());
        return Err(Failure::new(Code::Usage, message));
    }
    let started = Instant::now();
    let mut demo = Demo::start(args, &tree)?;
    demo.run()?;
    let time = started.elapsed();
    demo.progress.clear();
    demo.crew.finish()?;
    let report = Report::new(path, &tree, demo.work.rounds(), time, &demo.tallies).with(
        demo.wrong,
        demo.failed,
        demo.chaos.kills(),
    );
    if args.json {
        output::json(&report)?;
    } else {
        report.print()?;
    }
    if report.is_right() {
        Ok(())
    } else {
        Err(Failure::internal("not every file was digested right"))
    }
}

struct Demo {
    crew: Crew,
    work: Work,
    chaos: Chaos,
    tallies: Vec<Tally>,
    ready: Vec<bool>,
    /// Bytes of one round, and bytes done.
    bytes: (u64, u64),
    wrong: Vec<String>,
    failed: Vec<String>,
    progress: Progress,
    started: Instant,
}

impl Demo {
    fn start(args: &DemoArgs, tree: &walk::Tree) -> Result<Demo, Failure> {
        let clients = usize::from(args.clients);
        let mut progress = Progress::new();
        let crew = Crew::start(clients)?;
        progress.line(format_args!(
            "{}, {} under {}; server {} and {clients} clients",
            output::files(tree.files.len() as u64),
            bytes(tree.bytes()),
            args.path.display(),
            crew.name(),
        ));
        Ok(Demo {
            crew,
            work: Work::new(tree.files.clone(), clients),
            chaos: Chaos::new(args.chaos),
            tallies: (0..clients).map(|_| Tally::new()).collect(),
            ready: vec![false; clients],
            bytes: (tree.bytes(), 0),
            wrong: Vec::new(),
            failed: Vec::new(),
            progress,
            started: Instant::now(),
        })
    }

    /// Goes on until all work is done, and all that was to be broken is mended.
    fn run(&mut self) -> Result<(), Failure> {
        for client in 0..self.tallies.len() {
            self.crew.start_client(client)?;
        }
        while !(self.work.is_finished() && self.chaos.is_over()) {
            match self.crew.event(PATIENCE) {
                Some(event) => self.act(event)?,
                None => {
                    let message = format!("nothing happened for {} s", PATIENCE.as_secs());
                    return Err(Failure::internal(message));
                }
            }
            self.hand_out();
            self.break_something()?;
            self.show();
        }
        Ok(())
    }

    fn act(&mut self, event: Event) -> Result<(), Failure> {
        let step = self.chaos.step();
        match event {
            Event::Client(client, FromClient::Ready) => self.ready[client] = true,
            Event::Client(client, FromClient::Did(did)) => self.count(client, &did),
            Event::Client(client, FromClient::Failed(failed)) => {
                self.tallies[client].fail(&failed);
                self.chaos.call_failed(client, &failed);
            }
            Event::ClientEnded(client) if step == Step::ClientKilled && client == self.victim() => {
                self.crew.reap(Victim::Client(client));
                let left = output::files(self.work.take_back(client) as u64);
                let name = client_name(client);
                self.progress.line(format_args!("{name} is gone; its {left} will be done again"));
                self.crew.start_client(client)?;
            }
            Event::Server(FromServer::Watching(_)) => self.kill_client()?,
            Event::Server(FromServer::ClientGone(at_ns)) => self.chaos.client_gone(at_ns),
            Event::Server(FromServer::Ready) if step == Step::ServerKilled => {
                self.chaos.replaced(now_ns());
                self.progress.line("the server is back");
            }
            Event::Server(FromServer::Ready) => {}
            Event::ServerEnded if step == Step::ServerKilled => {
                self.crew.reap(Victim::Server);
                self.crew.start_server()?;
            }
            Event::ClientEnded(client) => {
                let name = client_name(client);
                return Err(Failure::internal(format_args!("{name} ended unexpectedly")));
            }
            Event::ServerEnded => return Err(Failure::internal("the server ended unexpectedly")),
            Event::Garbled(error) => {
                return Err(Failure::internal(format_args!("a helper process: {error}")));
            }
            Event::Signal(signal) => return Err(Failure::silent(signal::exit_code(signal))),
        }
        Ok(())
    }

    /// Counts a client's report.
    fn count(&mut self, client: usize, did: &Did) {
        self.tallies[client].add(did);
        self.bytes.1 += did.bytes;
        for (job, outcome) in &did.jobs {
            if !self.work.done(client, *job) {
                continue;
            }
            self.tallies[client].count(outcome);
            let path = self.work.path(*job).display();
            let (list, line) = match outcome {
                Outcome::Right | Outcome::Skipped(_) => continue,
                Outcome::Wrong { ours, theirs } => {
                    (&mut self.wrong, format!("{path}: ours {ours}, the server's {theirs}"))
                }
                Outcome::Failed(error) => (&mut self.failed, format!("{path}: {error}")),
            };
            if list.len() < LISTED_MAX {
                list.push(line);
            }
        }
        // The successor of a killed client counts as being at work from its first report on.
        if self.chaos.step() == Step::ClientKilled && client == self.victim() && self.ready[client]
        {
            self.chaos.replaced(now_ns());
        }
    }

    /// Keeps every client busy; while something is still to be broken, work never ends.
    fn hand_out(&mut self) {
        let endless = !self.chaos.is_over();
        for client in 0..self.ready.len() {
            while self.ready[client] {
                let Some((job, path)) = self.work.hand_out(client, endless) else {
                    break;
                };
                let job = Job { job, path: path.into() };
                self.crew.give(client, &job);
            }
        }
    }

    /// The client that is killed: the last.
    fn victim(&self) -> usize {
        self.tallies.len() - 1
    }

    fn break_something(&mut self) -> Result<(), Failure> {
        let busy = |client: usize| self.ready[client] && self.work.held(client) > 0;
        let sight = Sight {
            files: (self.work.count_done().into(), self.work.count_files().into()),
            bytes: (self.bytes.1, self.bytes.0),
            victim_busy: busy(self.victim()),
            all_busy: (0..self.ready.len()).all(busy),
        };
        if self.chaos.wants_watch(sight) {
            self.crew.tell_server(&ToServer::Watch);
        }
        if self.chaos.wants_server_dead(sight) {
            let killed = self.crew.kill(Victim::Server)?;
            let held = (0..self.ready.len()).map(|client| self.work.held(client)).sum();
            let survivors = (0..self.ready.len()).map(client_name);
            self.progress.line(format_args!("killed the server, pid {}", killed.1));
            self.chaos.killed(Victim::Server, killed, held, survivors);
        }
        Ok(())
    }

    fn kill_client(&mut self) -> Result<(), Failure> {
        let victim = Victim::Client(self.victim());
        let killed = self.crew.kill(victim)?;
        let held = self.work.held(self.victim());
        // What it may still have said before it died is not its successor's.
        let number = self.victim();
        self.ready[number] = false;
        let name = client_name(number);
        self.progress.line(format_args!("killed {name}, pid {}", killed.1));
        self.chaos.killed(victim, killed, held, ["server".to_owned()]);
        Ok(())
    }

    fn show(&mut self) {
        let (done, all) = (u64::from(self.work.count_done()), u64::from(self.work.count_all()));
        let (bytes_round, bytes_done) = self.bytes;
        let bytes_all = bytes_round * u64::from(self.work.rounds());
        let time = self.started.elapsed();
        let effort = |files: u64, bytes: u64| files * FILE_EFFORT + bytes;
        let (part, whole) = (effort(done, bytes_done.min(bytes_all)), effort(all, bytes_all));
        self.progress.update(part, whole, || {
            let rate = output::rate(bytes_done, time);
            let (done, all) = (count(done), output::files(all));
            format!("{done} of {all}, {}, {rate}", bytes(bytes_done))
        });
    }
}
