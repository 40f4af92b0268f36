//! The handler, and the threads that answer late.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use callgate::{Call, Deferred, Handler, ReplyError, Server, ServerOptions};
use callgate_sys::sim::random;
use callgate_sys::sync::{Condvar, Mutex};
use callgate_sys::thread;

use crate::message::{FAILURE, Kind, Request};
use crate::oracle::Oracle;

/// Calls that wait for a thread to answer them.
#[derive(Default)]
struct Later {
    waiting: Mutex<(VecDeque<(Request, Deferred)>, bool)>,
    more: Condvar,
}

struct Answers {
    oracle: Arc<Oracle>,
    later: Arc<Later>,
}

impl Handler for Answers {
    fn handle(&self, call: Call<'_>) {
        let request = Request::read(&call.request().to_vec());
        self.oracle.runs(request.id);
        match request.kind {
            Kind::Later => {
                let deferred = call.defer();
                self.later.waiting.lock().0.push_back((request, deferred));
                self.later.more.notify_all();
            }
            Kind::Now => check(call.reply(&request.reply())),
            Kind::InPlace => in_place(&request, call),
            Kind::Slowly => {
                thread::sleep(Duration::from_micros(random(300)));
                check(call.reply(&request.reply()));
            }
            Kind::Failing => check(call.fail(FAILURE, "as it was asked")),
            Kind::Dropping => drop(call),
            Kind::Panicking => panic!("as it was asked"),
        }
    }
}

fn in_place(request: &Request, call: Call<'_>) {
    let reply = request.reply();
    match call.loan(reply.len()) {
        Ok(mut loan) => {
            loan.copy_from_slice(&reply);
            check(loan.send());
        }
        Err(error) => check(Err(error)),
    }
}

fn check(answered: Result<(), ReplyError>) {
    match answered {
        Ok(()) | Err(ReplyError::Disconnected | ReplyError::NoMemory { .. }) => {}
        Err(error) => panic!("an answer ended with {error:?}"),
    }
}

impl Later {
    /// Answers calls until it is told to end, in any order.
    fn run(&self) {
        let mut waiting = self.waiting.lock();
        loop {
            let count = waiting.0.len() as u64;
            if count > 0 {
                let at = random(count) as usize;
                let (request, call) = waiting.0.remove(at).expect("counted");
                drop(waiting);
                thread::sleep(Duration::from_micros(random(500)));
                if random(4) == 0 {
                    let _ = call.is_cancelled();
                }
                check(call.reply(&request.reply()));
                waiting = self.waiting.lock();
            } else if waiting.1 {
                return;
            } else {
                waiting = self.more.wait_timeout(waiting, Duration::from_secs(3_600));
            }
        }
    }
}

/// A server that runs, in the process that it belongs to.
pub(crate) struct Running {
    pub(crate) server: Server,
    later: Arc<Later>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// Takes the name, as soon as a dead server has left it.
pub(crate) fn serve(path: &str, options: &ServerOptions, oracle: Arc<Oracle>) -> Running {
    let later = Arc::new(Later::default());
    let mut tries = 0;
    let server = loop {
        let handler = Answers { oracle: oracle.clone(), later: later.clone() };
        match Server::serve_with(path, options.clone(), handler) {
            Ok(server) => break server,
            Err(error) => {
                tries += 1;
                assert!(tries < 200, "the name is not free: {error:?}");
                thread::sleep(Duration::from_millis(1));
            }
        }
    };
    let threads = (0..2).map(|_| {
        let later = later.clone();
        thread::Builder::new().name("later".into()).spawn(move || later.run()).expect("a thread")
    });
    Running { server, threads: threads.collect(), later }
}

impl Running {
    /// Stops, and waits for every thread.
    pub(crate) fn end(self) {
        drop(self.server);
        self.later.waiting.lock().1 = true;
        self.later.more.notify_all();
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}
