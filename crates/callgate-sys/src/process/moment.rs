//! Waiting for some nanoseconds without reading a clock.
//!
//! A PAUSE takes 3 ns on some processors and 45 ns on others, which is too coarse to hit the moment at which a peer has
//! written a line, and it is kind to a sibling thread of the core, which may be that very peer. So a wait is made of PAUSEs
//! as far as these go, and its rest of turns of an empty loop. Both are measured once for each process.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock;

/// What fits into 1,024 ns, in 1,024ths: PAUSEs in the low half, turns in the high half. 0: not measured yet. Relaxed: both
/// halves are in one word, and nothing hangs on it.
static RATES: AtomicU64 = AtomicU64::new(0);

const LOOKS_APART_NS: u64 = 30;
const COUNT_FIRST: u64 = 32;
const COUNT_MAX: u64 = 1 << 14;
/// A time that says something, with a clock that goes in steps of some tens of nanoseconds.
const TELLING_NS: u64 = 500;
/// One in 25 ns, where the clock is too coarse to tell.
const RATE_UNKNOWN: u64 = (1 << 20) / 25;

/// Waits for about so many nanoseconds; as long as a few thousand at the most, since it takes a CPU.
#[inline(always)]
pub fn pause_ns(ns: u32) {
    let rates = RATES.load(Ordering::Relaxed);
    if rates == 0 {
        return measure();
    }
    let (pauses_rate, turns_rate) = (rates & 0xffff_ffff, rates >> 32);
    let in_1024ths = (u64::from(ns) * pauses_rate) >> 10;
    for _ in 0..in_1024ths >> 10 {
        std::hint::spin_loop();
    }
    // What is left of a PAUSE, in turns: as many of them as fit into a PAUSE, times what is left.
    let turns = ((in_1024ths & 1_023) * turns_rate / pauses_rate) >> 10;
    for _ in 0..turns {
        turn();
    }
}

/// Waits between two looks at a line, in whole PAUSEs: one at least, for the sake of a sibling thread, and as many as fit
/// into 30 ns. Looking at full speed snatches the line from its writer.
#[inline(always)]
pub fn pause_between_looks() {
    let rates = RATES.load(Ordering::Relaxed);
    if rates == 0 {
        return measure();
    }
    for _ in 0..((LOOKS_APART_NS * (rates & 0xffff_ffff)) >> 20).max(1) {
        std::hint::spin_loop();
    }
}

#[inline(always)]
fn turn() {
    // Nothing at all; but the compiler cannot know that, and keeps the loop around it.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: no instruction.
    unsafe {
        std::arch::asm!("", options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    std::hint::black_box(());
}

#[cold]
fn measure() {
    let pauses = rate(|count| (0..count).for_each(|_| std::hint::spin_loop()), clock::now_ns);
    let turns = rate(|count| (0..count).for_each(|_| turn()), clock::now_ns);
    RATES.store((turns << 32) | pauses, Ordering::Relaxed);
}

/// How often something fits into 1,024 ns, in 1,024ths: the best of three, of as many as the clock can tell apart.
fn rate(work: impl Fn(u64), now_ns: impl Fn() -> u64) -> u64 {
    let mut count = COUNT_FIRST;
    loop {
        let shortest = (0..3).map(|_| {
            let began_ns = now_ns();
            work(count);
            now_ns().saturating_sub(began_ns)
        });
        let shortest_ns = shortest.min().unwrap_or(0);
        if shortest_ns >= TELLING_NS {
            return ((count << 20) / shortest_ns).clamp(1, u64::from(u32::MAX));
        }
        if count >= COUNT_MAX {
            return RATE_UNKNOWN;
        }
        count *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_way_of_waiting_measures_first() {
        for wait in [pause_between_looks as fn(), || pause_ns(1)] {
            RATES.store(0, Ordering::Relaxed);
            wait();
            let rates = RATES.load(Ordering::Relaxed);
            assert!(rates & 0xffff_ffff > 0 && rates >> 32 > 0, "{rates:#x}");
            wait();
        }
    }

    #[test]
    fn what_the_clock_cannot_tell_has_the_usual_rate() {
        assert_eq!(rate(|_| {}, || 7), RATE_UNKNOWN);
    }

    #[test]
    fn it_counts_until_the_clock_can_tell() {
        let now_ns = std::cell::Cell::new(0);
        let longest = std::cell::Cell::new(0);
        let work = |count| {
            longest.set(count);
            now_ns.set(now_ns.get() + 10 * count);
        };
        assert_eq!(rate(work, || now_ns.get()), (1 << 20) / 10);
        assert_eq!(longest.get(), 64, "640 ns, and no more");
    }
}
