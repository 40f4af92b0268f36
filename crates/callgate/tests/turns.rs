//! Whose call a worker takes next: what one client's slow calls mean for another one's.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use callgate::{Call, CallOptions, Client, Pending, Server};

const QUICK: u32 = 0;
const SLOW: u32 = 1;
const GATE: u32 = 2;
/// Far above what a turn may take; a slow machine makes it longer only.
const SLOW_CALL: Duration = Duration::from_millis(1);
/// Calls that are over at once, of the client whose turns are counted.
const MANY: u32 = 3;

/// Lets 60 calls of one client and 40 quick ones of another lie before the one worker, then has it take them. Returns
/// how many of the first client's it took before each turn of the other's. `method` is what the first client calls.
fn beside_quick(method: u32, warm_up: usize) -> Vec<usize> {
    let directory = tempfile::tempdir().expect("a directory");
    let name = directory.path().join("s").to_str().expect("utf-8").to_owned();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (entered, has_entered) = channel();
    let (open, opened) = channel::<()>();
    let opened = Mutex::new(opened);
    let _server = Server::serve(name.clone(), {
        let taken = taken.clone();
        move |call: Call<'_>| {
            match call.method() {
                GATE => {
                    entered.send(()).expect("the test waits");
                    opened.lock().expect("one worker").recv().expect("the test opens");
                    taken.lock().expect("one worker").clear();
                }
                method => taken.lock().expect("one worker").push(method),
            }
            if call.method() == SLOW {
                let began = Instant::now();
                while began.elapsed() < SLOW_CALL {
                    std::hint::spin_loop();
                }
            }
            let _ = call.reply(b"x");
        }
    })
    .expect("serve");
    let connect = || Client::connect(name.clone()).expect("connect");
    let (gate, first, quick) = (connect(), connect(), connect());
    for _ in 0..warm_up {
        first.call(b"x").expect("a reply");
    }
    // The worker looks at this one by itself from then on: they take turns from the first call on.
    quick.call(b"x").expect("a reply");
    let submit = |client: &Client, method, count| -> Vec<Pending> {
        let options = CallOptions::new().method(method);
        (0..count).map(|_| client.submit(options, b"x").expect("room")).collect()
    };
    let gate = submit(&gate, GATE, 1);
    has_entered.recv().expect("the worker waits at the gate");
    let all = [submit(&first, method, 60), submit(&quick, QUICK, 40), gate];
    open.send(()).expect("the worker waits");
    for pending in all.into_iter().flatten() {
        pending.wait().expect("a reply");
    }
    let taken = taken.lock().expect("nobody has it");
    let last = taken.iter().rposition(|method| *method == QUICK).expect("quick calls");
    let turns = taken[..last].chunk_by(|a, b| a == b).filter(|turn| turn[0] == method);
    turns.map(<[u32]>::len).collect()
}

/// Does that until the two took turns, which `are_right` judges each time. On a busy machine the first client's bell can
/// come when the other one's calls are over.
fn take_turns(warm_up: usize, are_right: impl Fn(&[usize]) -> bool) {
    for _ in 0..50 {
        let turns = beside_quick(SLOW, warm_up);
        assert!(are_right(&turns), "{turns:?}");
        if turns.len() >= 3 {
            return;
        }
    }
    panic!("they never took turns");
}

/// A slow call is a whole turn of its client's; it does not take eight to find out.
#[test]
fn a_turn_of_slow_calls_is_one_call() {
    take_turns(0, |turns| turns.iter().all(|calls| *calls == 1));
}

/// A client whose calls were quick has a few in a turn before the clock is read, once.
#[test]
fn slow_calls_after_quick_ones_are_found_out() {
    take_turns(200, |turns| match turns {
        [] => true,
        [first, others @ ..] => *first <= 8 && others.iter().all(|calls| *calls == 1),
    });
}

/// However quick its calls are, a client has 16 of them in a turn.
#[test]
fn a_turn_of_quick_calls_is_sixteen_at_most() {
    // Where the machine is busy a turn is seldom as long as it may be; a few rounds make sure of it.
    let turns: Vec<usize> = (0..5).flat_map(|_| beside_quick(MANY, 200)).collect();
    assert!(turns.iter().all(|calls| *calls <= 16), "{turns:?}");
}
