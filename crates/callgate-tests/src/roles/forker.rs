//! A client that forks. Argument: `path`. It says `ready`, connected, with a call held by the server.
//!
//! Commands: `fork` (the child tries everything that it must not and that it may, then says `child ok` or what was
//! wrong), `storm` (forks 50 children that end at once while other threads call).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use callgate::{CallError, CallOptions, Client};

use super::{command, fork, kind, say};
use crate::data::{is_reply, method, request};
use crate::peer::Words;

/// Runs until its input ends.
///
/// # Panics
/// When told nonsense, or when the server fails it.
pub fn run(words: &Words) {
    let path: String = words.find("path").expect("path");
    let client = Client::connect(path.as_str()).expect("connect");
    let held = CallOptions::new().method(method::HOLD);
    let mut pending = Some(client.submit(held, b"held").expect("sent"));
    let mut also_pending = Some(client.submit(held, &[7; 1_000]).expect("sent"));
    let mut reply = Some(client.call(&[5; 1_000]).expect("a reply"));
    let mut loan = Some(client.loan(5_000).expect("room"));
    let mut client = Some(client);
    say("ready");
    while let Some(line) = command() {
        match line.as_str() {
            "fork" => {
                let child = fork(|| {
                    let client = client.take().expect("still there");
                    let mut wrong = Vec::new();
                    let mut must_be_forked = |what: &str, error: Option<CallError>| match error {
                        Some(CallError::Forked) => {}
                        other => wrong.push(format!("{what}: {other:?}")),
                    };
                    must_be_forked("call", client.call(b"x").err());
                    must_be_forked("submit", client.submit(CallOptions::new(), b"x").err());
                    must_be_forked("loan", client.loan(100).err());
                    must_be_forked("wait", pending.take().and_then(|p| p.wait().err()));
                    if client.is_connected() || client.server().is_some() {
                        wrong.push("the child thinks that it is connected".into());
                    }
                    drop((also_pending.take(), reply.take(), loan.take(), client.clone()));
                    drop(client);
                    match Client::connect(path.as_str()) {
                        Ok(fresh) => {
                            let options = CallOptions::new().method(method::CHECKED);
                            match fresh.call_with(options, &request(9, 3_000, 2_000)) {
                                Ok(reply) if is_reply(&reply.to_vec(), 9, 2_000) => {}
                                other => wrong.push(format!("a new client's call: {other:?}")),
                            }
                            std::mem::forget(fresh);
                        }
                        Err(error) => wrong.push(format!("a new client: {error}")),
                    }
                    if wrong.is_empty() {
                        say("child ok");
                    } else {
                        say(&format!("child {}", wrong.join("; ")));
                    }
                });
                say(&format!("fork pid={child}"));
            }
            "wait" => {
                let ended = pending.take().map(|pending| pending.wait());
                let right = matches!(&ended, Some(Ok(reply)) if reply.to_vec() == b"held");
                let intact = reply.as_ref().is_some_and(|reply| reply.to_vec() == [5; 1_000]);
                say(&format!("wait ok={}", u32::from(right && intact)));
            }
            "storm" => storm(client.as_ref().expect("still there")),
            other => panic!("no command {other}"),
        }
    }
    std::process::exit(0);
}

fn storm(client: &Client) {
    let stop = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..3u64)
        .map(|thread| {
            let (client, stop, calls) = (client.clone(), stop.clone(), calls.clone());
            std::thread::spawn(move || {
                let mut id = thread << 40;
                while !stop.load(Ordering::Relaxed) {
                    id += 1;
                    let len = (id % 5_000) as usize + 12;
                    let options = CallOptions::new().method(method::CHECKED);
                    let options = options.timeout(Duration::from_secs(20));
                    match client.call_with(options, &request(id, len, len)) {
                        Ok(reply) if is_reply(&reply.to_vec(), id, len) => {}
                        Ok(_) => return Some("wrong bytes".to_owned()),
                        Err(error) => return Some(format!("{}: {error}", kind(&error))),
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                None
            })
        })
        .collect();
    for _ in 0..50 {
        // SAFETY: the child does nothing but end.
        match unsafe { libc::fork() } {
            // SAFETY: as above.
            0 => unsafe { libc::_exit(0) },
            child => {
                // SAFETY: no status is asked for.
                unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    let wrong: Vec<_> = threads.into_iter().filter_map(|t| t.join().expect("no panic")).collect();
    let calls = calls.load(Ordering::Relaxed);
    say(&format!("storm calls={calls} wrong={} {}", wrong.len(), wrong.join("; ")));
}
