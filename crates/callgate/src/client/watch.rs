//! Where a client notices death: one thread for the whole process sleeps on all its servers' sockets and pidfds.
//!
//! It also reads what servers send over the socket (new and retired payload memory), so that nothing lies there unread,
//! and comes back a second later to connections that have memory to give back. It never holds one of its own locks
//! while it works on a connection.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use callgate_proto::pace::YieldBan;
use callgate_sys::collections::HashMap;
use callgate_sys::poller::{Event, Poller, Waker};
use callgate_sys::sync::{Mutex, MutexGuard};
use callgate_sys::{clock, process, thread};

use super::connection::{Connection, Shared};

const WAKER_TOKEN: u64 = u64::MAX;
const TIDY_AFTER: Duration = Duration::from_secs(1);
/// How long a new watcher waits before it asks for the number of CPUs.
const LEARN_AFTER: Duration = Duration::from_millis(2);
/// When to wake again who has not been seen to wake; doubled each time, up to the longest, while nobody else is added.
const WAKE_AGAIN: Duration = Duration::from_millis(1);
const WAKE_AGAIN_MAX: Duration = Duration::from_millis(128);

struct Watcher {
    generation: u32,
    poller: Poller,
    waker: Waker,
    next: AtomicU64,
    watched: Mutex<HashMap<u64, Weak<Connection>>>,
    untidy: Mutex<Vec<(u64, Weak<Connection>)>>,
    /// Connections that have ended, and may have callers asleep on them still, or one that keeps them in its lane.
    asleep: Mutex<Vec<Weak<Connection>>>,
    /// Slow yields in handshakes, of all clients of the process.
    ban: YieldBan,
    /// Whether another thread's watcher was there first: this one's thread ends.
    retired: AtomicBool,
}

callgate_sys::process_local! {
    /// The watcher of this process's life; a forked child makes its own. Never freed, so a reference is always good.
    static WATCHER: AtomicPtr<Watcher> = AtomicPtr::new(std::ptr::null_mut());
}

/// Starts the watcher if there is none yet. It takes a while, the first time in a process. Gives what this process's
/// handshakes have learned of yielding.
pub(super) fn prepare() -> io::Result<&'static YieldBan> {
    Ok(&current()?.ban)
}

/// Starts to watch a connection.
pub(super) fn watch(connection: &Shared) -> io::Result<()> {
    let watcher = current()?;
    let token = watcher.next.fetch_add(2, Ordering::Relaxed);
    connection.watched_as(token);
    lock(&watcher.watched).insert(token, Arc::downgrade(connection));
    watcher.poller.add_for_good(&connection.socket, token)?;
    watcher.poller.add(&connection.server_process, token + 1, false)
}

/// Stops watching a connection that is about to be unmapped.
///
/// The poller, too: its socket is closed by another thread, perhaps much later where a peer has that thread wait, and until
/// then would be told to have ended again and again.
pub(super) fn forget(token: u64, connection: &Connection) {
    let Ok(watcher) = current() else { return };
    let was_watched = lock(&watcher.watched).remove(&token).is_some();
    if was_watched {
        watcher.unwatch(connection);
    }
}

/// Asks for a visit of [`Connection::tidy`] in a second.
pub(super) fn tidy_later(connection: Weak<Connection>) {
    if let Ok(watcher) = current() {
        let due_ns = clock::deadline_ns(TIDY_AFTER);
        lock(&watcher.untidy).push((due_ns, connection));
        watcher.waker.wake();
    }
}

/// Asks to go on waking those who sleep on a connection that has ended.
pub(super) fn wake_later(connection: Weak<Connection>) {
    if let Ok(watcher) = current() {
        lock(&watcher.asleep).push(connection);
        watcher.waker.wake();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// The running watcher. Lock-free, so that a fork at any moment leaves nothing locked.
fn current() -> io::Result<&'static Watcher> {
    // EDGE watcher (other end: the exchange below): Acquire sees the watcher's fields.
    let known = WATCHER.load(Ordering::Acquire);
    // SAFETY: null, or what the exchange below published, fields included, and nobody ever frees.
    if let Some(watcher) = unsafe { known.as_ref() }
        && process::is_current(watcher.generation)
    {
        return Ok(watcher);
    }
    let fresh = Arc::new(Watcher::new()?);
    // Started before anyone can rely on it: a watcher without its thread would let deaths pass unnoticed.
    let running = fresh.clone();
    thread::Builder::new().name("callgate-watch".into()).spawn(move || running.run())?;
    // EDGE watcher (other end: the load above): Release publishes the fields.
    let pointer = Arc::into_raw(fresh);
    match WATCHER.compare_exchange(known, pointer.cast_mut(), Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: from `into_raw` just now, and never given back: leaked on purpose, so a reference is always good.
        Ok(_) => Ok(unsafe { &*pointer }),
        Err(other) => {
            // SAFETY: from `into_raw` just now; it was not published, so this takes back what that let go of.
            let fresh = unsafe { Arc::from_raw(pointer) };
            fresh.retired.store(true, Ordering::Relaxed);
            fresh.waker.wake();
            // SAFETY: another thread's exchange put it there; see the first load.
            Ok(unsafe { &*other })
        }
    }
}

impl Watcher {
    fn new() -> io::Result<Self> {
        let (poller, waker) = (Poller::new()?, Waker::new()?);
        poller.add(&waker, WAKER_TOKEN, false)?;
        Ok(Self {
            generation: process::generation(),
            poller,
            waker,
            next: AtomicU64::new(0),
            watched: Mutex::default(),
            untidy: Mutex::default(),
            asleep: Mutex::default(),
            ban: YieldBan::default(),
            retired: AtomicBool::new(false),
        })
    }

    fn run(&self) {
        let mut events = Vec::new();
        // Not at once: the connection that this thread was made for is about to make its first call.
        let mut learn_ns = Some(clock::deadline_ns(LEARN_AFTER));
        let (mut wake_again, mut asleep) = (WAKE_AGAIN, 0);
        while !self.retired.load(Ordering::Relaxed) {
            if learn_ns.is_some_and(|due_ns| clock::now_ns() >= due_ns) {
                learn_ns = None;
                crate::wait::learn_cpus();
            }
            let tidy_ns = lock(&self.untidy).iter().map(|(due_ns, _)| *due_ns).min();
            let count = lock(&self.asleep).len();
            wake_again = if count > asleep { WAKE_AGAIN } else { wake_again.min(WAKE_AGAIN_MAX) };
            asleep = count;
            let wake_ns = (count > 0).then(|| clock::deadline_ns(wake_again));
            let due_ns = tidy_ns.into_iter().chain(wake_ns).chain(learn_ns).min();
            events.clear();
            if let Err(error) = self.poller.wait(&mut events, due_ns) {
                tracing::error!(%error, "cannot wait for servers' deaths");
                thread::sleep(TIDY_AFTER);
            }
            // Whatever panics here (the program's tracing, say), all connections depend on this thread.
            let _ = catch_unwind(AssertUnwindSafe(|| self.round(&events, tidy_ns)));
            wake_again *= 2;
        }
    }

    fn round(&self, events: &[Event], tidy_ns: Option<u64>) {
        for event in events {
            if event.token == WAKER_TOKEN {
                self.waker.drain();
            } else {
                self.attend(event.token);
            }
        }
        // Taken out first: the lock is not held while connections are worked on.
        let asleep = std::mem::take(&mut *lock(&self.asleep));
        for connection in asleep {
            // Both, however the first went.
            let is_left =
                |connection: Arc<Connection>| connection.wake_sleepers() & connection.leave_owner();
            if !connection.upgrade().is_none_or(is_left) {
                lock(&self.asleep).push(connection);
            }
        }
        if tidy_ns.is_some_and(|due_ns| clock::now_ns() >= due_ns) {
            self.tidy();
        }
    }

    fn attend(&self, token: u64) {
        let is_process = token % 2 == 1;
        let key = token - token % 2;
        let connection = lock(&self.watched).get(&key).and_then(Weak::upgrade);
        // It goes just now, and is forgotten by whoever drops it.
        let Some(connection) = connection else { return };
        // Messages first: a reply may refer to memory that was announced just before the server's death.
        connection.receive();
        if is_process {
            connection.closed();
        }
        if connection.has_ended() {
            lock(&self.watched).remove(&key);
            self.unwatch(&connection);
            if !connection.leave_owner() {
                lock(&self.asleep).push(Arc::downgrade(&connection));
            }
        }
    }

    fn unwatch(&self, connection: &Connection) {
        let _ = self.poller.remove(&connection.socket);
        let _ = self.poller.remove(&connection.server_process);
    }

    fn tidy(&self) {
        let now_ns = clock::now_ns();
        let mut due = Vec::new();
        lock(&self.untidy).retain(|(due_ns, connection)| {
            let later = *due_ns > now_ns;
            if !later {
                due.push(connection.clone());
            }
            later
        });
        for connection in due {
            if connection.upgrade().is_some_and(|connection| connection.tidy()) {
                let due_ns = clock::deadline_ns(TIDY_AFTER);
                lock(&self.untidy).push((due_ns, connection));
            }
        }
    }
}
