use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::*;
use crate::clock::deadline_ns;
use crate::shm::{PayloadReader, PayloadWriter, page_size};

#[test]
fn a_changed_word_and_a_deadline_end_the_wait() {
    let word = AtomicU32::new(1);
    assert_eq!(wait(&word, 0, None), Waited::Changed);
    assert_eq!(wait_private(&word, 0, None), Waited::Changed);
    assert_eq!(wait(&word, 1, Some(0)), Waited::TimedOut);
    assert_eq!(
        wait_private(&word, 1, Some(deadline_ns(Duration::from_millis(1)))),
        Waited::TimedOut
    );
    assert_eq!(wake(&word, u32::MAX), 0);
    assert_eq!(wake_private(&word, 1), 0);
}

#[test]
fn a_sleeper_on_a_read_only_mapping_is_woken_through_another() {
    let (writer, fd) = PayloadWriter::create(page_size()).unwrap();
    let reader = PayloadReader::accept(fd, page_size()).unwrap();
    // SAFETY: the first word of a mapping that outlives the thread below; only atomics touch it.
    let (ours, theirs) =
        unsafe { (&*writer.as_ptr().cast::<AtomicU32>(), &*reader.as_ptr().cast::<AtomicU32>()) };
    let end = Some(deadline_ns(Duration::from_secs(10)));
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            while theirs.load(Relaxed) == 0 {
                assert_ne!(wait(theirs, 0, end), Waited::TimedOut);
            }
        });
        // Woken by the wake alone: the word changes only after a sleeper was found.
        while wake(ours, 1) == 0 {
            std::thread::yield_now();
        }
        ours.store(1, Relaxed);
        wake(ours, u32::MAX);
        sleeper.join().unwrap();
    });
}

#[test]
fn private_sleepers_are_woken() {
    let word = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let sleeper =
            scope.spawn(|| wait_private(&word, 0, Some(deadline_ns(Duration::from_secs(10)))));
        while wake_private(&word, 1) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(sleeper.join().unwrap(), Waited::Woken);
    });
}
