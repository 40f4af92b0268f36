//! The locks of this crate.

use super::*;

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
