//! Pairs that sleep in a primitive of the kernel, with a message of 32 bytes there and back.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::thread::futex;

use super::{Actor, Limit, verify};
use crate::bench::bytes::{answer, words, work_for};
use crate::bench::process::{FUTEX_SHARED, Partner, Shared};
use crate::bench::sample::Trip;

/// A message of 32 bytes.
type Message = [u64; 4];
const BYTES: usize = size_of::<Message>();

/// Which primitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Primitive {
    /// A futex word a direction; the message in the same cache line.
    Futex,
    /// An eventfd a direction, read blocking; the message in shared memory.
    Eventfd,
    /// A Unix stream socket, the message in it.
    Stream,
    /// A Unix SEQPACKET socket, the message in it.
    Seqpacket,
    /// A pipe a direction, the message in it.
    Pipe,
}

impl Primitive {
    /// All that are tried.
    pub const ALL: [Primitive; 5] = [
        Primitive::Futex,
        Primitive::Eventfd,
        Primitive::Stream,
        Primitive::Seqpacket,
        Primitive::Pipe,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Primitive::Futex => "futex",
            Primitive::Eventfd => "eventfd",
            Primitive::Stream => "unix socket",
            Primitive::Seqpacket => "seqpacket",
            Primitive::Pipe => "pipe",
        }
    }
}

/// Makes the limit for a handler that works for `handler_ns`.
///
/// # Errors
/// When the system has no memory, descriptors or processes.
pub fn limit(primitive: Primitive, handler_ns: u64) -> io::Result<Limit> {
    match primitive {
        Primitive::Futex => {
            let line = Rc::new(Shared::new(4096)?);
            pair(
                Futex { line: line.clone(), mine: 0, theirs: 4 },
                Futex { line, mine: 4, theirs: 0 },
                handler_ns,
            )
        }
        Primitive::Eventfd => {
            let line = Rc::new(Shared::new(4096)?);
            let (there, back) = (Rc::new(counter()?), Rc::new(counter()?));
            let client = Eventfd { line: line.clone(), mine: back.clone(), theirs: there.clone() };
            pair(client, Eventfd { line, mine: there, theirs: back }, handler_ns)
        }
        Primitive::Stream => sockets(SocketType::STREAM, handler_ns),
        Primitive::Seqpacket => sockets(SocketType::SEQPACKET, handler_ns),
        Primitive::Pipe => {
            let (there_read, there_write) = rustix::pipe::pipe()?;
            let (back_read, back_write) = rustix::pipe::pipe()?;
            let client = Pipe { read: back_read, write: there_write };
            pair(client, Pipe { read: there_read, write: back_write }, handler_ns)
        }
    }
}

fn counter() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC)?)
}

fn sockets(kind: SocketType, handler_ns: u64) -> io::Result<Limit> {
    let (client, server) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    pair(Socket(client), Socket(server), handler_ns)
}

fn pair<L: Link>(client: L, server: L, handler_ns: u64) -> io::Result<Limit> {
    let server = Partner::fork(&[], move || {
        while let Ok(message) = server.receive() {
            work_for(handler_ns);
            if server.send(answer(message)).is_err() {
                break;
            }
        }
    })?;
    let trip = LinkTrip { link: client, number: 0, message: [0; 4], back: [0; 4] };
    Ok(Limit { clients: vec![Actor::repeating(trip)?], server })
}

/// One end of a pair.
trait Link {
    fn send(&self, message: Message) -> io::Result<()>;
    /// Sleeps until a message is there.
    fn receive(&self) -> io::Result<Message>;
}

struct LinkTrip<L> {
    link: L,
    number: u64,
    message: Message,
    back: Message,
}

impl<L: Link> Trip for LinkTrip<L> {
    fn prepare(&mut self) {
        self.number += 1;
        self.message = words(self.number);
    }

    fn go(&mut self) -> io::Result<()> {
        self.link.send(self.message)?;
        self.back = self.link.receive()?;
        Ok(())
    }

    fn check(&mut self) -> io::Result<()> {
        verify(self.back == answer(self.message))
    }
}

/// Where messages lie in shared memory: in the line of the futex words, behind them. Only one is on
/// its way at a time, so that both directions share the place.
const MESSAGE: usize = 8;

fn put(line: &Shared, message: Message) {
    for (index, word) in message.into_iter().enumerate() {
        word_at(line, index).store(word, Ordering::Relaxed);
    }
}

fn get(line: &Shared) -> Message {
    std::array::from_fn(|index| word_at(line, index).load(Ordering::Relaxed))
}

fn word_at(line: &Shared, index: usize) -> &AtomicU64 {
    assert!(index < 4);
    // SAFETY: the mapping has a page, is aligned, and lives as long as `line`; both processes reach
    // these words as atomics only.
    unsafe { AtomicU64::from_ptr(line.start().add(MESSAGE + 8 * index).cast()) }
}

/// Nobody sleeps, and no message is there.
const EMPTY: u32 = 0;
/// A message is there.
const FULL: u32 = 1;
/// The receiver sleeps, or is about to.
const ASLEEP: u32 = 2;

/// A word for each receiver, at these offsets. The sender makes no system call where the receiver
/// does not sleep yet.
struct Futex {
    line: Rc<Shared>,
    mine: usize,
    theirs: usize,
}

impl Link for Futex {
    fn send(&self, message: Message) -> io::Result<()> {
        put(&self.line, message);
        let word: &AtomicU32 = self.line.word(self.theirs);
        if word.swap(FULL, Ordering::AcqRel) == ASLEEP {
            futex::wake(word, FUTEX_SHARED, 1)?;
        }
        Ok(())
    }

    fn receive(&self) -> io::Result<Message> {
        let word: &AtomicU32 = self.line.word(self.mine);
        let asleep =
            word.compare_exchange(EMPTY, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok();
        while asleep && word.load(Ordering::Acquire) == ASLEEP {
            // Wakes early for a signal or a changed word: look again.
            let _ = futex::wait(word, FUTEX_SHARED, ASLEEP, None);
        }
        word.store(EMPTY, Ordering::Relaxed);
        Ok(get(&self.line))
    }
}

struct Eventfd {
    line: Rc<Shared>,
    mine: Rc<OwnedFd>,
    theirs: Rc<OwnedFd>,
}

impl Link for Eventfd {
    fn send(&self, message: Message) -> io::Result<()> {
        put(&self.line, message);
        rustix::io::write(&self.theirs, &1u64.to_ne_bytes())?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Message> {
        rustix::io::read(&self.mine, &mut [0u8; 8])?;
        Ok(get(&self.line))
    }
}

struct Socket(OwnedFd);

impl Link for Socket {
    fn send(&self, message: Message) -> io::Result<()> {
        whole(rustix::net::send(&self.0, &to_bytes(message), SendFlags::empty())?)
    }

    fn receive(&self) -> io::Result<Message> {
        let mut bytes = [0; BYTES];
        let (count, _) = rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::empty())?;
        whole(count).map(|()| from_bytes(&bytes))
    }
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Link for Pipe {
    fn send(&self, message: Message) -> io::Result<()> {
        whole(rustix::io::write(&self.write, &to_bytes(message))?)
    }

    fn receive(&self) -> io::Result<Message> {
        let mut bytes = [0; BYTES];
        whole(rustix::io::read(&self.read, &mut bytes[..])?).map(|()| from_bytes(&bytes))
    }
}

/// The kernel keeps messages as short as these in one piece, even where it need not.
fn whole(count: usize) -> io::Result<()> {
    verify(count == BYTES)
}

fn to_bytes(message: Message) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(message) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn from_bytes(bytes: &[u8; BYTES]) -> Message {
    std::array::from_fn(|index| {
        let word = bytes[8 * index..].first_chunk().copied();
        word.map_or(0, u64::from_le_bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_words_are_the_same() {
        let message: Message = words(7);
        assert_eq!(from_bytes(&to_bytes(message)), message);
    }
}
