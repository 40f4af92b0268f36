//! What both ends of a measurement do with the bytes of a message, and how long a handler works.
//!
//! callgate and the bare limits beside it use these same routines, so that a ratio compares the
//! transport and nothing else.

use std::time::Instant;

/// Makes neighbouring numbers give messages that differ everywhere.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Fills a message of whole 8-byte words with a pattern of its own for each number.
pub fn fill(message: &mut [u8], number: u64) {
    let first = number.wrapping_mul(SPREAD);
    for (word, index) in message.chunks_exact_mut(8).zip(0u64..) {
        word.copy_from_slice(&first.wrapping_add(index).to_le_bytes());
    }
}

/// Reads every byte of whole 8-byte words: their sum.
pub fn sum(message: &[u8]) -> u64 {
    let words = message.chunks_exact(8).map(|word| {
        // Chunks have exactly 8 bytes; the other branch goes away.
        word.try_into().map_or(0, u64::from_le_bytes)
    });
    words.fold(0, u64::wrapping_add)
}

/// What [`sum`] gives for `len` bytes that [`fill`] has filled.
pub fn expected(len: usize, number: u64) -> u64 {
    let words = (len / 8) as u64;
    let first = number.wrapping_mul(SPREAD);
    // One of the two factors is even.
    let steps = words.wrapping_mul(words.wrapping_sub(1)) / 2;
    words.wrapping_mul(first).wrapping_add(steps)
}

/// Makes the words of a small message.
pub fn words<const W: usize>(number: u64) -> [u64; W] {
    let rest = |index: usize| SPREAD.wrapping_mul(index as u64 + 1);
    std::array::from_fn(|index| if index == 0 { number } else { rest(index) })
}

/// What the answering side makes of a small message: the first word inverted, so that an answer
/// can't be mistaken for the request.
pub fn answer<const W: usize>(mut words: [u64; W]) -> [u64; W] {
    if let Some(first) = words.first_mut() {
        *first = !*first;
    }
    words
}

/// Works for `ns` nanoseconds without giving up the CPU, as a handler would; nothing for 0.
pub fn work_for(ns: u64) {
    if ns > 0 {
        let start = Instant::now();
        while (start.elapsed().as_nanos() as u64) < ns {}
    }
}

/// What [`work_for`] really takes: the median of some runs, in nanoseconds.
pub fn work_cost(ns: u64) -> f64 {
    let mut costs: Vec<u64> = (0..101)
        .map(|_| {
            let start = Instant::now();
            work_for(ns);
            start.elapsed().as_nanos() as u64
        })
        .collect();
    costs.sort_unstable();
    costs[costs.len() / 2] as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_foreseen() {
        for len in [0, 8, 256, 4096, 16 << 10] {
            for number in [0, 1, 7, u64::MAX] {
                let mut message = vec![0; len];
                fill(&mut message, number);
                assert_eq!(sum(&message), expected(len, number), "{len} {number}");
            }
        }
        let mut message = [0; 64];
        fill(&mut message, 7);
        assert_ne!(sum(&message), expected(64, 8));
    }

    #[test]
    fn answers_differ_from_requests() {
        let request: [u64; 4] = words(5);
        assert_ne!(answer(request), request);
        assert_eq!(answer(answer(request)), request);
    }

    #[test]
    fn work_takes_as_long_as_asked() {
        assert!(work_cost(20_000) >= 20_000.0);
    }
}
