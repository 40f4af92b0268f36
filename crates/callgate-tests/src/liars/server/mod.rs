//! The server that lies. Argument: `path`.
//!
//! It says `serving`. Command: `mode SEED CALLS NAME`: whoever connects from then on is served honestly for so many calls,
//! and then told the lie.

mod answers;
mod link;
mod replies;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use callgate_sys::endpoint::Listener;
use callgate_sys::socket::Socket;

use crate::peer::Words;
use crate::rng::Rng;
use crate::roles::{command, say};

pub use link::Link;

/// A lie: its name, the fields of which the client must name one where it may report a violation, how its call may end, and
/// how it is told.
pub struct Lie<F>(
    pub &'static str,
    pub &'static [&'static str],
    pub &'static [&'static str],
    pub F,
);

/// How a call may end that is told what cannot be.
const VIOLATION: &[&str] = &["violation"];

/// Name, fields and endings of all lies.
pub fn lies()
-> impl Iterator<Item = (&'static str, &'static [&'static str], &'static [&'static str])> {
    let replies = replies::LIES.iter().map(|lie| (lie.0, lie.1, lie.2));
    replies.chain(answers::LIES.iter().map(|lie| (lie.0, lie.1, lie.2)))
}

/// What floods are measured against: the liar echoes, and so many threads of the client call it.
pub const HONEST: [&str; 3] = ["1 honest caller", "2 honest", "3 honest"];

/// Lies that go on for as long as the connection does.
pub const FLOODS: [&str; 5] = [
    "flood of messages",
    "flood of wakes",
    "scribbles",
    "memory that comes and goes",
    "hangs up at once",
];

#[derive(Clone)]
struct Mode {
    name: String,
    calls: u64,
    rng: Rng,
}

/// Runs until its input ends.
///
/// # Panics
/// When told nonsense.
pub fn run(words: &Words) {
    let path: PathBuf = words.find("path").expect("path");
    let lock = PathBuf::from(format!("{}.lock", path.display()));
    let listener = Listener::bind(&path, &lock, 0o600, None).expect("the name is free");
    let mode = Arc::new(Mutex::new(Mode { name: HONEST[0].into(), calls: 0, rng: Rng::new(1) }));
    let shared = mode.clone();
    std::thread::spawn(move || {
        loop {
            match listener.accept().expect("accept") {
                Some(socket) => {
                    let mut mode = shared.lock().expect("lock");
                    let now = Mode { rng: mode.rng.fork(), ..mode.clone() };
                    drop(mode);
                    std::thread::spawn(move || serve(now, &socket));
                }
                None => wait(&listener),
            }
        }
    });
    say("serving");
    while let Some(line) = command() {
        let parts: Vec<&str> = line.splitn(4, ' ').collect();
        let number = |at: usize| parts[at].parse::<u64>().expect("a number");
        assert_eq!(parts[0], "mode");
        let rng = Rng::new(number(1));
        *mode.lock().expect("lock") = Mode { name: parts[3].into(), calls: number(2), rng };
        say("mode");
    }
    std::process::exit(0);
}

fn wait(listener: &Listener) {
    use rustix::event::{PollFd, PollFlags, poll};
    let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], None);
}

fn serve(mut mode: Mode, socket: &Socket) {
    if let Some(lie) = answers::LIES.iter().find(|lie| lie.0 == mode.name) {
        answers::tell(socket, &mut mode.rng, lie.3);
        return;
    }
    let Some(mut link) = Link::welcome(socket, mode.rng) else { return };
    if mode.name == "hangs up at once" {
        return;
    }
    let lie = replies::LIES.iter().find(|lie| lie.0 == mode.name);
    for at in 0.. {
        let Some(taken) = link.take_next() else { return };
        if at < mode.calls || HONEST.contains(&mode.name.as_str()) {
            link.echo(&taken);
            continue;
        }
        match lie {
            Some(lie) => (lie.3)(&mut link, &taken),
            None => panic!("no lie {}", mode.name),
        }
        if !lie.is_some_and(|lie| lie.2.contains(&"ok")) {
            return;
        }
    }
}
