//! A server that breaks the protocol. Arguments: `path`, `seed`.
//!
//! It says `serving`, then `mode` after each command `mode WORDS...`, which says how it treats clients that connect from
//! then on:
//!
//! | mode | what it does |
//! | --- | --- |
//! | `close-at-once`, `close-after-hello`, `close-after-welcome`, `close-at-request` | hangs up at that step |
//! | `silent`, `hang`, `unread` | never answers the hello; never answers calls; never reads its socket either |
//! | `answer HEX FDS` | answers the hello with these bytes and so many descriptors |
//! | `welcome REQUEST REPLY QUOTA IN_FLIGHT` | welcomes with these numbers, then echoes |
//! | `welcome-twice` | says it again |
//! | `cell PHASE TURN HEAD B0 B1 B2` | answers the first call with these words, `TURN` counted from the call's own |
//! | `message HEX FDS` | sends these bytes and so many descriptors when called |
//! | `impostor N` | announces the N-th wrong kind of memory and replies in it |
//! | `punch` | takes the control region's pages away when called |
//! | `scribble` | echoes, and writes anything anywhere |
//! | `moving` | replies in memory that it goes on writing to |
//! | `retire` | replies in memory and retires it when called again, released or not |
//! | `flood` | announces and retires memory without end |
//! | `crowd` | echoes, parks [`CROWD`] threads where it is rung, says `parked`, tells the second call then who sleeps |
//! | `moved` | moves the caller that sleeps to another futex word, then hangs up |
//! | `taken N` | says that N calls were taken, then hangs up |
//! | `echo` | behaves |
//! | `random` | one of these, at random |

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callgate_proto::body::{Body, Inline, Place, ReplyHead};
use callgate_proto::cell::Doorbell;
use callgate_proto::chain::{Deferred, Intake, Taken};
use callgate_proto::wire::{Answer, Ask, Hello, Message, Versions, Welcome};
use callgate_sys::endpoint::Listener;
use callgate_sys::shm::{Control, PayloadWriter};
use callgate_sys::socket::Socket;
use callgate_sys::{clock, futex};

use super::{command, say};
use crate::bounded::until;
use crate::hostile::{Words as Cells, park, receive, requeue, send, state};
use crate::memory::{held_seals, impostors, memfd, payload_seals, punch};
use crate::peer::Words;
use crate::rng::Rng;

/// Size of the region that comes with `cell`, under id 0.
pub const REGION: u64 = 65_536;
/// Threads that `crowd` parks on one word.
pub const CROWD: u8 = 8;
/// Longest reply that it says it gives.
pub const REPLY_MAX: u64 = 50_000;

/// How long it hangs at random.
const HANG_NS: u64 = 100_000_000;

const RANDOM: [&str; 16] = [
    "close-at-once",
    "close-after-hello",
    "close-after-welcome",
    "close-at-request",
    "answer 00112233 3",
    "welcome 18446744073709551615 18446744073709551615 18446744073709551615 4294967295",
    "welcome-twice",
    "cell 3 0 0 0 0 0",
    "cell 2 0 4194304 0 0 60000",
    "cell 2 0 4194304 7 0 60",
    "message 5200000001000000ffff000000000000 5",
    "impostor 9",
    "punch",
    "scribble",
    "retire",
    "echo",
];

/// Runs until its input ends.
///
/// # Panics
/// When told nonsense, which its test sees.
pub fn run(words: &Words) {
    let path: PathBuf = words.find("path").expect("path");
    let lock = PathBuf::from(format!("{}.lock", path.display()));
    let listener = Listener::bind(&path, &lock, 0o600, None).expect("the name is free");
    let mode = Arc::new(Mutex::new("echo".to_owned()));
    let mut rng = Rng::new(words.number("seed"));
    let shared = mode.clone();
    std::thread::spawn(move || {
        loop {
            match listener.accept().expect("accept") {
                Some(socket) => {
                    let (mode, rng) = (shared.lock().expect("lock").clone(), rng.fork());
                    std::thread::spawn(move || serve(&mode, &socket, rng));
                }
                None => wait_for_a_client(&listener),
            }
        }
    });
    say("serving");
    while let Some(line) = command() {
        match line.split_once(' ') {
            Some(("mode", text)) => {
                *mode.lock().expect("lock") = text.to_owned();
                say("mode");
            }
            _ => panic!("no command {line}"),
        }
    }
    std::process::exit(0);
}

fn wait_for_a_client(listener: &Listener) {
    use rustix::event::{PollFd, PollFlags, poll};
    let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], None);
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16);
    digits.chunks(2).map(|pair| byte(pair).expect("hex")).collect()
}

/// A connection that was set up.
struct Link<'a> {
    socket: &'a Socket,
    cells: Cells,
    control_fd: OwnedFd,
    intake: Intake,
    deferred: Deferred,
    regions: Vec<PayloadWriter>,
}

fn serve(mode: &str, socket: &Socket, mut rng: Rng) {
    // At random, it does nothing for long.
    let at_random = mode == "random";
    let calls_max = if at_random { 5 } else { usize::MAX };
    let wait_until_gone = |socket: &Socket| {
        let began_ns = clock::now_ns();
        let until_ns = if at_random { began_ns + HANG_NS } else { u64::MAX };
        while !socket.is_closed() && clock::now_ns() < until_ns {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let mode = if mode == "random" { *rng.one_of(&RANDOM) } else { mode };
    let words: Vec<&str> = mode.split(' ').collect();
    let number = |at: usize| words[at].parse::<u64>().expect("a number");
    if words[0] == "close-at-once" {
        return;
    }
    let Some((hello, fd)) = receive(socket) else { return };
    match words[0] {
        "silent" => return wait_until_gone(socket),
        "close-after-hello" => return,
        "answer" => {
            let memory = memfd(4_096, true, payload_seals());
            let fds = vec![memory.as_fd(); number(2) as usize];
            let _ = send(socket, &hex(words[1].trim_start_matches('-')), &fds);
            return wait_until_gone(socket);
        }
        _ => {}
    }
    let hello = Hello::decode(&hello).expect("an honest client");
    let Some(Ask::Connect { cells, control, .. }) = hello.ask else {
        return;
    };
    let fd = fd.expect("an honest client");
    let control_fd = fd.as_fd().try_clone_to_owned().expect("dup");
    let control = Control::accept(fd, control as usize).expect("an honest client");
    let welcome = match words[0] {
        "welcome" => Welcome {
            epoch: 1,
            request_max: number(1),
            reply_max: number(2),
            quota: number(3),
            in_flight: number(4) as u32,
        },
        _ => Welcome {
            epoch: 1,
            request_max: 1 << 20,
            reply_max: REPLY_MAX,
            quota: 1 << 30,
            in_flight: cells - 1,
        },
    };
    let answer = Answer::Welcome(welcome).encode(Versions::OURS);
    for _ in 0..if words[0] == "welcome-twice" { 2 } else { 1 } {
        let _ = send(socket, answer.as_bytes(), &[]);
    }
    if words[0] == "close-after-welcome" {
        return;
    }
    let mut link = Link {
        socket,
        cells: Cells { control, cells },
        control_fd,
        intake: Intake::new(cells),
        deferred: Deferred::default(),
        regions: Vec::new(),
    };
    let reads = words[0] != "unread";
    if matches!(words[0], "echo" | "welcome" | "welcome-twice" | "scribble") {
        for _ in 0..calls_max {
            let Some(taken) = link.next(reads) else { return };
            link.echo(&taken);
            if words[0] == "scribble" {
                link.scribble(&mut rng);
            }
        }
        return;
    }
    let Some(taken) = link.next(reads) else { return };
    match words[0] {
        "close-at-request" => {}
        "taken" => {
            link.cells.words32()[0].store(number(1) as u32, Ordering::SeqCst);
        }
        "cell" => {
            link.region(0, REGION as usize);
            for at in 0..3 {
                link.cells.body(taken.cell, at).store(number(4 + at), Ordering::Relaxed);
            }
            link.cells.head(taken.cell).store(number(3), Ordering::Relaxed);
            let turn = state::number(taken.turn).wrapping_add(number(2) as u32) & 0x03ff_ffff;
            let word = state::word(turn, number(1) as u32);
            link.cells.state(taken.cell).store(word, Ordering::SeqCst);
            link.wake(&taken);
            wait_until_gone(socket);
        }
        "message" => {
            let memory = memfd(REGION, true, payload_seals());
            let fds = vec![memory.as_fd(); number(2) as usize];
            let _ = send(socket, &hex(words[1].trim_start_matches('-')), &fds);
            wait_until_gone(socket);
        }
        "impostor" => {
            let all = impostors(REGION, held_seals());
            let (_, fd) = &all[number(1) as usize % all.len()];
            let message = Message::Region { id: 0, size: REGION }.encode();
            let _ = send(socket, message.as_bytes(), &[fd.as_fd()]);
            link.reply(&taken, Body::Far(Place { region: 0, offset: 0, len: 100 }));
            wait_until_gone(socket);
        }
        "punch" => {
            let size = link.cells.control.len() as u64;
            punch(&link.control_fd, 0, size);
            link.wake(&taken);
            wait_until_gone(socket);
        }
        "moving" => {
            link.region(0, REGION as usize);
            link.reply(&taken, Body::Far(Place { region: 0, offset: 0, len: REPLY_MAX }));
            let mut value = 0u8;
            while !socket.is_closed() {
                value = value.wrapping_add(1);
                // SAFETY: the region's own mapping, which lives in `link`; no other thread writes to it.
                unsafe { link.regions[0].as_ptr().write_bytes(value, REGION as usize) };
            }
        }
        "retire" => {
            link.region(0, REGION as usize);
            link.reply(&taken, Body::Far(Place { region: 0, offset: 64, len: 1_000 }));
            let mut retire = Some(Message::Retire { id: 0 }.encode());
            for _ in 0..calls_max {
                let Some(taken) = link.next(true) else { return };
                if let Some(retire) = retire.take() {
                    let _ = send(socket, retire.as_bytes(), &[]);
                }
                link.echo(&taken);
            }
        }
        "flood" => {
            let memory = memfd(4_096, true, payload_seals());
            let mut id = 0;
            while !socket.is_closed() {
                let region = Message::Region { id, size: 4_096 }.encode();
                while send(socket, region.as_bytes(), &[memory.as_fd()]).is_err() {
                    if socket.is_closed() {
                        return;
                    }
                }
                let retire = Message::Retire { id }.encode();
                while send(socket, retire.as_bytes(), &[]).is_err() && !socket.is_closed() {}
                id = id.wrapping_add(1);
            }
        }
        "crowd" => link.crowd(&taken),
        "moved" => {
            let (from, to) = (link.cells.state(taken.cell), link.cells.unused());
            until("the caller sleeps", || (requeue(from, to) > 0).then_some(()));
        }
        "hang" | "unread" => wait_until_gone(socket),
        other => panic!("no mode {other}"),
    }
}

impl Link<'_> {
    /// Waits for a call; `None` when the client has gone, or wrote nonsense (over which we wrote ourselves).
    fn next(&mut self, reads: bool) -> Option<Taken> {
        let mut buffer = [0; 64];
        loop {
            match self.intake.take(self.cells.cells(), self.cells.detour(), &self.deferred) {
                Ok(Some(taken)) => return Some(taken),
                Ok(None) => {}
                Err(_) => return None,
            }
            if self.socket.is_closed() {
                return None;
            }
            if reads {
                let soon = clock::deadline_ns(Duration::from_micros(200));
                let _ = self.socket.wait_readable(Some(soon));
                while self.socket.recv(&mut buffer).is_ok() {}
            }
        }
    }

    fn region(&mut self, id: u32, size: usize) {
        let (region, fd) = PayloadWriter::create(size).expect("memory");
        let message = Message::Region { id, size: size as u64 }.encode();
        let _ = send(self.socket, message.as_bytes(), &[fd.as_fd()]);
        self.regions.push(region);
    }

    fn wake(&self, taken: &Taken) {
        futex::wake(self.cells.cells()[usize::from(taken.cell)].futex(), u32::MAX);
    }

    fn reply(&self, taken: &Taken, body: Body) {
        let cell = &self.cells.cells()[usize::from(taken.cell)];
        let _ = cell.publish_reply(taken.turn, ReplyHead::default(), 0, &body);
        self.wake(taken);
    }

    /// Replies what came inline, nothing for what came otherwise.
    fn echo(&self, taken: &Taken) {
        let body = match taken.request.body {
            Body::Inline(inline) => Body::Inline(inline),
            Body::Far(_) => Body::Inline(Inline::default()),
        };
        self.reply(taken, body);
    }

    /// See the mode.
    fn crowd(&mut self, taken: &Taken) {
        self.echo(taken);
        let Self { cells, intake, deferred, .. } = self;
        let value = intake.arm(cells.cells(), cells.detour(), Doorbell::Word);
        let value = value.expect("it has not called again");
        let (word, aside) = (cells.state(intake.cell()), cells.unused());
        let (second, asleep) = std::thread::scope(|scope| {
            park(scope, word, value, aside, CROWD.into());
            say("parked");
            let mut take =
                || until("a call", || intake.take(cells.cells(), cells.detour(), deferred).ok()?);
            let (_, second) = (take(), take());
            // Before it published this one the client has rung for the one before.
            (second, futex::wake(word, u32::MAX))
        });
        let asleep = u8::try_from(asleep).expect("so many were parked");
        self.reply(&second, Body::Inline(Inline::new(&[asleep]).expect("short")));
    }

    fn scribble(&self, rng: &mut Rng) {
        let words = self.cells.words32();
        for _ in 0..rng.below(20) {
            let at = if rng.chance(50) { rng.below(64) } else { rng.below(words.len()) };
            words[at].store(rng.next() as u32 & rng.next() as u32, Ordering::Relaxed);
        }
        for cell in self.cells.cells() {
            futex::wake(cell.futex(), 1);
        }
    }
}
