//! A completion port. What is watched posts its key there when there may be something to see; the poller then looks.
//!
//! A packet says no more than "look": so one too many does no harm, and a source that was found ready is looked at again
//! until it is not. All packets are taken at each wait, and each source has one place in the line of those to be looked at.

mod port;
mod registered;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use windows_sys::Win32::System::IO::OVERLAPPED_ENTRY;

use super::{EVENTS_MAX, Event};
use crate::collections::HashMap;
use crate::sync::Mutex;
use crate::win::{has_passed, ms_left};

pub(crate) use port::Port;
pub(crate) use registered::RegisteredWait;

/// A set of sources to wait for. One thread waits; any thread may add and remove meanwhile.
#[derive(Debug)]
pub struct Poller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    port: Arc<Port>,
    watched: Mutex<HashMap<u64, Watched>>,
    due: Mutex<Due>,
}

/// Keys of what is to be looked at: what has told the port, and what was ready at the last look. Each is there once, so
/// there are never more than sources, whatever their peers do.
#[derive(Debug, Default)]
struct Due {
    order: VecDeque<u64>,
    all: HashSet<u64>,
}

impl Due {
    fn add(&mut self, key: u64) {
        if self.all.insert(key) {
            self.order.push_back(key);
        }
    }

    fn next(&mut self) -> Option<u64> {
        let key = self.order.pop_front()?;
        self.all.remove(&key);
        Some(key)
    }
}

#[derive(Clone)]
struct Watched {
    token: u64,
    source: Weak<dyn Source>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("token", &self.token).finish_non_exhaustive()
    }
}

/// What there is to see at a source.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readiness {
    pub(crate) readable: bool,
    pub(crate) closed: bool,
}

/// Something that a poller watches.
#[doc(hidden)]
pub trait Source: Send + Sync {
    /// Where it notes who watches it.
    fn slot(&self) -> &Slot;
    /// From now on the port is told, with the slot's key, when there may be something to see. With `for_good` that lasts
    /// as long as the source.
    fn begin(&self, port: &Arc<Port>, for_good: bool) -> io::Result<()>;
    /// The port need not be told any more.
    fn end(&self);
    /// Looks. What is not ready now tells the port when it becomes so.
    fn readiness(&self) -> Readiness;
}

/// Which poller watches a source, and under which key it tells it.
#[derive(Debug)]
pub struct Slot {
    key: u64,
    poller: Mutex<Option<Weak<Inner>>>,
}

impl Slot {
    pub(crate) fn new() -> Slot {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Slot { key: NEXT.fetch_add(1, Ordering::Relaxed), poller: Mutex::new(None) }
    }

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// The source goes: nobody watches it any more.
    pub(crate) fn leave(&self) {
        if let Some(inner) = self.poller.lock().take().and_then(|inner| inner.upgrade()) {
            inner.watched.lock().remove(&self.key);
        }
    }
}

/// What a [`Poller`] can watch: this crate's sockets, listeners, wakers and the like.
pub trait Pollable {
    /// The part of it that a poller knows; `None` for what never has anything to see.
    #[doc(hidden)]
    fn source(&self) -> Option<Arc<dyn Source>>;
}

impl Poller {
    /// Makes an empty one.
    ///
    /// # Errors
    ///
    /// What `CreateIoCompletionPort` says.
    pub fn new() -> io::Result<Poller> {
        let (watched, due) = (Mutex::default(), Mutex::default());
        Ok(Poller(Arc::new(Inner { port: Arc::new(Port::new()?), watched, due })))
    }

    /// Watches `source` for something to read and for its end; events carry `token`.
    ///
    /// An event comes as long as something is there. Only other pollers are watched with `edge`, and they have nothing to
    /// see on this system. One poller watches a source at a time. Never blocks.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if it is watched already; what the system says.
    pub fn add(&self, source: &impl Pollable, token: u64, _edge: bool) -> io::Result<()> {
        self.watch(source, token, false)
    }

    /// Watches `source` as [`Poller::add`] does, in this poller until it is closed: the kernel tells this poller itself.
    /// (Otherwise a thread of the system's waits for the source and tells the poller, since a pipe can be bound to one
    /// completion port only, ever.)
    ///
    /// # Errors
    ///
    /// As [`Poller::add`].
    pub fn add_for_good(&self, source: &impl Pollable, token: u64) -> io::Result<()> {
        self.watch(source, token, true)
    }

    fn watch(&self, source: &impl Pollable, token: u64, for_good: bool) -> io::Result<()> {
        let Some(source) = source.source() else { return Ok(()) };
        let slot = source.slot();
        {
            let mut poller = slot.poller.lock();
            if poller.as_ref().is_some_and(|poller| poller.strong_count() > 0) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            *poller = Some(Arc::downgrade(&self.0));
        }
        let watched = Watched { token, source: Arc::downgrade(&source) };
        self.0.watched.lock().insert(slot.key, watched);
        if let Err(error) = source.begin(&self.0.port, for_good) {
            slot.leave();
            return Err(error);
        }
        // What is there already.
        self.0.port.post(slot.key);
        Ok(())
    }

    /// Stops watching `source`. An event that a wait has already given out isn't taken back.
    ///
    /// # Errors
    ///
    /// `NotFound` if it isn't watched.
    pub fn remove(&self, source: &impl Pollable) -> io::Result<()> {
        let Some(source) = source.source() else { return Ok(()) };
        let slot = source.slot();
        let poller = slot.poller.lock().take().and_then(|poller| poller.upgrade());
        match poller {
            Some(poller) if Arc::ptr_eq(&poller, &self.0) => {}
            _ => return Err(io::ErrorKind::NotFound.into()),
        }
        self.0.watched.lock().remove(&slot.key);
        source.end();
        Ok(())
    }

    /// Waits for events until `deadline_ns` (nanoseconds of [`now_ns`](crate::clock::now_ns)); replaces the contents of
    /// `events`, gives their number.
    ///
    /// Blocks, for ever without a deadline; one in the past makes it look only. At most [`EVENTS_MAX`] events.
    ///
    /// # Errors
    ///
    /// What the completion port says; nothing is known.
    pub fn wait(&self, events: &mut Vec<Event>, deadline_ns: Option<u64>) -> io::Result<usize> {
        events.clear();
        let due = &mut *self.0.due.lock();
        loop {
            let ms = if due.order.is_empty() { ms_left(deadline_ns) } else { 0 };
            self.drain(due, ms)?;
            self.look_at(due, events);
            if !events.is_empty() || has_passed(deadline_ns) {
                return Ok(events.len());
            }
        }
    }

    /// Takes all keys out of the port; waits at most so many milliseconds for the first.
    ///
    /// All: a peer that writes without end has a key put in for each message that is read, which is more in one turn of a
    /// worker than one look takes out, and the keys of others would be behind ever more of them. It ends, since this thread
    /// reads nothing meanwhile.
    fn drain(&self, due: &mut Due, mut ms: u32) -> io::Result<()> {
        let mut entries = [OVERLAPPED_ENTRY::default(); EVENTS_MAX];
        loop {
            let count = self.0.port.take(&mut entries, ms)?;
            entries[..count].iter().for_each(|entry| due.add(entry.lpCompletionKey as u64));
            if count < entries.len() {
                return Ok(());
            }
            ms = 0;
        }
    }

    /// Looks at what is due, each once, until there are as many events as fit. What is ready goes behind the others.
    fn look_at(&self, due: &mut Due, events: &mut Vec<Event>) {
        for _ in 0..due.order.len() {
            if events.len() == EVENTS_MAX {
                return;
            }
            let Some(key) = due.next() else { return };
            let watched = self.0.watched.lock().get(&key).cloned();
            let Some((watched, source)) = watched
                .and_then(|watched| watched.source.upgrade().map(|source| (watched, source)))
            else {
                continue;
            };
            let Readiness { readable, closed } = source.readiness();
            if readable || closed {
                let token = watched.token;
                events.push(Event { token, readable, closed });
                due.add(key);
            }
        }
    }
}

/// A worker never sleeps anywhere but in its poller on this system, so there is nothing to tell another of it.
impl Pollable for Poller {
    fn source(&self) -> Option<Arc<dyn Source>> {
        None
    }
}

/// Wakes a thread of this process out of [`Poller::wait`].
#[derive(Debug)]
pub struct Waker(Arc<Flag>);

#[derive(Debug)]
pub(crate) struct Flag {
    slot: Slot,
    woken: AtomicBool,
    port: Mutex<Option<Arc<Port>>>,
}

impl Flag {
    pub(crate) fn new() -> Arc<Flag> {
        Arc::new(Flag { slot: Slot::new(), woken: AtomicBool::new(false), port: Mutex::new(None) })
    }

    pub(crate) fn set(&self) {
        // EDGE woken (other end: `readiness`): what the waker did before is seen by who finds it woken.
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Some(port) = &*self.port.lock()
        {
            port.post(self.slot.key);
        }
    }

    pub(crate) fn clear(&self) {
        self.woken.store(false, Ordering::Release);
    }
}

impl Waker {
    /// Makes one; add it to a poller to be of use.
    ///
    /// # Errors
    ///
    /// None on this system.
    pub fn new() -> io::Result<Waker> {
        Ok(Waker(Flag::new()))
    }

    /// Makes it readable. Never blocks; waking one that is awake does nothing. Any thread may call it.
    pub fn wake(&self) {
        self.0.set();
    }

    /// Makes it unreadable again: what was woken before is forgotten. Never blocks.
    pub fn drain(&self) {
        self.0.clear();
    }
}

impl Source for Flag {
    fn slot(&self) -> &Slot {
        &self.slot
    }

    fn begin(&self, port: &Arc<Port>, _for_good: bool) -> io::Result<()> {
        *self.port.lock() = Some(port.clone());
        Ok(())
    }

    fn end(&self) {
        *self.port.lock() = None;
    }

    fn readiness(&self) -> Readiness {
        // EDGE woken (other end: `set`).
        Readiness { readable: self.woken.load(Ordering::Acquire), closed: false }
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        self.slot.leave();
    }
}

impl Pollable for Waker {
    fn source(&self) -> Option<Arc<dyn Source>> {
        Some(self.0.clone())
    }
}

impl Pollable for Arc<Flag> {
    fn source(&self) -> Option<Arc<dyn Source>> {
        Some(self.clone())
    }
}
