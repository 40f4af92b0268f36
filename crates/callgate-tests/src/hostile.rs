//! A client that speaks the protocol by hand, so that it can break it anywhere.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::thread::Scope;

use callgate_proto::body::{Body, Inline, Place, Think};
use callgate_proto::cell::{Deadline, TakenReply, Turn};
use callgate_proto::chain::{Submitter, Ticket, publish};
use callgate_proto::layout::{CELLS_OFFSET, Cell, DETOUR_OFFSET, Detour, control_bytes};
use callgate_proto::wire::{Answer, Ask, Hello, MESSAGE_MAX, Message, Versions};
use callgate_sys::shm::{Control, MemFd, PayloadWriter, page_size};
use callgate_sys::socket::{RecvError, Socket};
use callgate_sys::{clock, futex};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::bounded::{BOUND, until};

/// A control region seen as words, by whichever side.
pub struct Words {
    /// The mapping.
    pub control: Control,
    /// How many cells it holds.
    pub cells: u32,
}

impl Words {
    /// The cells, to be used as the protocol says.
    #[must_use]
    pub fn cells(&self) -> &[Cell] {
        assert!(control_bytes(self.cells) <= self.control.len());
        // SAFETY: so many cells lie inside the mapping (asserted), aligned by layout; they consist of atomics.
        unsafe {
            let first = self.control.as_ptr().add(CELLS_OFFSET).cast::<Cell>();
            std::slice::from_raw_parts(first, self.cells as usize)
        }
    }

    /// The client's line, to be used as the protocol says.
    #[must_use]
    pub fn detour(&self) -> &Detour {
        // SAFETY: the line lies inside the mapping, before the cells (see `cells`), and consists of atomics.
        unsafe { &*self.control.as_ptr().add(DETOUR_OFFSET).cast::<Detour>() }
    }

    /// All words of 32 bits: two for `word` and `state` of a cell at 4 words' distance, and so on.
    #[must_use]
    pub fn words32(&self) -> &[AtomicU32] {
        // SAFETY: the whole mapping, which is aligned to a page and only ever touched as atomics.
        unsafe { std::slice::from_raw_parts(self.control.as_ptr().cast(), self.control.len() / 4) }
    }

    /// All words of 64 bits.
    #[must_use]
    pub fn words64(&self) -> &[AtomicU64] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.control.as_ptr().cast(), self.control.len() / 8) }
    }

    /// The state word of a cell.
    #[must_use]
    pub fn state(&self, cell: u16) -> &AtomicU32 {
        &self.words32()[CELLS_OFFSET / 4 + 16 * usize::from(cell)]
    }

    /// The head word of a cell.
    #[must_use]
    pub fn head(&self, cell: u16) -> &AtomicU64 {
        &self.words64()[CELLS_OFFSET / 8 + 8 * usize::from(cell) + 1]
    }

    /// A word that nobody uses, and nobody wakes.
    #[must_use]
    pub fn unused(&self) -> &AtomicU32 {
        &self.words32()[DETOUR_OFFSET / 4 + 4]
    }

    /// A body word of a cell.
    #[must_use]
    pub fn body(&self, cell: u16, at: usize) -> &AtomicU64 {
        &self.words64()[CELLS_OFFSET / 8 + 8 * usize::from(cell) + 2 + at]
    }
}

/// The state word of a request, a reply or a released cell.
pub mod state {
    use callgate_proto::cell::Turn;

    /// The turn's number.
    #[must_use]
    pub fn number(turn: Turn) -> u32 {
        // A turn does not show its number; it is as far from the start as one has to step.
        let (mut at, mut number) = (Turn::START, 0);
        while at != turn {
            at = at.next();
            number += 1;
        }
        number
    }

    /// `phase` 0 blank, 1 request, 2 reply, 3 released.
    #[must_use]
    pub fn word(turn: u32, phase: u32) -> u32 {
        turn << 6 | phase << 4
    }
}

/// Moves at most 100 of those who sleep on `from` to `to` (`FUTEX_REQUEUE`); tells how many.
pub fn requeue(from: &AtomicU32, to: &AtomicU32) -> i64 {
    // SAFETY: both words are live atomics; the kernel changes neither, and wakes nobody (0).
    unsafe {
        let (from, to) = (from.as_ptr(), to.as_ptr());
        libc::syscall(libc::SYS_futex, from, libc::FUTEX_REQUEUE, 0, 100usize, to)
    }
}

/// Has so many threads sleep on `word`, and waits until they do: they are counted by moving them `aside`, and back.
pub fn park<'scope>(
    scope: &'scope Scope<'scope, '_>,
    word: &'scope AtomicU32,
    value: u32,
    aside: &AtomicU32,
    count: u32,
) {
    for _ in 0..count {
        scope.spawn(move || futex::wait(word, value, Some(clock::deadline_ns(BOUND))));
    }
    let mut parked = 0;
    until("they all sleep", || {
        parked += requeue(word, aside);
        (parked == i64::from(count)).then_some(())
    });
    assert_eq!(requeue(aside, word), i64::from(count));
}

/// A connected client that does nothing by itself.
pub struct Raw {
    /// Its socket.
    pub socket: Socket,
    /// Its control region.
    pub words: Words,
    /// The region's descriptor, kept to spoil it with.
    pub fd: MemFd,
    /// The chain, for calls that should arrive.
    pub submitter: Submitter,
    /// Regions that it sent.
    pub regions: Vec<PayloadWriter>,
}

/// Opens the socket and says nothing.
///
/// # Errors
/// What the endpoint says.
pub fn reach(path: &Path) -> Result<Socket, String> {
    let until_ns = clock::deadline_ns(BOUND);
    callgate_sys::endpoint::connect(path, Some(until_ns)).map_err(|error| error.to_string())
}

/// Size of a control region.
#[must_use]
pub fn control_size(cells: u32) -> usize {
    control_bytes(cells).next_multiple_of(page_size())
}

/// Encodes a hello.
#[must_use]
pub fn hello(cells: u32, control: u64, quota: u64) -> Vec<u8> {
    let ask = Some(Ask::Connect { cells, control, quota });
    Hello { versions: Versions::OURS, ask }.encode().as_bytes().to_vec()
}

/// Sends bytes, even none, with any number of descriptors.
///
/// # Errors
/// What the kernel says.
pub fn send(socket: &Socket, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)), "at most 253");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?)
}

/// Waits for one message; `None` when the peer has closed.
///
/// # Panics
/// When nothing comes: the peer hangs.
#[must_use]
pub fn receive(socket: &Socket) -> Option<(Vec<u8>, Option<MemFd>)> {
    let mut buffer = [0; MESSAGE_MAX];
    loop {
        match socket.recv(&mut buffer) {
            Ok(received) => return Some((buffer[..received.len].to_vec(), received.fd)),
            Err(RecvError::Empty) => {
                let readable = socket.wait_readable(Some(clock::deadline_ns(BOUND)));
                assert!(readable.expect("poll"), "the peer says nothing");
            }
            Err(RecvError::Closed | RecvError::Os(_)) => return None,
        }
    }
}

/// Waits for the answer to a hello; `None` when the server closed.
///
/// # Panics
/// When the answer is none.
#[must_use]
pub fn answer(socket: &Socket) -> Option<Answer> {
    let (bytes, _) = receive(socket)?;
    Some(Answer::decode(&bytes).expect("an answer").0)
}

/// Waits until the server has closed the connection, reading whatever comes.
///
/// # Panics
/// When it doesn't.
pub fn wait_closed(socket: &Socket) {
    while receive(socket).is_some() {}
}

impl Raw {
    /// Connects as an honest client would.
    ///
    /// # Panics
    /// When it is not welcomed.
    #[must_use]
    pub fn connect(path: &Path, cells: u32, quota: u64) -> Self {
        Self::try_connect(path, cells, quota).expect("welcome")
    }

    /// Connects to a server that may go at any moment; `None` when it did, or turned us away.
    ///
    /// # Panics
    /// When it hangs, or this process has no memory.
    #[must_use]
    pub fn try_connect(path: &Path, cells: u32, quota: u64) -> Option<Self> {
        let socket = reach(path).ok()?;
        let size = control_size(cells);
        let (control, fd) = Control::create(size).expect("memory");
        send(&socket, &hello(cells, size as u64, quota), &[fd.as_fd()]).ok()?;
        let Some(Answer::Welcome(_)) = answer(&socket) else { return None };
        let words = Words { control, cells };
        let submitter = Submitter::new(cells);
        Some(Self { socket, words, fd, submitter, regions: Vec::new() })
    }

    /// Publishes a call and rings, whether or not the server wants it.
    ///
    /// # Panics
    /// When no cell is left.
    pub fn publish(&mut self, method: u32, body: Body) -> Ticket {
        let ticket = self.submitter.draw(false).expect("a free cell");
        self.publish_as(ticket, method, body);
        ticket
    }

    /// Publishes a call that was drawn, and rings.
    pub fn publish_as(&mut self, ticket: Ticket, method: u32, body: Body) {
        let (cells, detour) = (self.words.cells(), self.words.detour());
        let _ =
            publish(cells, detour, ticket, method, Think::UNKNOWN, Deadline::NONE, (&body).into());
        let _ = self.socket.ring();
    }

    /// Publishes a call with a few bytes.
    pub fn publish_bytes(&mut self, method: u32, bytes: &[u8]) -> Ticket {
        self.publish(method, Body::Inline(Inline::new(bytes).expect("short")))
    }

    /// Publishes a call whose payload lies elsewhere.
    pub fn publish_far(&mut self, method: u32, region: u32, offset: u64, len: u64) -> Ticket {
        self.publish(method, Body::Far(Place { region, offset, len }))
    }

    /// Waits for a reply; `None` when the server closed the connection instead.
    ///
    /// # Panics
    /// When neither happens, or the server writes nonsense.
    #[must_use]
    pub fn wait(&self, ticket: Ticket) -> Option<TakenReply> {
        let cell = &self.words.cells()[usize::from(ticket.cell)];
        crate::until("a reply, or the end", || {
            match cell.poll_reply(ticket.turn).expect("an honest server") {
                Some(reply) => Some(Some(reply)),
                None => self.socket.is_closed().then_some(None),
            }
        })
    }

    /// Frees the cell of a call that was answered.
    pub fn put_back(&mut self, ticket: Ticket) {
        self.submitter.put_back(ticket.cell);
    }

    /// Sends a good region.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn add_region(&mut self, id: u32, size: usize) {
        let (region, fd) = PayloadWriter::create(size).expect("memory");
        let message = Message::Region { id, size: size as u64 }.encode();
        send(&self.socket, message.as_bytes(), &[fd.as_fd()]).expect("sent");
        self.regions.push(region);
    }

    /// Turn 1, the first of a connection.
    #[must_use]
    pub fn first_turn() -> Turn {
        Turn::START.next()
    }
}
