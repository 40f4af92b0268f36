//! One cell: what is seen is whole, and nobody sleeps for good.

use super::*;

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
