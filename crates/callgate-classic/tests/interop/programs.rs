//! The programs in Rust. They speak with the tests as those in C do (`tests/classic`), and are started by them as
//! `interop.exe program --ignored --exact --nocapture`, with their arguments in the environment.

use std::io::BufRead;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use callgate_classic::{
    Answer, CallError, Client, ClientOptions, Handler, Names, Server, ServerOptions, ServerState,
    Started,
};

use super::data::Data;

pub const ROLE: &str = "CALLGATE_CLASSIC_ROLE";
pub const NAME: &str = "CALLGATE_CLASSIC_NAME";
pub const WATCH_FREE: &str = "CALLGATE_CLASSIC_WATCH_FREE";
pub const LIMIT_MS: &str = "CALLGATE_CLASSIC_LIMIT_MS";
/// What a line of a program begins with; the test harness writes lines of its own.
pub const MARK: &str = "> ";

#[test]
#[ignore = "a program that the tests start"]
fn program() {
    match &*var(ROLE) {
        "server" => server(),
        "client" => client(),
        role => panic!("no role {role:?}"),
    }
}

fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

fn say(line: &str) {
    println!("{MARK}{line}");
}

fn lines() -> impl Iterator<Item = String> {
    std::io::stdin().lock().lines().map(Result::unwrap)
}

pub fn names(base: &str) -> Names {
    let of = |what| format!("{base}{what}");
    Names::new(of("Memory"), of("Exec"), of("Done"), of("Free")).unwrap()
}

struct Worker {
    hold: Arc<AtomicBool>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Handler<Data> for Worker {
    fn handle(&mut self, data: &mut Data) -> Answer {
        say(&format!("run {}", data.number));
        if self.hold.swap(false, Relaxed) {
            self.go.get_mut().unwrap().recv().unwrap();
        }
        data.server = std::process::id();
        data.sum = data.sum();
        data.answered = data.number;
        Answer::Ready
    }

    fn idle(&mut self) {
        say("idle");
    }
}

/// As `server.c`; "status" says "status ANSWERED DROPPED SKIPPED".
fn server() {
    let hold = Arc::new(AtomicBool::new(false));
    let (go, gone) = mpsc::channel();
    let worker = Worker { hold: hold.clone(), go: Mutex::new(gone) };
    let mut options = ServerOptions::default();
    options.watch_free = std::env::var_os(WATCH_FREE).is_some();
    let server = Server::serve_with(&names(&var(NAME)), options, worker).unwrap();
    if server.status().adopted {
        say("existed");
    }
    say(&format!("serving {}", std::process::id()));
    for line in lines() {
        match &*line {
            "hold" => {
                hold.store(true, Relaxed);
                say("holding");
            }
            "go" => {
                say("going");
                go.send(()).unwrap();
            }
            "status" => {
                let status = server.status();
                say(&format!("status {} {} {}", status.answered, status.dropped, status.skipped));
            }
            other => panic!("no command {other:?}"),
        }
    }
    server.stop();
    server.wait().unwrap();
    say("stopped");
}

/// As `client.c`. "checked" is a call that takes only an answer to its number; "status" says "status ANSWERED
/// ABANDONED LATE WITHDRAWN".
fn client() {
    let names = names(&var(NAME));
    let new = |limit_ms| {
        let limit = Duration::from_millis(limit_ms);
        let mut options = ClientOptions::default();
        (options.busy, options.settle, options.answer) = (limit, SETTLE, limit);
        Client::<Data>::with(&names, options)
    };
    let mut clients = vec![new(var(LIMIT_MS).parse().unwrap())];
    say(&format!("ready {}", std::process::id()));
    for line in lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let client = clients.last().unwrap();
        match words[..] {
            [how @ ("call" | "checked"), number, seed] => {
                let (number, seed) = (number.parse().unwrap(), seed.parse().unwrap());
                say(&call(client, number, seed, how == "checked"));
            }
            ["calls", count, seed] => calls(client, count.parse().unwrap(), seed.parse().unwrap()),
            ["limit", limit_ms] => {
                // The ones before stay attached.
                clients.push(new(limit_ms.parse().unwrap()));
                say("limited");
            }
            ["detach"] => {
                client.detach();
                say("detached");
            }
            ["status"] => {
                let s = client.status();
                say(&format!("status {} {} {} {}", s.answered, s.abandoned, s.late, s.withdrawn));
            }
            _ => panic!("no command {line:?}"),
        }
    }
}

/// A wait that ends early where all is well.
const SETTLE: Duration = Duration::from_secs(20);

fn call(client: &Client<Data>, number: u32, seed: u32, checked: bool) -> String {
    let request = Data::request(number, seed);
    match client.call_checked(&request, |answer| !checked || answer.answered == number) {
        Ok(answer) if answer.answers(&request) => format!("ok {}", answer.server),
        Ok(_) => "wrong".to_owned(),
        Err(CallError::NotRunning { .. }) => "absent".to_owned(),
        Err(CallError::Busy { .. }) => "busy".to_owned(),
        Err(CallError::Unsettled { .. }) => "unsettled".to_owned(),
        Err(CallError::NoAnswer { started, server, .. }) => format!(
            "timeout {} {}",
            if started == Started::NotStarted { "not-started" } else { "may-have-run" },
            match server {
                ServerState::Gone => "gone",
                ServerState::Ended => "ended",
                ServerState::Alive => "alive",
                ServerState::Unknown => "unknown",
            }
        ),
        Err(error) => format!("error {error}"),
    }
}

fn calls(client: &Client<Data>, count: u32, seed: u32) {
    let [mut ok, mut wrong, mut timeout, mut absent] = [0; 4];
    let mut at = 0;
    while at < count {
        let end = call(client, seed * 1_000_000 + at, seed + at, false);
        match end.split(' ').next() {
            Some("busy") => continue,
            Some("ok") => ok += 1,
            Some("wrong") => wrong += 1,
            Some("timeout" | "unsettled") => timeout += 1,
            Some("absent") => absent += 1,
            _ => panic!("{end}"),
        }
        at += 1;
    }
    say(&format!("calls {ok} {wrong} {timeout} {absent}"));
}
