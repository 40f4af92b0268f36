//! The place of the next call, lent.

use super::*;

/// EDGE lease: whoever gets the lent cell, by the lease or by recalling it, comes after the reads of its last reply, and each
/// call number is had once.
#[test]
fn a_lent_cell_is_reused_after_its_reply_was_read() {
    loom::model(|| {
        let mut submitter = Submitter::new(3);
        let first = submitter.draw(true).expect("free");
        assert_eq!(first.cell, first.next, "it names its own");
        let lease = Arc::new(Lease::default());
        assert!(submitter.lend(&lease, &first));
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
        let _ = submitter.recall(&lease);
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
        assert!(submitter.lend(&lease, &first));
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
        assert!(submitter.lend(&lease, &first));
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
        let _ = submitter.recall(&lease);
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

/// EDGE lease: what a caller puts aside before it ends its call is seen by who has the place after it; and who recalls the
/// place and does not see it is told, since that call then ends under the lock.
#[test]
fn what_is_put_aside_is_seen_or_told_of() {
    loom::model(|| {
        let mut submitter = Submitter::new(3);
        let first = submitter.draw(true).expect("free");
        let lease = Arc::new(Lease::default());
        assert!(submitter.lend(&lease, &first));
        // Stands for a lock with what it guards, at which one looks without waiting; so nothing but the lease orders it.
        let aside = Arc::new(AtomicU64::new(0));
        let caller = {
            let (aside, lease) = (aside.clone(), lease.clone());
            thread::spawn(move || {
                aside.store(1, Relaxed);
                lease.end_of(first.turn, first.cell)
            })
        };
        let next = lease.begin();
        assert!(next.is_none() || aside.load(Relaxed) == 1, "the next caller sees it");
        let ended = submitter.recall(&lease).is_some();
        let seen = aside.load(Relaxed) == 1;
        let by_itself = caller.join().expect("caller");
        assert_eq!(ended, by_itself && next.is_none());
        assert!(seen || !by_itself, "neither seen nor told of");
    });
}
