//! One state of the world: what lies in shared memory, what each side keeps, where each thread is, and what is known of
//! each call from outside.

mod conn;

use callgate_proto::body::RequestHead;
use callgate_proto::cell::{Ring, Turn};
use callgate_proto::chain::Ticket;

pub use conn::{Conn, End, Message, Placed, Region};

use crate::config::{Config, Kind};

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// With the reply.
    Reply,
    /// The server says that it found the call given up.
    Cancelled,
    /// The server had no memory for the reply.
    NoReplyMemory,
    /// The connection ended, and the call was not started.
    NotStarted,
    /// The connection ended, and the call may have run.
    MayHaveRun,
    /// Its caller gave it up.
    GivenUp,
    /// Nobody served.
    NotRunning,
    /// Too many calls were in flight.
    TooMany,
    /// No memory for the request.
    NoMemory,
}

impl Outcome {
    /// Whether it says that the call was not started.
    pub fn says_not_sent(self) -> bool {
        matches!(
            self,
            Outcome::NotStarted | Outcome::NotRunning | Outcome::TooMany | Outcome::NoMemory
        )
    }
}

/// What is known of a call, from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// How often its handler ran, on each connection.
    pub runs: [u8; 3],
    /// Connections on which its caller was told that it was not started there.
    pub denied: u8,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

/// A call that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sent {
    /// Which one.
    pub call: u8,
    /// Its turn.
    pub turn: u32,
    /// Its cell.
    pub cell: u16,
    /// The cell that it named.
    pub next: u16,
    /// The region that its request lies in, if that is the connection's to keep.
    pub block: Option<u8>,
    /// Whether its caller has the right to the spare region.
    pub on_spare: bool,
}

/// A drawn call, as plain values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Drawn {
    /// The call.
    pub sent: Sent,
    /// Where the server waits for it, and what to tell it.
    pub detour: Option<(u16, u64)>,
}

/// How a server is to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rings {
    /// Not at all.
    No,
    /// Over the socket.
    Socket,
    /// By the word of a cell.
    Word(u16),
}

impl From<Ring> for Rings {
    fn from(ring: Ring) -> Rings {
        match ring {
            Ring::No => Rings::No,
            Ring::Socket => Rings::Socket,
            Ring::Word(cell) => Rings::Word(cell),
        }
    }
}

/// Where a caller is. The number is its connection's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// Between calls.
    Idle,
    /// About to find room for its request.
    Place(u8),
    /// Has made a region; whether it has waited for the server to read its socket.
    Room(u8, bool),
    /// About to draw.
    Draw(u8, Option<u8>),
    /// Holds the lock, about to publish.
    Publish(u8, Drawn),
    /// Holds the lock, about to say where the call stands.
    Lead(u8, Drawn, Rings),
    /// Holds the lock, about to take the duty to ring over.
    Disarm(u8, Drawn, Rings),
    /// Holds the lock, has published.
    Unlock(u8, Sent, Rings),
    /// Has written its request into this region, the spare one; about to begin at the lent place.
    Begin(u8, u8),
    /// Begun at the lent place, about to publish; the region that its request lies in.
    Lone(u8, u64, Option<u8>),
    /// About to ring.
    Ring(u8, Sent, Rings),
    /// Looks for its reply.
    Wait(u8, Sent),
    /// Announced as a sleeper, and saw no end.
    Arming(u8, Sent),
    /// Has set ASLEEP; about to sleep on that value.
    Falling(u8, Sent, u32),
    /// Sleeps.
    Asleep(u8, Sent),
    /// Saw that the connection has ended.
    Gone(u8, Sent),
    /// Has set CANCEL.
    GaveUp(u8, Sent),
    /// Saw its reply.
    Read(u8, Sent),
    /// Reads a far reply, in this region of the server's.
    Hold(u8, Sent, u8),
    /// Has consumed its reply; far or not.
    Finish(u8, Sent, bool, Outcome),
}

impl At {
    /// The connection that it uses.
    pub fn conn(self) -> Option<u8> {
        match self {
            At::Idle => None,
            At::Place(conn)
            | At::Room(conn, _)
            | At::Draw(conn, _)
            | At::Publish(conn, _)
            | At::Lead(conn, ..)
            | At::Disarm(conn, ..)
            | At::Unlock(conn, ..)
            | At::Begin(conn, _)
            | At::Lone(conn, ..)
            | At::Ring(conn, ..)
            | At::Wait(conn, _)
            | At::Arming(conn, _)
            | At::Falling(conn, ..)
            | At::Asleep(conn, _)
            | At::Gone(conn, _)
            | At::GaveUp(conn, _)
            | At::Read(conn, _)
            | At::Hold(conn, ..)
            | At::Finish(conn, ..) => Some(conn),
        }
    }
}

/// A thread that calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The call of its script that it is at.
    pub next: u8,
    /// How often that was repeated.
    pub repeats: u8,
    /// Whether an earlier try of it may have run.
    pub may_have_run: bool,
    /// Where it is.
    pub at: At,
}

/// A call as the server has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Job {
    /// Which one, as its head says.
    pub call: u8,
    /// Its connection.
    pub conn: u8,
    /// Its turn.
    pub turn: u32,
    /// Its cell.
    pub cell: u16,
    /// The region that its request lies in.
    pub region: Option<u8>,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// A short reply.
    Near,
    /// A reply in this region.
    Far(u8),
    /// The call was found given up.
    Cancelled,
    /// There is no memory for the reply.
    NoMemory,
}

/// Where the worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkerAt {
    /// Polls.
    Poll,
    /// Found nothing; about to arm.
    Dry,
    /// Has armed its cell, in this way; about to look for a detour.
    Armed(bool, u32),
    /// Has looked; about to look at its poller and sleep.
    Sleepy(bool, u32),
    /// Sleeps on this cell's word.
    OnWord(u16),
    /// Sleeps in its poller.
    InPoller,
    /// Has taken a call; about to say so.
    Take(Job),
    /// Has said so; about to look whether the connection ends.
    Check(Job),
    /// About to run the handler.
    Run(Job),
    /// The handler ran before the turn was stored (a mutant only).
    LateTake(Job),
    /// The handler answers.
    Answer(Job),
    /// About to publish the answer.
    Publish(Job, Answer),
    /// About to wake the caller; whether the answer was short.
    Wake(u8, u16, bool),
    /// Has given a short answer; about to free what the cell's last far reply took.
    Reuse(u8, u16),
    /// Takes no more calls.
    Drain,
    /// Has ended.
    Ended,
}

/// Where a thread that answers a deferred call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobAt {
    /// Has the call.
    Waiting,
    /// About to unmark the cell.
    Undefer(Answer),
    /// About to publish.
    Publish(Answer),
    /// About to wake the caller.
    Wake,
    /// About to say that it is done.
    Done,
}

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It serves.
    Serving,
    /// It takes no more calls.
    Draining,
    /// It stops; how far that is.
    Stopping(u8),
    /// It has ended.
    Ended,
    /// It was killed.
    Killed,
}

/// The server that lives, or did last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Counts from 1.
    pub life: u8,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its worker.
    pub at: WorkerAt,
    /// Its bell, or its waker, was rung.
    pub rung: bool,
    /// Calls that other threads answer.
    pub jobs: Vec<(Job, JobAt)>,
}

/// A state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The threads that call, all of one client.
    pub callers: Vec<Caller>,
    /// Whether that was killed.
    pub client_dead: bool,
    /// The connection that it uses.
    pub current: Option<u8>,
    /// All connections.
    pub conns: Vec<Conn>,
    /// The server.
    pub server: Server,
    /// What is known of the calls.
    pub ghosts: Vec<Ghost>,
    /// What went wrong.
    pub flaw: Option<&'static str>,
}

impl Drawn {
    /// The real thing.
    pub fn ticket(&self) -> Ticket {
        Ticket::from_parts(
            Turn::from_value(self.sent.turn),
            self.sent.cell,
            self.sent.next,
            self.detour,
        )
    }

    /// The head of its request. The method says which call it is.
    pub fn head(&self) -> RequestHead {
        RequestHead {
            method: self.sent.call.into(),
            next: self.ticket().next,
            think: callgate_proto::body::Think::UNKNOWN,
        }
    }
}

impl State {
    /// The beginning: a server, and a client that is not connected.
    pub fn first(config: &Config) -> State {
        let calls: usize = config.callers.iter().map(Vec::len).sum();
        let caller = Caller { next: 0, repeats: 0, may_have_run: false, at: At::Idle };
        State {
            callers: vec![caller; config.callers.len()],
            client_dead: false,
            current: None,
            conns: Vec::new(),
            server: Server::new(1),
            ghosts: vec![Ghost::default(); calls],
            flaw: None,
        }
    }

    /// The number of a caller's present call among all, and what it is.
    pub fn call(&self, config: &Config, caller: usize) -> Option<(u8, Kind)> {
        let before: usize = config.callers[..caller].iter().map(Vec::len).sum();
        let next = usize::from(self.callers[caller].next);
        let kind = config.callers[caller].get(next)?;
        Some(((before + next) as u8, *kind))
    }

    /// Something went wrong.
    pub fn flaw(&mut self, what: &'static str) {
        self.flaw.get_or_insert(what);
    }

    /// A wake of the word of a cell: all who sleep on it go on.
    pub fn wake_word(&mut self, conn: u8, cell: u16) {
        for caller in &mut self.callers {
            if let At::Asleep(its, sent) = caller.at
                && its == conn
                && sent.cell == cell
            {
                caller.at = At::Wait(conn, sent);
            }
        }
        if self.server.at == WorkerAt::OnWord(cell) && self.served() == Some(conn) {
            self.server.at = WorkerAt::Poll;
        }
    }

    /// The connection that the living server has.
    pub fn served(&self) -> Option<u8> {
        let its = |conn: &Conn| conn.life == self.server.life && conn.linked;
        self.conns.iter().position(its).map(|at| at as u8)
    }

    /// Whether the server's process runs.
    pub fn server_runs(&self) -> bool {
        !matches!(self.server.phase, Phase::Ended | Phase::Killed)
    }

    /// Forgets what nobody can reach any more, so that states which differ in nothing else are one.
    pub fn scrub(&mut self, config: &Config) {
        for at in 0..self.conns.len() {
            let conn = &self.conns[at];
            let used = self.callers.iter().any(|caller| caller.at.conn() == Some(at as u8))
                || self.server.jobs.iter().any(|(job, _)| usize::from(job.conn) == at);
            if conn.shut && !conn.linked && (self.client_dead || conn.end.is_some()) && !used {
                let mut scrubbed = Conn::new(config, conn.life);
                scrubbed.linked = false;
                scrubbed.gone = true;
                scrubbed.shut = true;
                scrubbed.end = Some(End::Closed);
                self.conns[at] = scrubbed;
            }
        }
    }
}

impl Server {
    /// One that serves and has no client.
    pub fn new(life: u8) -> Server {
        Server {
            life,
            phase: Phase::Serving,
            at: WorkerAt::InPoller,
            rung: false,
            jobs: Vec::new(),
        }
    }
}
