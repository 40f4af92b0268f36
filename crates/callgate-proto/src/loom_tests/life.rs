//! The end of a connection.

use super::*;

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
