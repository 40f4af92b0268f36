//! Nobody who lives is declared dead: stopped, traced, or starved.

use std::time::{Duration, Instant};

use callgate::{CallError, CallOptions, Client};
use callgate_tests::row::Row;
use callgate_tests::{Peer, Place};

use super::strict;

/// Busy loops for each CPU.
const TIMES: usize = 10;
const CALLERS: usize = 4;

fn program() -> String {
    std::env::current_exe().expect("this program").to_str().expect("utf-8").to_owned()
}

/// Shows each row as it is done.
pub fn rows(long: bool, show: &mut dyn FnMut(Row)) {
    let pause = Duration::from_secs(if long { 60 } else { 3 });
    show(server(pause, "stopped", stop));
    show(client(pause, "stopped", stop));
    show(server(pause, "traced", |server| Box::new(trace(server.pid()))));
    show(client(pause, "traced", |client| Box::new(trace(client.pid()))));
    show(starved(pause));
}

/// What ends a pause.
type GoOn<'a> = Box<dyn FnOnce() + 'a>;

fn stop(peer: &Peer) -> GoOn<'_> {
    peer.freeze();
    Box::new(|| peer.signal(libc::SIGCONT))
}

/// The server is kept from running. Calls wait, or meet their deadlines; nothing is disconnected; then all goes on.
fn server(pause: Duration, how: &str, keep: impl for<'a> Fn(&'a Peer) -> GoOn<'a>) -> Row {
    let mut row = Row::new(&format!("false death: a server {how} for {} s", pause.as_secs()));
    let place = Place::new();
    let mut server = place.server(&program(), &[]);
    let client = Client::connect_with(place.name(), strict()).expect("connect");
    client.call(b"before").expect("a reply");
    let held = keep(&server);
    let waiting = {
        let client = client.clone();
        std::thread::spawn(move || client.call(b"meanwhile").map(|reply| reply.to_vec()))
    };
    let began = Instant::now();
    let mut deadlines = 0;
    let mut connected = true;
    while began.elapsed() < pause {
        let soon = CallOptions::new().timeout(Duration::from_millis(50));
        // As many as may be in flight: each keeps its cell until the server has answered it.
        if deadlines < 20 {
            match client.call_with(soon, b"in vain") {
                Err(CallError::DeadlineExceeded { .. }) => deadlines += 1,
                other => row.tried(Err(format!("{other:?}"))),
            }
        }
        connected &= client.is_connected() && !waiting.is_finished();
        std::thread::sleep(Duration::from_millis(10));
    }
    row.tried(if connected { Ok(()) } else { Err("the server was declared dead".into()) });
    held();
    let going_on = Instant::now();
    match waiting.join().expect("it waits") {
        Ok(reply) if reply == b"meanwhile" => row.tried(Ok(())),
        other => row.tried(Err(format!("the call that waited: {other:?}"))),
    }
    row.took_ms(going_on.elapsed().as_secs_f64() * 1_000.0);
    row.tried(client.call(b"after").map(drop).map_err(|error| error.to_string()));
    let clients = server.ask("status").number("clients");
    row.tried(if clients == 1 { Ok(()) } else { Err(format!("{clients} clients, not 1")) });
    row.note = format!(
        "{deadlines} deadlines were met meanwhile; the stall is from going on to the reply"
    );
    row
}

/// The client is kept from running. The server keeps it, serves others, and all goes on.
fn client(pause: Duration, how: &str, keep: impl for<'a> Fn(&'a Peer) -> GoOn<'a>) -> Row {
    let mut row = Row::new(&format!("false death: a client {how} for {} s", pause.as_secs()));
    let place = Place::new();
    let mut server = place.server(&program(), &[]);
    let mut caller = place.peer(&program(), "caller", &[]);
    caller.expect("calling");
    let other = Client::connect_with(place.name(), strict()).expect("connect");
    let held = keep(&caller);
    let began = Instant::now();
    while began.elapsed() < pause {
        let call = Instant::now();
        row.tried(other.call(b"meanwhile").map(drop).map_err(|error| error.to_string()));
        row.took_ms(call.elapsed().as_secs_f64() * 1_000.0);
        let clients = server.ask("status").number("clients");
        if clients != 2 {
            row.tried(Err(format!("{clients} clients, not 2")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    held();
    caller.ask("on");
    let end = caller.ask("end");
    row.tried(if end.number("failed") == 0 { Ok(()) } else { Err(end.text().into()) });
    row.note = format!(
        "{} calls of its own without an error; the stall is of another client",
        end.number("calls")
    );
    row
}

/// Attaches to every thread of a process, which stops it; the call that is given detaches.
fn trace(pid: u32) -> impl FnOnce() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let (stopped, all_stopped) = std::sync::mpsc::channel::<()>();
    // A tracee belongs to a thread.
    let tracer = std::thread::spawn(move || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a living process");
        let threads: Vec<i32> = tasks
            .map(|task| {
                task.expect("a task")
                    .file_name()
                    .to_str()
                    .expect("ascii")
                    .parse()
                    .expect("a number")
            })
            .collect();
        let none = std::ptr::null_mut::<libc::c_void>();
        for tid in &threads {
            // SAFETY: ATTACH and DETACH pass no memory; the status is a live local.
            unsafe {
                assert_eq!(libc::ptrace(libc::PTRACE_ATTACH, *tid, none, none), 0, "attached");
                let mut status = 0;
                assert_eq!(libc::waitpid(*tid, &raw mut status, libc::__WALL), *tid, "it stops");
            }
        }
        stopped.send(()).expect("waited for");
        let _ = receiver.recv();
        for tid in &threads {
            // SAFETY: as above.
            unsafe { libc::ptrace(libc::PTRACE_DETACH, *tid, none, none) };
        }
    });
    all_stopped.recv().expect("every thread stops");
    move || {
        drop(sender);
        tracer.join().expect("the tracer");
    }
}

/// Ten busy loops for each CPU beside some clients and their server.
fn starved(pause: Duration) -> Row {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
    let mut row =
        Row::new(&format!("false death: {TIMES} busy loops for each CPU, {} s", pause.as_secs()));
    let place = Place::new();
    let mut server = place.server(&program(), &[]);
    let mut callers: Vec<Peer> =
        (0..CALLERS).map(|_| place.peer(&program(), "caller", &[])).collect();
    for caller in &callers {
        caller.expect("calling");
    }
    let loops: Vec<Peer> =
        (0..TIMES * cpus).map(|_| Peer::spawn(&program(), "spin", &[])).collect();
    std::thread::sleep(pause);
    let clients = server.ask("status").number("clients");
    drop(loops);
    row.tried(if clients == CALLERS as u64 { Ok(()) } else { Err(format!("{clients} clients")) });
    let mut calls = 0;
    for caller in &mut callers {
        let end = caller.ask("end");
        row.tried(if end.number("failed") == 0 { Ok(()) } else { Err(end.text().into()) });
        row.took_ms(end.number("longest_us") as f64 / 1_000.0);
        calls += end.number("calls");
    }
    row.note = format!("{calls} calls of {CALLERS} clients on {cpus} CPUs");
    row
}
