//! The primitives with which one process can wake another, all behind `ring` and `wait`.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::futex;

use super::process::{FUTEX_SHARED, Shared};

/// One end of a pair: rings the other end, and sleeps until the other end has rung.
pub trait Bell {
    /// Wakes the other end.
    ///
    /// # Errors
    /// Those of the primitive.
    fn ring(&self) -> io::Result<()>;

    /// Sleeps until the other end has rung once more.
    ///
    /// # Errors
    /// Those of the primitive.
    fn wait(&self) -> io::Result<()>;
}

/// Two ends.
pub type Pair = (Box<dyn Bell>, Box<dyn Bell>);

/// Which primitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// FUTEX_WAIT on a shared word.
    Futex,
    /// The same through FUTEX_WAITV (Linux 5.16), two words a wait.
    FutexWaitv,
    /// A blocking read of an eventfd.
    EventfdRead,
    /// epoll_wait, then a read of the eventfd.
    EventfdEpoll,
    /// epoll_wait, edge-triggered, the eventfd never read.
    EventfdEdge,
    /// One byte through a SEQPACKET socket, blocking recv.
    SocketRead,
    /// One byte through a SEQPACKET socket, epoll_wait, recv.
    SocketEpoll,
    /// One byte through a pipe, blocking read.
    Pipe,
    /// There a SEQPACKET byte to an epoll, back a futex.
    SocketThenFutex,
    /// There an eventfd to an edge-triggered epoll, back a futex.
    EdgeThenFutex,
}

impl Kind {
    /// Every primitive.
    pub const ALL: [Kind; 10] = [
        Kind::Futex,
        Kind::FutexWaitv,
        Kind::EventfdRead,
        Kind::EventfdEpoll,
        Kind::EventfdEdge,
        Kind::SocketRead,
        Kind::SocketEpoll,
        Kind::Pipe,
        Kind::SocketThenFutex,
        Kind::EdgeThenFutex,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Futex => "futex",
            Kind::FutexWaitv => "futex_waitv, 2 words",
            Kind::EventfdRead => "eventfd, read",
            Kind::EventfdEpoll => "eventfd, epoll + read",
            Kind::EventfdEdge => "eventfd, epoll edge, no read",
            Kind::SocketRead => "seqpacket, recv",
            Kind::SocketEpoll => "seqpacket, epoll + recv",
            Kind::Pipe => "pipe, read",
            Kind::SocketThenFutex => "seqpacket epoll there, futex back",
            Kind::EdgeThenFutex => "eventfd edge there, futex back",
        }
    }

    /// Makes a pair for this process and a child that is to be forked; the second end is the
    /// child's. None when this kernel lacks the primitive.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn pair(self) -> io::Result<Option<Pair>> {
        let pair: Pair = match self {
            Kind::Futex => Futex::pair(false)?,
            Kind::FutexWaitv if !has_waitv() => return Ok(None),
            Kind::FutexWaitv => Futex::pair(true)?,
            Kind::EventfdRead => {
                let (a, b) = (counter()?, counter()?);
                (
                    Box::new(Eventfd { mine: a.clone(), theirs: b.clone() }),
                    Box::new(Eventfd { mine: b, theirs: a }),
                )
            }
            Kind::EventfdEpoll => {
                let (a, b) = (counter()?, counter()?);
                (Polled::eventfd(&a, &b, true)?, Polled::eventfd(&b, &a, true)?)
            }
            Kind::EventfdEdge => {
                let (a, b) = (counter()?, counter()?);
                (Polled::eventfd(&a, &b, false)?, Polled::eventfd(&b, &a, false)?)
            }
            Kind::SocketRead => {
                let (a, b) = sockets()?;
                (Box::new(Socket(a)), Box::new(Socket(b)))
            }
            Kind::SocketEpoll => {
                let (a, b) = sockets()?;
                (Polled::socket(a)?, Polled::socket(b)?)
            }
            Kind::Pipe => {
                let (there, back) = (pipe()?, pipe()?);
                (Box::new(Pipe(back.0, there.1)), Box::new(Pipe(there.0, back.1)))
            }
            Kind::SocketThenFutex => {
                let (a, b) = sockets()?;
                let (fa, fb) = Futex::pair(false)?;
                (
                    Box::new(Mixed { ring: Box::new(Socket(a)), wait: fa }),
                    Box::new(Mixed { ring: fb, wait: Polled::socket(b)? }),
                )
            }
            Kind::EdgeThenFutex => {
                let (a, b) = (counter()?, counter()?);
                let (fa, fb) = Futex::pair(false)?;
                (
                    Box::new(Mixed { ring: Polled::eventfd(&a, &b, false)?, wait: fa }),
                    Box::new(Mixed { ring: fb, wait: Polled::eventfd(&b, &a, false)? }),
                )
            }
        };
        Ok(Some(pair))
    }
}

/// Rings through one primitive and waits on another.
struct Mixed {
    ring: Box<dyn Bell>,
    wait: Box<dyn Bell>,
}

impl Bell for Mixed {
    fn ring(&self) -> io::Result<()> {
        self.ring.ring()
    }

    fn wait(&self) -> io::Result<()> {
        self.wait.wait()
    }
}

/// Words at 0 and 64, each counting the rings of one end.
struct Futex {
    shared: Rc<Shared>,
    mine: usize,
    theirs: usize,
    seen: Cell<u32>,
    vector: bool,
}

impl Futex {
    fn pair(vector: bool) -> io::Result<Pair> {
        let shared = Rc::new(Shared::new(4096)?);
        let end = |mine, theirs| Futex {
            shared: shared.clone(),
            mine,
            theirs,
            seen: Cell::new(0),
            vector,
        };
        Ok((Box::new(end(0, 64)), Box::new(end(64, 0))))
    }

    fn sleep(&self, word: &AtomicU32) -> rustix::io::Result<()> {
        if !self.vector {
            return futex::wait(word, FUTEX_SHARED, self.seen.get(), None);
        }
        // The second word stands for a process that waits for several peers; it never changes.
        let entries = [entry(word, self.seen.get()), entry(self.shared.word(128), 0)];
        wait_vector(&entries)
    }
}

/// An entry that waits for `word` to differ from `value`.
fn entry(word: &AtomicU32, value: u32) -> futex::Wait {
    let mut entry = futex::Wait::new();
    entry.val = u64::from(value);
    entry.uaddr = futex::WaitPtr::new(word.as_ptr().cast());
    entry.flags = futex::WaitFlags::SIZE_U32;
    entry
}

fn wait_vector(entries: &[futex::Wait]) -> rustix::io::Result<()> {
    futex::waitv(entries, futex::WaitvFlags::empty(), None, futex::ClockId::Monotonic).map(drop)
}

/// Whether the kernel has FUTEX_WAITV: a word that has another value says so without sleeping.
fn has_waitv() -> bool {
    let word = AtomicU32::new(1);
    wait_vector(&[entry(&word, 0)]) == Err(rustix::io::Errno::AGAIN)
}

impl Bell for Futex {
    fn ring(&self) -> io::Result<()> {
        let word = self.shared.word(self.theirs);
        word.fetch_add(1, Ordering::Release);
        futex::wake(word, FUTEX_SHARED, 1)?;
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let word = self.shared.word(self.mine);
        loop {
            let now = word.load(Ordering::Acquire);
            if now != self.seen.get() {
                self.seen.set(now);
                return Ok(());
            }
            match self.sleep(word) {
                Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn counter() -> io::Result<Rc<OwnedFd>> {
    Ok(Rc::new(eventfd(0, EventfdFlags::CLOEXEC)?))
}

fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

fn add_one(fd: BorrowedFd<'_>) -> io::Result<()> {
    rustix::io::write(fd, &1u64.to_ne_bytes())?;
    Ok(())
}

fn take_all(fd: BorrowedFd<'_>) -> io::Result<()> {
    rustix::io::read(fd, &mut [0u8; 8])?;
    Ok(())
}

struct Eventfd {
    mine: Rc<OwnedFd>,
    theirs: Rc<OwnedFd>,
}

impl Bell for Eventfd {
    fn ring(&self) -> io::Result<()> {
        add_one(self.theirs.as_fd())
    }

    fn wait(&self) -> io::Result<()> {
        take_all(self.mine.as_fd())
    }
}

struct Socket(OwnedFd);

impl Bell for Socket {
    fn ring(&self) -> io::Result<()> {
        rustix::net::send(&self.0, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        rustix::net::recv(&self.0, &mut [0u8; 8][..], RecvFlags::empty())?;
        Ok(())
    }
}

struct Pipe(OwnedFd, OwnedFd);

impl Bell for Pipe {
    fn ring(&self) -> io::Result<()> {
        rustix::io::write(&self.1, &[0])?;
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        rustix::io::read(&self.0, &mut [0u8; 8][..])?;
        Ok(())
    }
}

/// What an epoll watches, and whether it is read after each event.
struct Polled {
    epoll: OwnedFd,
    bell: Box<dyn Bell>,
    read: bool,
}

impl Polled {
    fn eventfd(mine: &Rc<OwnedFd>, theirs: &Rc<OwnedFd>, read: bool) -> io::Result<Box<dyn Bell>> {
        let bell = Eventfd { mine: mine.clone(), theirs: theirs.clone() };
        Polled::over(Box::new(bell), mine.as_fd(), read)
    }

    fn socket(fd: OwnedFd) -> io::Result<Box<dyn Bell>> {
        let watched = fd.try_clone()?;
        Polled::over(Box::new(Socket(fd)), watched.as_fd(), true)
    }

    fn over(bell: Box<dyn Bell>, fd: BorrowedFd<'_>, read: bool) -> io::Result<Box<dyn Bell>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let edge = if read { epoll::EventFlags::empty() } else { epoll::EventFlags::ET };
        epoll::add(&epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN | edge)?;
        Ok(Box::new(Polled { epoll, bell, read }))
    }
}

impl Bell for Polled {
    fn ring(&self) -> io::Result<()> {
        self.bell.ring()
    }

    fn wait(&self) -> io::Result<()> {
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 8];
        while epoll::wait(&self.epoll, &mut events[..], None)? == 0 {}
        if self.read { self.bell.wait() } else { Ok(()) }
    }
}
