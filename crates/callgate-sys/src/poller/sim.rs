//! Readiness is looked up when somebody waits, so none is ever missed; its order is chance's.

use std::io;

use super::{EVENTS_MAX, Event};
use crate::sim::kernel::{Object, Watched};
use crate::sim::world::{Wait, inside};
use crate::sim::{Handle, fault};

/// A set of descriptors to wait for.
#[derive(Debug)]
pub struct Poller(Handle);

/// What a [`Poller`] can watch: this crate's sockets, listeners, wakers and the like.
pub trait Pollable {
    /// Its number in the simulated kernel.
    #[doc(hidden)]
    fn number(&self) -> u64;
}

impl Poller {
    /// Makes an empty one.
    ///
    /// # Errors
    ///
    /// `EMFILE` by chance.
    pub fn new() -> io::Result<Poller> {
        let here = inside();
        here.operation("sys.poller.create", 500, |state| {
            fault(state, libc::EMFILE)?;
            let object = Object::Poller { watched: Vec::new() };
            Ok(Poller(Handle::new(state, here.process, object)))
        })
    }

    /// Watches `source`; events carry `token`.
    ///
    /// # Errors
    ///
    /// `EEXIST` if it is watched already, `ENOSPC` by chance.
    pub fn add(&self, source: &impl Pollable, token: u64, edge: bool) -> io::Result<()> {
        let fd = source.number();
        inside().operation("sys.poller.add", 500, |state| {
            fault(state, libc::ENOSPC)?;
            state.kernel.changed = true;
            let Object::Poller { watched } = state.kernel.object(self.0.0) else {
                unreachable!("a poller's number")
            };
            if watched.iter().any(|other| other.fd == fd) {
                return Err(io::Error::from_raw_os_error(libc::EEXIST));
            }
            watched.push(Watched { fd, token, told: edge.then_some(0) });
            Ok(())
        })
    }

    /// Watches `source` until it is closed.
    ///
    /// # Errors
    ///
    /// As [`Poller::add`].
    pub fn add_for_good(&self, source: &impl Pollable, token: u64) -> io::Result<()> {
        self.add(source, token, false)
    }

    /// Stops watching `source`.
    ///
    /// # Errors
    ///
    /// `ENOENT` if it isn't watched.
    pub fn remove(&self, source: &impl Pollable) -> io::Result<()> {
        let fd = source.number();
        inside().operation("sys.poller.remove", 500, |state| {
            let Object::Poller { watched } = state.kernel.object(self.0.0) else {
                unreachable!("a poller's number")
            };
            let before = watched.len();
            watched.retain(|watched| watched.fd != fd);
            match watched.len() < before {
                true => Ok(()),
                false => Err(io::Error::from_raw_os_error(libc::ENOENT)),
            }
        })
    }

    /// Waits for events until `deadline_ns`; replaces the contents of `events`, gives their number.
    ///
    /// # Errors
    ///
    /// None.
    pub fn wait(&self, events: &mut Vec<Event>, deadline_ns: Option<u64>) -> io::Result<usize> {
        let here = inside();
        here.point("sys.poller.wait", 400);
        let mut state = here.world.lock();
        let ready = state.kernel.has_events(self.0.0, &state.processes);
        if !ready && deadline_ns.is_none_or(|deadline| deadline > state.now_ns) {
            // Once in a while a signal comes instead.
            if !state.rng.one_in(100) {
                here.block(state, Wait::Poller(self.0.0), deadline_ns);
                state = here.world.lock();
            }
        }
        let state = &mut *state;
        *events = state.kernel.events(self.0.0, &state.processes);
        for at in (1..events.len()).rev() {
            events.swap(at, state.rng.below(at as u64 + 1) as usize);
        }
        events.truncate(EVENTS_MAX);
        Ok(events.len())
    }
}

/// Wakes a thread of this process out of [`Poller::wait`].
#[derive(Debug)]
pub struct Waker(Handle);

impl Waker {
    /// Makes one; add it to a poller to be of use.
    ///
    /// # Errors
    ///
    /// `EMFILE` by chance.
    pub fn new() -> io::Result<Waker> {
        let here = inside();
        here.operation("sys.poller.eventfd", 500, |state| {
            fault(state, libc::EMFILE)?;
            Ok(Waker(Handle::new(state, here.process, Object::Waker { woken: false })))
        })
    }

    /// Makes it readable.
    pub fn wake(&self) {
        self.set("sys.poller.wake", true);
    }

    /// Makes it unreadable again.
    pub fn drain(&self) {
        self.set("sys.poller.drain", false);
    }

    fn set(&self, name: &'static str, value: bool) {
        inside().operation(name, 300, |state| {
            state.kernel.changed = true;
            *state.kernel.object(self.0.0) = Object::Waker { woken: value };
        });
    }
}

impl Pollable for Poller {
    fn number(&self) -> u64 {
        self.0.0
    }
}

impl Pollable for Waker {
    fn number(&self) -> u64 {
        self.0.0
    }
}
