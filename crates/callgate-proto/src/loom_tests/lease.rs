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

/// EDGE lease: who begins a call with what is kept finds it as it was kept under the lock, and used by the last call.
#[test]
fn what_is_kept_goes_from_caller_to_caller() {
    loom::model(|| {
        let mut submitter = Submitter::new(3);
        let first = submitter.draw(true).expect("free");
        let lease = Arc::new(Lease::default());
        assert!(submitter.lend_with_kept(&lease, &first));
        let kept = Arc::new(loom::cell::UnsafeCell::new(0u32));
        let next = {
            let (kept, lease) = (kept.clone(), lease.clone());
            thread::spawn(move || {
                let look = || {
                    std::hint::black_box(&kept.get());
                    Some(())
                };
                lease.begin_with(look).map(|(lone, ())| lone)
            })
        };
        std::hint::black_box(&kept.get_mut());
        assert!(lease.end_of(first.turn, first.cell), "nobody recalled it");
        let next = next.join().expect("next");
        assert!(next.is_none_or(|next| next.turn() == first.turn.next() && lease.end(next)));
    });
}

/// EDGE kept: who recalls the place has what is kept, unless a call has it; and that one's look comes before whatever is
/// done with the record of it from then on.
#[test]
fn what_is_kept_has_one_owner() {
    loom::model(|| {
        let mut submitter = Submitter::new(3);
        let first = submitter.draw(true).expect("free");
        let lease = Arc::new(Lease::default());
        assert!(submitter.lend_with_kept(&lease, &first));
        assert!(lease.end_of(first.turn, first.cell), "nobody recalled it");
        let record = Arc::new(loom::cell::UnsafeCell::new(0u32));
        let memory = Arc::new(loom::cell::UnsafeCell::new(0u32));
        let caller = {
            let (record, memory, lease) = (record.clone(), memory.clone(), lease.clone());
            thread::spawn(move || {
                let look = || {
                    std::hint::black_box(&record.get());
                    Some(())
                };
                let Some((lone, ())) = lease.begin_with(look) else { return None };
                std::hint::black_box(&memory.get_mut());
                Some((lone, lease.end(lone)))
            })
        };
        let left = submitter.recall(&lease);
        match left {
            // A call that begins now finds the place taken, whatever it has seen of the record; which is not written here,
            // since loom would call that a race: it is made of atomics.
            Left::Ended(_) => drop(std::hint::black_box(memory.get_mut())),
            Left::InUse(_) => drop(std::hint::black_box(record.get_mut())),
            Left::Nothing => panic!("it was lent"),
        }
        let called = caller.join().expect("caller");
        match called {
            None => assert_eq!(left, Left::Ended(first.cell)),
            Some((_, true)) => assert_eq!(left, Left::Ended(first.cell)),
            Some((lone, false)) => assert_eq!(left, Left::InUse(lone.cell())),
        }
    });
}
