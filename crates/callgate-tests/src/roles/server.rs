//! An honest server. Arguments: `path`, `workers`, `in_flight`, `clients`, `clients_per_uid`, `bytes`,
//! `bytes_per_uid`, `request_bytes`,
//! `reply_bytes`, `handshake_ms`, `access` (`owner`, `everyone`, or a group's id), `record` (a file for the ids of calls),
//! `echo=1` (all methods but `CHECKED` echo), `wait=1` (serves only when told `go`).
//!
//! It says `serving`, or `refused ...`. Commands: `status`, `cancelled`, `release`, `unblock`, `stop`, `drain MS`, `fork`,
//! `fork-drop` (the child drops the server), `quit`.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use callgate::{
    Access, Call, CallError, Client, ClientOptions, Deferred, ServeError, Server, ServerOptions,
};

#[cfg(not(windows))]
use super::fork;
use super::{command, say};
use crate::data::{check_request, event, method, reply};
use crate::peer::Words;

/// What the handler and the commands share.
struct State {
    held: Mutex<Vec<Deferred>>,
    open: Mutex<bool>,
    opened: Condvar,
    /// Locked: not every system appends whole lines of several threads.
    record: Option<Mutex<File>>,
    own: Client,
    echo: bool,
}

/// Runs until told to stop.
///
/// # Panics
/// When told nonsense.
pub fn run(words: &Words) {
    let path: String = words.find("path").expect("path");
    let record = words.find::<String>("record").map(|path| {
        Mutex::new(File::options().append(true).create(true).open(path).expect("the record opens"))
    });
    let state = Arc::new(State {
        held: Mutex::default(),
        open: Mutex::default(),
        opened: Condvar::new(),
        record,
        own: Client::lazy(path.as_str(), ClientOptions::default()).expect("a valid name"),
        echo: words.number("echo") != 0,
    });
    let options = options(words);
    if words.number("wait") != 0 {
        say("waiting");
        match command().as_deref() {
            Some("go") => {}
            _ => return,
        }
    }
    let handler = state.clone();
    let served = Server::serve_with(path.as_str(), options, move |call: Call<'_>| {
        handle(&handler, call);
    });
    let server = match served {
        Ok(server) => server,
        Err(ServeError::AddressInUse { pid, .. }) => {
            say(&format!("refused in-use=1 pid={}", pid.unwrap_or(0)));
            return;
        }
        Err(error) => {
            say(&format!("refused in-use=0 {error}"));
            return;
        }
    };
    say("serving");
    obey(&state, server);
}

fn obey(state: &State, server: Server) {
    let mut server = Some(Arc::new(server));
    while let Some(line) = command() {
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match word {
            "status" => {
                let s = server.as_ref().expect("not dropped").status();
                say(&format!(
                    "status clients={} calls={} refused={} violations={} reply_bytes={}",
                    s.clients, s.calls, s.refused, s.violations, s.reply_bytes
                ));
            }
            "cancelled" => {
                let held = state.held.lock().expect("lock");
                let cancelled = held.iter().filter(|call| call.is_cancelled()).count();
                say(&format!("cancelled held={} cancelled={cancelled}", held.len()));
            }
            "release" => {
                let held = std::mem::take(&mut *state.held.lock().expect("lock"));
                let mut sent = 0;
                for call in held {
                    let bytes = call.request().to_vec();
                    sent += u32::from(call.reply(&bytes).is_ok());
                }
                say(&format!("release sent={sent}"));
            }
            "unblock" => {
                *state.open.lock().expect("lock") = true;
                state.opened.notify_all();
                say("unblock");
            }
            "stop" => {
                if let Some(server) = server.take() {
                    server.stop();
                    server.wait();
                }
                say("stop");
            }
            "drain" => {
                let timeout = Duration::from_millis(rest.parse().expect("milliseconds"));
                let server = server.clone().expect("not dropped");
                std::thread::spawn(move || {
                    let all = server.drain(timeout);
                    say(&format!("drain all={}", u32::from(all)));
                });
            }
            #[cfg(not(windows))]
            "fork" => {
                let child = fork(|| {});
                say(&format!("fork pid={child}"));
            }
            #[cfg(not(windows))]
            "fork-drop" => {
                let child = fork(|| {
                    drop(server.take());
                    say("child-dropped");
                });
                say(&format!("fork-drop pid={child}"));
            }
            "quit" => break,
            other => panic!("no command {other}"),
        }
    }
    // Handlers may be blocked for good.
    std::process::exit(0);
}

fn options(words: &Words) -> ServerOptions {
    let mut options = ServerOptions::default();
    let limits = &mut options.limits;
    limits.in_flight = words.find("in_flight").unwrap_or(limits.in_flight);
    limits.clients = words.find("clients").unwrap_or(limits.clients);
    limits.clients_per_uid = words.find("clients_per_uid").unwrap_or(limits.clients_per_uid);
    limits.bytes_per_client = words.find("bytes").unwrap_or(limits.bytes_per_client);
    limits.bytes_per_uid = words.find("bytes_per_uid").unwrap_or(limits.bytes_per_uid);
    limits.request_bytes = words.find("request_bytes").unwrap_or(limits.request_bytes);
    limits.reply_bytes = words.find("reply_bytes").unwrap_or(limits.reply_bytes);
    // Where the limit is not what is tested, a machine that is busy must not meet it.
    limits.handshake = Duration::from_millis(words.find("handshake_ms").unwrap_or(20_000));
    options.workers = words.find("workers").unwrap_or(1);
    options.access = match words.find::<String>("access").as_deref() {
        None | Some("owner") => Access::Owner,
        Some("everyone") => Access::Everyone,
        Some(group) => Access::Group(group.parse().expect("a group's id")),
    };
    options
}

fn handle(state: &Arc<State>, call: Call<'_>) {
    let method =
        if state.echo && call.method() != method::CHECKED { method::ECHO } else { call.method() };
    match method {
        method::ECHO => echo(call),
        method::CHECKED | method::RECORDED => checked(state, call, method == method::RECORDED),
        method::FAIL => drop(call.fail(7, &format!("on purpose {}", "x".repeat(100)))),
        method::PANIC => panic!("on purpose"),
        method::DROP => drop(call),
        method::HOLD => {
            state.held.lock().expect("lock").push(call.defer());
            say("held");
        }
        method::BLOCK => block(state, call),
        method::BLOCK_ASIDE => {
            let (state, call) = (state.clone(), call.defer());
            std::thread::spawn(move || block(&state, call));
        }
        method::CALLER => {
            let caller = call.caller();
            let text =
                format!("pid={} uid={} gid={}", caller.pid.unwrap_or(0), caller.uid, caller.gid);
            let _ = call.reply(text.as_bytes());
        }
        method::SELF => {
            let told = matches!(state.own.call(b"again"), Err(CallError::WouldDeadlock));
            let _ = call.reply(&[u8::from(told)]);
        }
        method::STATUS => drop(call.reply_status(42, b"with a status")),
        method::ZEROS => {
            let mut len = [0; 8];
            call.request().copy_to(&mut len);
            let len = usize::try_from(u64::from_le_bytes(len)).expect("64 bits");
            if let Ok(loan) = call.loan(len) {
                let _ = loan.send();
            }
        }
        other => drop(call.fail(99, &format!("no method {other}"))),
    }
}

fn echo(call: Call<'_>) {
    let len = call.request().len();
    // The reply is written where the caller reads it.
    if let Ok(mut loan) = call.loan(len) {
        let (request, reply) = loan.split();
        request.copy_to(reply);
        let _ = loan.send();
    }
}

fn checked(state: &State, call: Call<'_>, record: bool) {
    let bytes = call.request().to_vec();
    let Some((id, len)) = check_request(&bytes) else {
        let _ = call.fail(66, &format!("a request of {} bytes came spoilt", bytes.len()));
        return;
    };
    if record {
        let record = state.record.as_ref().expect("started with record=");
        let mut record = record.lock().expect("lock");
        record.write_all(event("ran", id).as_bytes()).expect("recorded");
    }
    let bytes = reply(id, len);
    if id % 2 == 0 {
        let _ = call.reply(bytes);
    } else if let Ok(mut loan) = call.loan(len) {
        loan.copy_from_slice(bytes);
        let _ = loan.send();
    }
}

fn block(state: &State, call: Call<'_>) {
    say("blocked");
    let mut open = state.open.lock().expect("lock");
    while !*open {
        open = state.opened.wait(open).expect("lock");
    }
    drop(open);
    echo(call);
}
