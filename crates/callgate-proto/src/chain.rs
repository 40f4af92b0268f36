//! The order of calls: each published request names the cell of the next one, so the server polls one line at a time.
//!
//! The chain lets a client reuse its most recent cells (warm lines, no matter how many calls may be in flight), and lets
//! slow calls keep their cells while others pass: there is no head of line to block. All indices here are private; what
//! the peer names is checked before it becomes one.

use crate::Violation;
use crate::cell::{Deadline, TakenRequest, Turn};
use crate::layout::{CELLS_MAX, CELLS_MIN, Cell};
use crate::sync::{AtomicU64, Ordering};

/// The client's end: which cell and turn the next call gets.
pub struct Submitter {
    turn: Turn,
    cell: u16,
    free: Box<[u16]>,
    free_len: usize,
}

/// The right, and the duty, to publish one call: cells are chained, so a ticket that was taken must be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Turn of this call.
    pub turn: Turn,
    /// Cell of this call.
    pub cell: u16,
    /// Cell of the call after it, to be named in this call's head.
    pub next: u16,
}

impl Submitter {
    /// Starts a chain over `cells` cells, of which one is always set aside for the call after the last.
    ///
    /// # Panics
    /// If `cells` is not within [`CELLS_MIN`]..=[`CELLS_MAX`]; the handshake has checked it.
    #[must_use]
    pub fn new(cells: u32) -> Self {
        assert!((CELLS_MIN..=CELLS_MAX).contains(&cells), "{cells} cells");
        // Neighbouring lines are fetched in pairs, so the cells in use first are two lines apart: evens, then odds.
        let order = (0..cells as u16).step_by(2).chain((1..cells as u16).step_by(2));
        let mut free: Box<[u16]> = order.collect();
        free.reverse();
        let free_len = free.len() - 1;
        Self { turn: Turn::START.next(), cell: free[free_len], free, free_len }
    }

    /// Draws the next call; `None` when every cell is taken.
    #[inline]
    pub fn draw(&mut self) -> Option<Ticket> {
        let top = self.free_len.checked_sub(1)?;
        let next = self.free[top];
        self.free_len = top;
        let ticket = Ticket { turn: self.turn, cell: self.cell, next };
        self.turn = ticket.turn.next();
        self.cell = next;
        Some(ticket)
    }

    /// Takes back a cell whose call has ended and whose memory was released.
    ///
    /// # Panics
    /// If more cells come back than went out, which is a bug of the caller's.
    #[inline]
    pub fn put_back(&mut self, cell: u16) {
        self.free[self.free_len] = cell;
        self.free_len += 1;
    }

    /// How many calls could be drawn now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free_len
    }
}

/// The server's end, owned by the worker that serves the connection.
pub struct Intake {
    turn: Turn,
    cell: u16,
    cells: u16,
}

/// The cells whose calls were taken and are answered later, from any thread.
pub struct Deferred {
    busy: [AtomicU64; CELLS_MAX as usize / 64],
}

/// A call taken from its cell.
#[derive(Clone, Copy)]
pub struct Taken {
    /// Turn of the call, to be given back with its reply.
    pub turn: Turn,
    /// Cell of the call.
    pub cell: u16,
    /// What the client asked.
    pub request: TakenRequest,
}

impl Intake {
    /// Starts at the beginning of a chain over `cells` cells.
    ///
    /// # Panics
    /// If `cells` is not within [`CELLS_MIN`]..=[`CELLS_MAX`]; the handshake has checked it.
    #[must_use]
    pub fn new(cells: u32) -> Self {
        assert!((CELLS_MIN..=CELLS_MAX).contains(&cells), "{cells} cells");
        Self { turn: Turn::START.next(), cell: 0, cells: cells as u16 }
    }

    /// Takes the next call if it is there. The caller must answer it, or mark its cell in `deferred` first.
    ///
    /// # Errors
    /// [`Violation`] when the state word, the head or the named next cell is not allowed.
    #[inline]
    pub fn take(
        &mut self,
        cells: &[Cell],
        deferred: &Deferred,
    ) -> Result<Option<Taken>, Violation> {
        let Some(request) = cells[usize::from(self.cell)].poll_request(self.turn)? else {
            return Ok(None);
        };
        let next = request.head.next;
        if next >= self.cells || next == self.cell {
            return Err(Violation::new("head.next", next.into(), u64::from(self.cells) - 1));
        }
        if deferred.contains(next) {
            return Err(Violation::new(
                "head.next (unanswered)",
                next.into(),
                u64::from(self.cells) - 1,
            ));
        }
        let taken = Taken { turn: self.turn, cell: self.cell, request };
        self.turn = self.turn.next();
        self.cell = next;
        Ok(Some(taken))
    }

    /// Whether a request stands in the next cell; a look only.
    ///
    /// # Errors
    /// [`Violation`] as for [`Intake::take`].
    pub fn is_waiting(&self, cells: &[Cell]) -> Result<bool, Violation> {
        Ok(cells[usize::from(self.cell)].poll_request(self.turn)?.is_some())
    }

    /// Stops polling: arms the next cell, so that the client rings. False when a request is there.
    #[must_use]
    pub fn arm(&self, cells: &[Cell]) -> bool {
        cells[usize::from(self.cell)].arm_request()
    }
}

impl Default for Deferred {
    fn default() -> Self {
        Self { busy: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Deferred {
    /// Marks a cell as taken and unanswered. Called by the worker, before the call leaves its hands.
    pub fn insert(&self, cell: u16) {
        // Relaxed: the worker itself reads it back; handing the call to another thread orders `remove` after this.
        self.busy[usize::from(cell) / 64].fetch_or(1 << (cell % 64), Ordering::Relaxed);
    }

    /// Unmarks a cell, just before its reply is published.
    pub fn remove(&self, cell: u16) {
        // EDGE answered (other end: `contains`): the client can name the cell again only after it saw the reply, whose
        // Release (EDGE reply) comes after this store; a client that names it earlier is caught, or hurts itself only.
        self.busy[usize::from(cell) / 64].fetch_and(!(1 << (cell % 64)), Ordering::Relaxed);
    }

    /// Whether the cell's call is still unanswered.
    #[inline]
    #[must_use]
    pub fn contains(&self, cell: u16) -> bool {
        // EDGE answered (other end: `remove`): ordered by EDGE reply, the client, and EDGE request.
        self.busy[usize::from(cell) / 64].load(Ordering::Relaxed) & (1 << (cell % 64)) != 0
    }

    /// How many calls are unanswered.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.busy.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
    }
}

/// Publishes a drawn call; see [`Cell::publish_request`].
#[inline]
#[must_use]
pub fn publish(
    cells: &[Cell],
    ticket: Ticket,
    method: u32,
    think: crate::body::Think,
    deadline: Deadline,
    body: crate::body::Body,
) -> bool {
    let head = crate::body::RequestHead { method, next: ticket.next, think };
    cells[usize::from(ticket.cell)].publish_request(ticket.turn, head, deadline, body)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::body::{Body, Inline, ReplyHead, Think};
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn cells(n: u32) -> Vec<Cell> {
        (0..n).map(|_| Cell::default()).collect()
    }

    fn number(n: u32) -> Body {
        Body::Inline(Inline::new(&n.to_le_bytes()).expect("short"))
    }

    fn value(body: Body) -> u32 {
        let Body::Inline(inline) = body else { panic!("inline") };
        u32::from_le_bytes(inline.bytes().try_into().expect("four bytes"))
    }

    #[test]
    fn all_cells_but_one_can_be_in_flight() {
        for n in [2, 3, 62, 1024] {
            let mut submitter = Submitter::new(n);
            let drawn: HashSet<u16> =
                std::iter::from_fn(|| submitter.draw()).map(|t| t.cell).collect();
            assert_eq!(drawn.len(), n as usize - 1);
        }
    }

    #[test]
    fn the_first_cell_is_agreed() {
        for n in [2, 3, 64] {
            assert_eq!(Submitter::new(n).draw().expect("free").cell, Intake::new(n).cell);
        }
    }

    #[test]
    fn a_lone_caller_alternates_between_two_cells_that_are_not_neighbours() {
        let mut submitter = Submitter::new(62);
        let mut used = HashSet::new();
        for _ in 0..100 {
            let ticket = submitter.draw().expect("free");
            used.insert(ticket.cell);
            submitter.put_back(ticket.cell);
        }
        assert_eq!(used, HashSet::from([0, 2]));
    }

    #[test]
    fn a_next_cell_out_of_range_busy_or_its_own_is_a_violation() {
        for (next, field) in [(4u16, "head.next"), (0, "head.next"), (3, "head.next (unanswered)")]
        {
            let cells = cells(4);
            let deferred = Deferred::default();
            deferred.insert(3);
            let ticket = Ticket { turn: Turn::START.next(), cell: 0, next };
            let _ = publish(&cells, ticket, 0, Think::UNKNOWN, Deadline::NONE, number(1));
            let found = Intake::new(4).take(&cells, &deferred).err().map(|v| v.field);
            assert_eq!(found, Some(field));
        }
    }

    proptest! {
        /// Calls drawn, answered and given back in any order arrive once each, in order, with their own bytes.
        #[test]
        fn calls_arrive_in_order_and_replies_find_their_calls(
            n in 2u32..20,
            steps in proptest::collection::vec((0u8..3, any::<prop::sample::Index>()), 1..400),
        ) {
            let cells = cells(n);
            let deferred = Deferred::default();
            let (mut submitter, mut intake) = (Submitter::new(n), Intake::new(n));
            let (mut sent, mut took) = (0u32, 0u32);
            let (mut waiting, mut taken): (Vec<(Ticket, u32)>, Vec<Taken>) = Default::default();
            for (step, pick) in steps {
                match step {
                    0 => if let Some(ticket) = submitter.draw() {
                        let _ = publish(&cells, ticket, 0, Think::UNKNOWN, Deadline::NONE, number(sent));
                        waiting.push((ticket, sent));
                        sent += 1;
                    } else {
                        prop_assert_eq!(waiting.len() as u32, n - 1);
                    },
                    1 => if let Some(call) = intake.take(&cells, &deferred).expect("honest") {
                        prop_assert_eq!(value(call.request.body), took);
                        took += 1;
                        deferred.insert(call.cell);
                        taken.push(call);
                    } else {
                        prop_assert_eq!(took, sent);
                    },
                    _ => if !taken.is_empty() {
                        let call = taken.swap_remove(pick.index(taken.len()));
                        deferred.remove(call.cell);
                        let answer = number(value(call.request.body));
                        let _ = cells[usize::from(call.cell)].publish_reply(call.turn, ReplyHead::default(), 0, answer);
                        let at = waiting.iter().position(|(t, _)| t.cell == call.cell).expect("was sent");
                        let (ticket, asked) = waiting.swap_remove(at);
                        let reply = cells[usize::from(ticket.cell)].poll_reply(ticket.turn).expect("honest").expect("there");
                        prop_assert_eq!(value(reply.body), asked);
                        submitter.put_back(ticket.cell);
                    },
                }
            }
            prop_assert_eq!(deferred.count() as usize, taken.len());
        }
    }
}
