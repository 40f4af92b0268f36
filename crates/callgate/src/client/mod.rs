//! The calling side.
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | [`Client`]: which connection a call goes over, reconnecting, repeating |
//! | `handshake` | from a path to a connection |
//! | `lane` | the short way to the connection, for one caller at a time |
//! | `connection` | one connection: sending, memory, the end |
//! | `pending` | a call on its way, and its reply |
//! | `sending` | the ways that a call takes |
//! | `loan` | requests built in place |
//! | `watch` | the thread that notices death |

mod connection;
mod handshake;
mod lane;
mod loan;
mod pending;
mod sending;
mod watch;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callgate_sys::sync::{Mutex, MutexGuard};
use callgate_sys::{clock, process, thread};

pub(crate) use handshake::status;
pub use loan::Loan;
pub use pending::{Pending, Reply};

use crate::caller::Caller;
use crate::endpoint::{Endpoint, ToEndpoint};
use crate::error::{CallError, Started};
use crate::options::{CallOptions, ClientOptions, Retry, TimeLimit};
use connection::Shared;
use lane::{Lane, OnLane};
use sending::{check_caller, send};

/// How often a call is repeated at most; see [`Retry`].
const REPEATS_MAX: u32 = 3;
const NAP_FIRST: Duration = Duration::from_millis(1);
const NAP_MAX: Duration = Duration::from_millis(20);

/// Calls one server, from any number of threads at the same time.
///
/// Cloning is cheap, and clones share one connection, which is made anew by the next call when the server has gone away.
///
/// ```no_run
/// let client = callgate::Client::connect("digest")?;
/// let reply = client.call(b"some bytes")?;
/// println!("{} bytes came back", reply.len());
/// # Ok::<(), callgate::CallError>(())
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    options: ClientOptions,
    generation: u32,
    current: Mutex<Option<Shared>>,
    lane: Lane,
}

impl Inner {
    /// Forgets a connection that has ended, so that its memory goes as soon as no call needs it. False as for
    /// [`Lane::let_go`].
    fn let_go(&self, ended: &connection::Connection) -> bool {
        let mut current = self.current.lock();
        let same = current.as_ref().is_some_and(|kept| std::ptr::eq(&**kept, ended));
        let old = if same { current.take() } else { None };
        drop(current);
        drop(old);
        self.lane.let_go(ended)
    }
}

/// When a call must have ended.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) deadline_ns: Option<u64>,
    /// When it began; 0 where there is no deadline, since then nobody asks.
    pub(crate) began_ns: u64,
}

impl Limit {
    const NONE: Self = Self { deadline_ns: None, began_ns: 0 };

    /// Fails if a call that has not been sent need not be any more, as of `now_ns`.
    fn check(&self, now_ns: u64) -> Result<(), CallError> {
        match self.deadline_ns {
            Some(deadline_ns) if deadline_ns <= now_ns => Err(CallError::DeadlineExceeded {
                waited: Duration::from_nanos(now_ns.saturating_sub(self.began_ns)),
                started: Started::NotStarted,
            }),
            _ => Ok(()),
        }
    }

    /// The same, for what took no time since the call began.
    #[inline]
    pub(crate) fn check_at_start(&self) -> Result<(), CallError> {
        if self.deadline_ns.is_some_and(|deadline_ns| deadline_ns <= self.began_ns) {
            return self.check(self.began_ns);
        }
        Ok(())
    }

    /// The same, after what may have taken long.
    fn check_now(&self) -> Result<(), CallError> {
        if self.deadline_ns.is_none() {
            return Ok(());
        }
        self.check(clock::now_ns())
    }
}

impl Client {
    /// Connects with default options. Does not wait for a server to appear.
    ///
    /// # Errors
    /// As [`Client::connect_with`].
    pub fn connect(endpoint: impl ToEndpoint) -> Result<Self, CallError> {
        Self::connect_with(endpoint, ClientOptions::default())
    }

    /// Connects; waits up to [`ClientOptions::connect_timeout`] for the server to appear.
    ///
    /// Once a server was reached, blocks until it has answered, for at most [`ClientOptions::handshake`] (5 s) and
    /// [`ClientOptions::timeout`].
    ///
    /// # Errors
    /// [`CallError::NotRunning`], [`CallError::Refused`], [`CallError::UntrustedServer`], [`CallError::Version`],
    /// [`CallError::ProtocolViolation`], [`CallError::DeadlineExceeded`], [`CallError::Endpoint`], [`CallError::Option`],
    /// [`CallError::Os`].
    pub fn connect_with(
        endpoint: impl ToEndpoint,
        options: ClientOptions,
    ) -> Result<Self, CallError> {
        let client = Self::lazy(endpoint, options)?;
        let limit = time_limit(&CallOptions::new(), client.inner.options.timeout);
        client.connection(&limit)?;
        Ok(client)
    }

    /// Makes a client that connects with its first call.
    ///
    /// # Errors
    /// [`CallError::Endpoint`] when the name is unusable.
    pub fn lazy(endpoint: impl ToEndpoint, options: ClientOptions) -> Result<Self, CallError> {
        let endpoint = endpoint.to_endpoint()?;
        let generation = process::generation();
        let (current, lane) = (Mutex::new(None), Lane::default());
        Ok(Self { inner: Arc::new(Inner { endpoint, options, generation, current, lane }) })
    }

    /// Calls method 0 with the client's default time limit, and blocks until the call has ended.
    ///
    /// # Errors
    /// Every [`CallError`] but the ones about names: the call did not get a reply, and the error says what is known.
    #[inline]
    pub fn call(&self, request: &[u8]) -> Result<Reply, CallError> {
        self.call_with(CallOptions::new(), request)
    }

    /// Calls with options of its own, and blocks until the call has ended.
    ///
    /// # Errors
    /// As [`Client::call`].
    #[inline]
    pub fn call_with(&self, options: CallOptions, request: &[u8]) -> Result<Reply, CallError> {
        self.exchange(&options, request, &time_limit(&options, self.inner.options.timeout))
    }

    /// What becomes of a call that failed: an error, or another try.
    #[cold]
    fn failed(
        &self,
        options: &CallOptions,
        request: &[u8],
        limit: &Limit,
        error: CallError,
    ) -> Result<Reply, CallError> {
        match error {
            CallError::Disconnected { started } => self.repeat(options, request, limit, started),
            error => Err(error),
        }
    }

    fn repeat(
        &self,
        options: &CallOptions,
        request: &[u8],
        limit: &Limit,
        mut started: Started,
    ) -> Result<Reply, CallError> {
        // However a later try ends, an earlier one may have run.
        let mut may_have_run = false;
        for _ in 0..REPEATS_MAX {
            let may = match (self.inner.options.retry, started) {
                (Retry::Never, _) | (Retry::NotStarted, Started::MayHaveRun) => false,
                (Retry::NotStarted | Retry::Idempotent, Started::NotStarted) => true,
                (Retry::Idempotent, Started::MayHaveRun) => options.idempotent,
            };
            if !may {
                break;
            }
            may_have_run |= started == Started::MayHaveRun;
            match limit.check_now().and_then(|()| self.exchange_once(options, request, limit)) {
                Err(CallError::Disconnected { started: again }) => started = again,
                Err(error) if may_have_run => return Err(error.of_a_repeated_call()),
                ended => return ended,
            }
        }
        Err(CallError::Disconnected {
            started: if may_have_run { Started::MayHaveRun } else { started },
        })
    }

    /// Sends a call and returns at once; wait for its reply later, in any order among others.
    ///
    /// Blocks only to connect, and to make room for a request that is larger than those before.
    ///
    /// # Errors
    /// As [`Client::call`], but for what only a reply can tell.
    pub fn submit(&self, options: CallOptions, request: &[u8]) -> Result<Pending, CallError> {
        let limit = time_limit(&options, self.inner.options.timeout);
        let connection = self.connection(&limit)?;
        let sent = send(&connection, &options, request, &limit, false)?;
        Ok(Pending::new(connection, sent, limit.deadline_ns, limit.began_ns))
    }

    /// Borrows a request buffer of `len` bytes in shared memory, to be filled in place.
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub fn loan(&self, len: usize) -> Result<Loan, CallError> {
        let limit = time_limit(&CallOptions::new(), self.inner.options.timeout);
        let connection = self.connection(&limit)?;
        check_caller(&connection)?;
        Loan::new(connection, len, &limit)
    }

    /// Whether a connection stands at this moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        process::is_current(self.inner.generation)
            && self.current().as_ref().is_some_and(|connection| !connection.has_ended())
    }

    /// Who serves the present connection, as the kernel tells; `None` when there is none.
    #[must_use]
    pub fn server(&self) -> Option<Caller> {
        if !process::is_current(self.inner.generation) {
            return None;
        }
        self.current().as_ref().map(|connection| Caller::new(connection.server))
    }

    /// The endpoint that this client calls.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    #[inline]
    fn current(&self) -> MutexGuard<'_, Option<Shared>> {
        self.inner.current.lock()
    }

    /// Puts the present connection, or a new one, into the lane.
    #[cold]
    fn fill<'a>(&self, lane: &'a mut OnLane<'_>, limit: &Limit) -> Result<&'a Shared, CallError> {
        // Not kept for as long as connecting takes.
        lane.clear();
        let connection = self.connection_beside(limit)?;
        Ok(lane.keep(connection))
    }

    /// The present connection, or a new one.
    #[inline]
    fn connection(&self, limit: &Limit) -> Result<Shared, CallError> {
        if !process::is_current(self.inner.generation) {
            return Err(CallError::Forked);
        }
        let Some(mut lane) = self.inner.lane.try_enter() else {
            return self.connection_beside(limit);
        };
        if let Some(connection) = lane.as_ref().filter(|connection| !connection.has_ended()) {
            return Ok(connection.clone());
        }
        let connection = self.fill(&mut lane, limit)?.clone();
        // Looked for after it was kept; see `Lane::let_go`.
        if connection.has_ended() {
            lane.clear();
        }
        Ok(connection)
    }

    /// The same, while another caller has the lane.
    fn connection_beside(&self, limit: &Limit) -> Result<Shared, CallError> {
        if let Some(connection) = &*self.current()
            && !connection.has_ended()
        {
            return Ok(connection.clone());
        }
        self.reconnect(limit)
    }

    #[cold]
    fn reconnect(&self, limit: &Limit) -> Result<Shared, CallError> {
        let options = &self.inner.options;
        let appear_ns = clock::deadline_ns(options.connect_timeout);
        let until_ns = limit.deadline_ns.map_or(appear_ns, |deadline| deadline.min(appear_ns));
        let mut nap = NAP_FIRST;
        let fresh = loop {
            // Another thread may have connected meanwhile.
            if let Some(connection) = &*self.current()
                && !connection.has_ended()
            {
                return Ok(connection.clone());
            }
            match handshake::connect(&self.inner, limit.deadline_ns) {
                Err(CallError::NotRunning { .. }) if clock::now_ns() < until_ns => {
                    thread::sleep(nap);
                    nap = (nap * 2).min(NAP_MAX);
                }
                Err(CallError::NotRunning { .. })
                    if limit.deadline_ns.is_some_and(|deadline| until_ns == deadline)
                        && until_ns < appear_ns =>
                {
                    return Err(CallError::DeadlineExceeded {
                        waited: crate::wait::since(limit.began_ns),
                        started: Started::NotStarted,
                    });
                }
                fresh => break fresh?,
            }
        };
        let mut current = self.current();
        if let Some(connection) = &*current
            && !connection.has_ended()
        {
            return Ok(connection.clone());
        }
        let old = current.replace(fresh.clone());
        drop(current);
        drop(old);
        limit.check_now()?;
        Ok(fresh)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.inner.endpoint).finish_non_exhaustive()
    }
}

#[inline]
pub(crate) fn time_limit(options: &CallOptions, default: Option<Duration>) -> Limit {
    if options.limit.is_none() && default.is_none() {
        Limit::NONE
    } else {
        limited(options, default)
    }
}

fn limited(options: &CallOptions, default: Option<Duration>) -> Limit {
    let deadline = |began_ns: u64, timeout: Duration| {
        Some(began_ns.saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)))
    };
    match (options.limit, default) {
        (Some(TimeLimit::Timeout(timeout)), _) | (None, Some(timeout)) => {
            let began_ns = clock::now_ns();
            Limit { deadline_ns: deadline(began_ns, timeout), began_ns }
        }
        (Some(TimeLimit::Deadline(at)), _) => {
            let began_ns = clock::now_ns();
            let left = at.saturating_duration_since(Instant::now());
            Limit { deadline_ns: deadline(began_ns, left), began_ns }
        }
        (None, None) => Limit::NONE,
    }
}

thread_local! {
    /// Epoch of the server whose worker this thread is; 0 on all other threads.
    static SERVING: Cell<u64> = const { Cell::new(0) };
}

/// Marks the current thread as a worker of the server with this epoch.
pub(crate) fn mark_worker(epoch: u64) {
    SERVING.set(epoch);
}
