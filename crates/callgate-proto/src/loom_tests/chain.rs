//! Several cells in a row.

use super::*;

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
