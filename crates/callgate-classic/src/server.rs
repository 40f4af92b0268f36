//! The answering side: a background thread that owns the endpoint, takes requests and answers them.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::Plain;
use crate::answer::{Care, Looks};
use crate::error::{ObjectError, ServeError};
use crate::gate::lock;
use crate::names::{Names, Object, key};
use crate::options::ServerOptions;
use crate::system::{Any, Event, Woken, wait};
use station::Station;

mod station;

/// Answers requests. Closures `FnMut(&mut T)` are handlers too.
pub trait Handler<T: ?Sized>: Send + 'static {
    /// Answers one request in place: `data` is a copy of the memory, and becomes the answer as a whole.
    ///
    /// A panic leaves the request without an answer, and the server goes on with the handler as the panic left it.
    fn handle(&mut self, data: &mut T) -> Answer;

    /// Is called when no request has come for [`ServerOptions::idle_interval`]. Requests wait until it returns.
    fn idle(&mut self) {}
}

/// What a handler has made of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The data is the answer.
    Ready,
    /// There is none: the memory stays as it is, and the client runs out of time. The protocol has no other way to
    /// fail.
    None,
}

impl<T: ?Sized, F: FnMut(&mut T) + Send + 'static> Handler<T> for F {
    fn handle(&mut self, data: &mut T) -> Answer {
        self(data);
        Answer::Ready
    }
}

/// How a server does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Whether the memory existed when the server began.
    pub adopted: bool,
    /// Requests that were answered.
    pub answered: u64,
    /// Answers that were held back, since nobody waited for them.
    pub dropped: u64,
    /// Requests that were not run, since their clients were gone ([`ServerOptions::watch_free`]).
    pub skipped: u64,
    /// Requests for which the handler had no answer ([`Answer::None`]).
    pub unanswered: u64,
    /// Panics of the handler.
    pub panics: u64,
    /// Idle ticks.
    pub idle: u64,
}

#[derive(Debug, Default)]
struct Counters {
    answered: AtomicU64,
    dropped: AtomicU64,
    skipped: AtomicU64,
    unanswered: AtomicU64,
    panics: AtomicU64,
    idle: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// What the server's thread and its owner share.
struct Shared {
    stop: Event,
    counters: Counters,
    /// How the thread ended; the error is for the first who asks.
    ended: Mutex<Option<Result<(), ObjectError>>>,
    ends: Condvar,
}

thread_local! {
    /// The key of the memory that this thread serves.
    static SERVED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Whether this thread is the one that serves this memory: a call to it from here would wait for itself.
pub(crate) fn serves_here(memory: &str) -> bool {
    SERVED.with_borrow(|served| served.as_deref() == Some(key(memory)))
}

/// A server that runs in the background of its program, from [`Server::serve`] until it is stopped or dropped.
///
/// It has one thread, which makes the objects, waits, runs the handler, and lets go of all when it ends. Dropping the
/// server stops it and waits for a handler that is running.
pub struct Server {
    shared: Arc<Shared>,
    adopted: bool,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Serves with default options.
    ///
    /// # Errors
    /// As [`Server::serve_with`].
    pub fn serve<T: Plain>(names: &Names, handler: impl Handler<T>) -> Result<Self, ServeError> {
        Self::serve_with(names, ServerOptions::default(), handler)
    }

    /// Makes the objects and begins to serve, in a thread of its own.
    ///
    /// Events come first, are drained, and then the memory: a client that finds the memory finds all. Where another
    /// server of this crate has just ended, or clients look after it, waits up to half a second for its mutex.
    ///
    /// # Errors
    /// Each of [`ServeError`]; nothing is left behind.
    pub fn serve_with<T: Plain>(
        names: &Names,
        options: ServerOptions,
        handler: impl Handler<T>,
    ) -> Result<Self, ServeError> {
        const { assert!(size_of::<T>() > 0, "memory has at least one byte") };
        let copies = || Some([T::new_box_zeroed().ok()?, T::new_box_zeroed().ok()?]);
        Self::start(names, options, size_of::<T>(), copies, handler)
    }

    /// Serves memory of so many bytes, for a struct that is not known when the program is built.
    ///
    /// # Errors
    /// As [`Server::serve_with`]; [`ServeError::Option`] for no bytes at all.
    pub fn serve_bytes(
        names: &Names,
        bytes: usize,
        options: ServerOptions,
        handler: impl Handler<[u8]>,
    ) -> Result<Self, ServeError> {
        if bytes == 0 {
            let given = bytes.to_string();
            return Err(ServeError::Option { option: "bytes", given, allowed: "1 and more" });
        }
        let zeros = move || {
            let mut zeros = Vec::new();
            zeros.try_reserve_exact(bytes).ok()?;
            zeros.resize(bytes, 0);
            Some(zeros.into_boxed_slice())
        };
        Self::start(names, options, bytes, move || Some([zeros()?, zeros()?]), handler)
    }

    fn start<T: Plain + ?Sized>(
        names: &Names,
        options: ServerOptions,
        bytes: usize,
        copies: impl FnOnce() -> Option<[Box<T>; 2]> + Send + 'static,
        handler: impl Handler<T>,
    ) -> Result<Self, ServeError> {
        check(&options)?;
        let stop = Event::unnamed().map_err(|fault| fault.of(Object::Exec, names))?;
        let counters = Counters::default();
        let shared = Shared { stop, counters, ended: Mutex::new(None), ends: Condvar::new() };
        let shared = Arc::new(shared);
        let (tell, told) = mpsc::channel();
        let (names, theirs) = (names.clone(), shared.clone());
        let body = move || {
            // Dropped last: when the end is told, names and mutex are free.
            let mut ends = Ends(&theirs, Ok(()));
            let copies = copies().ok_or(ServeError::NoMemory { bytes });
            let station = copies.and_then(|copies| Station::open(&names, &options, copies));
            match station {
                Ok(station) => {
                    SERVED.set(Some(key(names.of(Object::Memory)).to_owned()));
                    if tell.send(Ok(station.adopted())).is_ok() {
                        ends.1 = serve(station, handler, &options, &theirs);
                    }
                }
                // Nobody is there to be told only if the caller has panicked.
                Err(error) => drop(tell.send(Err(error))),
            }
        };
        let thread = thread::Builder::new().name("callgate-classic".into()).spawn(body);
        let thread = thread.map_err(ServeError::Thread)?;
        // A thread that ends without a word has panicked in here, not in the handler.
        match told.recv() {
            Ok(Ok(adopted)) => Ok(Self { shared, adopted, thread: Some(thread) }),
            Ok(Err(error)) => {
                let _ = thread.join();
                Err(error)
            }
            Err(mpsc::RecvError) => {
                let _ = thread.join();
                Err(ServeError::Thread(std::io::Error::other("it panicked")))
            }
        }
    }

    /// Tells the server to stop, and returns at once. A request that is being handled is answered first.
    pub fn stop(&self) {
        let set = self.shared.stop.set();
        debug_assert!(set.is_ok(), "an event of this process: {set:?}");
    }

    /// Blocks until the server has stopped, or cannot go on.
    ///
    /// # Errors
    /// [`ObjectError::Os`] if a wait failed. Only the first who asks is told.
    pub fn wait(&self) -> Result<(), ObjectError> {
        let mut ended = lock(&self.shared.ended);
        loop {
            if let Some(how) = &mut *ended {
                return std::mem::replace(how, Ok(()));
            }
            ended = self.shared.ends.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How the server does at this moment.
    #[must_use]
    pub fn status(&self) -> ServerStatus {
        let counters = &self.shared.counters;
        ServerStatus {
            adopted: self.adopted,
            answered: counters.answered.load(Relaxed),
            dropped: counters.dropped.load(Relaxed),
            skipped: counters.skipped.load(Relaxed),
            unanswered: counters.unanswered.load(Relaxed),
            panics: counters.panics.load(Relaxed),
            idle: counters.idle.load(Relaxed),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let Some(thread) = self.thread.take() else { return };
        // A handler may own the server: its thread cannot wait for itself.
        if thread.thread().id() != thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("status", &self.status()).finish_non_exhaustive()
    }
}

fn check(options: &ServerOptions) -> Result<(), ServeError> {
    for (option, value) in [
        ("idle_interval", options.idle_interval),
        ("patience", options.patience.unwrap_or(Duration::MAX)),
    ] {
        if value.is_zero() {
            let given = format!("{value:?}");
            return Err(ServeError::Option { option, given, allowed: "more than zero" });
        }
    }
    Ok(())
}

/// Says that the thread has ended, whichever way.
struct Ends<'a>(&'a Shared, Result<(), ObjectError>);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        *lock(&self.0.ended) = Some(std::mem::replace(&mut self.1, Ok(())));
        self.0.ends.notify_all();
    }
}

/// Takes requests until told to stop.
fn serve<T: Plain + ?Sized>(
    mut station: Station<T>,
    mut handler: impl Handler<T>,
    options: &ServerOptions,
    shared: &Shared,
) -> Result<(), ObjectError> {
    let care = Care {
        patience: options.patience,
        watch_free: options.watch_free,
        watch_memory: options.watch_memory,
    };
    let counters = &shared.counters;
    // A request whose Exec was taken already, and since when it may have been set.
    let mut taken = None;
    loop {
        // To stop comes first, also where requests never cease.
        let limit = if taken.is_some() { Duration::ZERO } else { options.idle_interval };
        let stop = Any::Event(&shared.stop);
        let woken = if taken.is_some() {
            wait(&[stop], limit).map_err(|fault| station.fault(fault))?
        } else {
            wait(&[stop, Any::Event(station.exec())], limit)
                .map_err(|fault| station.fault(fault))?
        };
        match woken {
            Woken::Object(0) => return Ok(()),
            Woken::TimedOut if taken.is_none() => {
                count(&counters.idle);
                let began = Instant::now();
                if catch_unwind(AssertUnwindSafe(|| handler.idle())).is_err() {
                    count(&counters.panics);
                }
                // Who has asked meanwhile may have given up as well.
                let too_long = care.patience.is_some_and(|patience| patience <= began.elapsed());
                if too_long && station.exec_again()? {
                    taken = Some(began);
                }
                continue;
            }
            _ => {}
        }
        let took_it = Instant::now();
        let began = taken.take().unwrap_or(took_it);
        if !station.wanted(care)? {
            count(&counters.skipped);
            continue;
        }
        let data = station.take();
        let again = match catch_unwind(AssertUnwindSafe(|| handler.handle(data))) {
            Ok(Answer::Ready) => {
                let (published, again) = station.answer(care, began.elapsed())?;
                count(if published { &counters.answered } else { &counters.dropped });
                again
            }
            Ok(Answer::None) => {
                count(&counters.unanswered);
                false
            }
            Err(_) => {
                count(&counters.panics);
                false
            }
        };
        // Who asked has given up by then, and another may have set Exec since, and given up as well.
        let given_up = care.patience.and_then(|patience| began.checked_add(patience));
        let given_up = given_up.filter(|given_up| *given_up <= Instant::now());
        if again || (given_up.is_some() && station.exec_again()?) {
            taken = Some(given_up.map_or_else(Instant::now, |given_up| given_up.max(took_it)));
        }
    }
}
