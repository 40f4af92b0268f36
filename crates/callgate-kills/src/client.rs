//! What clients do in each scenario: as victims, and as those who survive a server.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use callgate::{CallError, CallOptions, Client, Pending, Reply, Started};
use callgate_sys::clock;
use callgate_tests::data::{HEAD, fill_request, is_reply, request};

use crate::arena::{Arena, action};
use crate::book::End;
use crate::kin::BOUND;
use crate::scenario::Scenario;
use crate::server::method;

/// One process's calls.
pub struct Caller {
    pub arena: &'static Arena,
    pub scenario: Scenario,
    /// Where the endpoints are.
    pub folder: PathBuf,
    /// Whether this process is the one that is killed.
    pub is_victim: bool,
    /// Whether its server may go away at any time.
    pub is_tolerant: bool,
    /// The id of its next call.
    pub ids: AtomicU64,
    pub clients: Vec<Client>,
}

/// A call that was sent: what its end is compared with.
pub struct Begun {
    id: u64,
    reply_len: usize,
    began_ns: u64,
    may_time_out: bool,
}

impl Caller {
    /// Makes the scenario's clients; none is connected yet.
    pub fn new(
        arena: &'static Arena,
        scenario: Scenario,
        folder: &Path,
        is_victim: bool,
        ids: u64,
    ) -> Self {
        let path = folder.join("s");
        let path = path.to_str().expect("utf-8");
        let clients = scenario.client_options().into_iter();
        let clients = clients.map(|options| Client::lazy(path, options).expect("a valid path"));
        let clients = clients.collect();
        let (folder, ids) = (folder.to_owned(), AtomicU64::new(ids));
        Self { arena, scenario, folder, is_victim, is_tolerant: false, ids, clients }
    }

    /// Whether the server has gone, or may be away, for a reason that is no flaw.
    fn may_be_gone(&self) -> bool {
        let lives = self.arena.plan.action.load(Relaxed) == action::FORK_AND_LIVE;
        self.is_tolerant
            || self.scenario.restarts()
            || (!lives && self.arena.plan.fired_ns.load(Relaxed) != 0)
    }

    fn begin(&self, reply_len: usize, idempotent: bool) -> Begun {
        let id = self.ids.fetch_add(1, Relaxed);
        self.arena.book.begin(id, idempotent);
        Begun { id, reply_len, began_ns: clock::now_ns(), may_time_out: false }
    }

    /// Notes how a call ended, and says so if that is wrong. True when it was answered.
    fn ended(&self, call: &Begun, ended: Result<Reply, CallError>) -> bool {
        self.arena.call_ended(call.began_ns);
        let fine = match &ended {
            Ok(reply) => {
                self.arena.book.ended(call.id, End::Replied);
                is_reply(&reply.to_vec(), call.id, call.reply_len)
            }
            Err(error) => {
                self.arena.book.ended(call.id, end_of(error));
                self.is_fine(error, call.may_time_out)
            }
        };
        if !fine {
            let why = match &ended {
                Ok(_) => "a wrong reply".to_owned(),
                Err(error) => format!("{error:?}"),
            };
            self.arena.flaw(&format!("call {:#x} of {:?}: {why}", call.id, self.scenario));
        }
        ended.is_ok()
    }

    fn is_fine(&self, error: &CallError, may_time_out: bool) -> bool {
        match error {
            CallError::Disconnected { .. } | CallError::NotRunning { .. } => self.may_be_gone(),
            CallError::DeadlineExceeded { .. } => may_time_out,
            CallError::TooManyInFlight { .. } => self.scenario == Scenario::Full,
            CallError::Refused { .. } => self.scenario == Scenario::Refuse,
            CallError::Handler { code, .. } => {
                // A call that the server let go of while it stopped.
                self.scenario.restarts() && *code == callgate::codes::DROPPED
            }
            _ => false,
        }
    }

    /// A call that is waited for. True when it was answered.
    pub fn call(&self, client: &Client, method: u32, len: usize, reply_len: usize) -> bool {
        self.call_with(client, CallOptions::new().method(method), false, len, reply_len)
    }

    fn call_with(
        &self,
        client: &Client,
        options: CallOptions,
        idempotent: bool,
        len: usize,
        reply_len: usize,
    ) -> bool {
        let call = self.begin(reply_len, idempotent);
        let options = if idempotent { options.idempotent() } else { options };
        let ended = client.call_with(options, &request(call.id, len, reply_len));
        self.ended(&call, ended)
    }

    /// A call with so little time that it may end either way.
    fn hurried(&self, client: &Client, time: Duration, len: usize) {
        let mut call = self.begin(10, false);
        call.may_time_out = true;
        let options = CallOptions::new().method(method::LATER).timeout(time);
        let ended = client.call_with(options, &request(call.id, len, 10));
        self.ended(&call, ended);
    }

    /// A call whose request is built in place.
    fn in_place(&self, client: &Client, len: usize, reply_len: usize) {
        let call = self.begin(reply_len, false);
        let ended = client.loan(len.max(HEAD)).and_then(|mut loan| {
            fill_request(&mut loan, call.id, u32::try_from(reply_len).expect("short"));
            loan.call(CallOptions::new().method(method::RUN))
        });
        self.ended(&call, ended);
    }

    /// Sends a call that is waited for later.
    pub fn submit(
        &self,
        client: &Client,
        method: u32,
        len: usize,
        reply_len: usize,
    ) -> Option<(Begun, Pending)> {
        let call = self.begin(reply_len, false);
        let options = CallOptions::new().method(method);
        match client.submit(options, &request(call.id, len, reply_len)) {
            Ok(pending) => Some((call, pending)),
            Err(error) => {
                self.ended(&call, Err(error));
                None
            }
        }
    }

    /// Waits for it.
    pub fn wait(&self, sent: Option<(Begun, Pending)>) {
        if let Some((call, pending)) = sent {
            let ended = pending.wait();
            self.ended(&call, ended);
        }
    }

    /// Calls until one is answered, over a new connection if need be; says if none is.
    pub fn until_answered(&self, client: &Client) {
        let began = Instant::now();
        while !self.call(client, method::RUN, 30, 20) {
            if began.elapsed() > BOUND {
                self.arena.flaw("no call is answered any more");
                return;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Makes the scenario's calls.
    pub fn run(&self) {
        let client = &self.clients[0];
        match self.scenario {
            Scenario::Empty | Scenario::Broken => {
                for _ in 0..5 {
                    self.call(client, method::RUN, 30, 20);
                }
            }
            Scenario::Half => self.half(client),
            Scenario::Full => self.full(),
            Scenario::Large => self.large(client),
            Scenario::Cancel => self.cancel(client),
            Scenario::Sleep => self.sleep(client),
            Scenario::Crowd => {
                for _ in 0..3 {
                    self.clients.iter().for_each(|client| {
                        self.call(client, method::RUN, 30, 20);
                    });
                    think();
                }
            }
            Scenario::Detour => self.detour(client),
            Scenario::Stop | Scenario::Drain | Scenario::Repeat => self.restart(),
            Scenario::Names => self.names(client),
            Scenario::Refuse => self.refuse(client),
            Scenario::Queue => self.queue(client),
            Scenario::Many => self.many(),
            Scenario::Old => {
                self.large(client);
                self.sleep(client);
            }
            Scenario::Scribble => crate::scribble::run(self),
            Scenario::Quiet => self.quiet(client),
        }
    }

    fn half(&self, client: &Client) {
        let mut sent: Vec<_> = (0..4).map(|_| self.submit(client, method::LATER, 30, 20)).collect();
        for _ in 0..4 {
            self.call(client, method::RUN, 30, 20);
        }
        sent.rotate_left(2);
        sent.into_iter().for_each(|sent| self.wait(sent));
        self.call(client, method::RUN, 30, 20);
    }

    fn full(&self) {
        let [waiting, failing] = &self.clients[..] else { unreachable!("two clients") };
        std::thread::scope(|scope| {
            let calling = [(); 6].map(|()| {
                scope.spawn(|| {
                    for len in [30, 100] {
                        self.call(waiting, method::LATER, len, len);
                    }
                })
            });
            let sent: Vec<_> =
                (0..3).map(|_| self.submit(failing, method::LATER, 30, 20)).collect();
            sent.into_iter().for_each(|sent| self.wait(sent));
            calling.into_iter().for_each(joined);
        });
    }

    fn large(&self, client: &Client) {
        for (len, reply_len) in [(100, 49), (5_000, 9_000), (70_000, 20), (20, 70_000)] {
            self.call(client, method::RUN, len, reply_len);
            self.in_place(client, len, reply_len);
        }
        let sent: Vec<_> =
            (0..4).map(|_| self.submit(client, method::LATER, 60_000, 60_000)).collect();
        sent.into_iter().for_each(|sent| self.wait(sent));
        self.in_place(client, 300_000, 300_000);
    }

    fn cancel(&self, client: &Client) {
        for len in [30, 5_000] {
            drop(self.submit(client, method::LATER, len, 20));
            self.call(client, method::RUN, len, 20);
            self.hurried(client, Duration::from_micros(50), len);
            self.hurried(client, Duration::ZERO, len);
            let two = [0, 1].map(|_| self.submit(client, method::LATER, len, len));
            let [first, second] = two;
            drop(second);
            self.wait(first);
        }
        self.call(client, method::RUN, 30, 20);
    }

    fn sleep(&self, client: &Client) {
        for _ in 0..3 {
            self.call(client, method::RUN, 30, 20);
            think();
            self.call(client, method::LATER, 30, 20);
            think();
        }
    }

    fn detour(&self, client: &Client) {
        std::thread::scope(|scope| {
            let calling = [(); 2].map(|()| {
                scope.spawn(|| {
                    for round in 0..6 {
                        let len = if round % 3 == 2 { 200 } else { 30 };
                        self.call(client, method::RUN, len, 20);
                    }
                })
            });
            calling.into_iter().for_each(joined);
        });
        for _ in 0..3 {
            self.call(client, method::RUN, 30, 20);
            // A lone call that is given up keeps its cell, which it had named for the next one.
            self.hurried(client, Duration::from_micros(20), 30);
            self.call(client, method::RUN, 30, 20);
        }
    }

    fn restart(&self) {
        let how = if self.scenario == Scenario::Drain { method::DRAIN } else { method::STOP };
        let idempotent = self.scenario == Scenario::Repeat;
        for client in &self.clients {
            self.until_answered(client);
            let sent = [30, 6_000].map(|len| self.submit(client, method::LATER, len, len));
            self.call(client, how, 30, 20);
            for _ in 0..3 {
                let options = CallOptions::new().method(method::LATER);
                self.call_with(client, options, idempotent, 30, 20);
            }
            sent.into_iter().for_each(|sent| self.wait(sent));
            self.until_answered(client);
        }
    }

    fn names(&self, client: &Client) {
        self.call(client, method::RUN, 30, 20);
        for endpoint in crate::server::more_endpoints(&self.folder) {
            let mut options = callgate::ClientOptions::default();
            options.timeout = Some(BOUND / 2);
            match Client::connect_with(&endpoint, options) {
                Ok(client) => drop(self.call(&client, method::RUN, 30, 20)),
                // One that is served later than the first, or no more.
                Err(CallError::NotRunning { .. }) if !self.is_victim => {}
                Err(error) if self.is_fine(&error, false) => {}
                Err(error) => self.arena.flaw(&format!("{endpoint}: {error:?}")),
            }
        }
        let path = self.folder.join("s");
        match callgate::status(path.to_str().expect("utf-8"), BOUND / 2) {
            Ok(status) if status.pid != 0 => {}
            Err(error) if self.is_fine(&error, false) => {}
            other => self.arena.flaw(&format!("status: {other:?}")),
        }
        if let Err(error) = callgate::endpoints() {
            self.arena.flaw(&format!("endpoints: {error:?}"));
        }
        let nobody = self.folder.join("nobody");
        match Client::connect(nobody.to_str().expect("utf-8")) {
            Err(CallError::NotRunning { .. }) => {}
            other => self.arena.flaw(&format!("nobody is there: {:?}", other.err())),
        }
    }

    fn refuse(&self, client: &Client) {
        let path = self.folder.join("s");
        let path = path.to_str().expect("utf-8");
        // 64 in flight are more than the server allows.
        self.call(client, method::RUN, 30, 20);
        if !self.is_victim {
            // Half-open ones, one of which talks nonsense. That the server closes them is waited for.
            let open = || callgate_tests::hostile::reach(Path::new(path)).ok();
            let half_open = [open(), open()];
            if let Some(socket) = open() {
                let _ = callgate_tests::hostile::send(&socket, b"good morning", &[]);
                until_closed(&socket);
            }
            half_open.iter().flatten().for_each(until_closed);
        }
        let mut options = callgate::ClientOptions::default();
        options.in_flight = Some(4);
        options.timeout = Some(BOUND / 2);
        if let Ok(few) = Client::lazy(path, options) {
            self.call(&few, method::RUN, 30, 20);
            self.call(&few, method::RUN, 3_000, 20);
        }
    }

    fn many(&self) {
        let mut kept = Vec::new();
        for _ in 0..3 {
            for client in &self.clients {
                let call = self.begin(60_000, false);
                let ended = client.call(&request(call.id, 20, 60_000));
                // Noted as ended with what it says, and kept: its memory cannot be used again.
                match ended {
                    Ok(reply) => {
                        self.arena.book.ended(call.id, End::Replied);
                        kept.push((call, reply));
                    }
                    Err(error) => {
                        self.ended(&call, Err(error));
                    }
                }
            }
        }
        for (call, reply) in kept {
            if !is_reply(&reply.to_vec(), call.id, call.reply_len) {
                self.arena.flaw(&format!("the kept reply to {:#x} is spoilt", call.id));
            }
        }
    }

    fn queue(&self, client: &Client) {
        let mut options = callgate::ClientOptions::default();
        options.timeout = Some(Duration::from_millis(2));
        let path = self.folder.join("q");
        match Client::connect_with(path.to_str().expect("utf-8"), options) {
            Err(CallError::DeadlineExceeded { started: Started::NotStarted, .. }) => {}
            other => self.arena.flaw(&format!("a full queue: {:?}", other.err())),
        }
        self.call(client, method::RUN, 30, 20);
    }

    fn quiet(&self, client: &Client) {
        let sent: Vec<_> =
            (0..4).map(|_| self.submit(client, method::LATER, 60_000, 60_000)).collect();
        sent.into_iter().for_each(|sent| self.wait(sent));
        let held = if self.is_victim { None } else { self.reply_bytes() };
        self.arena.plan.armed.store(1, Relaxed);
        // Quiet is what is waited for here.
        let until = Instant::now() + Duration::from_millis(2_400);
        while Instant::now() < until && self.arena.plan.fired_ns.load(Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.call(client, method::RUN, 70_000, 70_000);
        if self.is_victim {
            self.call(client, method::SLOW, 30, 20);
        } else {
            self.until_asked(held);
        }
    }

    /// This process has learned from the last call which replies' memory it may let go of, and has done so. Waits until the
    /// server, which had so many bytes of it, has asked what is left, or is no more.
    fn until_asked(&self, held: Option<u64>) {
        if held.is_none() {
            return;
        }
        let until = Instant::now() + BOUND / 2;
        while self.arena.plan.fired_ns.load(Relaxed) == 0 && self.reply_bytes() >= held {
            if Instant::now() > until {
                return self.arena.flaw("reply memory that nobody uses is not given back");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The server's reply memory in bytes; `None` where there is no server.
    fn reply_bytes(&self) -> Option<u64> {
        let path = self.folder.join("s");
        let status = callgate::status(path.to_str().expect("utf-8"), BOUND / 2).ok()?;
        Some(status.reply_bytes)
    }
}

/// Waits for a thread that a scope would only detach. glibc 2.36 reads a thread's memory once more after it has detached it,
/// and may have unmapped it by then: it is asked to keep no stacks here (see `main`).
pub fn joined(thread: ScopedJoinHandle<'_, ()>) {
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Thinks between two calls, for longer than anybody looks.
fn think() {
    std::thread::sleep(Duration::from_micros(200));
}

fn until_closed(socket: &callgate_sys::socket::Socket) {
    let until_ns = clock::deadline_ns(BOUND);
    while !socket.is_closed() && clock::now_ns() < until_ns {
        let _ = socket.wait_readable(Some(clock::deadline_ns(Duration::from_millis(10))));
        let _ = socket.recv(&mut [0; 64]);
    }
}

/// What an error says of whether the call ran.
pub fn end_of(error: &CallError) -> End {
    match error {
        CallError::Disconnected { started } | CallError::DeadlineExceeded { started, .. } => {
            match started {
                Started::NotStarted => End::NotStarted,
                Started::MayHaveRun => End::MayHaveRun,
            }
        }
        CallError::Handler { .. } | CallError::ProtocolViolation { .. } => End::MayHaveRun,
        _ => End::NotStarted,
    }
}
