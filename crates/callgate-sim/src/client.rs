//! What a calling thread does.

use std::sync::Arc;
use std::time::Duration;

use callgate::{CallError, CallOptions, Client, Pending, Reply, Started, codes};
use callgate_sys::sim::Rng;
use callgate_sys::{clock, thread};

use crate::message::{FAILURE, Kind, Request};
use crate::oracle::{Oracle, count, lasted};

/// No call may last longer, unless it asked for it. Below the second after which a sleeping caller
/// looks around by itself, which would hide a wake-up that was lost.
const LONGEST_NS: u64 = 900_000_000;

/// One calling thread.
pub(crate) struct Caller {
    pub(crate) client: Client,
    pub(crate) oracle: Arc<Oracle>,
    pub(crate) rng: Rng,
    /// Where its identities begin.
    pub(crate) first_id: u64,
    pub(crate) calls: u64,
    pub(crate) largest: u64,
    /// Whether servers come and go, so that calls may fail for that.
    pub(crate) stormy: bool,
    /// Whether the system may lack memory and descriptors.
    pub(crate) faulty: bool,
    /// Whether all requests are large, and answered by other threads.
    pub(crate) tight: bool,
}

struct Sent {
    request: Request,
    pending: Pending,
    timeout: Option<Duration>,
    began_ns: u64,
}

impl Caller {
    pub(crate) fn new(
        client: Client,
        oracle: Arc<Oracle>,
        rng: Rng,
        first_id: u64,
        calls: u64,
        largest: u64,
        (stormy, faulty, tight): (bool, bool, bool),
    ) -> Self {
        Self { client, oracle, rng, first_id, calls, largest, stormy, faulty, tight }
    }

    pub(crate) fn run(mut self) {
        let mut sent: Vec<Sent> = Vec::new();
        let mut kept: Vec<Reply> = Vec::new();
        for number in 0..self.calls {
            let id = self.first_id + number;
            let request = match self.tight {
                true => Request::large(id, &mut self.rng, self.largest),
                false => Request::random(id, &mut self.rng, self.largest),
            };
            match self.rng.below(10) {
                0..=4 => self.call(request, &mut kept),
                5 => self.loan(request),
                _ => {
                    let (options, timeout) = self.options();
                    let began_ns = clock::now_ns();
                    match self.client.submit(options, &request.bytes()) {
                        Ok(pending) => sent.push(Sent { request, pending, timeout, began_ns }),
                        Err(error) => self.failed(request, &error, timeout),
                    }
                }
            }
            while sent.len() as u64 > self.rng.below(5) {
                let at = self.rng.below(sent.len() as u64) as usize;
                let sent = sent.swap_remove(at);
                self.finish(sent, &mut kept);
            }
            if self.rng.one_in(4) {
                thread::sleep(Duration::from_nanos(self.rng.below(200_000)));
            }
            if self.rng.one_in(4) {
                kept.clear();
            }
        }
        for sent in sent {
            self.finish(sent, &mut kept);
        }
    }

    fn options(&mut self) -> (CallOptions, Option<Duration>) {
        let options = CallOptions::new().method(self.rng.below(3) as u32);
        if self.rng.one_in(3) {
            let timeout = Duration::from_nanos(1 << self.rng.range(8, 24));
            return (options.timeout(timeout), Some(timeout));
        }
        (options, None)
    }

    fn call(&mut self, request: Request, kept: &mut Vec<Reply>) {
        let (mut options, timeout) = self.options();
        if self.rng.one_in(4) {
            options = options.idempotent();
            self.oracle.repeatable(request.id);
        }
        let began_ns = clock::now_ns();
        let ended = self.client.call_with(options, &request.bytes());
        self.ended(request, ended, timeout, began_ns, kept);
    }

    fn loan(&mut self, request: Request) {
        let began_ns = clock::now_ns();
        let mut loan = match self.client.loan(request.len()) {
            Ok(loan) => loan,
            Err(error) => return self.failed(request, &error, None),
        };
        if self.rng.one_in(8) {
            return self.oracle.not_started(request.id);
        }
        loan.copy_from_slice(&request.bytes());
        let (options, timeout) = self.options();
        let ended = loan.call(options);
        self.ended(request, ended, timeout, began_ns, &mut Vec::new());
    }

    fn finish(&mut self, sent: Sent, kept: &mut Vec<Reply>) {
        if self.rng.one_in(6) {
            count("cancelled");
            return sent.pending.cancel();
        }
        let done = self.rng.one_in(3) && sent.pending.is_done();
        let asked_ns = clock::now_ns();
        let ended = sent.pending.wait();
        if done {
            let waited_ns = clock::now_ns() - asked_ns;
            assert!(waited_ns < LONGEST_NS, "a call that was done took {waited_ns} ns");
        }
        self.ended(sent.request, ended, sent.timeout, sent.began_ns, kept);
    }

    fn ended(
        &mut self,
        request: Request,
        ended: Result<Reply, CallError>,
        timeout: Option<Duration>,
        began_ns: u64,
        kept: &mut Vec<Reply>,
    ) {
        let lasted_ns = clock::now_ns() - began_ns;
        lasted(lasted_ns);
        assert!(lasted_ns < LONGEST_NS, "call {:#x} lasted {lasted_ns} ns", request.id);
        match ended {
            Ok(reply) => {
                let id = request.id;
                let plain =
                    !matches!(request.kind, Kind::Failing | Kind::Dropping | Kind::Panicking);
                assert!(plain, "call {id:#x} has a reply, {:?} was asked for", request.kind);
                assert!(reply.to_vec() == request.reply(), "call {id:#x}: another reply");
                count("reply");
                self.oracle.answered(id);
                if self.rng.one_in(3) && kept.len() < 2 {
                    kept.push(reply);
                }
            }
            Err(error) => self.failed(request, &error, timeout),
        }
    }

    fn failed(&mut self, request: Request, error: &CallError, timeout: Option<Duration>) {
        let id = request.id;
        count(match error {
            CallError::Handler { .. } => "handler",
            CallError::DeadlineExceeded { .. } => "deadline",
            CallError::Disconnected { started: Started::MayHaveRun } => "may have run",
            CallError::Disconnected { started: Started::NotStarted } => "not started",
            CallError::NotRunning { .. } => "not running",
            CallError::Refused { .. } => "refused",
            CallError::TooManyInFlight { .. } => "too many",
            CallError::NoMemory { .. } => "no memory",
            _ => "otherwise",
        });
        match error {
            CallError::Handler { code, message } => {
                self.oracle.answered(id);
                let right = match *code {
                    FAILURE => request.kind == Kind::Failing && message == "as it was asked",
                    codes::DROPPED => request.kind == Kind::Dropping,
                    codes::PANICKED => request.kind == Kind::Panicking,
                    codes::NO_MEMORY => !request.reply().is_empty(),
                    _ => false,
                };
                assert!(right, "call {id:#x} {:?} ended with {error:?}", request.kind);
            }
            CallError::DeadlineExceeded { .. } => {
                assert!(timeout.is_some(), "call {id:#x} had no deadline");
            }
            CallError::Disconnected { started: Started::MayHaveRun } => {
                assert!(self.stormy, "call {id:#x} ended with {error:?}");
            }
            CallError::Disconnected { started: Started::NotStarted }
            | CallError::NotRunning { .. }
            | CallError::Refused { .. } => {
                assert!(self.stormy || self.faulty, "call {id:#x} ended with {error:?}");
                self.oracle.not_started(id);
            }
            CallError::TooManyInFlight { .. } | CallError::NoMemory { .. } => {
                self.oracle.not_started(id);
            }
            CallError::Os { .. } => {
                assert!(self.faulty, "call {id:#x} ended with {error:?}");
                self.oracle.not_started(id);
            }
            _ => panic!("call {id:#x} ended with {error:?}"),
        }
    }
}

/// Proves that nothing was lost: as many calls as are allowed run at once, small and large.
pub(crate) fn prove_whole(client: &Client, in_flight: u32, first_id: u64, largest: u64) {
    // Calls that were given up may be answered late; and the first one may have to connect anew.
    thread::sleep(Duration::from_millis(50));
    let mut id = first_id;
    let mut request = |len: u64| {
        id += 1;
        Request::plain(id, len as usize, len as usize)
    };
    let mut tries = 0;
    while let Err(error) = client.call(&request(0).bytes()) {
        tries += 1;
        assert!(tries < 20, "the last server does not answer: {error:?}");
    }
    thread::sleep(Duration::from_millis(50));
    let sent: Vec<_> = (0..in_flight)
        .map(|number| {
            let request = request(0);
            let pending = client.submit(CallOptions::new(), &request.bytes());
            (request, pending.unwrap_or_else(|error| panic!("cell {number} is lost: {error:?}")))
        })
        .collect();
    for (request, pending) in sent {
        let reply = pending.wait().unwrap_or_else(|error| panic!("no reply: {error:?}"));
        assert!(reply.to_vec() == request.reply(), "another reply");
    }
    for len in [largest, 100, largest / 2, largest] {
        let mut tries = 0;
        let (request, reply) = loop {
            let request = request(len);
            match client.call(&request.bytes()) {
                Ok(reply) => break (request, reply),
                // Sockets hold as few as two messages here: a server that has just told of regions that it retired cannot
                // tell of a new one before the client has read that.
                Err(CallError::Handler { code: codes::NO_MEMORY, .. }) if tries < 20 => tries += 1,
                Err(error) => panic!("memory is lost: {len}: {error:?}"),
            }
            thread::sleep(Duration::from_millis(1));
        };
        assert!(reply.to_vec() == request.reply(), "another large reply");
    }
}
