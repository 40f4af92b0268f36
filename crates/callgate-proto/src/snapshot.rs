//! What lies in shared memory as plain words, and back: for the model checker (`crates/callgate-model`), which keeps states by
//! the million and runs the real code on each. Feature `snapshot`; nothing else uses it.
//!
//! The private state of both ends of a chain is in [`crate::chain`].

use crate::cell::Turn;
use crate::layout::{Cell, Detour, Header};
use crate::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The words of a [`Cell`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "as the fields of `Cell`")]
pub struct CellWords {
    pub state: u32,
    pub word: u32,
    pub head: u64,
    pub body: [u64; 6],
}

impl Turn {
    /// Its number.
    #[must_use]
    pub fn value(self) -> u32 {
        self.bits() >> 6
    }

    /// The turn of this number.
    #[must_use]
    pub fn from_value(value: u32) -> Self {
        Self::of_number(value.into())
    }
}

impl Cell {
    /// Takes the words out.
    #[must_use]
    pub fn words(&self) -> CellWords {
        CellWords {
            state: self.state.load(Relaxed),
            word: self.word.load(Relaxed),
            head: self.head.load(Relaxed),
            body: std::array::from_fn(|at| self.body[at].load(Relaxed)),
        }
    }

    /// Puts the words back.
    #[must_use]
    pub fn from_words(words: &CellWords) -> Self {
        Self {
            state: AtomicU32::new(words.state),
            word: AtomicU32::new(words.word),
            head: AtomicU64::new(words.head),
            body: words.body.map(AtomicU64::new),
        }
    }
}

impl Detour {
    /// Takes the word out.
    #[must_use]
    pub fn said(&self) -> u64 {
        self.word()
    }

    /// Puts a word there, as [`crate::chain::publish`] does in its second step.
    pub fn say(&self, word: u64) {
        self.lead(word);
    }
}

impl Header {
    /// Puts the turn back that was taken last.
    #[must_use]
    pub fn from_taken(turn: Turn) -> Self {
        Self { taken: AtomicU32::new(turn.value()), ..Self::default() }
    }
}
