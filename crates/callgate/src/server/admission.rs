//! Letting clients in: a thread of its own, so that neither a slow handler nor a slow handshake keeps anyone out.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use callgate_proto::Violation;
use callgate_proto::cell::Doorbell;
use callgate_proto::chain::Intake;
use callgate_proto::wire::{Answer, Ask, Hello, MESSAGE_MAX, Reason, Versions, Welcome};
use callgate_sys::collections::HashMap;
use callgate_sys::endpoint::Listener;
use callgate_sys::poller::Waker;
use callgate_sys::process::{self, Identity};
use callgate_sys::shm::{Control, MemFd, Rejected};
use callgate_sys::socket::{RecvError, SendError, Socket};
use callgate_sys::{clock, thread};

use super::connection::Connection;
use super::ledger::Full;
use super::shared::{Desk, Phase, Shared, lock};
use super::worker::Admitted;
use crate::options::Access;
use crate::region::{ControlView, control_size};

const LISTENER_TOKEN: u64 = u64::MAX;
const WAKER_TOKEN: u64 = u64::MAX - 1;
const RELEASE_TOKEN: u64 = u64::MAX - 2;
/// Tokens of the desks' pollers count up from here; those of clients count up from 0.
const DESK_TOKENS: u64 = 1 << 63;
/// Ended handshakes whose deadlines are kept, besides as many as there are unfinished ones.
const ENDED_MAX: usize = 64;
/// Connections accepted before other events get their turn.
const ACCEPTS_PER_EVENT: usize = 64;

/// A client that has connected and not yet said what it wants.
struct HalfOpen {
    socket: Socket,
    caller: Identity,
}

/// A client turned away, with the limit that it met.
struct Refusal(Reason, u64);

pub(super) struct Admission {
    shared: Arc<Shared>,
    listener: Listener,
    half_open: HashMap<u64, HalfOpen>,
    /// Deadlines of handshakes, in order; some have ended since.
    due: VecDeque<(u64, u64)>,
    next_token: u64,
    next_connection: AtomicU64,
    /// A descriptor kept back, to turn clients away with when there are no others.
    spare: Option<Waker>,
}

impl Admission {
    pub(super) fn new(shared: Arc<Shared>, listener: Listener) -> io::Result<Self> {
        let door = &shared.door;
        door.add(&listener, LISTENER_TOKEN, false)?;
        door.add(&shared.admission, WAKER_TOKEN, false)?;
        // Now, while they hold one descriptor each: the kernel looks through all of them when one poller joins another.
        for (token, desk) in (DESK_TOKENS..).zip(&shared.desks) {
            door.add(&desk.poller, token, true)?;
        }
        if let Some(watch) = shared.ledger.watch() {
            door.add(watch, RELEASE_TOKEN, false)?;
        }
        Ok(Self {
            shared,
            listener,
            half_open: HashMap::default(),
            due: VecDeque::new(),
            next_token: 0,
            next_connection: AtomicU64::new(0),
            spare: Some(Waker::new()?),
        })
    }

    /// Lets clients in until the server drains or stops. Then the name is free for the next server.
    pub(super) fn run(mut self) {
        let mut events = Vec::new();
        while self.shared.phase() == Phase::Serving {
            self.end_overdue();
            self.spare = self.spare.take().or_else(|| Waker::new().ok());
            events.clear();
            let due_ns = self.due.front().map(|(due_ns, _)| *due_ns);
            if let Err(error) = self.shared.door.wait(&mut events, due_ns) {
                tracing::error!(%error, "cannot wait for clients");
                thread::sleep(Duration::from_millis(10));
            }
            // First what others wait for: a worker that sleeps on its clients' words learns from here of the rest.
            for event in events.iter().filter(|event| event.token >= DESK_TOKENS) {
                let index = (event.token - DESK_TOKENS) as usize;
                if let Some(desk) = self.shared.desks.get(index) {
                    desk.ring();
                }
            }
            for event in &events {
                match event.token {
                    LISTENER_TOKEN => self.accept(),
                    WAKER_TOKEN => self.shared.admission.drain(),
                    RELEASE_TOKEN => self.shared.ledger.settle(),
                    token if token >= DESK_TOKENS => {}
                    token => self.greet(token),
                }
            }
        }
        for half_open in self.half_open.into_values() {
            refuse(&half_open.socket, Refusal(Reason::Stopping, 0));
        }
        turn_away(&self.listener);
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_EVENT {
            match self.listener.accept() {
                Ok(Some(socket)) => self.begin(socket),
                Ok(None) => return,
                Err(error) => {
                    self.turn_one_away(&error);
                    return;
                }
            }
        }
    }

    /// No descriptor is left: gives up the spare one for a moment, so that the next in line gets an answer.
    fn turn_one_away(&mut self, error: &io::Error) {
        tracing::warn!(%error, "cannot accept a client");
        drop(self.spare.take());
        if let Ok(Some(socket)) = self.listener.accept() {
            self.count_refusal();
            refuse(&socket, Refusal(Reason::Exhausted, 0));
        } else {
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn begin(&mut self, socket: Socket) {
        let caller = match socket.peer() {
            Ok(caller) => caller,
            Err(error) => {
                self.count_refusal();
                tracing::warn!(%error, "cannot tell who connects");
                refuse(&socket, Refusal(Reason::Exhausted, 0));
                return;
            }
        };
        if !self.may_use(caller) {
            self.count_refusal();
            tracing::warn!(pid = caller.pid, uid = caller.uid, "a user was refused");
            refuse(&socket, Refusal(Reason::Denied, 0));
            return;
        }
        if self.half_open.len() >= self.shared.half_open_max {
            self.make_room();
        }
        let token = self.next_token;
        self.next_token += 1;
        if let Err(error) = self.shared.door.add(&socket, token, false) {
            tracing::warn!(%error, "cannot poll a new client");
            refuse(&socket, Refusal(Reason::Exhausted, 0));
            return;
        }
        self.half_open.insert(token, HalfOpen { socket, caller });
        self.due.push_back((clock::deadline_ns(self.shared.limits.handshake), token));
        forget_ended(&mut self.due, self.half_open.len(), |token| {
            self.half_open.contains_key(&token)
        });
    }

    fn may_use(&self, caller: Identity) -> bool {
        match self.shared.access {
            // The overflow id stands for users that are unknown here, so it is nobody's proof.
            Access::Owner if caller.uid == process::overflow_uid() => false,
            Access::Owner => caller.uid == process::uid() || caller.uid == 0,
            // The socket's group and mode let only those through.
            Access::Group(_) | Access::Everyone => true,
        }
    }

    /// Too many handshakes are under way: the oldest of the user with the most of them gives way.
    fn make_room(&mut self) {
        let mut counts: HashMap<u32, usize> = HashMap::default();
        for half_open in self.half_open.values() {
            *counts.entry(half_open.caller.uid).or_default() += 1;
        }
        let Some((uid, _)) = counts.into_iter().max_by_key(|(_, count)| *count) else { return };
        let oldest = self
            .half_open
            .iter()
            .filter(|(_, half_open)| half_open.caller.uid == uid)
            .map(|(token, _)| *token)
            .min();
        if let Some(token) = oldest {
            self.drop_half_open(token, "too many unfinished handshakes");
        }
    }

    fn end_overdue(&mut self) {
        let now_ns = clock::now_ns();
        while let Some((due_ns, token)) = self.due.front().copied() {
            let ended = !self.half_open.contains_key(&token);
            if !ended && due_ns > now_ns {
                return;
            }
            self.due.pop_front();
            // If this thread was late itself, the client's hello may be there.
            self.greet(token);
            self.drop_half_open(token, "its handshake took too long");
        }
    }

    fn drop_half_open(&mut self, token: u64, why: &'static str) {
        if let Some(half_open) = self.take(token) {
            self.count_refusal();
            tracing::warn!(
                pid = half_open.caller.pid,
                uid = half_open.caller.uid,
                why,
                "a client was dropped"
            );
            refuse(&half_open.socket, Refusal(Reason::TooSlow, 0));
        }
    }

    /// Takes a handshake out of those that are not finished, and out of the poller: its socket is closed by another thread,
    /// perhaps much later where a peer has that thread wait, and until then would be found ready again and again.
    fn take(&mut self, token: u64) -> Option<HalfOpen> {
        let half_open = self.half_open.remove(&token)?;
        let _ = self.shared.door.remove(&half_open.socket);
        Some(half_open)
    }

    fn count_refusal(&self) {
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A client has said something, or hung up.
    fn greet(&mut self, token: u64) {
        let Some(half_open) = self.half_open.get(&token) else { return };
        let mut buffer = [0; MESSAGE_MAX];
        let received = match half_open.socket.recv(&mut buffer) {
            Ok(received) => received,
            Err(RecvError::Empty) => return,
            Err(RecvError::Closed) => {
                self.take(token);
                return;
            }
            Err(RecvError::Os(error)) => {
                tracing::warn!(%error, "cannot receive from a new client");
                if let Some(half_open) = self.take(token) {
                    self.count_refusal();
                    refuse(&half_open.socket, Refusal(Reason::Exhausted, 0));
                }
                return;
            }
        };
        let Some(HalfOpen { socket, caller }) = self.take(token) else { return };
        if received.lost_fd {
            self.count_refusal();
            tracing::warn!(pid = caller.pid, "no descriptor is left for a client's memory");
            return refuse(&socket, Refusal(Reason::Exhausted, 0));
        }
        let whole = !received.truncated && received.extra_fds == 0;
        let hello = match Hello::decode(&buffer[..received.len]) {
            Ok(hello) if whole => hello,
            Ok(_) => {
                let violation = Violation::new("hello.descriptors", 2, 1);
                return self.malformed(&socket, caller, violation);
            }
            Err(violation) => return self.malformed(&socket, caller, violation),
        };
        let Some(version) = hello.versions.common(Versions::OURS) else {
            self.count_refusal();
            tracing::warn!(pid = caller.pid, versions = ?hello.versions, "a client of another version");
            return refuse(&socket, Refusal(Reason::Version, 0));
        };
        match hello.ask {
            Some(Ask::Status) if received.fd.is_none() => {
                answer(&socket, &Answer::Status(self.shared.status()), Versions::OURS);
            }
            Some(Ask::Connect { cells, control, quota }) => {
                let wanted = Wanted { version, cells, control, quota, fd: received.fd };
                self.connect(socket, caller, wanted);
            }
            _ => self.malformed(&socket, caller, Violation::new("hello.kind", 0, 2)),
        }
    }

    fn malformed(&self, socket: &Socket, caller: Identity, violation: Violation) {
        self.shared.violations.fetch_add(1, Ordering::Relaxed);
        self.count_refusal();
        tracing::warn!(pid = caller.pid, uid = caller.uid, %violation, "a malformed handshake");
        refuse(socket, Refusal(Reason::Malformed, 0));
    }

    fn connect(&mut self, socket: Socket, caller: Identity, wanted: Wanted) {
        let size = control_size(wanted.cells);
        if wanted.control != size as u64 {
            let violation = Violation::new("hello.control", wanted.control, size as u64);
            return self.malformed(&socket, caller, violation);
        }
        let Some(fd) = wanted.fd else {
            let violation = Violation::new("hello.descriptors", 0, 1);
            return self.malformed(&socket, caller, violation);
        };
        let in_flight = self.shared.limits.in_flight;
        if wanted.cells - 1 > in_flight {
            self.count_refusal();
            return refuse(&socket, Refusal(Reason::InFlight, in_flight.into()));
        }
        if let Err(full) = self.shared.ledger.admit(caller.uid, self.shared.clients_max) {
            self.count_refusal();
            tracing::warn!(pid = caller.pid, uid = caller.uid, ?full, "a client was refused");
            let refusal = match full {
                Full::Clients(limit) => Refusal(Reason::Clients, limit.into()),
                Full::ClientsOfUser(limit) => Refusal(Reason::ClientsOfUser, limit.into()),
            };
            return refuse(&socket, refusal);
        }
        let control = match Control::accept(fd, size) {
            Ok(control) => ControlView::new(control, wanted.cells),
            Err(Rejected::Os { call, source }) => {
                self.shared.ledger.leave(caller.uid);
                self.count_refusal();
                tracing::warn!(call, error = %source, "a control region cannot be mapped");
                return refuse(&socket, Refusal(Reason::Exhausted, 0));
            }
            Err(rejected) => {
                self.shared.ledger.leave(caller.uid);
                tracing::warn!(%rejected, "a control region was rejected");
                let violation = Violation::new("hello.memory", size as u64, size as u64);
                return self.malformed(&socket, caller, violation);
            }
        };
        self.hand_over(socket, caller, control, wanted.version, wanted.quota);
    }

    /// Gives the connection to a worker, then welcomes the client.
    fn hand_over(
        &mut self,
        socket: Socket,
        caller: Identity,
        control: ControlView,
        version: u16,
        quota: u64,
    ) {
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let worker = self.shared.least_loaded();
        let desk = &self.shared.desks[worker];
        let intake = Intake::new(control.cells().len() as u32);
        // The worker sleeps or polls others: the client has to ring for its first call.
        let _ = intake.arm(control.cells(), control.detour(), Doorbell::Socket);
        let shared = self.shared.clone();
        let connection =
            Arc::new(Connection::new(id, control, socket, caller, quota, shared, worker));
        self.shared.register(&connection);
        let admitted = Admitted { connection: connection.clone(), intake };
        if let Err(reason) = leave_with(desk, admitted) {
            refuse(&connection.socket, Refusal(reason, 0));
            self.shared.unregister(&connection);
            return;
        }
        // From here on the worker ends the connection: its poller tells it when the client is gone.
        // It is registered: either we see here that the server stops, or who stops it sees the connection.
        if self.shared.phase() != Phase::Serving {
            refuse(&connection.socket, Refusal(Reason::Stopping, 0));
            connection.socket.shutdown();
            return;
        }
        let limits = &self.shared.limits;
        let welcome = Welcome {
            epoch: self.shared.epoch,
            request_max: limits.request_bytes,
            reply_max: limits.reply_bytes,
            quota: limits.bytes_per_client,
            in_flight: limits.in_flight,
        };
        let version = Versions { low: version, high: version };
        tracing::info!(pid = caller.pid, uid = caller.uid, "client connected");
        if !answer(&connection.socket, &Answer::Welcome(welcome), version) {
            // Gone already, or told; the worker's poller says so too.
            connection.socket.shutdown();
        }
    }
}

/// Forgets deadlines of handshakes that have ended, once they are most of those kept: behind one that lasts they would lie
/// as long as that one may.
fn forget_ended(due: &mut VecDeque<(u64, u64)>, open: usize, is_open: impl Fn(u64) -> bool) {
    if due.len() > 2 * open + ENDED_MAX {
        due.retain(|(_, token)| is_open(*token));
    }
}

/// What a client's hello asks for.
struct Wanted {
    version: u16,
    cells: u32,
    control: u64,
    quota: u64,
    fd: Option<MemFd>,
}

/// Puts a connection into a worker's poller and inbox, or into neither. The inbox is locked over both, so that a worker
/// that hears of the connection finds it.
fn leave_with(desk: &Desk, admitted: Admitted) -> Result<(), Reason> {
    let mut inbox = lock(&desk.inbox);
    let Some(inbox) = &mut *inbox else { return Err(Reason::Stopping) };
    let connection = &admitted.connection;
    if let Err(error) = desk.poller.add_for_good(&connection.socket, connection.id) {
        tracing::warn!(%error, "cannot poll a client");
        return Err(Reason::Exhausted);
    }
    inbox.push(admitted);
    Ok(())
}

/// Sends an answer; where the system lacks memory for it, a refusal that says so. False when the client did not get it.
fn answer(socket: &Socket, answer: &Answer, versions: Versions) -> bool {
    match socket.send(answer.encode(versions).as_bytes(), None) {
        Ok(()) => true,
        Err(SendError::Closed) => false,
        Err(error) => {
            tracing::warn!(%error, "cannot answer a client");
            refuse(socket, Refusal(Reason::Exhausted, 0));
            false
        }
    }
}

fn refuse(socket: &Socket, Refusal(reason, limit): Refusal) {
    let answer = Answer::Refusal { reason: Some(reason), limit };
    let _ = socket.send(answer.encode(Versions::OURS).as_bytes(), None);
}

/// Tells clients that wait to be let in that the server stops.
///
/// Not all of them: who is answered may be back before the next one is, and so for ever. The others see the listener end,
/// which says the same.
fn turn_away(listener: &Listener) {
    for _ in 0..ACCEPTS_PER_EVENT {
        let Ok(Some(socket)) = listener.accept() else { return };
        refuse(&socket, Refusal(Reason::Stopping, 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(windows))] // Only a few wait there at a time.
    #[test]
    fn those_who_wait_when_it_stops_keep_it_for_a_moment_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let [path, lock] = ["s", "s.lock"].map(|name| directory.path().join(name));
        let listener = Listener::bind(&path, &lock, 0o600, None).expect("bind");
        let connect = || callgate_sys::endpoint::connect(&path, None).expect("connect");
        let waiting: Vec<Socket> = (0..2 * ACCEPTS_PER_EVENT).map(|_| connect()).collect();
        turn_away(&listener);
        drop(listener);
        let mut told = 0;
        for socket in &waiting {
            let mut buffer = [0; MESSAGE_MAX];
            let soon_ns = clock::deadline_ns(Duration::from_secs(30));
            assert!(
                socket.wait_readable(Some(soon_ns)).expect("it waits"),
                "an answer, or the end"
            );
            match socket.recv(&mut buffer) {
                Ok(received) => {
                    let answer = Answer::decode(&buffer[..received.len]).expect("an answer").0;
                    let reason = Some(Reason::Stopping);
                    assert_eq!(answer, Answer::Refusal { reason, limit: 0 });
                    told += 1;
                }
                Err(error) => assert!(matches!(error, RecvError::Closed), "{error:?}"),
            }
        }
        assert_eq!(told, ACCEPTS_PER_EVENT);
    }

    #[test]
    fn a_silent_client_keeps_no_deadlines_of_others() {
        let (silent, mut due) = (0, VecDeque::from([(1_000_000, 0)]));
        for token in 1..10_000 {
            // One more comes, and has said all by the time that the next one comes.
            due.push_back((1_000_000 + token, token));
            forget_ended(&mut due, 2, |other| other == silent || other == token);
            assert!(due.len() <= 4 + ENDED_MAX, "{} deadlines", due.len());
            assert_eq!(due.front(), Some(&(1_000_000, silent)), "in order, and none is lost");
            assert_eq!(due.back(), Some(&(1_000_000 + token, token)));
        }
    }
}
