//! Handlers that never return. By design a worker that is in one serves none of its clients meanwhile: their calls end
//! at their deadlines, and those without one wait. Clients of other workers do not notice, new clients get in, and the
//! server can be stopped or drained: then all calls end at once, the name is free, and the next server has it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use callgate::{
    Call, CallError, CallOptions, Client, Pending, ServeError, Server, ServerOptions, Started,
};
use callgate_tests::Usage;
use callgate_tests::data::{check_request, is_reply, reply, request};

use crate::arena::Arena;
use crate::friends::judged;
use crate::kin::{BOUND, Driver, Exit, Kin};
use crate::report::Row;
use crate::trial::{until, words};

/// Methods of this server.
const ANSWER: u32 = 0;
const NEVER: u32 = 1;
/// How many workers a server has.
const WORKERS: [usize; 3] = [1, 2, 4];
/// Time limit of calls that end by it. Those that are answered take far less.
const SHORT: Duration = Duration::from_millis(500);
/// Time limit of a drain, and what it may take longer.
const DRAIN: Duration = Duration::from_millis(100);
/// Calls of each client whose worker is free.
const CALLS: u64 = 500;

/// Has handlers hang, so many times with each number of workers.
pub fn run(rounds: u64, folder: &Path) -> Row {
    judged("handlers that never return", |arena, tried| {
        let mut calls = 0;
        for round in 0..rounds {
            for workers in WORKERS {
                calls += try_once(arena, folder, workers, round)
                    .map_err(|error| format!("{workers} workers, round {round}: {error}"))?;
                *tried += 1;
            }
        }
        Ok(format!(
            "with 1, 2 and 4 workers, stopped, drained, or let go; {calls} calls of clients whose worker was free, \
             all answered meanwhile; those of the others ended at their deadlines"
        ))
    })
}

fn try_once(
    arena: &'static Arena,
    folder: &Path,
    workers: usize,
    round: u64,
) -> Result<u64, String> {
    let path = folder.join("stuck");
    let path = path.to_str().expect("utf-8");
    let mut server =
        Kin::fork("the server", arena, |driver| be_server(arena, path, workers, driver));
    server.line()?;
    let mut clients =
        Kin::fork("the clients", arena, |driver| be_clients(arena, path, workers, driver));
    clients.line()?;
    let base = at_rest(&mut server, &server_clients(workers))?;
    // One call hangs in its handler, without a deadline or with one.
    clients.tell(if round.is_multiple_of(2) { "hang" } else { "hang shortly" });
    until("the handler hangs", || Ok((words(&server.ask("status")?)["stuck"] == 1).then_some(())))?;
    let met = words(&clients.ask("meet")?);
    let (answered, late) = (met["answered"], met["late"]);
    // Connections go where the fewest are, so each worker has two.
    if (answered, late) != (2 * workers as i64 - 2, 2) {
        return Err(format!("{answered} clients were answered, {late} calls were not: {met:?}"));
    }
    match round % 3 {
        // The handler returns after all: everybody is served again, over the same connections.
        0 => server.tell("let go"),
        how => {
            let ended = words(&server.ask(if how == 1 { "stop" } else { "drain" })?);
            if ended["finished"] != 0 || ended["took_ms"] > BOUND.as_millis() as i64 {
                return Err(format!("a server that is stuck said it finished: {ended:?}"));
            }
            clients.tell("gone");
            // While the old one still hangs, the name is free.
            server.tell("again");
        }
    }
    if clients.ask("serve")? != "served" {
        return Err("the clients are not served again".into());
    }
    if !round.is_multiple_of(3) {
        server.tell("let go");
    }
    if server.ask("bury")? != "buried" {
        return Err("a server that was stuck does not end".into());
    }
    let now = at_rest(&mut server, &server_clients(workers))?;
    if !now.is_back_to(&base) {
        return Err(format!("the server has {now:?}, before: {base:?}"));
    }
    for side in [&mut clients, &mut server] {
        side.tell("quit");
        if side.wait()? != Exit::Code(0) {
            return Err("a side does not end well".into());
        }
    }
    Ok(met["calls"].unsigned_abs())
}

fn server_clients(workers: usize) -> [(&'static str, i64); 2] {
    [("clients", 2 * workers as i64), ("stuck", 0)]
}

/// What the server uses, once its status says so.
fn at_rest(server: &mut Kin, wanted: &[(&str, i64)]) -> Result<Usage, String> {
    let mut last = None;
    until("the server comes to rest", || {
        let status = words(&server.ask("status")?);
        let now = server.usage();
        let before = last.replace(now);
        let fine = wanted.iter().all(|(word, number)| status[*word] == *number);
        Ok((fine && before == Some(now)).then_some(now))
    })
}

/// Where handlers hang until they are let go.
#[derive(Default)]
struct Gate {
    stuck: AtomicU64,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        self.stuck.fetch_add(1, Relaxed);
        let mut open = self.open.lock().expect("a gate");
        while !*open {
            open = self.opened.wait(open).expect("a gate");
        }
        self.stuck.fetch_sub(1, Relaxed);
    }

    fn open(&self) {
        *self.open.lock().expect("a gate") = true;
        self.opened.notify_all();
    }
}

fn serve(path: &str, workers: usize, gate: &Arc<Gate>) -> Server {
    let mut options = ServerOptions::default();
    options.workers = workers;
    let gate = gate.clone();
    let handle = move |call: Call<'_>| {
        if call.method() == NEVER {
            gate.pass();
        }
        let bytes = call.request().to_vec();
        let (id, len) = check_request(&bytes).expect("an honest request");
        // Its connection may have ended meanwhile.
        let _ = call.reply(reply(id, len));
    };
    let began = Instant::now();
    loop {
        match Server::serve_with(path, options.clone(), handle.clone()) {
            // A server that was told to stop frees its name a moment later.
            Err(ServeError::AddressInUse { .. }) if began.elapsed() < BOUND => {
                std::thread::sleep(Duration::from_millis(1));
            }
            served => return served.expect("the name is free"),
        }
    }
}

/// A child's body.
fn be_server(arena: &'static Arena, path: &str, workers: usize, mut driver: Driver) -> i32 {
    let gate: Arc<Gate> = Arc::default();
    let mut server = serve(path, workers, &gate);
    let mut old = None;
    driver.say("serving");
    while let Some(line) = driver.command() {
        match line.as_str() {
            "status" => {
                let status = server.status();
                let stuck = gate.stuck.load(Relaxed);
                driver.say(&format!("clients={} stuck={stuck}", status.clients));
            }
            "stop" | "drain" => {
                let began = Instant::now();
                let mut finished = false;
                if line == "stop" {
                    server.stop();
                } else {
                    finished = server.drain(DRAIN);
                    if began.elapsed() < DRAIN {
                        arena.flaw("a drain gave up before its time");
                    }
                }
                let took_ms = began.elapsed().as_millis();
                driver.say(&format!("finished={} took_ms={took_ms}", u8::from(finished)));
            }
            "again" => {
                let next = serve(path, workers, &Arc::default());
                old = Some(std::mem::replace(&mut server, next));
            }
            "let go" => gate.open(),
            "bury" => {
                // Both wait for the handler, which has been let go.
                if let Some(old) = old.take() {
                    old.wait();
                    drop(old);
                }
                driver.say("buried");
            }
            "quit" => break,
            other => panic!("no command {other}"),
        }
    }
    0
}

/// The clients, each with its own connection; a child's body.
fn be_clients(arena: &'static Arena, path: &str, workers: usize, mut driver: Driver) -> i32 {
    // The straight way of a call has no deadline.
    let clients: Vec<Client> =
        (0..2 * workers).map(|_| Client::connect(path).expect("a server")).collect();
    for client in &clients {
        answered(client.call(&request(1, 30, 20)).as_ref(), 1).expect("an answer");
    }
    driver.say("here");
    let mut hanging: Vec<(Pending, Started)> = Vec::new();
    while let Some(line) = driver.command() {
        match line.as_str() {
            "hang" => {
                let options = CallOptions::new().method(NEVER);
                let pending = clients[0].submit(options, &request(2, 30, 20)).expect("sent");
                hanging.push((pending, Started::MayHaveRun));
            }
            "hang shortly" => {
                let options = CallOptions::new().method(NEVER).timeout(SHORT);
                match clients[0].call_with(options, &request(2, 30, 20)) {
                    Err(CallError::DeadlineExceeded { waited, started: Started::MayHaveRun })
                        if waited >= SHORT => {}
                    other => arena.flaw(&format!("a call whose handler hangs: {other:?}")),
                }
            }
            "meet" => driver.say(&meet(arena, path, &clients)),
            // Stopped or drained: whatever hangs has ended.
            "gone" => {
                for (pending, wanted) in hanging.drain(..) {
                    match pending.wait() {
                        Err(CallError::Disconnected { started }) if started == wanted => {}
                        other => arena.flaw(&format!("its server is stopped: {other:?}")),
                    }
                }
            }
            "serve" => {
                clients.iter().for_each(|client| serve_again(arena, client));
                for (pending, _) in hanging.drain(..) {
                    if let Err(error) = answered(pending.wait().as_ref(), 2) {
                        arena.flaw(&format!("a handler that was let go: {error}"));
                    }
                }
                driver.say("served");
            }
            "quit" => break,
            other => panic!("no command {other}"),
        }
    }
    0
}

/// All clients and a new one call while one worker hangs.
fn meet(arena: &'static Arena, path: &str, clients: &[Client]) -> String {
    let (met, late, calls) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let call_with_limit = |client: &Client| {
        let options = CallOptions::new().method(ANSWER).timeout(SHORT);
        let ended = client.call_with(options, &request(3, 30, 20));
        match ended.as_ref() {
            // It was sent, so it is said that it may run.
            Err(CallError::DeadlineExceeded { waited, started: Started::MayHaveRun })
                if *waited >= SHORT =>
            {
                Some(false)
            }
            ended => match answered(ended, 3) {
                Ok(()) => Some(true),
                Err(error) => {
                    arena.flaw(&format!("beside a handler that hangs: {error}"));
                    None
                }
            },
        }
    };
    std::thread::scope(|scope| {
        for client in clients {
            scope.spawn(|| {
                match call_with_limit(client) {
                    Some(true) => {}
                    Some(false) => {
                        late.fetch_add(1, Relaxed);
                        return;
                    }
                    None => return,
                }
                met.fetch_add(1, Relaxed);
                for id in 4..4 + CALLS {
                    let began = Instant::now();
                    if let Err(error) = answered(client.call(&request(id, 30, 20)).as_ref(), id) {
                        arena.flaw(&format!("a client of a free worker: {error}"));
                    }
                    let took_ns = began.elapsed().as_nanos() as u64;
                    arena.others.longest_ns.fetch_max(took_ns, Relaxed);
                    calls.fetch_add(1, Relaxed);
                }
            });
        }
        // A new one gets in; whether it is answered depends on the worker that it is given to.
        scope.spawn(|| match Client::connect(path) {
            Ok(client) => _ = call_with_limit(&client),
            Err(error) => arena.flaw(&format!("a new client: {error}")),
        });
    });
    let [met, late, calls] = [met, late, calls].map(AtomicU64::into_inner);
    format!("answered={met} late={late} calls={calls}")
}

fn serve_again(arena: &'static Arena, client: &Client) {
    let began = Instant::now();
    loop {
        let options = CallOptions::new().method(ANSWER).timeout(BOUND);
        let ended = client.call_with(options, &request(5, 30, 20));
        match answered(ended.as_ref(), 5) {
            Ok(()) => return,
            // Between the old server and the next one nobody listens.
            Err(_) if began.elapsed() < BOUND => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return arena.flaw(&format!("not served again: {error}")),
        }
    }
}

fn answered(ended: Result<&callgate::Reply, &CallError>, id: u64) -> Result<(), String> {
    match ended {
        Ok(reply) if is_reply(&reply.to_vec(), id, 20) => Ok(()),
        Ok(_) => Err("a wrong reply".into()),
        Err(error) => Err(format!("{error:?}")),
    }
}
