//! epoll and eventfd.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use callgate_points::at;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::{Errno, retry_on_intr};

use super::{EVENTS_MAX, Event};
use crate::clock;
use crate::process::TrackedFd;

/// A set of descriptors to wait for. One thread waits; any thread may add and remove meanwhile.
#[derive(Debug)]
pub struct Poller(TrackedFd);

/// What a [`Poller`] can watch: this crate's sockets, listeners, wakers and the like.
pub trait Pollable: AsFd {}

impl<T: AsFd> Pollable for T {}

impl Poller {
    /// Makes an empty one.
    ///
    /// # Errors
    ///
    /// What `epoll_create1` says: `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new() -> io::Result<Poller> {
        let epoll = TrackedFd::open(|| {
            at!("sys.poller.create", epoll::create(epoll::CreateFlags::CLOEXEC))
        })?;
        Ok(Poller(epoll))
    }

    /// Watches `source` for something to read and for its end; events carry `token`.
    ///
    /// With `edge`, an event comes once for each arrival, even if nothing is ever read; otherwise
    /// as long as something is there. Remove `source` before it is closed. Never blocks.
    ///
    /// # Errors
    ///
    /// `EEXIST` if it is watched already, `EPERM` for a kind that can't be waited for (a file),
    /// `ENOSPC` at the user's limit (`fs.epoll.max_user_watches`), `ENOMEM`.
    pub fn add(&self, source: &impl Pollable, token: u64, edge: bool) -> io::Result<()> {
        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        flags.set(epoll::EventFlags::ET, edge);
        let data = epoll::EventData::new_u64(token);
        Ok(at!("sys.poller.add", epoll::add(&self.0, source, data, flags))?)
    }

    /// Watches `source` as [`Poller::add`] does, in this poller until it is closed. Where a system has a quicker way for
    /// that (Windows), this takes it.
    ///
    /// # Errors
    ///
    /// As [`Poller::add`].
    pub fn add_for_good(&self, source: &impl Pollable, token: u64) -> io::Result<()> {
        self.add(source, token, false)
    }

    /// Stops watching `source`. An event that a wait has already given out isn't taken back.
    ///
    /// # Errors
    ///
    /// `ENOENT` if it isn't watched.
    pub fn remove(&self, source: &impl Pollable) -> io::Result<()> {
        Ok(at!("sys.poller.remove", epoll::delete(&self.0, source))?)
    }

    /// Waits for events until `deadline_ns` (nanoseconds of [`clock::now_ns`]); replaces the
    /// contents of `events`, gives their number.
    ///
    /// Blocks, for ever without a deadline; one in the past makes it look only. Comes back with no
    /// event when the deadline has passed, and also early, when a signal came. At most
    /// [`EVENTS_MAX`] events.
    ///
    /// # Errors
    ///
    /// What epoll says; none is known for a set of this type.
    pub fn wait(&self, events: &mut Vec<Event>, deadline_ns: Option<u64>) -> io::Result<usize> {
        let mut raw = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        events.clear();
        let count = match at!("sys.poller.wait", self.wait_raw(&mut raw, deadline_ns)) {
            Err(Errno::INTR) => 0,
            result => result?,
        };
        events.extend(raw[..count].iter().map(|event| {
            let bits = event.events as libc::c_int;
            Event {
                token: event.u64,
                readable: bits & libc::EPOLLIN != 0,
                closed: bits & (libc::EPOLLHUP | libc::EPOLLRDHUP | libc::EPOLLERR) != 0,
            }
        }));
        Ok(count)
    }

    fn wait_raw(
        &self,
        raw: &mut [libc::epoll_event; EVENTS_MAX],
        deadline_ns: Option<u64>,
    ) -> Result<usize, Errno> {
        /// Whether `epoll_pwait2` (Linux 5.11) has been found missing, or forbidden by a filter
        /// that doesn't know it.
        static NO_PWAIT2: AtomicBool = AtomicBool::new(false);

        let left_ns = deadline_ns.map(|deadline| deadline.saturating_sub(clock::now_ns()));
        if let Some(left_ns @ 1..) = left_ns
            && !NO_PWAIT2.load(Relaxed)
        {
            match self.pwait2(raw, left_ns) {
                Err(Errno::NOSYS | Errno::PERM) => NO_PWAIT2.store(true, Relaxed),
                result => return result,
            }
        }
        // Rounded up: a wait that ends before its deadline would be repeated.
        let left_ms =
            left_ns.map_or(-1, |ns| i32::try_from(ns.div_ceil(1_000_000)).unwrap_or(i32::MAX));
        let epoll = self.0.as_fd().as_raw_fd();
        // SAFETY: the kernel writes at most EVENTS_MAX events to the array, which has that many.
        count(
            unsafe { libc::epoll_wait(epoll, raw.as_mut_ptr(), EVENTS_MAX as i32, left_ms) }.into(),
        )
    }

    fn pwait2(
        &self,
        raw: &mut [libc::epoll_event; EVENTS_MAX],
        left_ns: u64,
    ) -> Result<usize, Errno> {
        /// `__kernel_timespec`: 64 bits on every architecture, unlike libc's.
        #[repr(C)]
        struct KernelTimespec {
            sec: i64,
            nsec: i64,
        }
        let left = KernelTimespec {
            sec: (left_ns / 1_000_000_000) as i64,
            nsec: (left_ns % 1_000_000_000) as i64,
        };
        // SAFETY: as in `wait_raw`; the timespec is a live local, and no signal mask is given.
        count(unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_fd().as_raw_fd(),
                raw.as_mut_ptr(),
                EVENTS_MAX as libc::c_int,
                &raw const left,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        })
    }
}

/// Turns the result of an epoll call into the number of events.
fn count(result: libc::c_long) -> Result<usize, Errno> {
    usize::try_from(result)
        .map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Wakes a thread of this process out of [`Poller::wait`].
///
/// An eventfd. It must never be given to another process: a holder can make a write to it block.
#[derive(Debug)]
pub struct Waker(TrackedFd);

impl Waker {
    /// Makes one; add it to a poller to be of use.
    ///
    /// # Errors
    ///
    /// What `eventfd2` says: `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new() -> io::Result<Waker> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Waker(TrackedFd::open(|| at!("sys.poller.eventfd", eventfd(0, flags)))?))
    }

    /// Makes it readable. Never blocks; waking one that is awake does nothing. Any thread may call
    /// it.
    pub fn wake(&self) {
        // Beyond that it can only fail when the counter is full, and then it is readable.
        let _ = at!(
            "sys.poller.wake",
            retry_on_intr(|| rustix::io::write(&self.0, &1u64.to_ne_bytes()))
        );
    }

    /// Makes it unreadable again: what was woken before is forgotten. Never blocks.
    pub fn drain(&self) {
        let mut count = [0; 8];
        // It can only fail when nobody has woken it.
        let _ = at!("sys.poller.drain", rustix::io::read(&self.0, &mut count));
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
