//! Exchanges in a world in which everything else may happen between any two of their steps: a server that is slow, dies
//! and is started anew, and clients of other programs that give up or die.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bytes {
    Request(u32),
    Answer(u32),
    Mixed,
}

/// What a server does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Dead,
    Waits,
    Works(Bytes),
    Writes(Bytes),
    Sets,
}

struct World {
    /// Choices, drawn beforehand; when they are used up the server works and all limits are kept.
    script: std::vec::IntoIter<u8>,
    server: Server,
    exec: bool,
    done: bool,
    bytes: Bytes,
    /// Owned by the client under test.
    owned: bool,
    abandoned: bool,
    /// How often a server has died.
    deaths: u32,
    /// The server dies as soon as Exec is set.
    ends_after_exec: bool,
    /// Requests that a server took, whole.
    ran: HashSet<u32>,
    /// Whether servers may die, and whether the client is told.
    mortal: bool,
    watched: bool,
    /// Whether the client has met a server whose end it is told.
    met: bool,
    /// Another client has Free, and has taken the mutex that no server owns, to look.
    another_looks: bool,
    holds_back: bool,
    /// Somebody sets Done faster than it is looked at, and the server that takes the request never answers.
    spoilt: bool,
    /// Whether the client can tell its own answer.
    checks: bool,
    request: u32,
    read: Option<Bytes>,
    now: Duration,
}

impl World {
    fn choice(&mut self) -> u8 {
        self.script.next().unwrap_or(1)
    }

    fn one_in(&mut self, times: u8) -> bool {
        self.choice().is_multiple_of(times)
    }

    /// Something else may happen.
    fn others(&mut self) {
        while self.one_in(3) {
            self.server_steps();
        }
    }

    fn server_steps(&mut self) {
        if self.mortal && self.one_in(16) {
            let drains = self.one_in(2);
            self.server = match self.server {
                Server::Dead => Server::Waits,
                _ => {
                    self.deaths += 1;
                    Server::Dead
                }
            };
            if self.server == Server::Waits && drains {
                (self.exec, self.done) = (false, false);
            }
            return;
        }
        self.server = match self.server {
            Server::Waits if self.exec => {
                self.exec = false;
                if let Bytes::Request(number) = self.bytes {
                    self.ran.insert(number);
                }
                Server::Works(self.bytes)
            }
            Server::Works(bytes) => {
                self.bytes = Bytes::Mixed;
                Server::Writes(bytes)
            }
            Server::Writes(bytes) => {
                self.bytes = match bytes {
                    Bytes::Request(number) => Bytes::Answer(number),
                    _ => Bytes::Mixed,
                };
                Server::Sets
            }
            Server::Sets => {
                self.done = true;
                Server::Waits
            }
            server => server,
        };
    }

    /// Whether the mutex of the server is owned, by whomever.
    fn is_owned(&self) -> bool {
        self.another_looks || (self.watched && self.server != Server::Dead)
    }

    /// Another program's client, which knows nothing of late answers: it ends in the middle, or gives up.
    fn other_client(&mut self) {
        assert!(!self.owned);
        let number = 1_000_000 + u32::from(self.choice());
        self.bytes = Bytes::Request(number);
        if !self.one_in(4) {
            self.exec = true;
        }
        self.others();
        if self.one_in(2) {
            self.done = false;
        }
        self.abandoned = self.one_in(2);
    }
}

impl Table for World {
    type Error = ();

    fn take_free(&mut self, limit: Duration) -> Result<Free, ()> {
        assert!(!self.owned);
        self.others();
        if self.choice() == 255 {
            self.now += limit;
            return Ok(Free::TimedOut);
        }
        self.another_looks = false;
        self.owned = true;
        Ok(if std::mem::take(&mut self.abandoned) { Free::Abandoned } else { Free::Taken })
    }

    fn release_free(&mut self) {
        assert!(self.owned);
        self.owned = false;
    }

    fn meet(&mut self) -> Result<bool, ()> {
        self.others();
        self.met = self.is_owned();
        Ok(false)
    }

    fn withdraw(&mut self) -> Result<bool, ()> {
        assert!(self.owned);
        self.others();
        Ok(std::mem::take(&mut self.exec))
    }

    fn await_done(&mut self, limit: Duration) -> Result<Awaited, ()> {
        assert!(self.owned);
        self.others();
        if self.spoilt {
            self.exec = false;
            self.now += LIMITS.answer / 100;
            assert!(self.now < LIMITS.answer * 10, "without end");
            return Ok(Awaited::Done);
        }
        let mut left = if limit.is_zero() { 0 } else { 40 };
        loop {
            if std::mem::take(&mut self.done) {
                return Ok(Awaited::Done);
            }
            if self.met && !self.is_owned() {
                return Ok(Awaited::Ended);
            }
            if left == 0 || self.one_in(16) {
                self.now += limit;
                return Ok(Awaited::TimedOut);
            }
            left -= 1;
            self.server_steps();
        }
    }

    fn write_request(&mut self) {
        assert!(self.owned);
        self.others();
        self.bytes = Bytes::Request(self.request);
    }

    fn holds_request(&mut self) -> bool {
        assert!(self.owned);
        self.others();
        self.bytes == Bytes::Request(self.request)
    }

    fn set_exec(&mut self) -> Result<(), ()> {
        assert!(self.owned);
        self.others();
        self.exec = true;
        if self.ends_after_exec {
            (self.server, self.deaths) = (Server::Dead, self.deaths + 1);
        }
        Ok(())
    }

    fn read_answer(&mut self) -> bool {
        assert!(self.owned);
        self.others();
        self.read = Some(self.bytes);
        !self.checks || self.bytes == Bytes::Answer(self.request)
    }

    fn holds_back(&self) -> bool {
        self.holds_back
    }

    fn now(&self) -> Duration {
        self.now
    }
}

const LIMITS: Limits = Limits {
    busy: Duration::from_millis(1),
    settle: Duration::from_millis(2),
    answer: Duration::from_millis(3),
};

fn world(script: Vec<u8>) -> World {
    World {
        script: script.into_iter(),
        server: Server::Waits,
        exec: false,
        done: false,
        bytes: Bytes::Mixed,
        owned: false,
        abandoned: false,
        ran: HashSet::new(),
        mortal: false,
        watched: false,
        met: false,
        another_looks: false,
        deaths: 0,
        ends_after_exec: false,
        holds_back: false,
        spoilt: false,
        checks: false,
        request: 0,
        read: None,
        now: Duration::ZERO,
    }
}

/// What must hold of every exchange, in any world.
fn one(world: &mut World, memory: &mut Memory, number: u32) -> End {
    (world.request, world.read) = (number, None);
    let (began, deaths) = (world.now, world.deaths);
    let end = exchange(world, memory, LIMITS).unwrap();
    assert!(!world.owned);
    assert!(world.now - began <= LIMITS.busy + LIMITS.settle + LIMITS.answer);
    match end {
        End::Answered if world.checks => assert_eq!(world.read, Some(Bytes::Answer(number))),
        End::Answered => {}
        End::Busy | End::Unsettled | End::NoAnswer { taken: false, .. } => {
            assert!(!world.ran.contains(&number), "{end:?}");
            // Nor does it run later.
            assert!(!world.exec || end == End::Busy, "{end:?}");
        }
        End::NoAnswer { taken: true, .. } => {}
    }
    if let End::NoAnswer { ended: true, .. } = end {
        assert!(world.watched && world.deaths > deaths);
    }
    end
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn in_any_world(
        script in prop::collection::vec(any::<u8>(), 0..400),
        watched: bool,
        checks: bool,
    ) {
        let mut world = world(script);
        (world.mortal, world.watched, world.checks) = (true, watched, checks);
        let mut memory = Memory::default();
        for number in 1..8 {
            if world.one_in(3) {
                world.other_client();
            }
            world.another_looks = world.one_in(4);
            one(&mut world, &mut memory, number);
        }
    }

    /// A client that is alone takes no answer for another's, whatever becomes of the servers, until it has given up to
    /// wait for one of its own that was, or may have been, late.
    #[test]
    fn alone(script in prop::collection::vec(any::<u8>(), 0..400), mortal: bool, watched: bool) {
        let mut world = world(script);
        (world.mortal, world.watched) = (mortal, watched);
        let mut memory = Memory::default();
        for number in 1..12 {
            let before = memory;
            let end = one(&mut world, &mut memory, number);
            if before.suspect && memory.late == before.late {
                break;
            }
            match end {
                End::Answered => prop_assert_eq!(world.read, Some(Bytes::Answer(number))),
                End::Unsettled => break,
                _ => {}
            }
        }
    }
}

#[test]
fn an_ordinary_exchange() {
    let (mut world, mut memory) = (world(vec![]), Memory::default());
    assert_eq!(one(&mut world, &mut memory, 7), End::Answered);
    assert_eq!(world.read, Some(Bytes::Answer(7)));
    assert_eq!(memory, Memory::default());
}

#[test]
fn limits_without_end() {
    let mut world = world(vec![]);
    let longest = Duration::MAX;
    let limits = Limits { busy: longest, settle: longest, answer: longest };
    for now in [Duration::ZERO, Duration::from_secs(1)] {
        world.now = now;
        assert_eq!(exchange(&mut world, &mut Memory::default(), limits), Ok(End::Answered));
    }
}

#[test]
fn a_request_that_no_server_took_is_taken_back() {
    let (mut world, mut memory) = (world(vec![]), Memory::default());
    world.server = Server::Dead;
    let end = one(&mut world, &mut memory, 1);
    assert_eq!(end, End::NoAnswer { taken: false, ended: false, foreign: 0 });
    assert_eq!((world.exec, memory.owed, memory.withdrawn), (false, false, 1));
}

#[test]
fn an_answer_that_is_owed_is_waited_for() {
    let (mut world, mut memory) = (world(vec![]), Memory::default());
    (world.server, memory.owed) = (Server::Works(Bytes::Request(1)), true);
    assert_eq!(one(&mut world, &mut memory, 2), End::Answered);
    assert_eq!(world.read, Some(Bytes::Answer(2)));
    assert_eq!((memory.owed, memory.late), (false, 1));
}

#[test]
fn an_answer_that_is_owed_and_does_not_come_is_forgotten_after_one_call() {
    let (mut world, mut memory) = (world(vec![]), Memory::default());
    (world.server, memory.owed) = (Server::Dead, true);
    assert_eq!(one(&mut world, &mut memory, 2), End::Unsettled);
    assert!(!memory.owed);
    world.server = Server::Waits;
    assert_eq!(one(&mut world, &mut memory, 3), End::Answered);
    // A server that holds it back does not fail one.
    (memory.owed, world.holds_back) = (true, true);
    assert_eq!(one(&mut world, &mut memory, 4), End::Answered);
    assert!(!memory.owed);
}

#[test]
fn what_a_dead_client_left_is_settled() {
    let (mut world, mut memory) = (world(vec![]), Memory::default());
    (world.abandoned, world.server) = (true, Server::Works(Bytes::Request(1)));
    assert_eq!(one(&mut world, &mut memory, 2), End::Answered);
    assert_eq!(world.read, Some(Bytes::Answer(2)));
    assert_eq!((memory.abandoned, memory.late), (1, 1));
    // It died before Exec, or the server has died as well: nothing comes, and nothing fails.
    world.abandoned = true;
    assert_eq!(one(&mut world, &mut memory, 3), End::Answered);
    // Exec is set, and the server is not there.
    (world.abandoned, world.exec, world.server) = (true, true, Server::Dead);
    let end = one(&mut world, &mut memory, 4);
    assert_eq!(end, End::NoAnswer { taken: false, ended: false, foreign: 0 });
    assert_eq!(memory.withdrawn, 2);
}

#[test]
fn a_request_that_a_dead_servers_successor_took_is_settled() {
    let (mut world, mut memory) = (world(vec![]), Memory::default());
    (memory.suspect, world.server) = (true, Server::Works(Bytes::Request(1)));
    assert_eq!(one(&mut world, &mut memory, 2), End::Answered);
    assert_eq!(world.read, Some(Bytes::Answer(2)));
    assert_eq!((memory.suspect, memory.late), (false, 1));
}

#[test]
fn an_answer_that_is_there_is_drained() {
    let (mut world, mut memory) = (world(vec![]), Memory::default());
    (world.done, world.bytes) = (true, Bytes::Answer(1));
    assert_eq!(one(&mut world, &mut memory, 2), End::Answered);
    assert_eq!(world.read, Some(Bytes::Answer(2)));
    assert_eq!(memory.late, 1);
}

/// The server writes another's answer just after this request: it does so when the request is looked at again.
#[test]
fn an_answer_that_comes_over_the_request_before_it_is_sent() {
    let (mut world, mut memory) = (world(vec![1, 1, 1, 1, 1, 0]), Memory::default());
    world.server = Server::Writes(Bytes::Request(1));
    assert_eq!(one(&mut world, &mut memory, 2), End::Answered);
    assert_eq!(world.read, Some(Bytes::Answer(2)));
    assert_eq!((memory.late, memory.withdrawn), (1, 0));
}

/// And after it was sent: only the caller can tell, and as long as the server has not come for it all is well.
#[test]
fn an_answer_that_comes_over_the_request_after_it_is_sent() {
    let (mut world, mut memory) = (world(vec![]), Memory::default());
    (world.server, world.checks) = (Server::Works(Bytes::Request(1)), true);
    assert_eq!(one(&mut world, &mut memory, 2), End::Answered);
    assert_eq!((memory.late, memory.withdrawn), (1, 1));
    // Without the caller's check it is taken for the answer.
    let (mut world, mut memory) = (self::world(vec![]), Memory::default());
    world.server = Server::Works(Bytes::Request(1));
    assert_eq!(one(&mut world, &mut memory, 2), End::Answered);
    assert_eq!(world.read, Some(Bytes::Answer(1)));
}

#[test]
fn the_end_of_a_server_is_told_at_once() {
    let (mut world, mut memory) = (world(vec![]), Memory::default());
    (world.ends_after_exec, world.watched) = (true, true);
    let end = one(&mut world, &mut memory, 1);
    assert_eq!(end, End::NoAnswer { taken: false, ended: true, foreign: 0 });
    assert_eq!(world.now, Duration::ZERO);
    assert!(!memory.owed);
}

/// The server is of another kind, and nobody owns the mutex that one of this crate has left.
#[test]
fn another_clients_look_is_not_taken_for_a_server() {
    let (mut world, mut memory) = (world(vec![]), Memory::default());
    for number in 1..4 {
        world.another_looks = true;
        assert_eq!(one(&mut world, &mut memory, number), End::Answered);
        assert_eq!(world.read, Some(Bytes::Answer(number)));
        assert!(!world.met);
    }
}

#[test]
fn a_done_that_is_always_set_keeps_nobody_beyond_the_limit() {
    let (mut world, mut memory) = (world(vec![]), Memory::default());
    (world.spoilt, world.checks) = (true, true);
    let end = exchange(&mut world, &mut memory, LIMITS).unwrap();
    let End::NoAnswer { taken: true, ended: false, foreign } = end else { panic!("{end:?}") };
    assert!((100..200).contains(&foreign), "{foreign}");
    assert!(memory.owed);
}

#[test]
fn a_panic_of_the_check_releases_free() {
    struct Panics(World);
    impl Table for Panics {
        type Error = ();
        fn take_free(&mut self, limit: Duration) -> Result<Free, ()> {
            self.0.take_free(limit)
        }
        fn release_free(&mut self) {
            self.0.release_free();
        }
        fn meet(&mut self) -> Result<bool, ()> {
            self.0.meet()
        }
        fn withdraw(&mut self) -> Result<bool, ()> {
            self.0.withdraw()
        }
        fn await_done(&mut self, limit: Duration) -> Result<Awaited, ()> {
            self.0.await_done(limit)
        }
        fn write_request(&mut self) {
            self.0.write_request();
        }
        fn holds_request(&mut self) -> bool {
            self.0.holds_request()
        }
        fn set_exec(&mut self) -> Result<(), ()> {
            self.0.set_exec()
        }
        fn read_answer(&mut self) -> bool {
            panic!("the caller's check")
        }
        fn holds_back(&self) -> bool {
            self.0.holds_back()
        }
        fn now(&self) -> Duration {
            self.0.now()
        }
    }
    let mut world = Panics(world(vec![]));
    let call = || exchange(&mut world, &mut Memory::default(), LIMITS);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
    assert!(!world.0.owned);
}
