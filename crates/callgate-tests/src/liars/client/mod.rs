//! The client that lies. Argument: `path`.
//!
//! It says `ready`. Commands: `lie SEED CALLS NAME` (connects, makes so many honest calls, tells the lie, and says what
//! became of the connection), `flood SEED MS NAME`, `hold` and `drop` (a connection that does nothing).

mod cells;
pub mod floods;
mod hello;
mod socket;

use std::path::PathBuf;
use std::time::Duration;

use super::speaker::Speaker;
use crate::hostile::wait_closed;
use crate::peer::Words;
use crate::rng::Rng;
use crate::roles::{command, say};

/// What must come of a lie.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// The connection ends, and one of these fields is reported, once, with the liar's process.
    Noticed(&'static [&'static str]),
    /// Nothing is reported; the next honest call on the same connection is answered right.
    Harmless,
    /// Nothing is reported.
    Quiet,
    /// The connection may end, with any field or none.
    Any,
}

/// A lie after a welcome: its name, what must come of it, and how it is told.
pub struct Lie(pub &'static str, pub Expect, pub fn(&mut Speaker));

/// All lies and what must come of them.
pub fn lies() -> impl Iterator<Item = (&'static str, Expect)> {
    let connected = cells::LIES.iter().chain(socket::LIES).map(|lie| (lie.0, lie.1));
    connected.chain(hello::LIES.iter().map(|lie| (lie.0, lie.1)))
}

/// Runs until its input ends.
///
/// # Panics
/// When told nonsense, or the server hangs.
pub fn run(words: &Words) {
    let path: PathBuf = words.find("path").expect("path");
    say("ready");
    let mut held = None;
    while let Some(line) = command() {
        let parts: Vec<&str> = line.splitn(4, ' ').collect();
        let number = |at: usize| parts[at].parse::<u64>().expect("a number");
        match parts[0] {
            "lie" => {
                let ended = tell(&path, parts[3], Rng::new(number(1)), number(2));
                say(&format!("lie ended={ended}"));
            }
            "flood" => {
                let time = Duration::from_millis(number(2));
                let count = floods::run(parts[3], &path, &mut Rng::new(number(1)), time);
                say(&format!("flood count={count}"));
            }
            "hold" => {
                let mut speaker = Speaker::connect(&path, Rng::new(1));
                say(&format!("hold right={}", u32::from(speaker.call())));
                held = Some(speaker);
            }
            "drop" => {
                held = None;
                say("drop");
            }
            other => panic!("no command {other}"),
        }
    }
    drop(held);
    std::process::exit(0);
}

/// Connects, makes so many honest calls, tells the lie, and says what became of the connection.
///
/// # Panics
/// When there is no lie of that name, or the server does not behave as a server of the campaign.
pub fn tell(path: &std::path::Path, name: &str, mut rng: Rng, calls: u64) -> &'static str {
    if let Some(lie) = hello::LIES.iter().find(|lie| lie.0 == name) {
        (lie.2)(path, &mut rng);
        return "refused";
    }
    let lie = cells::LIES.iter().chain(socket::LIES).find(|lie| lie.0 == name);
    let lie = lie.unwrap_or_else(|| panic!("no lie {name}"));
    let mut speaker = Speaker::connect(path, rng);
    for _ in 0..calls {
        if !speaker.call() {
            return "wrong-before";
        }
    }
    (lie.2)(&mut speaker);
    match lie.1 {
        Expect::Noticed(_) => {
            wait_closed(&speaker.raw.socket);
            "closed"
        }
        Expect::Harmless => {
            if speaker.call() {
                "right"
            } else {
                "wrong-after"
            }
        }
        Expect::Quiet | Expect::Any => "told",
    }
}
