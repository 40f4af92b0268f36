//! A client that submits many calls at once, which the server holds. Arguments: `path`, `calls`, `len` (of each).
//!
//! It says `submitted`. Command: `wait` (for all of them; says how many came back whole).

use callgate::{CallOptions, Client};

use super::{command, say};
use crate::data::{method, request};
use crate::peer::Words;

/// Runs until its input ends.
///
/// # Panics
/// When told nonsense, or when the server fails it.
pub fn run(words: &Words) {
    let path: String = words.find("path").expect("path");
    let client = Client::connect(path.as_str()).expect("connect");
    let len: usize = words.find("len").expect("len");
    let calls: Vec<_> = (0..words.number("calls"))
        .map(|id| {
            let bytes = request(id, len, 0);
            let sent = client.submit(CallOptions::new().method(method::HOLD), &bytes);
            (bytes, sent.expect("sent"))
        })
        .collect();
    say("submitted");
    let mut calls = Some(calls);
    while let Some(line) = command() {
        assert_eq!(line, "wait");
        let mut ok = 0;
        let mut wrong = String::new();
        for (bytes, pending) in calls.take().expect("once") {
            match pending.wait() {
                Ok(reply) if reply.to_vec() == bytes => ok += 1,
                Ok(_) => wrong = "wrong bytes".into(),
                Err(error) => wrong = error.to_string(),
            }
        }
        say(&format!("wait ok={ok} {wrong}"));
    }
    std::process::exit(0);
}
