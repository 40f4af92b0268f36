//! Connecting: from a path to a connection, or to a server's status.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use callgate_proto::Violation;
use callgate_proto::layout::{CELLS_MAX, CELLS_MIN};
use callgate_proto::pace::{Policy, YieldBan};
use callgate_proto::wire::{Answer, Ask, Hello, MESSAGE_MAX, Reason, Status, Versions, Welcome};
use callgate_sys::clock;
use callgate_sys::endpoint as sys;
use callgate_sys::process::{self, PidFd};
use callgate_sys::shm::{Control, MemFd};
use callgate_sys::socket::{RecvError, SendError, Socket};

use super::Inner;
use super::connection::{Connection, Shared};
use crate::endpoint::Endpoint;
use crate::error::{CallError, Side, Started};
use crate::options::ServerIdentity;
use crate::region::{ControlView, control_size};

/// How long a client looks for the answer before it sleeps, in nanoseconds: some times what a server needs that is awake.
const LOOK_NS: u64 = 60_000;

/// Calls in flight that a client asks for which does not mind how many.
const IN_FLIGHT: u32 = 64;

/// Why there is no connection.
enum Failed {
    /// The server allows only so many calls in flight; the error says it.
    Allows(u64, CallError),
    Otherwise(CallError),
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Self::Otherwise(error)
    }
}

impl From<Failed> for CallError {
    fn from(failed: Failed) -> Self {
        let (Failed::Allows(_, error) | Failed::Otherwise(error)) = failed;
        error
    }
}

/// Connects once. Blocks until the server has answered, `deadline_ns` has passed, or the server is gone.
pub(super) fn connect(owner: &Arc<Inner>, deadline_ns: Option<u64>) -> Result<Shared, CallError> {
    let options = &owner.options;
    if options.handshake.is_zero() {
        let (option, allowed) = ("handshake", "more than zero");
        return Err(CallError::Option { option, given: 0, allowed });
    }
    let handshake_ns = clock::deadline_ns(options.handshake);
    let deadline_ns = Some(deadline_ns.map_or(handshake_ns, |deadline| deadline.min(handshake_ns)));
    let in_flight = options.in_flight.unwrap_or(IN_FLIGHT);
    let cells = in_flight.saturating_add(1);
    if !(CELLS_MIN..=CELLS_MAX).contains(&cells) {
        let given = in_flight.into();
        return Err(CallError::Option { option: "in_flight", given, allowed: "1 to 1023" });
    }
    match ask_for(owner, cells, deadline_ns) {
        // Asked again once: whoever allows fewer again is taken at that word.
        Err(Failed::Allows(fewer, _))
            if options.in_flight.is_none() && (1..in_flight.into()).contains(&fewer) =>
        {
            Ok(ask_for(owner, fewer as u32 + 1, deadline_ns)?)
        }
        asked => Ok(asked?),
    }
}

/// Asks for a connection with so many cells.
fn ask_for(owner: &Arc<Inner>, cells: u32, deadline_ns: Option<u64>) -> Result<Shared, Failed> {
    let options = &owner.options;
    let path = owner.endpoint.socket_path().map_err(CallError::from)?;
    let os = |what: &str| {
        let what = what.to_owned();
        move |source| CallError::Os { what, source }
    };
    let (socket, server) = reach(&path, options.server, deadline_ns)?;
    // While the server wakes up.
    let size = control_size(cells);
    let (control, fd) = Control::create(size).map_err(os("cannot make shared memory"))?;
    let began_ns = clock::now_ns();
    let ask = Ask::Connect { cells, control: size as u64, quota: options.bytes };
    say_hello(&socket, ask, Some(&fd), &path)?;
    // While the server is at work. What is wrong here matters only if it welcomes us.
    drop(fd);
    let server_process = PidFd::peer_of(&socket);
    let watched = super::watch::prepare();
    let looks = options.wait != Policy::LowestCpu && !process::is_realtime();
    let ban = watched.as_ref().ok().copied().filter(|_| looks);
    let welcome = match hear_answer(&socket, &path, ask, ban, began_ns, deadline_ns)? {
        Answer::Welcome(welcome) => welcome,
        answer => return Err(unexpected(answer).into()),
    };
    let server_process = server_process.map_err(|source| match PidFd::says_dead(&source) {
        // After it was reached.
        true => not_running(&path),
        false => os("cannot watch the server's process")(source),
    })?;
    watched.map_err(os("cannot watch the connection"))?;
    check_welcome(&welcome, cells)?;
    let control = ControlView::new(control, cells);
    tracing::info!(path = %path.display(), pid = server.pid, "connected to server");
    let connection = Arc::new_cyclic(|me| {
        let (me, owner) = (me.clone(), Arc::downgrade(owner));
        let options = options.clone();
        Connection::new(me, owner, control, socket, server_process, server, welcome, path, options)
    });
    super::watch::watch(&connection).map_err(os("cannot watch the connection"))?;
    Ok(connection)
}

/// Asks a server how it does, over a connection of its own.
pub(crate) fn status(
    endpoint: &Endpoint,
    deadline_ns: Option<u64>,
) -> Result<(Status, process::Identity), CallError> {
    let path = endpoint.socket_path()?;
    let (socket, server) = reach(&path, ServerIdentity::SameUserOrRoot, deadline_ns)?;
    let began_ns = clock::now_ns();
    let ask = Ask::Status;
    say_hello(&socket, ask, None, &path)?;
    match hear_answer(&socket, &path, ask, None, began_ns, deadline_ns)? {
        Answer::Status(status) => Ok((status, server)),
        answer => Err(unexpected(answer)),
    }
}

/// Opens the socket, and makes sure that a trusted user serves it.
fn reach(
    path: &Path,
    trusted: ServerIdentity,
    deadline_ns: Option<u64>,
) -> Result<(Socket, process::Identity), CallError> {
    if cfg!(windows) && matches!(trusted, ServerIdentity::Uid(uid) if uid != 0) {
        let reason = "no user has a number on Windows, other than 0, the system's account".into();
        return Err(CallError::Refused { path: path.into(), reason });
    }
    let began_ns = clock::now_ns();
    let socket = sys::connect(path, deadline_ns).map_err(|error| match error {
        sys::ConnectError::NotRunning { path } => CallError::NotRunning { path },
        sys::ConnectError::TimedOut { .. } => CallError::DeadlineExceeded {
            waited: crate::wait::since(began_ns),
            started: Started::NotStarted,
        },
        sys::ConnectError::Denied { path } => {
            CallError::Refused { path, reason: "no permission to use the socket".into() }
        }
        sys::ConnectError::Os { call, path, source } => {
            CallError::Os { what: format!("{call} failed for {}", path.display()), source }
        }
        other => CallError::Refused { path: path.into(), reason: other.to_string() },
    })?;
    let server = socket.peer().map_err(|source| match PidFd::says_dead(&source) {
        true => not_running(path),
        false => CallError::Os { what: "cannot tell who serves".into(), source },
    })?;
    // The overflow id stands for users that are unknown here, so it is nobody's proof.
    let unknown = server.uid == process::overflow_uid();
    let fine = match trusted {
        ServerIdentity::Anyone => true,
        _ if unknown => false,
        ServerIdentity::SameUserOrRoot => server.uid == process::uid() || server.uid == 0,
        ServerIdentity::Uid(uid) => server.uid == uid,
    };
    if fine {
        Ok((socket, server))
    } else {
        Err(CallError::UntrustedServer { path: path.into(), uid: server.uid })
    }
}

/// Sends a hello.
fn say_hello(socket: &Socket, ask: Ask, fd: Option<&MemFd>, path: &Path) -> Result<(), CallError> {
    let hello = Hello { versions: Versions::OURS, ask: Some(ask) }.encode();
    let sent = match fd {
        Some(fd) => socket.send_memory(hello.as_bytes(), fd),
        None => socket.send(hello.as_bytes(), None),
    };
    match sent {
        Ok(()) => Ok(()),
        // A server that turns a client away answers before it reads: its answer may be there already.
        Err(SendError::Closed) => Ok(()),
        Err(SendError::Full | SendError::TooManyDescriptors) => {
            let reason = "too many descriptors of this user are under way".into();
            Err(CallError::Refused { path: path.into(), reason })
        }
        Err(SendError::Os(source)) => {
            Err(CallError::Os { what: "cannot send to the server".into(), source })
        }
    }
}

/// Waits for the answer to a hello. With `ban` it looks for it a while before it sleeps, and lets others have the CPU in
/// between: an answer takes less time than falling asleep and waking up.
fn hear_answer(
    socket: &Socket,
    path: &Path,
    ask: Ask,
    ban: Option<&YieldBan>,
    began_ns: u64,
    deadline_ns: Option<u64>,
) -> Result<Answer, Failed> {
    let mut buffer = [0; MESSAGE_MAX];
    let mut until_ns = began_ns.saturating_add(LOOK_NS);
    loop {
        let received = match socket.recv(&mut buffer) {
            Ok(received) => received,
            Err(RecvError::Empty) => {
                let now_ns = clock::now_ns();
                match ban.filter(|ban| now_ns < until_ns && !ban.holds(now_ns)) {
                    Some(ban) => {
                        process::yield_now();
                        let after_ns = clock::now_ns();
                        ban.yielded(after_ns - now_ns, after_ns, 1);
                    }
                    None => {
                        until_ns = 0;
                        wait_for_answer(socket, began_ns, deadline_ns)?;
                    }
                }
                continue;
            }
            Err(RecvError::Closed) => return Err(not_running(path).into()),
            Err(RecvError::Os(source)) => {
                let what = "cannot receive from the server".into();
                return Err(CallError::Os { what, source }.into());
            }
        };
        let violated = |violation| CallError::ProtocolViolation { guilty: Side::Server, violation };
        if received.fd.is_some() || received.extra_fds > 0 {
            return Err(violated(Violation::new("answer.descriptors", 1, 0)).into());
        }
        let (answer, versions) = Answer::decode(&buffer[..received.len]).map_err(violated)?;
        // An answer of a version that we do not speak may be longer than ours.
        if received.truncated && versions.common(Versions::OURS).is_some() {
            let size = MESSAGE_MAX as u64;
            return Err(violated(Violation::new("answer.size", size + 1, size)).into());
        }
        if let Answer::Refusal { reason, limit } = answer {
            let error = refused(ask, reason, limit, versions, path.into());
            return Err(match reason {
                Some(Reason::InFlight) => Failed::Allows(limit, error),
                _ => Failed::Otherwise(error),
            });
        }
        return Ok(answer);
    }
}

/// Sleeps until the server has answered or is gone.
fn wait_for_answer(
    socket: &Socket,
    began_ns: u64,
    deadline_ns: Option<u64>,
) -> Result<(), CallError> {
    let wait = socket.wait_readable(deadline_ns);
    if wait.map_err(|source| CallError::Os { what: "cannot wait".into(), source })? {
        return Ok(());
    }
    let waited = crate::wait::since(began_ns);
    Err(CallError::DeadlineExceeded { waited, started: Started::NotStarted })
}

fn not_running(path: &Path) -> CallError {
    CallError::NotRunning { path: path.into() }
}

fn unexpected(answer: Answer) -> CallError {
    let found = match answer {
        Answer::Welcome(_) => 0x81,
        Answer::Refusal { .. } => 0x82,
        Answer::Status(_) => 0x83,
    };
    let violation = Violation::new("answer.kind", found, 0);
    CallError::ProtocolViolation { guilty: Side::Server, violation }
}

/// A server grants what was asked; anything else is a violation.
fn check_welcome(welcome: &Welcome, cells: u32) -> Result<(), CallError> {
    if welcome.in_flight >= cells - 1 {
        return Ok(());
    }
    let violation =
        Violation::new("answer.in_flight", welcome.in_flight.into(), (cells - 1).into());
    Err(CallError::ProtocolViolation { guilty: Side::Server, violation })
}

fn refused(
    ask: Ask,
    reason: Option<Reason>,
    limit: u64,
    theirs: Versions,
    path: PathBuf,
) -> CallError {
    let reason = match reason {
        Some(Reason::Version) => {
            let ours = (Versions::OURS.low, Versions::OURS.high);
            return CallError::Version { ours, theirs: (theirs.low, theirs.high) };
        }
        // Its name is free in a moment, or taken by the next server already.
        Some(Reason::Stopping) => return CallError::NotRunning { path },
        Some(Reason::TooSlow) => "the handshake took too long".into(),
        Some(Reason::Denied) => "this user may not use it".into(),
        Some(Reason::Clients) => format!("it has {limit} clients already, which is its limit"),
        Some(Reason::ClientsOfUser) => {
            format!("this user has {limit} clients there already, which is the limit")
        }
        Some(Reason::InFlight) => {
            let asked = match ask {
                Ask::Connect { cells, .. } => cells - 1,
                Ask::Status => 0,
            };
            format!(
                "it allows at most {limit} calls in flight, and this client asks for {asked}; \
                 lower ClientOptions::in_flight"
            )
        }
        Some(Reason::Malformed) => "it does not understand this client's handshake".into(),
        Some(Reason::Exhausted) => "it lacks memory or file descriptors".into(),
        None => "for a reason that this version does not know".into(),
    };
    CallError::Refused { path, reason }
}
