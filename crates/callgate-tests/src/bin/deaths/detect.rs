//! How soon death is found out: a pending call of a client whose server was killed, a server whose client was killed.

use std::time::{Duration, Instant};

use callgate::{CallError, CallOptions, Client, Server, ServerOptions, Started};
use callgate_tests::data::method;
use callgate_tests::row::Row;
use callgate_tests::{Peer, Place};

use super::strict;

/// Beyond this, and what tearing down its memory may take, a death counts as not found out.
const FOUND_MAX: Duration = Duration::from_secs(1);
/// Goals for processes below 16 MiB.
const P99_MS: f64 = 1.0;
const MAX_MS: f64 = 10.0;

/// How a process is killed.
#[derive(Clone, Copy, PartialEq)]
enum How {
    Kill,
    Abort,
    AbortWithCore,
}

impl How {
    fn name(self) -> &'static str {
        match self {
            How::Kill => "killed (SIGKILL)",
            How::Abort => "aborted, no core dump",
            How::AbortWithCore => "aborted, core dump",
        }
    }

    fn signal(self) -> i32 {
        if self == How::Kill { libc::SIGKILL } else { libc::SIGABRT }
    }
}

fn program() -> String {
    std::env::current_exe().expect("this program").to_str().expect("utf-8").to_owned()
}

/// Shows each row as it is done. `until`: the end of a long run.
pub fn rows(until: Option<Instant>, show: &mut dyn FnMut(Row)) {
    let kills = |short: u64, long: u64| if until.is_some() { long } else { short };
    // (mebibytes, how, kills of a server, of a client)
    let plan = [
        (0, How::Kill, kills(40, 1_000), kills(40, 1_000)),
        (512, How::Kill, kills(3, 60), kills(2, 30)),
        (2_048, How::Kill, kills(1, 20), 0),
        (0, How::Abort, kills(5, 100), 0),
        (0, How::AbortWithCore, kills(2, 30), 0),
        (512, How::AbortWithCore, kills(0, 5), 0),
    ];
    for (mib, how, servers, clients) in plan {
        deaths("server", mib, how, servers, until, server_dies).map(&mut *show);
        deaths("client", mib, how, clients, until, client_dies).map(&mut *show);
    }
}

fn deaths(
    who: &str,
    mib: u64,
    how: How,
    kills: u64,
    until: Option<Instant>,
    die: fn(u64, How) -> Result<Duration, String>,
) -> Option<Row> {
    if kills == 0 {
        return None;
    }
    let size = if mib == 0 { "below 16 MiB".to_owned() } else { format!("of {mib} MiB") };
    let mut row = Row::new(&format!("death of a {who} {size}, {}", how.name()));
    if available_mib() < 2 * mib + 1_024 {
        row.note = "not tried: too little memory".into();
        return Some(row);
    }
    let mut times = Vec::new();
    for _ in 0..kills {
        if until.is_some_and(|until| Instant::now() > until) {
            break;
        }
        match die(mib, how) {
            Ok(took) => {
                let most = FOUND_MAX + Duration::from_millis(5 * mib);
                let late = took > most && how != How::AbortWithCore;
                row.tried(if late { Err(format!("found out after {took:?}")) } else { Ok(()) });
                times.push(took.as_secs_f64() * 1_000.0);
            }
            Err(wrong) => row.tried(Err(wrong)),
        }
    }
    if times.is_empty() {
        return Some(row);
    }
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
    let (p50, p99, max) = (at(50), at(99), at(100));
    row.note = format!("p50 {p50:.3} ms, p99 {p99:.3} ms, max {max:.3} ms");
    if mib == 0 && how == How::Kill {
        let met = if p99 < P99_MS && max < MAX_MS { "met" } else { "missed" };
        row.note.push_str(&format!("; goals (p99 {P99_MS} ms, max {MAX_MS} ms): {met}"));
    }
    row.took_ms(max);
    Some(row)
}

fn available_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1_024
}

fn arguments(place: &Place, mib: u64, how: How) -> Vec<String> {
    let mut arguments = vec![format!("mib={mib}")];
    if how == How::AbortWithCore {
        arguments.push(format!("cores={}", place.directory().display()));
    }
    arguments
}

fn start(place: &Place, role: &str, arguments: &[String]) -> Peer {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    place.peer(&program(), role, &words)
}

/// From the signal to the end of a call that sleeps in another process's client.
fn server_dies(mib: u64, how: How) -> Result<Duration, String> {
    let place = Place::new();
    let mut server = start(&place, "server", &arguments(&place, mib, how));
    server.expect("serving");
    let client = Client::connect_with(place.name(), strict()).map_err(|error| error.to_string())?;
    let pending = std::thread::spawn(move || {
        let ended = client.call_with(CallOptions::new().method(method::HOLD), b"held");
        (ended.map(drop), Instant::now())
    });
    server.expect("held");
    // The caller looks for a while before it sleeps.
    std::thread::sleep(Duration::from_millis(2));
    let began = Instant::now();
    server.signal(how.signal());
    let (ended, at) = pending.join().expect("the caller");
    server.reap();
    match ended {
        Err(CallError::Disconnected { started: Started::MayHaveRun }) => Ok(at - began),
        other => Err(format!("the call ended with {other:?}")),
    }
}

/// From the signal until the server has let go of the client.
fn client_dies(mib: u64, how: How) -> Result<Duration, String> {
    let place = Place::new();
    let server =
        Server::serve_with(place.name(), ServerOptions::default(), |call: callgate::Call<'_>| {
            let bytes = call.request().to_vec();
            let _ = call.reply(&bytes);
        });
    let server = server.map_err(|error| error.to_string())?;
    let mut client = start(&place, "client", &arguments(&place, mib, how));
    client.expect("connected");
    std::thread::sleep(Duration::from_millis(2));
    let began = Instant::now();
    client.signal(how.signal());
    // Looked for, since nobody tells: the looks cost the server's threads a part of a CPU.
    while server.status().clients > 0 {
        if began.elapsed() > Duration::from_secs(30) {
            return Err("the server keeps it".into());
        }
        std::thread::yield_now();
    }
    let took = began.elapsed();
    client.reap();
    Ok(took)
}
