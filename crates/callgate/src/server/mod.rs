//! The answering side.
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | [`Server`]: beginning, draining, stopping; [`Handler`] |
//! | `admission` | handshakes, limits, refusals |
//! | `worker` | taking calls, running the handler; `rest` in it: looking, yielding, sleeping |
//! | `connection` | answering, reply memory |
//! | `call` | [`Call`], [`ReplyLoan`] |
//! | `ledger` | what each user uses |
//! | `holds` | what is left, elsewhere, of memory that was handed out |
//! | `shared` | what the threads of a server share |

mod admission;
mod call;
mod connection;
mod holds;
mod ledger;
mod shared;
mod worker;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use callgate_sys::endpoint::{BindError, Listener};
use callgate_sys::poller::{Poller, Waker};
use callgate_sys::sync::Mutex;
use callgate_sys::{clock, process, thread};

pub use call::{Call, Deferred, ReplyLoan};

use crate::endpoint::{Endpoint, ToEndpoint};
use crate::error::ServeError;
use crate::options::{Access, Limits, ServerOptions};
use crate::status::ServerStatus;
use admission::Admission;
use shared::{Desk, Phase, Shared, lock};
use worker::Worker;

const WORKERS_MAX: usize = 256;
/// Most unfinished handshakes at a time.
const HALF_OPEN_MAX: usize = 1_024;
/// Descriptors that a server leaves to the rest of its process.
const DESCRIPTORS_KEPT: u64 = 64;

/// Answers calls. Closures `Fn(Call<'_>)` are handlers too.
///
/// It runs on the server's worker threads. A connection is served by one worker, so a handler that takes long keeps the
/// other clients of that worker waiting: defer such calls ([`Call::defer`]), or use more workers. While one never
/// returns, calls of that worker's clients end at their deadlines, or when the server stops. A panic ends one call with a
/// failure for its caller, nothing else; where panics abort, it ends the process, and callers get `Disconnected`.
pub trait Handler: Send + Sync + 'static {
    /// Answers one call, or takes it away to answer it later.
    fn handle(&self, call: Call<'_>);

    /// Is called at [`ServerOptions::idle_interval`], between calls, on the first worker.
    fn idle(&self) {}
}

impl<F: Fn(Call<'_>) + Send + Sync + 'static> Handler for F {
    #[inline]
    fn handle(&self, call: Call<'_>) {
        self(call);
    }
}

/// A server that runs in the background of its program, from [`Server::serve`] until it is stopped or dropped.
///
/// ```no_run
/// let server = callgate::Server::serve("echo", |call: callgate::Call<'_>| {
///     let bytes = call.request().to_vec();
///     let _ = call.reply(&bytes);
/// })?;
/// server.wait();
/// # Ok::<(), callgate::ServeError>(())
/// ```
///
/// Dropping it stops it and waits for handlers that are running.
pub struct Server {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    path: PathBuf,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    /// The thread that asks what is left of reply memory. The server's end does not wait for it where the kernel does.
    asking: Mutex<Option<thread::JoinHandle<()>>>,
    generation: u32,
}

impl Server {
    /// Serves with default options.
    ///
    /// # Errors
    /// As [`Server::serve_with`].
    pub fn serve(endpoint: impl ToEndpoint, handler: impl Handler) -> Result<Self, ServeError> {
        Self::serve_with(endpoint, ServerOptions::default(), handler)
    }

    /// Takes the name and begins to serve it in background threads.
    ///
    /// Raises this process's limit of open descriptors to what the system allows. A name that a dead server left is
    /// taken over.
    ///
    /// # Errors
    /// [`ServeError::AddressInUse`] when a live server has the name, [`ServeError::Endpoint`], [`ServeError::Option`],
    /// [`ServeError::Os`]. Nothing is left running, and the name is not taken.
    pub fn serve_with(
        endpoint: impl ToEndpoint,
        mut options: ServerOptions,
        handler: impl Handler,
    ) -> Result<Self, ServeError> {
        check(&options)?;
        let limits = &mut options.limits;
        limits.request_bytes = limits.request_bytes.min(limits.bytes_per_client);
        limits.reply_bytes = limits.reply_bytes.min(limits.bytes_per_client);
        let endpoint = endpoint.to_endpoint()?;
        let (path, lock_path) = endpoint.server_paths()?;
        let os = |what: &str| {
            let (path, what) = (path.clone(), what.to_owned());
            move |source: io::Error| ServeError::Os { path, what, source: Some(source) }
        };
        let (mode, group) = match options.access {
            Access::Owner => (0o600, None),
            Access::Group(group) => (0o660, Some(group)),
            Access::Everyone => (0o666, None),
        };
        let Possible { clients: clients_max, half_open: half_open_max, holds: holds_max } =
            Possible::within(&options.limits);
        let desks = (0..options.workers).map(|_| Desk::new()).collect::<io::Result<Vec<_>>>();
        let desks = desks.map_err(os("cannot make the workers' pollers"))?;
        let waker = Waker::new().map_err(os("cannot make a waker"))?;
        let listener = Listener::bind(&path, &lock_path, mode, group)
            .map_err(|error| bind_error(error, &path))?;
        let door = Poller::new().map_err(os("cannot make a poller"))?;
        let shared = Arc::new(Shared::new(
            door,
            process::fresh_number(),
            options.limits,
            clients_max,
            half_open_max,
            holds_max,
            options.access,
            options.wait,
            options.idle_interval,
            desks,
            waker,
        ));
        worker::warm_up();
        let admission =
            Admission::new(shared.clone(), listener).map_err(os("cannot poll the listener"))?;
        let server = Self {
            shared,
            endpoint,
            path: path.clone(),
            threads: Mutex::default(),
            asking: Mutex::default(),
            generation: process::generation(),
        };
        server.start(admission, Arc::new(handler)).map_err(os("cannot start a thread"))?;
        tracing::info!(path = %path.display(), "serving");
        Ok(server)
    }

    fn start<H: Handler>(&self, admission: Admission, handler: Arc<H>) -> io::Result<()> {
        for index in 0..self.shared.desks.len() {
            let worker = Worker::new(self.shared.clone(), handler.clone(), index);
            self.spawn(format!("callgate-work{index}"), move || worker.run())?;
        }
        let holds = self.shared.ledger.holds.clone();
        let asking = thread::Builder::new().name("callgate-hold".into());
        *lock(&self.asking) = Some(asking.spawn(move || holds.run())?);
        let shared = self.shared.clone();
        self.spawn("callgate-unmap".into(), move || {
            shared.unmap_buried();
            false
        })?;
        self.spawn("callgate-admit".into(), move || {
            admission.run();
            false
        })
    }

    fn spawn(&self, name: String, run: impl FnOnce() -> bool + Send + 'static) -> io::Result<()> {
        struct Ends(Arc<Shared>, bool);
        impl Drop for Ends {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    // A bug of ours: better no server than one that keeps its clients waiting.
                    tracing::error!("a server thread panicked; the server stops");
                    self.0.advance(Phase::Stopping);
                    self.0.close_connections();
                }
                self.0.thread_ends(self.1);
            }
        }
        self.shared.thread_begins();
        let ends = Ends(self.shared.clone(), false);
        let body = move || {
            let mut ends = ends;
            ends.1 = run();
        };
        // If the thread cannot be made, the closure is dropped, and with it `ends`.
        let thread = thread::Builder::new().name(name).spawn(body)?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// The endpoint that is served.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the server does at this moment.
    #[must_use]
    pub fn status(&self) -> ServerStatus {
        ServerStatus::new(process::pid(), self.shared.status())
    }

    /// Stops now: the name is freed, connections end, and calls that are not answered yet end for their callers with
    /// `Disconnected`. Handlers that are running run on. Returns without waiting for any of it: the name is free a
    /// moment later, also where a handler never returns; [`Server::wait`] waits for handlers, too.
    pub fn stop(&self) {
        if process::is_current(self.generation) {
            self.shared.advance(Phase::Stopping);
            self.shared.close_connections();
        }
    }

    /// Stops in good order: the name is freed, no new call is taken, and calls that were taken finish, for at most
    /// `timeout`; then the server stops. Returns whether all of them finished.
    ///
    /// Calls that were not taken end with `Disconnected`, saying that they were not started.
    #[must_use]
    pub fn drain(&self, timeout: Duration) -> bool {
        if !process::is_current(self.generation) {
            return false;
        }
        let until_ns = clock::deadline_ns(timeout);
        self.shared.drain_until_ns.store(until_ns, Ordering::Relaxed);
        self.shared.advance(Phase::Draining);
        // Workers end by themselves at the deadline, unless a handler does not return.
        let grace_ns = until_ns.saturating_add(20_000_000);
        let finished = self.shared.wait_for_threads(Some(grace_ns));
        self.stop();
        finished
    }

    /// Blocks until the server has stopped and its handlers have returned.
    pub fn wait(&self) {
        if process::is_current(self.generation) {
            self.shared.wait_for_threads(None);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !process::is_current(self.generation) {
            // In a forked child there are no threads to wait for: forget their handles.
            std::mem::forget(std::mem::take(&mut *lock(&self.threads)));
            std::mem::forget(lock(&self.asking).take());
            return;
        }
        self.stop();
        let here = thread::current().id();
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // A handler may own the server: its thread cannot wait for itself.
            if thread.thread().id() != here {
                let _ = thread.join();
            }
        }
        let asking = lock(&self.asking).take();
        if let Some(asking) = asking.filter(|_| self.shared.ledger.holds.ends_soon()) {
            let _ = asking.join();
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("path", &self.path).finish_non_exhaustive()
    }
}

fn check(options: &ServerOptions) -> Result<(), ServeError> {
    let wrong = |option, given, allowed| Err(ServeError::Option { option, given, allowed });
    let limits = &options.limits;
    if !(1..=WORKERS_MAX).contains(&options.workers) {
        return wrong("workers", options.workers as u64, "1 to 256");
    }
    if !(1..=1_023).contains(&limits.in_flight) {
        return wrong("limits.in_flight", limits.in_flight.into(), "1 to 1023");
    }
    for (option, given) in [
        ("limits.clients", limits.clients.into()),
        ("limits.clients_per_uid", limits.clients_per_uid.into()),
        ("limits.bytes_per_client", limits.bytes_per_client),
        ("limits.request_bytes", limits.request_bytes),
    ] {
        if given == 0 {
            return wrong(option, given, "1 and more");
        }
    }
    if limits.handshake.is_zero() {
        return wrong("limits.handshake", 0, "more than zero");
    }
    if options.idle_interval == Some(Duration::ZERO) {
        return wrong("idle_interval", 0, "more than zero");
    }
    Ok(())
}

/// What this process's descriptors allow: each client takes one, each unfinished handshake, and each region of reply memory
/// by which the server holds it.
struct Possible {
    clients: u32,
    half_open: usize,
    holds: u32,
}

impl Possible {
    /// Raises the limit of descriptors, and says so when it is not enough.
    fn within(limits: &Limits) -> Self {
        let Ok((soft, hard)) = process::raise_nofile() else {
            return Self { clients: limits.clients, half_open: HALF_OPEN_MAX, holds: u32::MAX };
        };
        let free = soft.saturating_sub(DESCRIPTORS_KEPT).max(3);
        let eighth = usize::try_from(free / 8).unwrap_or(usize::MAX);
        let half_open = eighth.clamp(1, HALF_OPEN_MAX);
        let rest = free - half_open as u64;
        let possible = u32::try_from(rest - (free / 8).max(1)).unwrap_or(u32::MAX).max(1);
        if possible < limits.clients {
            tracing::warn!(
                possible,
                wanted = limits.clients,
                hard,
                "RLIMIT_NOFILE allows fewer clients than the server's limit; raise the hard limit to have more"
            );
        }
        let clients = possible.min(limits.clients);
        let holds = u32::try_from(rest.saturating_sub(clients.into())).unwrap_or(u32::MAX).max(1);
        Self { clients, half_open, holds }
    }
}

fn bind_error(error: BindError, path: &Path) -> ServeError {
    let path = path.to_owned();
    match error {
        BindError::InUse { pid, .. } => ServeError::AddressInUse { path, pid },
        BindError::Os { call, path: at, source } => {
            let what = format!("{call} failed for {}", at.display());
            ServeError::Os { path, what, source: Some(source) }
        }
        other => ServeError::Os { path, what: other.to_string(), source: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Memory whose unmapping says who does it, and lasts until it is told.
    struct Slow(Sender<Option<String>>, Receiver<()>);

    impl Drop for Slow {
        fn drop(&mut self) {
            let name = std::thread::current().name().map(str::to_owned);
            let _ = self.0.send(name);
            let _ = self.1.recv();
        }
    }

    #[test]
    fn clients_are_let_in_while_memory_is_unmapped() {
        let directory = tempfile::tempdir().expect("a directory");
        let name = directory.path().join("s").to_str().expect("utf-8").to_owned();
        let server = Server::serve(name.clone(), |call: Call<'_>| drop(call.reply(b"x")));
        let server = server.expect("serve");
        let (begins, has_begun) = channel();
        let (end, ended) = channel();
        server.shared.bury(1 << 20, Slow(begins, ended));
        let thread = has_begun.recv().expect("somebody unmaps it");
        assert_eq!(thread.as_deref(), Some("callgate-unmap"));
        let client = crate::Client::connect(name).expect("let in");
        assert_eq!(client.call(b"x").expect("a reply").to_vec(), b"x");
        end.send(()).expect("it still unmaps");
    }
}
