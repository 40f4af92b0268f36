//! Control memory that the peer writes: as a server reads it, and as a client does.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use callgate_proto::body::{Body, Content, INLINE_MAX, Inline, Place, ReplyHead, Think};
use callgate_proto::cell::{Deadline, Doorbell, Turn};
use callgate_proto::chain::{Deferred, Intake, Submitter, Taken, Ticket, publish};
use callgate_proto::layout::{Cell, Detour};

use crate::{Source, assert_named};

const REQUEST: u32 = 1 << 4;
const REPLY: u32 = 2 << 4;

/// Cells and the detour as words that anybody may write at any time.
struct Memory {
    cells: Vec<Cell>,
    detour: Detour,
}

impl Memory {
    fn new(cells: u32) -> Self {
        let cells = (0..cells).map(|_| Cell::default()).collect();
        Self { cells, detour: Detour::default() }
    }

    fn state(&self, cell: usize) -> &AtomicU32 {
        self.cells[cell % self.cells.len()].futex()
    }

    /// Word 0 is the word at offset 0, of which the upper half is the word at offset 4; then the head, and the body.
    fn word(&self, cell: usize, at: usize) -> &AtomicU64 {
        let cell = &self.cells[cell % self.cells.len()];
        // SAFETY: a cell is 64 bytes of atomics, aligned to 64 (layout's asserts), so it holds eight words of 64 bits. It
        // is not read by another thread, which mixed sizes would need.
        unsafe { &*std::ptr::from_ref(cell).cast::<AtomicU64>().add(at % 8) }
    }

    fn detour(&self) -> &AtomicU64 {
        // SAFETY: the line begins with its one word (layout), an atomic of 64 bits.
        unsafe { &*std::ptr::from_ref(&self.detour).cast::<AtomicU64>() }
    }
}

/// A server as the first bytes say how large, and a client that publishes honestly and writes anything in between.
///
/// # Panics
/// When the server takes what it must not: a cell that is none, a call out of turn, over one that is unanswered.
pub fn requests(bytes: &[u8]) {
    let mut source = Source(bytes);
    let cells = 2 + u32::from(source.u8() % 9);
    let memory = Memory::new(cells);
    let mut server = Server::new(cells);
    let mut client = (Submitter::new(cells), Vec::<Ticket>::new());
    for _ in 0..256 {
        if source.is_empty() || server.step(&memory, &mut client, &mut source).is_none() {
            return;
        }
    }
}

struct Server {
    intake: Intake,
    deferred: Deferred,
    unanswered: Vec<Taken>,
    turn: Turn,
    cells: u32,
}

impl Server {
    fn new(cells: u32) -> Self {
        let (intake, deferred) = (Intake::new(cells), Deferred::default());
        Self { intake, deferred, unanswered: Vec::new(), turn: Turn::START.next(), cells }
    }

    /// One thing that either side does; `None` when the connection has ended.
    fn step(
        &mut self,
        memory: &Memory,
        client: &mut (Submitter, Vec<Ticket>),
        source: &mut Source<'_>,
    ) -> Option<()> {
        let cells = &memory.cells[..];
        match source.u8() % 12 {
            0 => memory.word(source.u8().into(), source.u8().into()).store(source.u64(), ORDER),
            1 => memory.state(source.u8().into()).store(source.u32(), ORDER),
            2 => {
                // A request that is expected, or off by a bit.
                let flip = source.u32() & source.u32() & source.u32();
                let word = number(self.turn) << 6 | REQUEST;
                memory.state(self.intake.cell().into()).store(word ^ flip, ORDER);
            }
            3 => memory.detour().store(source.u64(), ORDER),
            4 => {
                // A detour to the call that is expected.
                let number = u64::from(number(self.turn));
                memory.detour().store(number << 16 | u64::from(source.u8()), ORDER);
            }
            5 => {
                for cell in 0..cells.len() {
                    (0..8).for_each(|at| memory.word(cell, at).store(0, ORDER));
                }
                memory.detour().store(0, ORDER);
            }
            6 => {
                let kind = source.u8();
                if let Some(ticket) = client.0.draw(kind.is_multiple_of(2)) {
                    let bytes = source.take::<8>();
                    let content = match kind % 4 {
                        0 | 1 => Content::Short(&bytes),
                        _ => Content::Far(Place { region: 0, offset: source.u64(), len: 1 }),
                    };
                    let (think, deadline) = (Think::UNKNOWN, Deadline::NONE);
                    let _ = publish(cells, &memory.detour, ticket, 7, think, deadline, content);
                    client.1.push(ticket);
                }
            }
            7 => {
                if !client.1.is_empty() {
                    let ticket = client.1.swap_remove(usize::from(source.u8()) % client.1.len());
                    client.0.put_back(ticket.cell);
                }
            }
            8 => {
                let bell =
                    if source.u8().is_multiple_of(2) { Doorbell::Socket } else { Doorbell::Word };
                let _ = self.intake.arm(cells, &memory.detour, bell);
            }
            9 => {
                if let Err(violation) = self.intake.is_waiting(cells, &memory.detour) {
                    assert_named(violation);
                }
            }
            10 => self.answer(memory, source.u8().into()),
            _ => return self.take(memory, source.u8().is_multiple_of(2)),
        }
        Some(())
    }

    fn take(&mut self, memory: &Memory, defer: bool) -> Option<()> {
        match self.intake.take(&memory.cells, &memory.detour, &self.deferred) {
            Ok(None) => {}
            Ok(Some(taken)) => {
                let next = taken.request.head.next;
                assert_eq!(taken.turn, self.turn, "out of turn");
                assert!(u32::from(taken.cell) < self.cells && u32::from(next) < self.cells);
                let busy = |cell| self.unanswered.iter().any(|other| other.cell == cell);
                assert!(!busy(taken.cell), "over an unanswered call");
                assert!(!busy(next), "an unanswered call's cell as the next");
                check_body(&taken.request.body);
                self.turn = self.turn.next();
                self.deferred.insert(taken.cell);
                self.unanswered.push(taken);
                if !defer {
                    self.answer(memory, self.unanswered.len() - 1);
                }
            }
            Err(violation) => {
                assert_named(violation);
                return None;
            }
        }
        assert_eq!(self.deferred.count() as usize, self.unanswered.len());
        Some(())
    }

    fn answer(&mut self, memory: &Memory, which: usize) {
        if self.unanswered.is_empty() {
            return;
        }
        let taken = self.unanswered.swap_remove(which % self.unanswered.len());
        let cell = &memory.cells[usize::from(taken.cell)];
        let _ = (cell.is_cancelled(taken.turn), cell.is_released(taken.turn));
        self.deferred.remove(taken.cell);
        let body = Body::Inline(Inline::EMPTY);
        let _ = cell.publish_reply(taken.turn, ReplyHead::default(), 0, &body);
    }
}

const ORDER: Ordering = Ordering::Relaxed;

fn number(turn: Turn) -> u32 {
    let (mut at, mut number) = (Turn::START, 0);
    while at != turn {
        (at, number) = (at.next(), number + 1);
    }
    number
}

fn check_body(body: &Body) {
    if let Body::Inline(inline) = body {
        assert!(inline.len() <= INLINE_MAX && inline.bytes().len() == inline.len());
    }
}

/// One cell with a call in it, of whatever turn, and a server that writes anything.
///
/// # Panics
/// When the client's ways of reading it disagree, or a body is longer than a cell.
pub fn replies(bytes: &[u8]) {
    let mut source = Source(bytes);
    let memory = Memory::new(2);
    let (cells, detour) = (&memory.cells[..], &memory.detour);
    let mut submitter = Submitter::new(2);
    let mut ticket = submitter.draw(true).expect("free");
    for _ in 0..source.u8() {
        submitter.put_back(ticket.cell);
        ticket = submitter.draw(true).expect("free");
    }
    let turn = ticket.turn;
    let expected = number(turn) << 6;
    let content = Content::Short(b"asked");
    let _ = publish(cells, detour, ticket, 1, Think::UNKNOWN, Deadline::NONE, content);
    let cell = &cells[usize::from(ticket.cell)];
    for _ in 0..64 {
        if source.is_empty() {
            return;
        }
        match source.u8() % 8 {
            0 => memory.word(0, source.u8().into()).store(source.u64(), ORDER),
            1 => cell.futex().store(source.u32(), ORDER),
            2 => cell.futex().store(expected | REPLY, ORDER),
            3 => {
                let flip = source.u32() & source.u32() & source.u32();
                cell.futex().store((expected | REPLY) ^ flip, ORDER);
            }
            4 => {
                if let Some(word) = cell.arm_reply(turn) {
                    assert_eq!(word & !0xf, expected | REQUEST, "asleep on something else");
                }
            }
            5 => cell.cancel(turn),
            6 => cell.release(),
            _ => read_reply(cell, turn, expected),
        }
        read_reply(cell, turn, expected);
    }
}

fn read_reply(cell: &Cell, turn: Turn, expected: u32) {
    let state = cell.futex().load(ORDER);
    match cell.has_reply(turn) {
        Ok(false) => assert_eq!(state & !0xf, expected | REQUEST),
        Ok(true) => assert_eq!(state & !0xc, expected | REPLY),
        Err(violation) => assert_named(violation),
    }
    let (reply, short) = (cell.read_reply(), cell.read_short_reply());
    match reply {
        Ok(reply) => {
            check_body(&reply.body);
            match (reply.body, short) {
                (Body::Inline(inline), Some(short)) => {
                    assert!(!reply.head.failure);
                    assert_eq!(inline.bytes(), short.body.bytes());
                    assert_eq!(reply.word, short.status);
                    assert_eq!(reply.head.hints(), short.hints);
                }
                (Body::Inline(_), None) => assert!(reply.head.failure, "short, and not read so"),
                (Body::Far(_), short) => assert!(short.is_none(), "far, and read as short"),
            }
        }
        Err(violation) => {
            assert_named(violation);
            assert!(short.is_none(), "nonsense, and read as short");
        }
    }
    let polled = cell.poll_reply(turn);
    assert_eq!(polled.is_err(), cell.has_reply(turn) != Ok(false) && !is_good(cell, turn));
}

fn is_good(cell: &Cell, turn: Turn) -> bool {
    cell.has_reply(turn) == Ok(true) && cell.read_reply().is_ok()
}
