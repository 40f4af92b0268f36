//! A client that takes all that it can get, for a stretch of time.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use callgate_proto::body::{Body, Inline};
use callgate_sys::socket::Socket;

use super::{cells, socket};
use crate::data::method;
use crate::hostile::{control_size, hello, reach, send};
use crate::liars::speaker::{CELLS, QUOTA, Speaker};
use crate::memory::{control_seals, memfd};
use crate::rng::Rng;

/// What the floods are measured against: honest calls, one after another, from clients that look for their replies all the
/// time; clients that connect, call once, and go; and threads that are merely busy.
pub const HONEST: [&str; 5] =
    ["1 honest client", "2 honest", "3 honest", "honest connects", "2 busy loops"];

/// And for what a worker does in a turn: clients that connect, make and retire memory, and go; and those that connect, keep
/// ever more replies, for which the worker makes memory, and go.
pub const HONEST_TURNS: [&str; 2] = ["honest memory", REPLIES];
/// The last of these, and the floods that are held against it, too.
pub const REPLIES: &str = "honest replies";
/// See [`REPLIES`].
pub const OF_REPLIES: [&str; 1] = ["unread"];

/// Floods, by name.
pub const NAMES: [&str; 9] = [
    "bells",
    "wakes",
    "requests",
    "regions",
    "scribbles",
    "handshakes",
    "half-open",
    "unread",
    "large replies",
];

/// Replies that are left unread are of 20,000 bytes in so many octaves.
const UNREAD_OCTAVES: u64 = 3;

/// Sockets that say nothing, held at a time.
const HALF_OPEN: usize = 1_500;

/// Does it until the time is over; how often.
///
/// # Panics
/// When there is no such flood, or the server hangs.
pub fn run(name: &str, path: &Path, rng: &mut Rng, time: Duration) -> u64 {
    let began = Instant::now();
    let mut count = 0;
    match name {
        "2 honest" | "3 honest" => {
            let threads = if name == "2 honest" { 2 } else { 3 };
            let rngs: Vec<Rng> = (0..threads).map(|_| rng.fork()).collect();
            return std::thread::scope(|scope| {
                let one = |mut rng| scope.spawn(move || run(HONEST[0], path, &mut rng, time));
                let all: Vec<_> = rngs.into_iter().map(one).collect();
                all.into_iter().map(|thread| thread.join().expect("no panic")).sum()
            });
        }
        "2 busy loops" => {
            let burn = || while began.elapsed() < time {};
            std::thread::scope(|scope| drop([scope.spawn(burn), scope.spawn(burn)]));
            return 0;
        }
        "honest connects" => {
            while began.elapsed() < time {
                let mut s = Speaker::connect(path, rng.fork());
                assert!(s.call(), "an honest call failed");
                count += 1;
            }
            return count;
        }
        "honest memory" => {
            while began.elapsed() < time {
                let mut s = Speaker::connect(path, rng.fork());
                socket::churn(&mut s, 4);
                count += 1;
            }
            return count;
        }
        REPLIES => {
            while began.elapsed() < time {
                let mut s = Speaker::connect(path, rng.fork());
                socket::kept(&mut s, 60, UNREAD_OCTAVES);
                count += 1;
            }
            return count;
        }
        "handshakes" => {
            let fd = memfd(control_size(CELLS) as u64, true, control_seals());
            while began.elapsed() < time {
                count += u64::from(handshake(path, rng, fd.as_fd()));
            }
            return count;
        }
        "half-open" => {
            let _ = callgate_sys::process::raise_nofile();
            let mut held: std::collections::VecDeque<Socket> = Default::default();
            while began.elapsed() < time {
                held.extend(reach(path).ok());
                count += 1;
                if held.len() > HALF_OPEN {
                    held.pop_front();
                }
            }
            return count;
        }
        _ => {}
    }
    while began.elapsed() < time {
        let mut s = Speaker::connect(path, rng.fork());
        while began.elapsed() < time && !s.raw.socket.is_closed() {
            for _ in 0..32 {
                count += 1;
                match name {
                    "1 honest client" => assert!(s.call(), "an honest call failed"),
                    "bells" => {
                        let _ = s.raw.socket.ring();
                    }
                    "wakes" => (0..5).for_each(|cell| socket::wake(&s, cell)),
                    "requests" => requests(&mut s),
                    "regions" => socket::churn(&mut s, 4),
                    "scribbles" => {
                        let style = s.rng.below(6);
                        cells::scribble(&mut s, style);
                        break;
                    }
                    "unread" | "large replies" => {
                        let largest = if name == "unread" { UNREAD_OCTAVES } else { 8 };
                        socket::unread(&mut s, 60, largest);
                        break;
                    }
                    other => panic!("no flood {other}"),
                }
            }
            if matches!(name, "scribbles" | "unread" | "large replies") {
                break;
            }
        }
    }
    count
}

/// As many calls as there are cells, then all their answers.
fn requests(s: &mut Speaker) {
    let tickets: Vec<_> = std::iter::from_fn(|| s.raw.submitter.draw(false)).collect();
    for ticket in &tickets {
        let body = Body::Inline(Inline::new(&[7; 40]).expect("short"));
        s.raw.publish_as(*ticket, method::ECHO, body);
    }
    for ticket in tickets {
        let _ = s.reply(ticket);
        s.raw.put_back(ticket);
    }
}

/// A new connection: welcomed, malformed, or left alone.
fn handshake(path: &Path, rng: &mut Rng, fd: std::os::fd::BorrowedFd<'_>) -> bool {
    let Ok(socket) = reach(path) else { return false };
    let size = control_size(CELLS) as u64;
    match rng.below(4) {
        0 => {
            let bytes = rng.bytes(40);
            drop(send(&socket, &bytes, &[fd]));
        }
        1 => drop(send(&socket, &hello(CELLS, size + 1, QUOTA), &[fd])),
        2 => drop(send(&socket, &hello(CELLS, size, QUOTA), &[fd])),
        _ => {}
    }
    true
}
