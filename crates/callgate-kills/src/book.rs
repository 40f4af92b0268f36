//! What became of each call: begun, run, ended. In shared memory, so that it survives whoever is killed.
//!
//! This is the judge of "at most once": a handler counts each run, a caller notes how its call ended.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Calls that are remembered at a time.
const SLOTS: u64 = 1 << 17;

/// How a call ended, as its caller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With its reply.
    Replied,
    /// With the word that it was not started, or not even sent.
    NotStarted,
    /// With the word that it may have run.
    MayHaveRun,
}

const BEGUN: u32 = 1;
const IDEMPOTENT: u32 = 1 << 8;

pub struct Book {
    runs: [AtomicU32; SLOTS as usize],
    state: [AtomicU32; SLOTS as usize],
}

impl Book {
    fn slot(id: u64) -> usize {
        (id % SLOTS) as usize
    }

    /// A call is about to be made.
    pub fn begin(&self, id: u64, idempotent: bool) {
        self.runs[Self::slot(id)].store(0, Relaxed);
        let more = if idempotent { IDEMPOTENT } else { 0 };
        self.state[Self::slot(id)].store(BEGUN | more, Relaxed);
    }

    /// A handler has been given the call.
    pub fn ran(&self, id: u64) {
        self.runs[Self::slot(id)].fetch_add(1, Relaxed);
    }

    /// Its caller was told how it ended.
    pub fn ended(&self, id: u64, end: End) {
        self.state[Self::slot(id)].fetch_or((end as u32 + 1) << 1, Relaxed);
    }

    /// What is wrong with the calls `from..to`, once nobody works on them any more.
    pub fn check(&self, from: u64, to: u64) -> Result<u64, String> {
        let mut calls = 0;
        for id in from..to {
            let state = self.state[Self::slot(id)].swap(0, Relaxed);
            let runs = self.runs[Self::slot(id)].load(Relaxed);
            if state == 0 {
                continue;
            }
            calls += 1;
            let end = (state & 0xff) >> 1;
            if runs > 1 && state & IDEMPOTENT == 0 {
                return Err(format!("call {id:#x} ran {runs} times, its end is {end}"));
            }
            if end == End::Replied as u32 + 1 && runs == 0 {
                return Err(format!("call {id:#x} was answered, and never ran"));
            }
            if end == End::NotStarted as u32 + 1 && runs != 0 {
                return Err(format!("call {id:#x} ran, and its caller was told that it won't"));
            }
        }
        Ok(calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Shared;

    #[test]
    fn it_judges() {
        // SAFETY: zeroed atomics are valid, and there is nothing else in it.
        let book: Shared<Book> = unsafe { Shared::new() };
        for (id, runs, end, fine) in [
            (1, 1, Some(End::Replied), true),
            (2, 0, Some(End::Replied), false),
            (3, 2, Some(End::Replied), false),
            (4, 0, Some(End::NotStarted), true),
            (5, 1, Some(End::NotStarted), false),
            (6, 0, Some(End::MayHaveRun), true),
            (7, 1, Some(End::MayHaveRun), true),
            (8, 2, Some(End::MayHaveRun), false),
            (9, 1, None, true),
            (10, 2, None, false),
        ] {
            book.begin(id, false);
            (0..runs).for_each(|_| book.ran(id));
            if let Some(end) = end {
                book.ended(id, end);
            }
            assert_eq!(book.check(id, id + 1).is_ok(), fine, "{id}");
        }
        book.begin(11, true);
        (0..3).for_each(|_| book.ran(11));
        book.ended(11, End::Replied);
        assert_eq!(book.check(11, 12), Ok(1), "idempotent");
        assert_eq!(book.check(11, 12), Ok(0), "forgotten");
    }
}
