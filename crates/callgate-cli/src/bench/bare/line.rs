//! One cache line that two processes hand to each other, polling it: the floor under small calls.
//!
//! A trip is two transfers of the line. The client writes its words and then the turn, with one
//! release store; the server polls the turn, reads the words, works if it is to, writes the answer's
//! words and the next turn; the client polls the turn, and copies the words out. Who does not have
//! the turn touches nothing but the turn.
//!
//! The pace matters: a look takes the line away from whoever is writing it. So there is one limit
//! for each number of PAUSEs between looks, and one with a full fence after the store, which drives
//! the store out before the first look. The best of them is the limit.

use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::{Actor, Limit, verify};
use crate::bench::bytes::{answer, words, work_for};
use crate::bench::process::{Partner, Shared, Switch};
use crate::bench::sample::Trip;

/// How a poller looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// That many PAUSEs between two looks.
    Pauses(u8),
    /// A full fence after each store of the turn, nothing between looks.
    Fence,
}

impl Beat {
    /// All that are tried.
    pub const ALL: [Beat; 5] =
        [Beat::Pauses(0), Beat::Pauses(1), Beat::Pauses(2), Beat::Pauses(3), Beat::Fence];

    /// Two of them, for trips in which the pace makes no difference.
    pub const SOME: [Beat; 2] = [Beat::Pauses(1), Beat::Fence];

    /// The name in tables.
    pub fn name(self) -> String {
        match self {
            Beat::Pauses(1) => "line, 1 pause".to_owned(),
            Beat::Pauses(pauses) => format!("line, {pauses} pauses"),
            Beat::Fence => "line, fence".to_owned(),
        }
    }
}

/// Calls a function with the beat as its last two generic parameters: PAUSEs, and whether a fence
/// follows the store.
macro_rules! with_beat {
    ($beat:expr, $call:ident, [$($first:tt),*], ($($argument:expr),*)) => {
        match $beat {
            Beat::Pauses(0) => $call::<$($first,)* 0, false>($($argument),*),
            Beat::Pauses(1) => $call::<$($first,)* 1, false>($($argument),*),
            Beat::Pauses(2) => $call::<$($first,)* 2, false>($($argument),*),
            Beat::Pauses(_) => $call::<$($first,)* 3, false>($($argument),*),
            Beat::Fence => $call::<$($first,)* 0, true>($($argument),*),
        }
    };
}
pub(super) use with_beat;

/// Words of the line besides the turn.
const WORDS_MAX: usize = 7;

/// Where the switch lies: not in the line.
const SWITCH: usize = 256;

/// Where a limit with large messages may put them.
pub const AREAS: usize = 4096;

/// The turn of a client that ends a round.
const STOP: u64 = u64::MAX;

/// The line, in memory that forked processes share.
///
/// The turn is odd while the server has it, and even while the client has it; the client counts it
/// up from 0 over all rounds.
pub struct Line {
    shared: Shared,
}

impl Line {
    /// Maps the line, with `room` bytes behind [`AREAS`].
    ///
    /// # Errors
    /// When the system has no memory.
    pub fn new(room: usize) -> io::Result<Line> {
        Ok(Line { shared: Shared::new(AREAS + room)? })
    }

    /// The memory that the line lies in.
    pub fn memory(&self) -> &Shared {
        &self.shared
    }

    fn switch(&self) -> Switch<'_> {
        Switch(self.shared.word(SWITCH))
    }

    #[inline]
    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index <= WORDS_MAX);
        // SAFETY: the mapping is page-aligned and longer than 8 words, lives as long as `self`, and
        // both processes reach its first words as atomics only.
        unsafe { AtomicU64::from_ptr(self.shared.start().cast::<u64>().add(index)) }
    }

    #[inline]
    fn look(&self) -> u64 {
        self.word(0).load(Ordering::Acquire)
    }

    /// Client: wakes the server for a round; `turn` is the last one that the server gave back.
    pub fn begin(&self, turn: u64) {
        self.switch().await_off();
        self.word(0).store(turn, Ordering::Relaxed);
        self.switch().on();
    }

    /// Client: lets the server sleep.
    pub fn end(&self) {
        self.word(0).store(STOP, Ordering::Release);
    }

    /// Gives the turn away.
    #[inline]
    pub fn give<const FENCE: bool>(&self, turn: u64) {
        self.word(0).store(turn, Ordering::Release);
        if FENCE {
            // Waits until the store has left the store buffer.
            fence(Ordering::SeqCst);
        }
    }

    /// Client: polls until the turn is `turn`.
    #[inline]
    pub fn poll<const PAUSES: u8>(&self, turn: u64) {
        while self.look() != turn {
            for _ in 0..PAUSES {
                std::hint::spin_loop();
            }
        }
    }

    /// Server: answers each turn with `work`, until killed; sleeps between rounds.
    pub fn serve<const PAUSES: u8, const FENCE: bool>(&self, mut work: impl FnMut(&Line)) {
        let mut turn = 1;
        loop {
            self.switch().await_on();
            loop {
                let seen = self.look();
                if seen == turn {
                    work(self);
                    self.give::<FENCE>(turn + 1);
                    turn += 2;
                } else if seen == STOP {
                    break;
                }
                for _ in 0..PAUSES {
                    std::hint::spin_loop();
                }
            }
            self.switch().off();
        }
    }

    #[inline]
    fn put<const W: usize>(&self, words: [u64; W]) {
        for (index, word) in words.into_iter().enumerate() {
            self.word(index + 1).store(word, Ordering::Relaxed);
        }
    }

    #[inline]
    fn get<const W: usize>(&self) -> [u64; W] {
        std::array::from_fn(|index| self.word(index + 1).load(Ordering::Relaxed))
    }
}

/// Makes the limit for messages of 32 or 48 bytes and a handler that works for `handler_ns`.
///
/// # Errors
/// When the system has no memory or no processes.
pub fn limit(beat: Beat, size: usize, handler_ns: u64) -> io::Result<Limit> {
    match size {
        32 => with_beat!(beat, pair, [4], (handler_ns)),
        _ => with_beat!(beat, pair, [6], (handler_ns)),
    }
}

fn pair<const W: usize, const PAUSES: u8, const FENCE: bool>(handler_ns: u64) -> io::Result<Limit> {
    let line = Rc::new(Line::new(0)?);
    let other = line.clone();
    let server = Partner::fork(&[], move || {
        other.serve::<PAUSES, FENCE>(|line| {
            // All loads before all stores: a look of the client in between costs the line.
            let words = line.get::<W>();
            work_for(handler_ns);
            line.put(answer(words));
        });
    })?;
    let trip = LineTrip::<W, PAUSES, FENCE> { line, number: 0, message: [0; W], back: [0; W] };
    Ok(Limit { clients: vec![Actor::repeating(trip)?], server })
}

struct LineTrip<const W: usize, const PAUSES: u8, const FENCE: bool> {
    line: Rc<Line>,
    number: u64,
    message: [u64; W],
    back: [u64; W],
}

impl<const W: usize, const PAUSES: u8, const FENCE: bool> Trip for LineTrip<W, PAUSES, FENCE> {
    fn begin(&mut self) -> io::Result<()> {
        self.line.begin(2 * self.number);
        Ok(())
    }

    fn end(&mut self) {
        self.line.end();
    }

    #[inline]
    fn prepare(&mut self) {
        self.number += 1;
        self.message = words(self.number);
    }

    #[inline]
    fn go(&mut self) -> io::Result<()> {
        let turn = 2 * self.number - 1;
        self.line.put(self.message);
        self.line.give::<FENCE>(turn);
        self.line.poll::<PAUSES>(turn + 1);
        self.back = self.line.get();
        Ok(())
    }

    #[inline]
    fn check(&mut self) -> io::Result<()> {
        verify(self.back == answer(self.message))
    }
}
