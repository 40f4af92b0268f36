//! A client that calls all the time, never connecting anew by itself: the witness of campaigns.
//!
//! It says `calling`. Commands: `on` (says `on` when it has made another call from its beginning to its end), `end` (says
//! `end calls=N failed=0|1 longest_us=N`, and what failed, and ends).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use callgate::{Client, ClientOptions, Retry};

use super::{command, say};
use crate::peer::Words;
use crate::until;

/// Errors are told up to so many bytes; then it stops calling.
const ERRORS_MAX: usize = 1_000;

/// Never repeats a call, and waits for none longer than 10 s where `timeout` is said.
pub fn run(words: &Words) {
    let path: String = words.find("path").expect("path");
    let mut options = ClientOptions::default();
    options.retry = Retry::Never;
    options.timeout = words.find::<u64>("timeout").map(Duration::from_secs);
    let client = Client::connect_with(path.as_str(), options).expect("connect");
    client.call(b"warm").expect("a reply");
    let (calls, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let calling = scope.spawn(|| call(&client, &calls, &stop));
        say("calling");
        while let Some(line) = command() {
            if line == "end" {
                break;
            }
            let before = calls.load(Relaxed);
            // The one after the one that is under way.
            until("another call", || (calls.load(Relaxed) >= before + 2).then_some(()));
            say("on");
        }
        stop.store(true, Relaxed);
        let (errors, longest) = calling.join().expect("it calls");
        let (calls, failed) = (calls.load(Relaxed), u32::from(!errors.is_empty()));
        say(&format!(
            "end calls={calls} failed={failed} longest_us={} {errors}",
            longest.as_micros()
        ));
    });
}

fn call(client: &Client, calls: &AtomicU64, stop: &AtomicBool) -> (String, Duration) {
    let (mut errors, mut longest) = (String::new(), Duration::ZERO);
    while !stop.load(Relaxed) && errors.len() < ERRORS_MAX {
        let request = calls.load(Relaxed).to_le_bytes();
        let began = Instant::now();
        match client.call(&request) {
            Ok(reply) if reply.to_vec() == request => {}
            Ok(_) => errors.push_str("wrong bytes; "),
            Err(error) => errors.push_str(&format!("{error}; ")),
        }
        longest = longest.max(began.elapsed());
        calls.fetch_add(1, Relaxed);
        // Sparse enough to leave the others the machine.
        std::thread::sleep(Duration::from_micros(200));
    }
    (errors, longest)
}
