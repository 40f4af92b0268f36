//! Who lives, who is killed, and the checks at the end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use callgate::{Client, ClientOptions, Retry, ServerOptions, WaitPolicy, WhenFull};
use callgate_sys::sim::{self, Config, Process, Report, Rng};
use callgate_sys::thread;

use crate::client::{Caller, prove_whole};
use crate::oracle::Oracle;
use crate::server::{Running, serve};

const NAME: &str = "simulated";

/// How long a process is stopped at most.
const STOPPED_NS_MAX: u64 = 100_000_000;

/// What may go wrong in a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chaos {
    /// Nothing: every call is answered.
    Calm,
    /// Processes are killed, servers stop, drain and come again.
    Storm,
    /// As a storm, and descriptors and memory are short now and then.
    Shortage,
    /// Nothing, but large payloads, little memory for them, and answers from other threads.
    Tight,
}

impl Chaos {
    /// Whether servers come and go.
    fn is_stormy(self) -> bool {
        matches!(self, Chaos::Storm | Chaos::Shortage)
    }
}

/// Runs the scenario of this configuration's seed.
///
/// # Errors
///
/// What went wrong, with the seed and the last steps.
pub fn run(config: Config, chaos: Chaos) -> Result<Report, String> {
    let seed = config.seed;
    sim::run(config, move || Scenario::new(seed, chaos).run())
}

/// What is held for a process outside of it; the process alone may touch it.
type Slot<T> = Arc<Mutex<Option<T>>>;

fn take<T>(slot: &Slot<T>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

struct ClientSide {
    process: Process,
    slot: Slot<Client>,
    options: ClientOptions,
    main: Option<thread::JoinHandle<()>>,
}

struct ServerSide {
    process: Process,
    slot: Slot<Running>,
}

struct Scenario {
    rng: Rng,
    chaos: Chaos,
    oracle: Arc<Oracle>,
    options: ServerOptions,
    largest: u64,
    clients: Vec<ClientSide>,
    server: Option<ServerSide>,
    servers: u32,
}

impl Scenario {
    fn new(seed: u64, chaos: Chaos) -> Scenario {
        let mut rng = Rng::new(!seed);
        let tight = chaos == Chaos::Tight;
        let largest = if tight { 300_000 } else { rng.pick(&[0, 20_000, 300_000]) };
        let mut options = ServerOptions::default();
        options.workers = rng.range(1, 3) as usize;
        options.wait = policy(&mut rng);
        options.limits.bytes_per_client =
            if tight { 1 << 20 } else { rng.pick(&[1 << 20, 4 << 20, 1 << 30]) };
        options.idle_interval = rng.one_in(4).then_some(Duration::from_millis(300));
        Scenario {
            rng,
            chaos,
            oracle: Arc::default(),
            options,
            largest,
            clients: Vec::new(),
            server: None,
            servers: 0,
        }
    }

    fn run(mut self) {
        if self.chaos == Chaos::Shortage {
            sim::set_faults(self.rng.pick(&[10, 30, 100]));
        }
        if !self.chaos.is_stormy() || self.rng.one_in(2) {
            self.start_server();
        }
        for number in 0..self.rng.range(1, 3) {
            self.start_client(number);
        }
        if self.chaos.is_stormy() {
            for _ in 0..self.rng.range(1, 4) {
                self.strike();
            }
        }
        if self.rng.one_in(3) {
            self.stop_somebody();
        }
        for client in &mut self.clients {
            let ended = client.main.take().expect("joined once").join();
            let _ = client.process.spare();
            assert!(ended.is_ok() || client.process.is_killed(), "a client ended by itself");
        }
        sim::set_faults(0);
        // Whoever was stopped goes on.
        thread::sleep(Duration::from_nanos(STOPPED_NS_MAX));
        self.check_whole();
        self.check_empty();
    }

    fn start_server(&mut self) {
        self.servers += 1;
        let process = Process::new(&format!("server{}", self.servers));
        let slot: Slot<Running> = Slot::default();
        let (options, oracle, place) = (self.options.clone(), self.oracle.clone(), slot.clone());
        let began = process.run("main", move || {
            let running = serve(NAME, &options, oracle);
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        });
        began.join().expect("not killed yet");
        self.server = Some(ServerSide { process, slot });
    }

    fn start_client(&mut self, number: u64) {
        let rng = &mut self.rng;
        let process = Process::new(&format!("client{number}"));
        let slot: Slot<Client> = Slot::default();
        let mut options = ClientOptions::default();
        options.wait = policy(rng);
        let in_flight = rng.pick(&[1, 2, 3, 8, 64]);
        options.in_flight = Some(in_flight);
        options.when_full = rng.pick(&[WhenFull::Fail, WhenFull::Wait]);
        options.retry = rng.pick(&[Retry::Never, Retry::NotStarted, Retry::Idempotent]);
        options.bytes = rng.pick(&[1 << 20, 4 << 20, 1 << 30]);
        options.connect_timeout = Duration::from_millis(rng.pick(&[0, 5, 50, 50]));
        // A thread that holds all calls or all memory itself would wait for itself.
        let quota = options.bytes.min(self.options.limits.bytes_per_client);
        let little = quota < 1 << 30 || self.chaos == Chaos::Tight;
        if in_flight < 64 || little {
            options.when_full = WhenFull::Fail;
        }
        let callers: Vec<_> =
            (0..rng.range(1, 2)).map(|thread| (thread, rng.fork(), rng.range(3, 20))).collect();
        let (oracle, place, given) = (self.oracle.clone(), slot.clone(), options.clone());
        let (largest, stormy) = (self.largest, self.chaos.is_stormy());
        let (faulty, tight) = (self.chaos == Chaos::Shortage, self.chaos == Chaos::Tight);
        let main = process.run("main", move || {
            let client = Client::lazy(NAME, given).expect("a good name");
            let threads: Vec<_> = callers
                .into_iter()
                .map(|(thread, rng, calls)| {
                    let (client, oracle) = (client.clone(), oracle.clone());
                    let first_id = (number + 1) << 48 | (thread + 1) << 32;
                    let chaos = (stormy, faulty, tight);
                    let caller = Caller::new(client, oracle, rng, first_id, calls, largest, chaos);
                    let builder = thread::Builder::new().name("caller".into());
                    builder.spawn(move || caller.run()).expect("a thread")
                })
                .collect();
            for thread in threads {
                thread.join().expect("it lives as long as this one");
            }
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
        });
        self.clients.push(ClientSide { process, slot, options, main: Some(main) });
    }

    /// Somebody is stopped for a while, perhaps several are. That is nobody's death: whoever waits for them goes on waiting.
    fn stop_somebody(&mut self) {
        for _ in 0..self.rng.range(1, 3) {
            thread::sleep(Duration::from_nanos(self.rng.below(500_000)));
            let process = match &self.server {
                Some(server) if self.rng.one_in(2) => server.process,
                _ => self.clients[self.rng.below(self.clients.len() as u64) as usize].process,
            };
            process.stop_for(self.rng.pick(&[50_000, 2_000_000, STOPPED_NS_MAX]));
        }
    }

    /// Something happens to somebody.
    fn strike(&mut self) {
        thread::sleep(Duration::from_nanos(self.rng.below(500_000)));
        let points = match self.rng.below(3) {
            0 => self.rng.below(60),
            1 => self.rng.below(600),
            _ => self.rng.below(4_000),
        };
        if self.rng.one_in(3) {
            let at = self.rng.below(self.clients.len() as u64) as usize;
            return self.clients[at].process.kill_after(points);
        }
        let Some(ServerSide { process, slot, .. }) = self.server.take() else {
            return self.start_server();
        };
        let time = Duration::from_nanos(self.rng.below(2_000_000));
        let held = slot.clone();
        match self.rng.below(4) {
            0 => {
                let ended = process.run("stop", move || {
                    take(&slot).expect("served").end();
                });
                let _ = ended.join();
            }
            1 => {
                let ended = process.run("drain", move || {
                    let running = take(&slot).expect("served");
                    let _ = running.server.drain(time);
                    running.end();
                });
                let _ = ended.join();
            }
            2 => {
                // Killed while it stops.
                process.kill_after(points);
                let ended = process.run("stop", move || {
                    take(&slot).expect("served").end();
                });
                let _ = ended.join();
            }
            _ => {
                process.kill_after(points);
                thread::sleep(time);
                process.kill();
            }
        }
        if !process.is_killed() {
            let left = process.usage();
            assert_eq!((left.fds, left.mappings, left.tasks), (0, 0, 0), "left by a server");
        }
        process.kill();
        // The world forgets what was in it; here it must not be dropped either.
        std::mem::forget(take(&held));
        if self.rng.one_in(2) {
            thread::sleep(time);
        }
        self.start_server();
    }

    /// Nothing was lost: neither a cell nor memory.
    fn check_whole(&mut self) {
        if self.server.as_ref().is_none_or(|server| server.process.is_killed()) {
            self.start_server();
        }
        for (number, client) in self.clients.iter().enumerate() {
            if client.process.is_killed() {
                std::mem::forget(take(&client.slot));
                continue;
            }
            let slot = client.slot.clone();
            let in_flight = client.options.in_flight.expect("each sets it");
            let first_id = 1 << 60 | (number as u64) << 48;
            let largest = self.largest.min(200_000);
            let proof = client.process.run("proof", move || {
                let client = take(&slot).expect("left by the callers");
                prove_whole(&client, in_flight, first_id, largest);
                drop(client);
            });
            proof.join().expect("nobody is killed any more");
        }
    }

    /// Nothing is left: no descriptor, no mapping, no byte, no thread.
    fn check_empty(&mut self) {
        let Some(ServerSide { process, slot }) = self.server.take() else {
            unreachable!("started for `check_whole`")
        };
        // Memory is given back in steps of a second.
        thread::sleep(Duration::from_secs(20));
        for client in self.clients.iter().filter(|client| !client.process.is_killed()) {
            let left = client.process.usage();
            // The thread that notices death stays, with its poller and its waker.
            assert!(left.fds <= 2 && left.mappings == 0, "left by a client: {left:?}");
        }
        let running = take(&slot).expect("served");
        let workers = self.options.workers;
        let end = process.run("end", move || {
            let status = running.server.status();
            assert_eq!(status.clients, 0, "connections are left");
            assert_eq!(status.violations, 0, "an honest client was called a liar");
            assert_eq!(status.reply_bytes, 0, "memory is charged that nobody holds");
            running
        });
        let running = end.join().expect("nobody is killed any more");
        let used = process.usage();
        // A poller and a waker for each worker and for admission, one more waker as the spare, the
        // listener, the lock, and the watch of released memory.
        // The spare may have been lost to a shortage.
        let (fds, spare) = (2 * workers + 6, usize::from(self.chaos == Chaos::Shortage));
        assert!(used.mappings == 0 && (fds - spare..=fds).contains(&used.fds), "left: {used:?}");
        process.run("last", move || running.end()).join().expect("nobody is killed any more");
        let left = process.usage();
        assert_eq!((left.fds, left.mappings, left.tasks), (0, 0, 0), "left by the last server");
        assert_eq!(sim::memory_held(), 0, "memory is left");
    }
}

fn policy(rng: &mut Rng) -> WaitPolicy {
    rng.pick(&[
        WaitPolicy::Balanced,
        WaitPolicy::Balanced,
        WaitPolicy::LowestLatency,
        WaitPolicy::LowestCpu,
    ])
}
