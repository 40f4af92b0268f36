//! The bare primitives that calls are compared with: a bounced cache line, the same with copies,
//! futexes, eventfds, Unix sockets. Each run forks its processes, and reaps them.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;
use rustix::event::epoll;
use serde::Serialize;

use super::doorbell::{Bell, Kind};
use super::process::{Gate, Partner, Shared};
use super::sample::{Pace, Trip, histogram, pack, repeat, unpack};

/// Which primitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bare {
    /// One cache line with 48 bytes in it, two PAUSEs between looks.
    Line,
    /// The line, and the message copied into and out of shared memory, there and back.
    LineAndCopies,
    /// Two shared futex words, no message.
    Futex,
    /// Two eventfds read blocking, no message.
    Eventfd,
    /// A Unix stream socket a client, the message there and back; one process answers all.
    Socket,
}

impl Bare {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Bare::Line => "line",
            Bare::LineAndCopies => "line+copies",
            Bare::Futex => "futex",
            Bare::Eventfd => "eventfd",
            Bare::Socket => "socket",
        }
    }
}

/// Runs a primitive with messages of `size` bytes; this process must be single-threaded.
///
/// `clients` processes call at the same time where the primitive is a socket, one elsewhere.
///
/// # Errors
/// When a process fails, or a message came back wrong.
pub fn measure(bare: Bare, clients: usize, size: usize, pace: Pace) -> io::Result<Histogram<u64>> {
    match bare {
        Bare::Line => lines(0, pace),
        Bare::LineAndCopies => lines(size, pace),
        Bare::Futex => bells(Kind::Futex, pace),
        Bare::Eventfd => bells(Kind::EventfdRead, pace),
        Bare::Socket => sockets(clients, size, pace),
    }
}

fn lines(size: usize, pace: Pace) -> io::Result<Histogram<u64>> {
    let line = Rc::new(Line::new(size)?);
    let other = line.clone();
    let _partner = Partner::fork(&[], move || other.answer())?;
    gather(vec![LineTrip { line, number: 0, message: vec![0; size], back: vec![0; size] }], pace)
}

fn bells(kind: Kind, pace: Pace) -> io::Result<Histogram<u64>> {
    let (bell, other) = kind.pair()?.ok_or(io::ErrorKind::Unsupported)?;
    let answer = move || while other.wait().and_then(|()| other.ring()).is_ok() {};
    let _partner = Partner::fork(&[], answer)?;
    gather(vec![BellTrip(bell)], pace)
}

fn sockets(clients: usize, size: usize, pace: Pace) -> io::Result<Histogram<u64>> {
    let pairs: Vec<_> = (0..clients).map(|_| UnixStream::pair()).collect::<Result<_, _>>()?;
    let (trips, mut answering): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let trip =
        |socket| SocketTrip { socket, number: 0, message: vec![0; size], back: vec![0; size] };
    let trips = trips.into_iter().map(trip).collect();
    let _partner = Partner::fork(&[], move || drop(answer_sockets(&mut answering, size)))?;
    gather(trips, pace)
}

/// Forks a process for each trip, starts them together, and merges what they measured.
fn gather<T: Trip>(trips: Vec<T>, pace: Pace) -> io::Result<Histogram<u64>> {
    let shared = Shared::new(4096)?;
    let gate = Gate(shared.word(0));
    let mut running = Vec::new();
    for mut trip in trips {
        let (mut results, mut write) = io::pipe()?;
        let work = || {
            gate.pass();
            // A process that fails closes its pipe without results, which the parent sees.
            let measured = repeat(&mut trip, pace).map_err(|error| error.to_string());
            if let Ok(line) = serde_json::to_vec(&measured.map(|times| pack(&times))) {
                let _ = write.write_all(&line);
            }
        };
        let partner = Partner::fork(&[], work)?;
        // The next child must not hold this end open.
        drop(write);
        running.push((partner, move || {
            let mut line = Vec::new();
            results.read_to_end(&mut line).map(|_| line)
        }));
    }
    gate.open();
    let mut all = histogram();
    for (partner, mut results) in running {
        let line = results()?;
        let times: Result<Vec<(u64, u64)>, String> = serde_json::from_slice(&line)?;
        unpack(&times.map_err(io::Error::other)?, &mut all);
        partner.join()?;
    }
    Ok(all)
}

struct BellTrip(Box<dyn Bell>);

impl Trip for BellTrip {
    fn go(&mut self) -> io::Result<()> {
        self.0.ring().and_then(|()| self.0.wait())
    }
}

/// Words of a message that travel in the line itself.
const WORDS: usize = 6;

/// One cache line: a turn, then [`WORDS`] words of message; after it, the two message areas.
///
/// The turn is 0 at first, then odd while the answering side owns line and areas, else even. Who
/// does not own them touches nothing but the turn.
struct Line {
    shared: Shared,
    size: usize,
}

/// Where the message areas begin.
const AREAS: usize = 4096;

impl Line {
    fn new(size: usize) -> io::Result<Line> {
        Ok(Line { shared: Shared::new(AREAS + 2 * size)?, size })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index <= WORDS);
        // SAFETY: the mapping is page-aligned and longer than 8 words, lives as long as `self`, and
        // both processes reach its first words as atomics only.
        unsafe { AtomicU64::from_ptr(self.shared.start().cast::<u64>().add(index)) }
    }

    /// Spins until the turn is `turn`, with two PAUSEs between looks.
    fn await_turn(&self, turn: u64) {
        while self.word(0).load(Ordering::Acquire) != turn {
            std::hint::spin_loop();
            std::hint::spin_loop();
        }
    }

    fn give_turn(&self, turn: u64) {
        self.word(0).store(turn, Ordering::Release);
    }

    /// Copies a message into area 0 (there) or 1 (back); only by the side whose turn it is.
    fn put(&self, area: usize, message: &[u8]) {
        assert_eq!(message.len(), self.size);
        // SAFETY: `new` mapped two areas of `size` bytes behind AREAS; the other process does not
        // touch them in our turn; `message` is private memory and can't overlap.
        unsafe {
            let start = self.shared.start().add(AREAS + area * self.size);
            std::ptr::copy_nonoverlapping(message.as_ptr(), start, self.size);
        }
    }

    fn get(&self, area: usize, message: &mut [u8]) {
        assert_eq!(message.len(), self.size);
        // SAFETY: as in `put`, in the other direction.
        unsafe {
            let start = self.shared.start().add(AREAS + area * self.size);
            std::ptr::copy_nonoverlapping(start, message.as_mut_ptr(), self.size);
        }
    }

    /// Answers until killed: each word and the message's first byte come back inverted.
    fn answer(&self) {
        let mut message = vec![0; self.size];
        let mut turn = 1;
        loop {
            self.await_turn(turn);
            self.get(0, &mut message);
            if let Some(first) = message.first_mut() {
                *first = !*first;
            }
            self.put(1, &message);
            // All loads before all stores: a look of the other side in between costs the line.
            let words: [u64; WORDS] =
                std::array::from_fn(|index| self.word(index + 1).load(Ordering::Relaxed));
            for (index, word) in words.iter().enumerate() {
                self.word(index + 1).store(!word, Ordering::Relaxed);
            }
            self.give_turn(turn + 1);
            turn += 2;
        }
    }
}

struct LineTrip {
    line: Rc<Line>,
    number: u64,
    message: Vec<u8>,
    back: Vec<u8>,
}

impl Trip for LineTrip {
    fn prepare(&mut self) {
        self.number += 1;
        stamp(&mut self.message, self.number);
    }

    fn go(&mut self) -> io::Result<()> {
        let turn = 2 * self.number - 1;
        self.line.put(0, &self.message);
        for index in 1..=WORDS {
            self.line.word(index).store(self.number, Ordering::Relaxed);
        }
        self.line.give_turn(turn);
        self.line.await_turn(turn + 1);
        self.line.get(1, &mut self.back);
        Ok(())
    }

    fn check(&mut self) -> io::Result<()> {
        let words =
            (1..=WORDS).all(|index| self.line.word(index).load(Ordering::Relaxed) == !self.number);
        verify(words && is_answer(&self.message, &self.back))
    }
}

struct SocketTrip {
    socket: UnixStream,
    number: u64,
    message: Vec<u8>,
    back: Vec<u8>,
}

impl Trip for SocketTrip {
    fn prepare(&mut self) {
        self.number += 1;
        stamp(&mut self.message, self.number);
    }

    fn go(&mut self) -> io::Result<()> {
        self.socket.write_all(&self.message)?;
        self.socket.read_exact(&mut self.back)
    }

    fn check(&mut self) -> io::Result<()> {
        verify(is_answer(&self.message, &self.back))
    }
}

/// Answers whole messages on all sockets until they fail: the first byte comes back inverted.
fn answer_sockets(sockets: &mut [UnixStream], size: usize) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (index, socket) in sockets.iter().enumerate() {
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&epoll, socket, data, epoll::EventFlags::IN)?;
    }
    let mut message = vec![0; size];
    let mut events = Vec::with_capacity(sockets.len());
    loop {
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let socket = &mut sockets[event.data.u64() as usize];
            socket.read_exact(&mut message)?;
            if let Some(first) = message.first_mut() {
                *first = !*first;
            }
            socket.write_all(&message)?;
        }
    }
}

/// Makes a message one of a kind.
fn stamp(message: &mut [u8], number: u64) {
    for (byte, stamp) in message.iter_mut().zip(number.to_le_bytes()) {
        *byte = stamp;
    }
}

/// Whether `back` is `message` with its first byte inverted.
fn is_answer(message: &[u8], back: &[u8]) -> bool {
    match (message, back) {
        ([], []) => true,
        ([first, rest @ ..], [answer, others @ ..]) => *answer == !*first && rest == others,
        _ => false,
    }
}

fn verify(right: bool) -> io::Result<()> {
    if right { Ok(()) } else { Err(io::Error::other("a message came back wrong")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_echoes() {
        assert!(is_answer(&[], &[]));
        assert!(is_answer(&[1, 2], &[254, 2]));
        assert!(!is_answer(&[1, 2], &[1, 2]));
        assert!(!is_answer(&[1, 2], &[254, 3]));
        assert!(!is_answer(&[1, 2], &[254]));
    }
}
