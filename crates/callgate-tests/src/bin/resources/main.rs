//! Limits that are reached: whoever meets one is told so clearly, and the others notice nothing.
//!
//! `resources`: rows of JSON on standard output. It starts itself in roles, which die with it.

mod cgroup;
mod cramped;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use callgate::{CallError, Client, ClientOptions, Retry};
use callgate_tests::peer::Words;
use callgate_tests::roles::{self, command, say};
use callgate_tests::row::Row;
use callgate_tests::{Peer, Place};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (role, rest) = arguments.split_first().expect("a role");
    let words = Words::parse(&rest.join(" "));
    match role.as_str() {
        // The long run is the same: limits are reached, or not.
        "short" | "long" => return campaign(),
        "cramped" => {
            cramped::be_cramped(&words);
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    match role.as_str() {
        "server" => roles::server::run(&words),
        "caller" => roles::caller::run(&words),
        "greedy" => be_greedy(&words),
        other => panic!("no role {other}"),
    }
    ExitCode::SUCCESS
}

fn campaign() -> ExitCode {
    let mut failed = false;
    for row in [
        server_descriptors,
        server_runs_out,
        cramped::descriptors,
        cramped::processes,
        cramped::file_sizes,
        cgroup::client,
        cgroup::server,
    ] {
        failed |= row().print();
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// This program.
fn program() -> String {
    std::env::current_exe().expect("this program").to_str().expect("utf-8").to_owned()
}

fn strict() -> ClientOptions {
    let mut options = ClientOptions::default();
    options.retry = Retry::Never;
    options.timeout = Some(Duration::from_secs(10));
    options
}

/// An honest client that calls all the time: what it noticed.
struct Witness(Peer);

impl Witness {
    fn of(place: &Place) -> Witness {
        let peer = place.peer(&program(), "caller", &["timeout=10"]);
        peer.expect("calling");
        Witness(peer)
    }

    /// No call of it failed; the longest is noted.
    fn testifies(mut self, row: &mut Row) {
        let end = self.0.ask("end");
        row.tried(if end.number("failed") == 0 { Ok(()) } else { Err(end.text().into()) });
        row.took_ms(end.number("longest_us") as f64 / 1_000.0);
        row.note.push_str(&format!("; {} calls of another client beside it", end.number("calls")));
    }
}

/// Asks for more than its cgroup has, when told.
fn be_greedy(words: &Words) {
    let path: String = words.find("path").expect("path");
    let client = Client::connect_with(path.as_str(), strict()).expect("connect");
    client.call(b"hello").expect("a reply");
    say("ready");
    if command().is_some() {
        let ended = client.loan(cgroup::GREED as usize);
        std::process::exit(i32::from(ended.is_err()));
    }
}

/// Sets a limit of another process, soft and hard.
fn limit(pid: u32, resource: rustix::process::Resource, most: u64) {
    let limit = rustix::process::Rlimit { current: Some(most), maximum: Some(most) };
    let pid = rustix::process::Pid::from_raw(pid.cast_signed());
    rustix::process::prlimit(pid, resource, limit).expect("prlimit");
}

/// A server that knows its limit of descriptors takes fewer clients, and says so to those it refuses.
fn server_descriptors() -> Row {
    let mut row = Row::new("resources: RLIMIT_NOFILE of a server");
    let place = Place::new();
    let mut server = place.peer(&program(), "server", &["wait=1"]);
    server.expect("waiting");
    limit(server.pid(), rustix::process::Resource::Nofile, 200);
    server.tell("go");
    server.expect("serving");
    let witness = Witness::of(&place);
    let (hoard, refused) = hoard(&place, &mut row);
    row.note = format!("200 descriptors: {} clients, then refused: {refused}", hoard.len() + 1);
    row.tried(if hoard.len() > 50 { Ok(()) } else { Err("too few clients".into()) });
    drop(hoard);
    room_again(&place, &mut row);
    witness.testifies(&mut row);
    row
}

/// The limit shrinks under a server that serves: it has none left, and tells that, too.
fn server_runs_out() -> Row {
    let mut row = Row::new("resources: a server without descriptors");
    let place = Place::new();
    let server = place.server(&program(), &[]);
    let witness = Witness::of(&place);
    limit(server.pid(), rustix::process::Resource::Nofile, server.usage().fds as u64 + 5);
    let (hoard, refused) = hoard(&place, &mut row);
    row.note = format!("{} clients more, then refused: {refused}", hoard.len());
    drop(hoard);
    room_again(&place, &mut row);
    witness.testifies(&mut row);
    row
}

/// Connects until refused, and a few times more: each refusal has its reason. Gives the last one.
fn hoard(place: &Place, row: &mut Row) -> (Vec<Client>, String) {
    let (mut hoard, mut last, mut refused) = (Vec::new(), String::new(), 0);
    while refused < 20 && hoard.len() < 1_000 {
        match Client::connect_with(place.name(), strict()) {
            Ok(client) => hoard.push(client),
            Err(CallError::Refused { reason, .. }) => {
                refused += 1;
                last = reason;
                row.tried(Ok(()));
            }
            Err(error) => {
                refused += 1;
                row.tried(Err(format!("refused with: {error}")));
            }
        }
    }
    for client in &hoard {
        row.tried(client.call(b"in").map(drop).map_err(|error| error.to_string()));
    }
    (hoard, last)
}

fn room_again(place: &Place, row: &mut Row) {
    let began = Instant::now();
    loop {
        match Client::connect_with(place.name(), strict()).and_then(|client| client.call(b"again"))
        {
            Ok(_) => return row.tried(Ok(())),
            Err(error) if began.elapsed() > Duration::from_secs(5) => {
                return row.tried(Err(format!("no room again: {error}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}
