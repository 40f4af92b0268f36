//! The client process that is lied to. Arguments: `path` (an honest server, which two of its threads call all the time),
//! `liar` (the other server).
//!
//! It says `ready`. Commands: `meet SEED CALLS TIMEOUT_MS` (connects to the liar, makes so many calls that must be right,
//! then up to three more, and says how that ended), `visit THREADS` and `leave` (calls the liar all the time, in threads of
//! their own), `think US`, `slice` (of the calls to the honest server).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use callgate::{CallError, CallOptions, Client, ClientOptions, Retry, Side};

use super::honest::Caller;
use crate::peer::Words;
use crate::rng::Rng;
use crate::roles::{command, kind, say};

/// Time for the liar to answer a hello.
const HANDSHAKE: Duration = Duration::from_millis(400);
/// Time for each call of a visit.
const VISIT: Duration = Duration::from_millis(20);

/// Runs until its input ends.
///
/// # Panics
/// When told nonsense.
pub fn run(words: &Words) {
    let path: String = words.find("path").expect("path");
    let liar: String = words.find("liar").expect("liar");
    let callers = [Caller::start(&path, 1, false), Caller::start(&path, 2, true)];
    let stop = Arc::new(AtomicBool::new(false));
    let mut visits: Vec<std::thread::JoinHandle<u64>> = Vec::new();
    say("ready");
    while let Some(line) = command() {
        let parts: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| parts[at].parse::<u64>().expect("a number");
        match parts[0] {
            "meet" => {
                let timeout = Duration::from_millis(number(3));
                say(&format!("meet {}", meet(&liar, Rng::new(number(1)), number(2), timeout)));
            }
            "visit" => {
                stop.store(false, Ordering::Relaxed);
                visits.extend((0..number(1)).map(|_| {
                    let (stop, liar) = (stop.clone(), liar.clone());
                    std::thread::spawn(move || call_on(&liar, &stop))
                }));
                say("visit");
            }
            "leave" => {
                stop.store(true, Ordering::Relaxed);
                let calls: u64 = visits.drain(..).map(|one| one.join().expect("no panic")).sum();
                say(&format!("leave calls={calls}"));
            }
            "think" => {
                callers[0].think(number(1));
                say("think");
            }
            "slice" => {
                let (small, mixed) = (callers[0].take(), Words::parse(&callers[1].take()));
                let (wrong, failed) = (mixed.number("wrong"), mixed.number("failed"));
                say(&format!("slice mixed_wrong={wrong} mixed_failed={failed} {small}"));
            }
            other => panic!("no command {other}"),
        }
    }
    std::process::exit(0);
}

fn connect(liar: &str) -> Result<Client, CallError> {
    let mut options = ClientOptions::default();
    options.retry = Retry::Never;
    options.handshake = HANDSHAKE;
    Client::connect_with(liar, options)
}

/// Short bytes, which the liar echoes while it is honest; long ones it answers with nothing.
fn call(client: &Client, rng: &mut Rng, timeout: Duration) -> Result<bool, CallError> {
    let len = if rng.chance(85) { rng.below(49) } else { 49 + rng.below(5_000) };
    let bytes = rng.bytes(len);
    let options = CallOptions::new().timeout(timeout);
    let reply = match rng.below(4) {
        0 => client.submit(options, &bytes)?.wait()?,
        1 if len > 0 => {
            let mut loan = client.loan(len)?;
            loan.copy_from_slice(&bytes);
            loan.call(options)?
        }
        _ => client.call_with(options, &bytes)?,
    };
    // Read in any case, whatever it is.
    let reply = reply.to_vec();
    Ok(if len <= 48 { reply == bytes } else { reply.is_empty() })
}

fn meet(liar: &str, mut rng: Rng, calls: u64, timeout: Duration) -> String {
    let began = Instant::now();
    let mut right = 0;
    let ended = connect(liar).and_then(|client| {
        for at in 0..calls + 3 {
            let is_right = call(&client, &mut rng, timeout)?;
            right += u64::from(is_right && at < calls);
        }
        Ok(())
    });
    let took_ms = began.elapsed().as_millis();
    let end = match &ended {
        Ok(()) => "ended=ok".into(),
        Err(CallError::ProtocolViolation { guilty: Side::Server, violation }) => {
            format!("ended=violation field={}", violation.field.replace(' ', "_"))
        }
        Err(error) => format!("ended={}", kind(error)),
    };
    format!("{end} right={right} ms={took_ms} {ended:?}").replace('\n', " ")
}

/// Calls until told to stop, over ever new connections where need be; how often.
fn call_on(liar: &str, stop: &AtomicBool) -> u64 {
    let mut rng = Rng::new(7);
    let mut calls = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(client) = connect(liar) else { continue };
        while !stop.load(Ordering::Relaxed) {
            calls += 1;
            if call(&client, &mut rng, VISIT).is_err() {
                break;
            }
        }
    }
    calls
}
