//! A hostile client spoils its own connection, and nothing else: beside each attack an honest client is served, with
//! every byte right, and afterwards the server is as it was before.

mod cells;
mod handshakes;
mod pages;
mod regions;

use crate::{LONGEST, PEER, method};
use callgate::Client;
use callgate_proto::wire::{Answer, Reason};
use callgate_sys::socket::Socket;
use callgate_tests::data::{is_reply, method as m, request};
use callgate_tests::hostile::{Raw, answer, control_size, hello, reach, send, state, wait_closed};
use callgate_tests::memory::{control_seals, memfd};
use callgate_tests::{Peer, Place, Rng, Usage, until, within};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const QUOTA: u64 = 1 << 30;

/// A server, and an honest client of it that calls all the time.
struct Stage {
    place: Place,
    server: Peer,
    before: Usage,
    honest: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
}

impl Stage {
    fn new(arguments: &[&str]) -> Self {
        let place = Place::new();
        let mut server = place.server(PEER, arguments);
        let client = Client::connect(place.name()).expect("connect");
        client.call_with(method(m::CHECKED), &request(1, 20, 20)).expect("a reply");
        drop(client);
        until("gone", || (server.ask("status").number("clients") == 0).then_some(()));
        let before = server.usage_at_rest();
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let honest = {
            let client = Client::connect(place.name()).expect("connect");
            let (stop, calls) = (stop.clone(), calls.clone());
            std::thread::spawn(move || {
                let mut id = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    id += 1;
                    let len = 12
                        + (id * 7_919 % if id.is_multiple_of(50) { 200_000 } else { 600 }) as usize;
                    let reply = client.call_with(method(m::CHECKED), &request(id, len, len));
                    let reply = reply.unwrap_or_else(|e| panic!("the honest client: {e:?}"));
                    assert!(is_reply(&reply.to_vec(), id, len), "the honest client's bytes");
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let stage = Self { place, server, before, honest: Some(honest), stop, calls };
        stage.honest_goes_on(10);
        stage
    }

    fn raw(&self) -> Raw {
        Raw::connect(&self.place.path(), 65, QUOTA)
    }

    fn reach(&self) -> Socket {
        reach(&self.place.path()).expect("it listens")
    }

    /// The honest client makes this many more calls.
    fn honest_goes_on(&self, calls: u64) {
        let goal = self.calls.load(Ordering::Relaxed) + calls;
        until("the honest client is served", || {
            let honest = self.honest.as_ref().expect("running");
            (honest.is_finished() || self.calls.load(Ordering::Relaxed) >= goal).then_some(())
        });
        let lives = !self.honest.as_ref().expect("running").is_finished();
        assert!(lives, "the honest client has failed");
    }

    fn violations(&mut self) -> u64 {
        self.server.ask("status").number("violations")
    }

    /// Runs an attack that the server must count as `violations`, while the honest client goes on.
    fn attack(&mut self, what: &str, violations: u64, attack: impl FnOnce(&Self)) {
        let before = self.violations();
        attack(self);
        assert!(self.server.is_alive(), "{what}: the server died\n{}", self.server.errors());
        let seen = until_equal(what, before + violations, || self.violations());
        assert_eq!(seen, before + violations, "{what}");
        self.honest_goes_on(3);
    }

    /// Ends the honest client. The server is as it was before anybody came.
    fn finish(mut self) {
        self.honest_goes_on(20);
        self.stop.store(true, Ordering::Relaxed);
        self.honest.take().expect("running").join().expect("the honest client was served");
        let mut last = String::new();
        let began = Instant::now();
        loop {
            let status = self.server.ask("status");
            let usage = self.server.usage();
            let gone = status.number("clients") == 0 && status.number("reply_bytes") == 0;
            if gone && usage.is_back_to(&self.before) {
                break;
            }
            let now = format!("{} {usage:?} against {:?}", status.text(), self.before);
            assert!(began.elapsed() < callgate_tests::BOUND, "something is left: {now}");
            last = now;
        }
        drop(last);
        let panicked = self.server.errors();
        assert!(!panicked.contains("panicked"), "{panicked}");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn until_equal(what: &str, wanted: u64, mut look: impl FnMut() -> u64) -> u64 {
    until(what, || Some(look()).filter(|seen| *seen >= wanted))
}

/// The server refuses a malformed handshake, saying so, and closes.
fn refused_as_malformed(what: &str, socket: &Socket) {
    match answer(socket) {
        Some(Answer::Refusal { reason: Some(Reason::Malformed), .. }) => {}
        other => panic!("{what}: {other:?}"),
    }
    wait_closed(socket);
}

fn scribble(rng: &mut Rng, raw: &Raw, style: usize) {
    let cell = if rng.chance(70) { rng.below(4) as u16 } else { rng.below(65) as u16 };
    match style {
        0 => {
            let words = raw.words.words64();
            words[rng.below(words.len())].store(rng.next(), Ordering::Relaxed);
        }
        1 => {
            let (turn, phase) = (rng.below(6) as u32, rng.below(4) as u32);
            let word = state::word(turn, phase) | rng.below(4) as u32;
            raw.words.state(cell).store(word, Ordering::Relaxed);
        }
        2 => {
            let next = rng.below(70) as u64;
            let len = (rng.below(64) as u64) << 16;
            let far = u64::from(rng.chance(50)) << 22;
            raw.words.head(cell).store(next | len | far, Ordering::Relaxed);
        }
        3 => {
            let values = [0, 1, 63, 64, 65_535, 65_536, 1 << 32, 1 << 63, u64::MAX];
            raw.words.body(cell, rng.below(6)).store(*rng.one_of(&values), Ordering::Relaxed);
        }
        _ => {
            let words = raw.words.words32();
            let zero_or_flag = if rng.chance(50) { 0 } else { 1 << rng.below(32) };
            words[rng.below(words.len())].fetch_xor(zero_or_flag, Ordering::Relaxed);
            words[rng.below(32)].store(rng.next() as u32, Ordering::Relaxed);
        }
    }
}

/// Bells without need, from several connections: they cost the server time, but nobody their turn.
#[test]
fn a_flood_of_bells() {
    within(LONGEST, || {
        let mut stage = Stage::new(&[]);
        stage.attack("a flood of bells", 0, |stage| {
            let stop = AtomicBool::new(false);
            let path = stage.place.path();
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let raw = Raw::connect(&path, 65, QUOTA);
                        while !stop.load(Ordering::Relaxed) {
                            let _ = raw.socket.ring();
                        }
                        assert!(!raw.socket.is_closed(), "ringing is allowed");
                    });
                }
                stage.honest_goes_on(500);
                stop.store(true, Ordering::Relaxed);
            });
        });
        stage.finish();
    });
}

/// Several attackers of all kinds at once, at random.
#[test]
fn everything_at_once() {
    within(LONGEST, || {
        let mut rng = Rng::printed("everything_at_once");
        let mut stage = Stage::new(&["workers=2"]);
        let stop = AtomicBool::new(false);
        let size = control_size(65) as u64;
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (mut rng, path, stop) = (rng.fork(), stage.place.path(), &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let Ok(socket) = reach(&path) else { continue };
                        match rng.below(5) {
                            0 => drop(send(&socket, &rng.bytes(40), &[])),
                            1 => {
                                let fd = memfd(size, rng.chance(50), control_seals());
                                let fds = vec![fd.as_fd(); rng.below(5)];
                                drop(send(&socket, &hello(65, size, QUOTA), &fds));
                            }
                            2 => drop(socket),
                            _ => {
                                let mut raw = Raw::connect(&path, 65, QUOTA);
                                let style = rng.below(5);
                                for _ in 0..rng.below(2_000) {
                                    scribble(&mut rng, &raw, style);
                                }
                                raw.publish_bytes(m::CHECKED, &request(1, 20, rng.below(99_999)));
                            }
                        }
                    }
                });
            }
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(1_200) {
                stage.honest_goes_on(20);
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(stage.violations() > 0);
        stage.finish();
    });
}
