//! Many clients in one process. Argument: `path`. Says `ready`. Commands: `connect N`, `call` (each makes a call),
//! `drop` (all go in good order).

use std::time::{Duration, Instant};

use callgate::{CallOptions, Client, ClientOptions};

use super::{command, say};
use crate::data::{is_reply, method, request};
use crate::peer::Words;

/// Runs until its input ends.
///
/// # Panics
/// When told nonsense.
pub fn run(words: &Words) {
    let path: String = words.find("path").expect("path");
    let raised = callgate_sys::process::raise_nofile();
    raised.expect("RLIMIT_NOFILE can be raised to the hard limit");
    let mut clients = Vec::new();
    say("ready");
    while let Some(line) = command() {
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let began = Instant::now();
        let outcome = match word {
            "connect" => {
                let mut options = ClientOptions::default();
                options.timeout = Some(Duration::from_secs(60));
                let more: usize = rest.parse().expect("a number");
                let connected: Result<Vec<_>, _> = (0..more)
                    .map(|_| Client::connect_with(path.as_str(), options.clone()))
                    .collect();
                connected.map(|connected| clients.extend(connected))
            }
            "call" => clients.iter().zip(0u64..).try_for_each(|(client, id)| {
                let options = CallOptions::new().method(method::CHECKED);
                let reply = client.call_with(options, &request(id, 40, 30))?;
                assert!(is_reply(&reply.to_vec(), id, 30), "wrong bytes");
                Ok(())
            }),
            "drop" => {
                clients.clear();
                Ok(())
            }
            other => panic!("no command {other}"),
        };
        match outcome {
            Ok(()) => say(&format!("{word} ok=1 ms={}", began.elapsed().as_millis())),
            Err(error) => say(&format!("{word} ok=0 {error}")),
        }
    }
    std::process::exit(0);
}
