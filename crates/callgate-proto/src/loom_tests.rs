//! loom explores every interleaving, and every reading that the memory model allows, of the protocol's own code.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release -p callgate-proto --lib loom_tests`.

use crate::body::{Body, Content, Inline, ReplyHead, RequestHead, Think};
use crate::cell::{Deadline, Doorbell, Ring, Turn};
use crate::chain::{Deferred, Intake, Lease, Submitter, publish};
use crate::layout::{Cell, Detour, Header};
use crate::life::{Kept, Life};
use crate::lock::{LockWord, TryWord};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use loom::thread;

fn body(byte: u8) -> Body {
    Body::Inline(Inline::new(&[byte; 16]).expect("short"))
}

fn bytes(body: Body) -> Vec<u8> {
    let Body::Inline(inline) = body else { panic!("inline") };
    inline.bytes().to_vec()
}

/// A control region.
struct Region {
    cells: Vec<Cell>,
    detour: Detour,
}

impl Region {
    fn all(&self) -> (&[Cell], &Detour) {
        (&self.cells, &self.detour)
    }
}

impl std::ops::Index<usize> for Region {
    type Output = Cell;

    fn index(&self, at: usize) -> &Cell {
        &self.cells[at]
    }
}

fn cells(n: usize) -> Arc<Region> {
    Arc::new(Region { cells: (0..n).map(|_| Cell::default()).collect(), detour: Detour::default() })
}

fn send(
    submitter: &mut Submitter,
    (cells, detour): (&[Cell], &Detour),
    byte: u8,
    alone: bool,
) -> (crate::chain::Ticket, bool) {
    let ticket = submitter.draw(alone).expect("a free cell");
    let ring =
        publish(cells, detour, ticket, 7, Think::UNKNOWN, Deadline::NONE, (&body(byte)).into());
    (ticket, ring != Ring::No)
}

/// A doorbell or a futex: tokens are never lost; sleeping without one, for good, is the bug that is looked for.
#[derive(Default)]
struct Bell(AtomicBool);

/// EDGE request and EDGE reply: whoever sees the state word sees all words of the line.
#[test]
fn lines_arrive_whole() {
    loom::model(|| {
        let cells = cells(3);
        let server = {
            let cells = cells.clone();
            thread::spawn(move || {
                let (mut intake, deferred) = (Intake::new(3), Deferred::default());
                loop {
                    if let Some(call) =
                        intake.take(&cells.cells, &cells.detour, &deferred).expect("honest")
                    {
                        assert_eq!(bytes(call.request.body), [1; 16]);
                        assert_eq!(call.request.head.method, 7);
                        let cell = &cells[usize::from(call.cell)];
                        let _ = cell.publish_reply(call.turn, ReplyHead::default(), 9, &body(2));
                        return;
                    }
                    thread::yield_now();
                }
            })
        };
        let (ticket, _) = send(&mut Submitter::new(3), cells.all(), 1, false);
        loop {
            if let Some(reply) =
                cells[usize::from(ticket.cell)].poll_reply(ticket.turn).expect("honest")
            {
                assert_eq!((bytes(reply.body), reply.word), (vec![2; 16], 9));
                break;
            }
            thread::yield_now();
        }
        server.join().expect("server");
    });
}

/// EDGE reply, without a loop: loom lets a thread that yields see the newest values, which would hide a missing edge.
#[test]
fn a_reply_that_is_seen_is_whole() {
    loom::model(|| {
        let cells = cells(3);
        let (ticket, _) = send(&mut Submitter::new(3), cells.all(), 1, false);
        let server = {
            let cells = cells.clone();
            thread::spawn(move || {
                let cell = &cells[usize::from(ticket.cell)];
                let _ = cell.publish_reply(ticket.turn, ReplyHead::default(), 9, &body(2));
            })
        };
        if let Some(reply) =
            cells[usize::from(ticket.cell)].poll_reply(ticket.turn).expect("honest")
        {
            assert_eq!((bytes(reply.body), reply.word), (vec![2; 16], 9));
        }
        server.join().expect("server");
    });
}

/// EDGE led: who sees a detour sees the request that it leads to.
#[test]
fn a_detour_that_is_seen_leads_to_its_request() {
    loom::model(|| {
        let cells = cells(3);
        let mut submitter = Submitter::new(3);
        send(&mut submitter, cells.all(), 1, true);
        let (mut intake, deferred) = (Intake::new(3), Deferred::default());
        assert!(intake.take(&cells.cells, &cells.detour, &deferred).expect("honest").is_some());
        let client = {
            let cells = cells.clone();
            thread::spawn(move || send(&mut submitter, cells.all(), 2, false))
        };
        if intake.is_waiting(&cells.cells, &cells.detour).expect("honest") {
            let taken = intake.take(&cells.cells, &cells.detour, &deferred).expect("honest");
            assert_eq!(taken.map(|taken| bytes(taken.request.body)), Some(vec![2; 16]));
        }
        client.join().expect("client");
    });
}

/// EDGE answered: a worker that sees a cell free again has the server's books of it, whatever the client does.
#[test]
fn a_cell_that_is_free_again_comes_with_its_books() {
    loom::model(|| {
        let deferred = Arc::new(Deferred::default());
        let books = Arc::new(loom::cell::UnsafeCell::new(0u32));
        deferred.insert(1);
        deferred.insert(2);
        let answerer = {
            let (deferred, books) = (deferred.clone(), books.clone());
            thread::spawn(move || {
                let write = books.get_mut();
                std::hint::black_box(&write);
                drop(write);
                deferred.remove(1);
            })
        };
        if !deferred.contains(1) {
            let write = books.get_mut();
            std::hint::black_box(&write);
        }
        answerer.join().expect("answerer");
        assert!(deferred.contains(2) && deferred.count() == 1);
    });
}

/// EDGE reply, where the client scribbles over the word all the time: what it gets at last is whole.
#[test]
fn a_scribbler_gets_a_whole_reply_too() {
    loom::model(|| {
        let cells = cells(3);
        let (ticket, _) = send(&mut Submitter::new(3), cells.all(), 1, false);
        let server = {
            let cells = cells.clone();
            thread::spawn(move || {
                let cell = &cells[usize::from(ticket.cell)];
                let _ = cell.publish_reply(ticket.turn, ReplyHead::default(), 9, &body(2));
            })
        };
        let cell = &cells[usize::from(ticket.cell)];
        for _ in 0..3 {
            // ASLEEP, to and fro.
            cell.futex().fetch_xor(1, Relaxed);
        }
        if let Ok(Some(reply)) = cell.poll_reply(ticket.turn) {
            assert_eq!((bytes(reply.body), reply.word), (vec![2; 16], 9));
        }
        server.join().expect("server");
    });
}

/// A caller that went to sleep is woken: publishing the reply saw ASLEEP, or going to sleep saw the reply.
#[test]
fn no_lost_reply_wake() {
    loom::model(|| {
        let cells = cells(3);
        let woken = Arc::new(Bell::default());
        let (ticket, _) = send(&mut Submitter::new(3), cells.all(), 1, false);
        let server = {
            let (cells, woken) = (cells.clone(), woken.clone());
            thread::spawn(move || {
                let cell = &cells[usize::from(ticket.cell)];
                if cell.publish_reply(ticket.turn, ReplyHead::default(), 0, &body(2)) {
                    woken.0.store(true, Relaxed);
                }
            })
        };
        let cell = &cells[usize::from(ticket.cell)];
        let slept = cell.arm_reply(ticket.turn).is_some();
        server.join().expect("server");
        assert!(!slept || woken.0.load(Relaxed), "asleep, and nobody rings");
        assert!(cell.poll_reply(ticket.turn).expect("honest").is_some());
    });
}

/// A server that stopped polling is rung: the request's swap saw ARMED, or arming saw the request.
#[test]
fn no_lost_request_ring() {
    loom::model(|| {
        let cells = cells(3);
        let rung = Arc::new(Bell::default());
        let client = {
            let (cells, rung) = (cells.clone(), rung.clone());
            thread::spawn(move || {
                if send(&mut Submitter::new(3), cells.all(), 1, false).1 {
                    rung.0.store(true, Relaxed);
                }
            })
        };
        let mut intake = Intake::new(3);
        let sleeps = intake.arm(&cells.cells, &cells.detour, Doorbell::Word).is_some();
        client.join().expect("client");
        assert!(!sleeps || rung.0.load(Relaxed), "asleep, and nobody rings");
        let taken = intake.take(&cells.cells, &cells.detour, &Deferred::default()).expect("honest");
        assert!(taken.is_some());
    });
}

/// Cancelling races with the reply: the reply is never spoilt, and the sleeping flag survives.
#[test]
fn cancelling_never_spoils_a_reply() {
    loom::model(|| {
        let cells = cells(3);
        let (ticket, _) = send(&mut Submitter::new(3), cells.all(), 1, false);
        let server = {
            let cells = cells.clone();
            thread::spawn(move || {
                let cell = &cells[usize::from(ticket.cell)];
                let _ = cell.is_cancelled(ticket.turn);
                let _ = cell.publish_reply(ticket.turn, ReplyHead::default(), 3, &body(2));
            })
        };
        let cell = &cells[usize::from(ticket.cell)];
        cell.cancel(ticket.turn);
        server.join().expect("server");
        let reply = cell.poll_reply(ticket.turn).expect("honest").expect("there");
        assert_eq!((reply.word, bytes(reply.body)), (3, vec![2; 16]));
    });
}

/// Two calls over a chain of three cells, the server arming in between: in order, each once, none lost.
#[test]
fn a_chain_with_arming_loses_nothing() {
    two_calls(false);
}

/// The same when the second call takes a detour, since the first one named its own cell.
#[test]
fn a_detour_with_arming_loses_nothing() {
    two_calls(true);
}

fn two_calls(alone: bool) {
    loom::model(move || {
        let cells = cells(3);
        let rung = Arc::new(AtomicU64::new(0));
        let client = {
            let (cells, rung) = (cells.clone(), rung.clone());
            thread::spawn(move || {
                let mut submitter = Submitter::new(3);
                for byte in [1, 2] {
                    if send(&mut submitter, cells.all(), byte, alone).1 {
                        rung.fetch_add(1, Relaxed);
                    }
                }
            })
        };
        let (mut intake, deferred) = (Intake::new(3), Deferred::default());
        let mut got = Vec::new();
        let mut armed = 0;
        for _ in 0..2 {
            match intake.take(&cells.cells, &cells.detour, &deferred).expect("honest") {
                Some(call) => {
                    deferred.insert(call.cell);
                    got.push(bytes(call.request.body)[0]);
                }
                None if intake.arm(&cells.cells, &cells.detour, Doorbell::Word).is_some() => {
                    armed = 1;
                    break;
                }
                None => {}
            }
        }
        client.join().expect("client");
        while let Some(call) = intake.take(&cells.cells, &cells.detour, &deferred).expect("honest")
        {
            deferred.insert(call.cell);
            got.push(bytes(call.request.body)[0]);
        }
        assert_eq!(got, [1, 2]);
        assert!(armed == 0 || rung.load(Relaxed) == 1, "armed once, rung once");
    });
}

/// A detour that comes while the call before it is being answered: the answer keeps what the detour hands over.
#[test]
fn a_detour_beside_an_answer_loses_nothing() {
    loom::model(|| {
        let cells = cells(3);
        let mut submitter = Submitter::new(3);
        let (first, _) = send(&mut submitter, cells.all(), 1, true);
        let (mut intake, deferred) = (Intake::new(3), Deferred::default());
        let taken = intake.take(&cells.cells, &cells.detour, &deferred).expect("honest");
        assert!(taken.is_some());
        let rung = Arc::new(Bell::default());
        let client = {
            let (cells, rung) = (cells.clone(), rung.clone());
            thread::spawn(move || {
                if send(&mut submitter, cells.all(), 2, true).1 {
                    rung.0.store(true, Relaxed);
                }
            })
        };
        let cell = &cells[usize::from(first.cell)];
        let _ = cell.publish_reply(first.turn, ReplyHead::default(), 0, &body(2));
        let sleeps = intake.arm(&cells.cells, &cells.detour, Doorbell::Socket).is_some();
        client.join().expect("client");
        assert!(!sleeps || rung.0.load(Relaxed), "asleep, and nobody rings");
        let taken = intake.take(&cells.cells, &cells.detour, &deferred).expect("honest");
        assert_eq!(taken.map(|taken| bytes(taken.request.body)), Some(vec![2; 16]));
    });
}

/// A server that arms a cell whose call another thread is just answering: the answer keeps the arming.
#[test]
fn an_answer_keeps_the_arming() {
    loom::model(|| {
        let cells = cells(3);
        let mut submitter = Submitter::new(3);
        let (first, _) = send(&mut submitter, cells.all(), 1, true);
        let (mut intake, deferred) = (Intake::new(3), Deferred::default());
        let taken = intake.take(&cells.cells, &cells.detour, &deferred).expect("honest");
        assert!(taken.is_some());
        let answerer = {
            let cells = cells.clone();
            thread::spawn(move || {
                let cell = &cells[usize::from(first.cell)];
                let _ = cell.publish_reply(first.turn, ReplyHead::default(), 0, &body(2));
            })
        };
        let sleeps = intake.arm(&cells.cells, &cells.detour, Doorbell::Word).is_some();
        answerer.join().expect("answerer");
        assert!(sleeps, "there is nothing else to do");
        assert!(cells[usize::from(first.cell)].poll_reply(first.turn).expect("honest").is_some());
        submitter.put_back(first.cell);
        assert!(send(&mut submitter, cells.all(), 2, true).1, "the caller rings");
    });
}

/// EDGE lock: what one holder wrote the next one sees, and who sleeps is woken.
#[test]
fn a_lock_has_one_holder_and_forgets_no_sleeper() {
    loom::model(|| {
        let lock = Arc::new((LockWord::default(), loom::cell::UnsafeCell::new(0u32)));
        let woken = Arc::new(Bell::default());
        let other = {
            let (lock, woken) = (lock.clone(), woken.clone());
            thread::spawn(move || {
                if lock.0.try_take() {
                    std::hint::black_box(&lock.1.get_mut());
                    if lock.0.give_back() {
                        woken.0.store(true, Relaxed);
                    }
                }
            })
        };
        if lock.0.try_take() || lock.0.take_or_want() {
            std::hint::black_box(&lock.1.get_mut());
            let _ = lock.0.give_back();
            other.join().expect("other");
        } else {
            other.join().expect("other");
            assert!(woken.0.load(Relaxed), "asleep, and nobody wakes");
        }
    });
}

/// EDGE try: who gets the lock at once has what the last holder left, and has it alone.
#[test]
fn a_try_lock_has_one_holder() {
    loom::model(|| {
        let lock = Arc::new((TryWord::default(), loom::cell::UnsafeCell::new(0u32)));
        let enter = |lock: &(TryWord, loom::cell::UnsafeCell<u32>)| {
            if lock.0.try_take() {
                std::hint::black_box(&lock.1.get_mut());
                lock.0.give_back();
            }
        };
        let other = {
            let lock = lock.clone();
            thread::spawn(move || enter(&lock))
        };
        enter(&lock);
        other.join().expect("other");
        assert!(lock.0.try_take(), "free in the end");
    });
}

/// EDGE lease: whoever gets the lent cell, by the lease or by recalling it, comes after the reads of its last reply, and each
/// call number is had once.
#[test]
fn a_lent_cell_is_reused_after_its_reply_was_read() {
    loom::model(|| {
        let mut submitter = Submitter::new(3);
        let first = submitter.draw(true).expect("free");
        assert_eq!(first.cell, first.next, "it names its own");
        let lease = Arc::new(Lease::default());
        submitter.lend(&lease, &first);
        // What stands in the cell.
        let line = Arc::new(loom::cell::UnsafeCell::new(0u32));
        let caller = {
            let (line, lease) = (line.clone(), lease.clone());
            thread::spawn(move || {
                let read = line.get();
                std::hint::black_box(&read);
                drop(read);
                let ended = lease.end_of(first.turn, first.cell);
                let next = lease.begin();
                if let Some(next) = next {
                    assert_eq!((ended, next.turn(), next.cell()), (true, first.turn.next(), 0));
                    let write = line.get_mut();
                    std::hint::black_box(&write);
                    drop(write);
                }
                (ended, next)
            })
        };
        submitter.recall(&lease);
        let second = submitter.draw(true).expect("free");
        if second.cell == first.cell {
            let write = line.get_mut();
            std::hint::black_box(&write);
        }
        let (ended, next) = caller.join().expect("caller");
        // What was begun by the lease and not ended there ends under the lock, and no number is had twice.
        let begun = u64::from(next.is_some());
        assert_eq!(
            second.turn,
            if begun == 1 { first.turn.next().next() } else { first.turn.next() }
        );
        assert_eq!(second.cell == first.cell, ended && next.is_none());
        assert_eq!(second.detour().is_some(), !ended || next.is_some());
        submitter.put_back(second.cell);
        if !ended || next.is_some_and(|next| !lease.end(next)) {
            submitter.put_back(first.cell);
        }
        assert_eq!(submitter.available(), 2);
    });
}

/// EDGE lease: of two callers that are alone one after the other, the second has the cell when the first has read its reply.
#[test]
fn a_lent_cell_goes_from_caller_to_caller() {
    loom::model(|| {
        let mut submitter = Submitter::new(3);
        let first = submitter.draw(true).expect("free");
        let lease = Arc::new(Lease::default());
        submitter.lend(&lease, &first);
        let line = Arc::new(loom::cell::UnsafeCell::new(0u32));
        let next = {
            let (line, lease) = (line.clone(), lease.clone());
            thread::spawn(move || {
                let lone = lease.begin();
                if lone.is_some() {
                    let write = line.get_mut();
                    std::hint::black_box(&write);
                }
                lone
            })
        };
        let read = line.get();
        std::hint::black_box(&read);
        drop(read);
        assert!(lease.end_of(first.turn, first.cell), "nobody recalled it");
        let next = next.join().expect("next");
        assert!(next.is_none_or(|next| next.turn() == first.turn.next() && lease.end(next)));
    });
}

/// Who is alone begins a call at the lent place at the same time as another, who recalls the place, publishes one of its
/// own: the server gets both, in the order of their numbers, and is rung if it sleeps.
#[test]
fn a_lone_call_beside_a_recall_loses_nothing() {
    loom::model(|| {
        let cells = cells(3);
        let mut submitter = Submitter::new(3);
        let (first, _) = send(&mut submitter, cells.all(), 1, true);
        let lease = Arc::new(Lease::default());
        submitter.lend(&lease, &first);
        let (mut intake, deferred) = (Intake::new(3), Deferred::default());
        assert!(intake.take(&cells.cells, &cells.detour, &deferred).expect("honest").is_some());
        let cell = &cells[usize::from(first.cell)];
        let _ = cell.publish_reply(first.turn, ReplyHead::default(), 0, &body(1));
        let sleeps = intake.arm(&cells.cells, &cells.detour, Doorbell::Socket).is_some();
        assert!(sleeps && lease.end_of(first.turn, first.cell));
        let rung = Arc::new(AtomicU64::new(0));
        let caller = {
            let (cells, rung, lease) = (cells.clone(), rung.clone(), lease.clone());
            thread::spawn(move || {
                let Some(lone) = lease.begin() else { return false };
                let head = RequestHead { method: 7, next: lone.cell(), think: Think::UNKNOWN };
                let cell = &cells[usize::from(lone.cell())];
                let content = Content::Short(&[2; 16]);
                if cell.publish_request(lone.turn(), head, Deadline::NONE, content).is_some() {
                    rung.fetch_add(1, Relaxed);
                }
                true
            })
        };
        submitter.recall(&lease);
        if send(&mut submitter, cells.all(), 3, true).1 {
            rung.fetch_add(1, Relaxed);
        }
        let began = caller.join().expect("caller");
        assert_eq!(rung.load(Relaxed), 1, "once asleep, once rung");
        let mut got = Vec::new();
        while let Some(call) = intake.take(&cells.cells, &cells.detour, &deferred).expect("honest")
        {
            deferred.insert(call.cell);
            got.push(bytes(call.request.body)[0]);
        }
        assert_eq!(got, if began { vec![2, 3] } else { vec![3] });
    });
}

/// EDGE release: the client's reads of a reply come before the server's reuse of its memory.
#[test]
fn released_memory_was_read() {
    loom::model(|| {
        let cells = cells(3);
        let payload = Arc::new(loom::cell::UnsafeCell::new(1u32));
        let (ticket, _) = send(&mut Submitter::new(3), cells.all(), 1, false);
        let cell = &cells[usize::from(ticket.cell)];
        let _ = cell.publish_reply(ticket.turn, ReplyHead::default(), 0, &body(2));
        let server = {
            let (cells, payload) = (cells.clone(), payload.clone());
            thread::spawn(move || {
                if cells[usize::from(ticket.cell)].is_released(ticket.turn) {
                    let write = payload.get_mut();
                    std::hint::black_box(&write);
                }
            })
        };
        assert!(cell.poll_reply(ticket.turn).expect("honest").is_some());
        let read = payload.get();
        std::hint::black_box(&read);
        drop(read);
        cell.release();
        server.join().expect("server");
    });
}

/// A connection's end reaches every sleeper: it refuses to sleep, or the one who ends it sees it asleep.
#[test]
fn the_end_finds_every_sleeper() {
    loom::model(|| {
        let life = Arc::new(Life::default());
        let sleeper = {
            let life = life.clone();
            thread::spawn(move || life.may_sleep())
        };
        life.end();
        let will_wake = life.has_sleepers();
        let sleeps = sleeper.join().expect("sleeper");
        assert!(!sleeps || will_wake, "asleep, and the end passes by");
        assert!(life.has_ended());
        life.awake();
        assert!(!life.has_sleepers());
    });
}

/// EDGE lane: whoever keeps a connection that ends sees the end, or is seen by who declared it.
#[test]
fn nobody_keeps_what_has_ended() {
    loom::model(|| {
        let shared = Arc::new((Life::default(), Kept::default()));
        let caller = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.1.say(7);
                shared.0.has_ended()
            })
        };
        shared.0.end();
        let comes_again = shared.1.may_be(7);
        let sees_the_end = caller.join().expect("caller");
        assert!(sees_the_end || comes_again, "kept for ever");
    });
}

/// EDGE lane, when another thread ended the connection: its watcher sees the end, then looks who keeps it.
#[test]
fn nobody_keeps_what_somebody_else_ended() {
    loom::model(|| {
        let shared = Arc::new((Life::default(), Kept::default()));
        let caller = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.1.say(7);
                shared.0.has_ended()
            })
        };
        let ender = {
            let shared = shared.clone();
            thread::spawn(move || shared.0.end())
        };
        let comes_again = shared.0.has_ended().then(|| shared.1.may_be(7));
        let sees_the_end = caller.join().expect("caller");
        ender.join().expect("ender");
        assert!(sees_the_end || comes_again != Some(false), "kept for ever");
    });
}

/// EDGE ended: who sees that a connection has ended sees the reason that was written before.
#[test]
fn the_end_comes_with_its_reason() {
    loom::model(|| {
        let life = Arc::new(Life::default());
        let reason = Arc::new(loom::cell::UnsafeCell::new(0u32));
        let reader = {
            let (life, reason) = (life.clone(), reason.clone());
            thread::spawn(move || {
                if life.has_ended() {
                    let read = reason.get();
                    std::hint::black_box(&read);
                }
            })
        };
        let write = reason.get_mut();
        std::hint::black_box(&write);
        drop(write);
        life.end();
        reader.join().expect("reader");
    });
}

/// EDGE taken: what a handler did is visible only with the word that says that it began.
#[test]
fn a_handlers_traces_imply_that_it_was_taken() {
    loom::model(|| {
        let header = Arc::new(Header::default());
        let effect = Arc::new(AtomicBool::new(false));
        let server = {
            let (header, effect) = (header.clone(), effect.clone());
            thread::spawn(move || {
                header.take(Turn::START.next());
                effect.store(true, Relaxed);
            })
        };
        if effect.load(Relaxed) {
            loom::sync::atomic::fence(loom::sync::atomic::Ordering::Acquire);
            assert_eq!(header.last_taken(), Turn::START.next());
        }
        server.join().expect("server");
    });
}
