//! The private state of both ends of a chain as plain values, and back.

use super::{Deferred, Intake, Lease, Lone, Submitter, Ticket};
use crate::cell::{Doorbell, Turn};
use crate::layout::{Cell, Detour};
use crate::sync::{AtomicU64, Ordering::Relaxed};

/// What a [`Submitter`] holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "as the fields of `Submitter`")]
pub struct SubmitterValues {
    pub turn: u32,
    pub number: u64,
    pub cell: u16,
    pub taken: bool,
    pub lent: bool,
    pub out: u16,
    pub cells: u16,
    /// Those that are free, the next one last.
    pub free: Vec<u16>,
}

/// What an [`Intake`] holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "as the fields of `Intake`")]
pub struct IntakeValues {
    pub turn: u32,
    pub number: u64,
    pub cell: u16,
    pub cells: u16,
    pub own: Option<u32>,
}

impl Submitter {
    /// Takes the values out.
    #[must_use]
    pub fn values(&self) -> SubmitterValues {
        SubmitterValues {
            turn: self.turn.value(),
            number: self.number,
            cell: self.cell,
            taken: self.taken,
            lent: self.lent,
            out: self.out as u16,
            cells: self.free.len() as u16,
            free: self.free[..self.free_len].to_vec(),
        }
    }

    /// Puts the values back.
    #[must_use]
    pub fn from_values(values: &SubmitterValues) -> Self {
        let mut free = values.free.clone();
        free.resize(values.cells.into(), 0);
        Self {
            turn: Turn::from_value(values.turn),
            number: values.number,
            cell: values.cell,
            taken: values.taken,
            lent: values.lent,
            out: values.out.into(),
            free: free.into_boxed_slice(),
            free_len: values.free.len(),
        }
    }
}

impl Intake {
    /// Takes the values out.
    #[must_use]
    pub fn values(&self) -> IntakeValues {
        IntakeValues {
            turn: self.turn.value(),
            number: self.number,
            cell: self.cell,
            cells: self.cells,
            own: self.own.map(Turn::value),
        }
    }

    /// Puts the values back.
    #[must_use]
    pub fn from_values(values: &IntakeValues) -> Self {
        Self {
            turn: Turn::from_value(values.turn),
            number: values.number,
            cell: values.cell,
            cells: values.cells,
            own: values.own.map(Turn::from_value),
        }
    }

    /// The first step of [`Intake::arm`].
    #[must_use]
    pub fn arm_first(&self, cells: &[Cell], bell: Doorbell) -> Option<u32> {
        self.arm_cell(cells, bell)
    }

    /// What [`Intake::arm`] looks for in its second step.
    #[must_use]
    pub fn is_led_off(&self, detour: &Detour) -> bool {
        self.turns_off(detour)
    }
}

impl Ticket {
    /// Makes one of its parts.
    #[must_use]
    pub fn from_parts(turn: Turn, cell: u16, next: u16, detour: Option<(u16, u64)>) -> Self {
        Self { turn, cell, next, detour }
    }
}

impl Lease {
    /// Takes the word out.
    #[must_use]
    pub fn word(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Puts the word back.
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        Self(AtomicU64::new(word))
    }
}

impl Lone {
    /// Takes the word out.
    #[must_use]
    pub fn word(self) -> u64 {
        self.0
    }

    /// Puts the word back.
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        Self(word)
    }
}

impl Deferred {
    /// Takes the marks of the first 64 cells out.
    #[must_use]
    pub fn first_word(&self) -> u64 {
        self.busy[0].load(Relaxed)
    }

    /// Puts the marks of the first 64 cells back.
    #[must_use]
    pub fn from_first_word(word: u64) -> Self {
        let deferred = Self::default();
        deferred.busy[0].store(word, Relaxed);
        deferred
    }
}
