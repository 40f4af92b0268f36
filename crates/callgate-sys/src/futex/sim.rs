//! A word is its address: memory lies at the same place for every simulated process.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::{WORDS_MAX, Waited, Word};
use crate::sim::world::{Wait, inside};

/// Sleeps until somebody wakes `word`, as long as it holds `expected`, at most until `deadline_ns`.
pub fn wait(word: &AtomicU32, expected: u32, deadline_ns: Option<u64>) -> Waited {
    let here = inside();
    here.point("sys.futex.wait", 300);
    let mut state = here.world.lock();
    if word.load(SeqCst) != expected {
        return Waited::Changed;
    }
    if state.rng.one_in(100) {
        return Waited::Woken; // a signal
    }
    let woken = here.block(state, Wait::Address((&raw const *word).addr()), deadline_ns);
    here.point("sys.futex.woken", 300);
    if woken { Waited::Woken } else { Waited::TimedOut }
}

/// Sleeps as [`wait()`] does.
pub fn wait_private(word: &AtomicU32, expected: u32, deadline_ns: Option<u64>) -> Waited {
    wait(word, expected, deadline_ns)
}

/// Sleeps until somebody wakes one of the words, as long as all hold what is expected.
pub fn wait_any(words: &[Word<'_>], deadline_ns: Option<u64>) -> Option<Waited> {
    let here = inside();
    here.point("sys.futex.wait_any", 400);
    let mut state = here.world.lock();
    if !state.waits_on_many {
        return None;
    }
    if words.iter().any(|word| word.word.load(SeqCst) != word.expected) {
        return Some(Waited::Changed);
    }
    if state.rng.one_in(100) {
        return Some(Waited::Woken); // a signal
    }
    let mut addresses = [0; WORDS_MAX];
    for (address, word) in addresses.iter_mut().zip(words) {
        *address = (&raw const *word.word).addr();
    }
    let woken = here.block(state, Wait::AnyAddress(addresses), deadline_ns);
    here.point("sys.futex.woken", 300);
    Some(if woken { Waited::Woken } else { Waited::TimedOut })
}

/// Wakes at most `count` sleepers of `word`; tells how many it woke.
pub fn wake(word: &AtomicU32, count: u32) -> u32 {
    inside().operation("sys.futex.wake", 300, |state| {
        let address = (&raw const *word).addr();
        if !state.has_waiter(address) {
            return 0;
        }
        state.wakes += 1;
        if state.wakes == state.config.drop_wake {
            return 0;
        }
        state.wake_address(address, count)
    })
}

/// Wakes as [`wake`] does.
pub fn wake_private(word: &AtomicU32, count: u32) -> u32 {
    wake(word, count)
}
