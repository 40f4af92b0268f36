//! The honest server that is lied to. Arguments: `path`, `handshake_ms`.
//!
//! It says `serving`. Commands: `status`, `notes` (the violations that were reported since the last time), `release`
//! (answers the calls that are held), `probe` and `probe-think US` (see [`super::probe`]).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use callgate::{Call, Deferred, Server, ServerOptions};

use super::notes::Notes;
use super::probe::{self, Probe};
use crate::data::{check_request, method, reply};
use crate::peer::Words;
use crate::roles::{command, say};

/// Quota of each client, in bytes.
pub const BYTES: u64 = 64 << 20;
/// Longest request, in bytes.
pub const REQUEST_BYTES: u64 = 4 << 20;
/// Calls that the handler holds at a time.
const HELD_MAX: usize = 256;

/// Runs until its input ends.
///
/// # Panics
/// When told nonsense.
pub fn run(words: &Words) {
    let path: String = words.find("path").expect("path");
    let notes = Notes::listen();
    let held: Arc<Mutex<Vec<Deferred>>> = Arc::default();
    let mut options = ServerOptions::default();
    options.limits.handshake = Duration::from_millis(words.find("handshake_ms").unwrap_or(1_000));
    options.limits.bytes_per_client = BYTES;
    options.limits.request_bytes = REQUEST_BYTES;
    options.limits.reply_bytes = REQUEST_BYTES;
    let shared = held.clone();
    let server = Server::serve_with(path.as_str(), options, move |call: Call<'_>| {
        handle(&shared, call);
    });
    let server = server.expect("the name is free");
    say("serving");
    let mut probe: Option<Arc<Probe>> = None;
    while let Some(line) = command() {
        match line.as_str() {
            "status" => {
                let s = server.status();
                say(&format!(
                    "status clients={} calls={} refused={} violations={} reply_bytes={}",
                    s.clients, s.calls, s.refused, s.violations, s.reply_bytes
                ));
            }
            "notes" => say(&format!("notes {}", notes.take())),
            "release" => {
                let held = std::mem::take(&mut *held.lock().expect("lock"));
                let count = held.len();
                held.into_iter().for_each(|call| drop(call.reply(b"late")));
                say(&format!("release count={count}"));
            }
            // It is one more client: it begins when it is first asked for.
            "probe" => {
                let probe = probe.get_or_insert_with(|| Probe::start(path.clone()));
                say(&format!("probe {}", probe.take()));
            }
            other => match other.strip_prefix("probe-think ") {
                Some(us) => {
                    let probe = probe.get_or_insert_with(|| Probe::start(path.clone()));
                    probe.think(us.parse().expect("microseconds"));
                    say("probe-think");
                }
                None => panic!("no command {other}"),
            },
        }
    }
    std::process::exit(0);
}

/// Answers a call of a liar, or holds it.
///
/// Like the handler of the other tests, but for the methods that would hurt an innocent server: those echo.
///
/// # Panics
/// When another thread has while it held the list.
pub fn handle(held: &Mutex<Vec<Deferred>>, call: Call<'_>) {
    match call.method() {
        method::CHECKED => {
            let bytes = call.request().to_vec();
            let Some((id, len)) = check_request(&bytes) else {
                drop(call.fail(66, "the request came spoilt"));
                return;
            };
            if id % 2 == 0 {
                let _ = call.reply(reply(id, len));
            } else if let Ok(mut loan) = call.loan(len) {
                loan.copy_from_slice(reply(id, len));
                let _ = loan.send();
            }
        }
        method::HOLD => {
            let mut held = held.lock().expect("lock");
            if held.len() < HELD_MAX {
                held.push(call.defer());
            }
        }
        method::TURN => probe::answer(call),
        method::ZEROS => {
            let mut len = [0; 8];
            call.request().copy_to(&mut len);
            if let Ok(loan) = call.loan(usize::from_le_bytes(len)) {
                let _ = loan.send();
            }
        }
        _ => {
            let len = call.request().len();
            if let Ok(mut loan) = call.loan(len) {
                let (request, reply) = loan.split();
                request.copy_to(reply);
                let _ = loan.send();
            }
        }
    }
}
