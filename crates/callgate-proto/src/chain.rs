//! The order of calls: each published request names the cell of the next one, so the server polls one line at a time.
//!
//! The chain lets a client reuse its most recent cells (warm lines, no matter how many calls may be in flight), and lets
//! slow calls keep their cells while others pass: there is no head of line to block. All indices here are private; what
//! the peer names is checked before it becomes one.
//!
//! A call that is alone names *its own* cell as the next: then one line bounces between the two, and not two in turn,
//! of which a poller takes the second from the client that is about to write it. When another call comes before that
//! one has ended, the server waits at a cell that is taken: the client publishes the call elsewhere and writes a
//! **detour**, the number of the call and its cell, into a line of its own, where the server looks whenever the cell
//! that it waits at was named by itself. The detour's word is written before [`Cell::disarm`] of the cell where the
//! server waits, and read after [`Cell::arm_request`] of it: whichever of these comes second sees the other.

mod era;
mod lease;

pub use era::{Era, may_have_run};
pub use lease::{Lease, Lone};

use crate::Violation;
use crate::body::{Content, RequestHead};
use crate::cell::{Deadline, Doorbell, Ring, TakenRequest, Turn};
use crate::layout::{CELLS_MAX, CELLS_MIN, Cell, Detour};
use crate::sync::{AtomicU64, Ordering};

const NUMBER_SHIFT: u32 = 16;

/// The number after this one: 48 bits, never 0, which is what a fresh or a punched detour says.
#[inline]
fn after(number: u64) -> u64 {
    ((number + 1) & (u64::MAX >> NUMBER_SHIFT)).max(1)
}

/// The number before one that was reached by [`after`].
#[inline]
fn before(number: u64) -> u64 {
    if number == 1 { u64::MAX >> NUMBER_SHIFT } else { number - 1 }
}

/// The client's end: which cell and turn the next call gets.
pub struct Submitter {
    turn: Turn,
    /// Number of the next call.
    number: u64,
    /// The cell that the last call named.
    cell: u16,
    /// Whether that is the last call's own, and not put back yet.
    taken: bool,
    /// Whether the place of the next call is lent; then all of this is as of the call that was drawn last.
    lent: bool,
    out: usize,
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
    /// Where the server waits for this call, when that is another cell; and what to tell it.
    detour: Option<(u16, u64)>,
}

impl Ticket {
    /// Where the server waits for this call, when that is another cell; and what to tell it.
    #[cfg(any(test, feature = "snapshot"))]
    #[must_use]
    pub fn detour(&self) -> Option<(u16, u64)> {
        self.detour
    }
}

impl Submitter {
    /// Starts a chain over `cells` cells, of which all but one can be in flight.
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
        let cell = free[free_len];
        Self {
            turn: Turn::START.next(),
            number: 1,
            cell,
            taken: false,
            lent: false,
            out: 0,
            free,
            free_len,
        }
    }

    /// Draws the next call; `None` when all but one cell are in flight. `alone`: its caller will do nothing else before
    /// it has ended, so that no other call is likely before.
    #[inline]
    pub fn draw(&mut self, alone: bool) -> Option<Ticket> {
        if self.out + 2 > self.free.len() {
            return None;
        }
        let (turn, number) = (self.turn, self.number);
        // At most all but two cells are in flight, and one more may be named: the two pops below find one each.
        let (cell, detour) = if self.taken {
            let word = number << NUMBER_SHIFT;
            let cell = self.pop();
            (cell, Some((self.cell, word | u64::from(cell))))
        } else {
            (self.cell, None)
        };
        self.taken = alone && self.out == 0;
        let next = if self.taken { cell } else { self.pop() };
        self.out += 1;
        self.turn = turn.next();
        self.number = after(number);
        self.cell = next;
        Some(Ticket { turn, cell, next, detour })
    }

    #[inline]
    fn pop(&mut self) -> u16 {
        self.free_len -= 1;
        self.free[self.free_len]
    }

    /// Takes back a cell whose call has ended; returns whether it is the next call's, and then no call is in flight.
    /// Otherwise the memory of its reply was released, or is before another call is drawn.
    ///
    /// # Panics
    /// If more cells come back than went out, which is a bug of the caller's.
    #[inline]
    pub fn put_back(&mut self, cell: u16) -> bool {
        self.out -= 1;
        if self.taken && cell == self.cell {
            self.taken = false;
            return true;
        }
        self.free[self.free_len] = cell;
        self.free_len += 1;
        false
    }

    /// Lends the place of the call that was drawn last, and of those after it, if that one names its own cell; returns
    /// whether it does. Then nothing else may be done with the chain before [`Submitter::recall`].
    #[inline]
    pub fn lend(&mut self, lease: &Lease, drawn: &Ticket) -> bool {
        debug_assert!(!self.lent, "lent already");
        let number = before(self.number);
        self.lent = drawn.next == drawn.cell && lease::can_lend(number, drawn.turn);
        if self.lent {
            lease.lend(number, drawn.cell);
        }
        self.lent
    }

    /// Whether the place of the next call is lent.
    #[inline]
    #[must_use]
    pub fn is_lent(&self) -> bool {
        self.lent
    }

    /// Takes back what was lent. Then a lone call that was begun and has not ended counts as drawn. If the last one has
    /// ended, returns its cell, which is the next call's.
    #[inline]
    pub fn recall(&mut self, lease: &Lease) -> Option<u16> {
        if !std::mem::take(&mut self.lent) {
            return None;
        }
        let recalled = lease.recall()?;
        self.number = recalled.number;
        self.turn = Turn::of_number(recalled.number);
        if recalled.in_use {
            return None;
        }
        self.out -= 1;
        self.taken = false;
        Some(self.cell)
    }

    /// Cell of the next call, if nothing is drawn or put back before.
    #[inline]
    #[must_use]
    pub fn next_cell(&self) -> u16 {
        if self.taken { self.free[self.free_len.saturating_sub(1)] } else { self.cell }
    }

    /// Number of the next call.
    #[inline]
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How many calls could be drawn now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len() - 1 - self.out
    }
}

/// The server's end, owned by the worker that serves the connection.
pub struct Intake {
    turn: Turn,
    /// Number of the next call.
    number: u64,
    cell: u16,
    cells: u16,
    /// The turn of the last call, if it named its own cell.
    own: Option<Turn>,
}

/// The cells whose calls were taken and are answered later, from any thread.
pub struct Deferred {
    busy: [AtomicU64; CELLS_MAX as usize / 64],
}

/// A call taken from its cell. The default is none at all: room for one.
#[derive(Clone, Copy, Default)]
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
        Self { turn: Turn::START.next(), number: 1, cell: 0, cells: cells as u16, own: None }
    }

    /// The cell where the next call is expected.
    #[must_use]
    pub fn cell(&self) -> u16 {
        self.cell
    }

    /// Takes the next call if it is there. The caller must answer it, or mark its cell in `deferred` first.
    ///
    /// # Errors
    /// [`Violation`] when the state word, the head, the named next cell or the detour is not allowed.
    pub fn take(
        &mut self,
        cells: &[Cell],
        detour: &Detour,
        deferred: &Deferred,
    ) -> Result<Option<Taken>, Violation> {
        let mut taken = Taken::default();
        let cell = self.take_into(cells, detour, deferred, &mut taken)?;
        Ok(cell.map(|_| taken))
    }

    /// As [`Intake::take`], but the call is put where it will stay: a processor is slow to move what it has just stored in
    /// pieces of another size. Returns the call's cell.
    ///
    /// # Errors
    /// As [`Intake::take`]; then `taken` is worth nothing.
    #[inline(always)]
    pub fn take_into<'a>(
        &mut self,
        cells: &'a [Cell],
        detour: &Detour,
        deferred: &Deferred,
        taken: &mut Taken,
    ) -> Result<Option<&'a Cell>, Violation> {
        let mut cell = &cells[usize::from(self.cell)];
        let there = cell.has_request(self.turn, self.own);
        if there != Ok(true) {
            // After a detour its old cell may hold a later call already; then the detour is seen, since it was written
            // before that call was published (EDGE request).
            if !self.turns_off(detour) {
                return there.map(|_| None);
            }
            self.turn_off(detour, deferred)?;
            cell = &cells[usize::from(self.cell)];
            if !cell.has_request(self.turn, None)? {
                return Ok(None);
            }
        }
        // That a cell is answered was seen when another one named it. This one named itself.
        if self.own.is_some() && deferred.contains(self.cell) {
            return Err(self.no_next("cell.state (unanswered)", self.cell));
        }
        cell.read_request(&mut taken.request)?;
        let next = taken.request.head.next;
        if next != self.cell {
            if next >= self.cells {
                return Err(self.no_next("head.next", next));
            }
            if deferred.contains(next) {
                return Err(self.no_next("head.next (unanswered)", next));
            }
        }
        taken.turn = self.turn;
        taken.cell = self.cell;
        self.own = (next == self.cell).then_some(self.turn);
        self.turn = self.turn.next();
        self.number = after(self.number);
        self.cell = next;
        Ok(Some(cell))
    }

    /// Whether the next call stands elsewhere.
    #[inline(always)]
    pub(crate) fn turns_off(&self, detour: &Detour) -> bool {
        self.own.is_some() && detour.word() >> NUMBER_SHIFT == self.number
    }

    #[cold]
    fn turn_off(&mut self, detour: &Detour, deferred: &Deferred) -> Result<(), Violation> {
        // Loaded again, and checked here: the peer can change it at any time.
        let cell = detour.word() as u16;
        if cell >= self.cells || cell == self.cell {
            return Err(self.no_next("detour.cell", cell));
        }
        if deferred.contains(cell) {
            return Err(self.no_next("detour.cell (unanswered)", cell));
        }
        self.cell = cell;
        self.own = None;
        Ok(())
    }

    #[cold]
    fn no_next(&self, field: &'static str, cell: u16) -> Violation {
        Violation::new(field, cell.into(), u64::from(self.cells) - 1)
    }

    /// Whether there is something to take; a look only.
    ///
    /// # Errors
    /// [`Violation`] as for [`Intake::take`].
    #[inline(always)]
    pub fn is_waiting(&self, cells: &[Cell], detour: &Detour) -> Result<bool, Violation> {
        match cells[usize::from(self.cell)].has_request(self.turn, self.own) {
            Ok(true) => Ok(true),
            there => {
                if self.turns_off(detour) {
                    Ok(true)
                } else {
                    there
                }
            }
        }
    }

    /// Stops polling: arms the next cell, so that the client rings in the given way.
    ///
    /// Returns the value of the cell's state word to sleep on, or `None` when there is something to take.
    #[must_use]
    pub fn arm(&self, cells: &[Cell], detour: &Detour, bell: Doorbell) -> Option<u32> {
        let armed = self.arm_cell(cells, bell)?;
        // EDGE detour: looked for after arming; see `Cell::disarm`.
        if self.turns_off(detour) { None } else { Some(armed) }
    }

    /// The first half of [`Intake::arm`].
    #[inline(always)]
    pub(crate) fn arm_cell(&self, cells: &[Cell], bell: Doorbell) -> Option<u32> {
        cells[usize::from(self.cell)].arm_request(self.turn, self.own, bell)
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
        self.word(cell).fetch_or(1 << (cell % 64), Ordering::Relaxed);
    }

    /// Unmarks a cell, just before its reply is published.
    pub fn remove(&self, cell: u16) {
        // EDGE answered (other end: `contains`): Release hands over the server's own books of the cell. An honest client
        // names it again only after it saw the reply (EDGE reply), which comes later; one that names it earlier is caught,
        // or hurts itself only.
        self.word(cell).fetch_and(!(1 << (cell % 64)), Ordering::Release);
    }

    /// Whether the cell's call is still unanswered.
    #[inline]
    #[must_use]
    pub fn contains(&self, cell: u16) -> bool {
        // EDGE answered (other end: `remove`): Acquire takes over the server's books of the cell, whatever the client does.
        self.word(cell).load(Ordering::Acquire) & (1 << (cell % 64)) != 0
    }

    #[inline]
    fn word(&self, cell: u16) -> &AtomicU64 {
        // Within bounds for every cell (CELLS_MAX), which the remainder tells the compiler.
        &self.busy[usize::from(cell) / 64 % self.busy.len()]
    }

    /// How many calls are unanswered.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.busy.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
    }
}

/// Publishes a drawn call; see [`Cell::publish_request`]. Tells how to wake the server, where it must be.
#[inline(always)]
#[must_use]
pub fn publish(
    cells: &[Cell],
    detour: &Detour,
    ticket: Ticket,
    method: u32,
    think: crate::body::Think,
    deadline: Deadline,
    content: Content<'_>,
) -> Ring {
    let head = RequestHead { method, next: ticket.next, think };
    let place = &cells[usize::from(ticket.cell)];
    let mut bell = place.publish_request(ticket.turn, head, deadline, content);
    let mut at = ticket.cell;
    if let Some((waits_at, word)) = ticket.detour {
        detour.lead(word);
        if let Some(duty) = cells[usize::from(waits_at)].disarm() {
            (bell, at) = (Some(duty), waits_at);
        }
    }
    bell.map_or(Ring::No, |bell| bell.of(at))
}

/// The same as plain values, for the model checker; see [`crate::snapshot`].
#[cfg(feature = "snapshot")]
mod snapshot;

#[cfg(feature = "snapshot")]
pub use snapshot::{IntakeValues, SubmitterValues};

#[cfg(all(test, not(loom)))]
mod tests;
