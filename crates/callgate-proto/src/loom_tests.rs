//! loom explores every interleaving, and every reading that the memory model allows, of the protocol's own code.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release -p callgate-proto --lib loom_tests`.

mod cells;
mod chain;
mod lease;
mod life;
mod locks;
mod sleepers;

use crate::body::{Body, Content, Inline, ReplyHead, RequestHead, Think};
use crate::cell::{Deadline, Doorbell, Ring, Turn};
use crate::chain::{Deferred, Intake, Lease, Submitter, publish};
use crate::layout::{Cell, Detour, Header};
use crate::life::{Kept, Life};
use crate::lock::{LockWord, TryWord};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use loom::thread;

fn body(byte: u8) -> Body {
    Body::Inline(Inline::new(&[byte; 16]).expect("short"))
}

fn bytes(body: Body) -> Vec<u8> {
    let Body::Inline(inline) = body else { panic!("inline") };
    inline.bytes().to_vec()
}

/// A control region.
struct Region {
    cells: Vec<Cell>,
    detour: Detour,
}

impl Region {
    fn all(&self) -> (&[Cell], &Detour) {
        (&self.cells, &self.detour)
    }
}

impl std::ops::Index<usize> for Region {
    type Output = Cell;

    fn index(&self, at: usize) -> &Cell {
        &self.cells[at]
    }
}

fn cells(n: usize) -> Arc<Region> {
    Arc::new(Region { cells: (0..n).map(|_| Cell::default()).collect(), detour: Detour::default() })
}

fn send(
    submitter: &mut Submitter,
    (cells, detour): (&[Cell], &Detour),
    byte: u8,
    alone: bool,
) -> (crate::chain::Ticket, bool) {
    let ticket = submitter.draw(alone).expect("a free cell");
    let ring =
        publish(cells, detour, ticket, 7, Think::UNKNOWN, Deadline::NONE, (&body(byte)).into());
    (ticket, ring != Ring::No)
}

/// A doorbell or a futex: tokens are never lost; sleeping without one, for good, is the bug that is looked for.
#[derive(Default)]
struct Bell(AtomicBool);
