//! The demo's processes: one server, several clients, each of which can be killed and replaced.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::message::{FromClient, FromServer, Job, ToServer, now_ns};
use crate::exit::{Doing, Failure};
use crate::scratch;
use crate::signal;
use crate::worker::{Said, Worker};

/// Something that the parent acts on.
#[derive(Debug)]
pub enum Event {
    /// A client said something.
    Client(usize, FromClient),
    /// A client's process has ended; all that it said came before.
    ClientEnded(usize),
    /// The server said something.
    Server(FromServer),
    /// The server's process has ended.
    ServerEnded,
    /// A helper said something that nobody understands.
    Garbled(String),
    /// We are to stop.
    Signal(i32),
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The client of that number.
    Client(usize),
    /// The server.
    Server,
}

/// The processes. Dropping it ends them all and removes what the name has left.
pub struct Crew {
    clients: Vec<Option<Worker>>,
    server: Option<Worker>,
    events: Receiver<Event>,
    send: Sender<Event>,
    /// Behind the processes, since it is to be dropped after them.
    name: scratch::Name,
}

impl Crew {
    /// Starts a server under a name of this process's own; clients come with
    /// [`Crew::start_client`].
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn start(clients: usize) -> Result<Crew, Failure> {
        let (send, events) = channel();
        let signals = send.clone();
        signal::on_termination(move |signal| signals.send(Event::Signal(signal)).is_ok())
            .doing("signals")?;
        let name = scratch::Name::new("demo");
        let clients = (0..clients).map(|_| None).collect();
        let mut crew = Crew { name, clients, server: None, events, send };
        crew.start_server()?;
        Ok(crew)
    }

    /// The endpoint's name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Starts the server; its predecessor must have ended.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn start_server(&mut self) -> Result<(), Failure> {
        let (worker, said) =
            Worker::start(["demo-server", self.name.as_str()]).doing("start a server")?;
        self.server = Some(worker);
        self.listen(said, Event::Server, || Event::ServerEnded)
    }

    /// Starts a client; its predecessor of that number must have ended.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn start_client(&mut self, number: usize) -> Result<(), Failure> {
        let (worker, said) =
            Worker::start(["demo-client", self.name.as_str()]).doing("start a client")?;
        self.clients[number] = Some(worker);
        let event = move |message| Event::Client(number, message);
        self.listen(said, event, move || Event::ClientEnded(number))
    }

    /// Turns what a process says into events, on a thread of its own.
    fn listen<T: DeserializeOwned>(
        &self,
        mut said: Said,
        event: impl Fn(T) -> Event + Send + 'static,
        ended: impl Fn() -> Event + Send + 'static,
    ) -> Result<(), Failure> {
        let send = self.send.clone();
        let listen = move || loop {
            let event = match said.next() {
                Ok(Some(message)) => event(message),
                Ok(None) => ended(),
                // A line cut off by a kill; the end follows.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                Err(error) => Event::Garbled(error.to_string()),
            };
            let last =
                matches!(event, Event::ClientEnded(_) | Event::ServerEnded | Event::Garbled(_));
            if send.send(event).is_err() || last {
                return;
            }
        };
        thread::Builder::new().spawn(listen).doing("thread").map(drop)
    }

    /// Waits for the next event; None when none came in that time.
    pub fn event(&self, patience: Duration) -> Option<Event> {
        self.events.recv_timeout(patience).ok()
    }

    /// Gives a client a job. One that has just died doesn't hear it, and its end is an event.
    pub fn give(&mut self, client: usize, job: &Job) {
        if let Some(worker) = &mut self.clients[client] {
            let _ = worker.tell(job);
        }
    }

    /// Tells the server something, which it doesn't hear if it has just died.
    pub fn tell_server(&mut self, order: &ToServer) {
        if let Some(server) = &mut self.server {
            let _ = server.tell(order);
        }
    }

    /// Sends SIGKILL; tells when, in nanoseconds of the monotonic clock, and to which process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn kill(&mut self, victim: Victim) -> Result<(u64, u32), Failure> {
        let worker = match victim {
            Victim::Client(number) => self.clients[number].as_mut(),
            Victim::Server => self.server.as_mut(),
        };
        let worker = worker.ok_or_else(|| Failure::internal("nobody to kill"))?;
        let killed = now_ns();
        worker.kill().doing("kill")?;
        Ok((killed, worker.pid()))
    }

    /// Reaps a process that has ended.
    pub fn reap(&mut self, victim: Victim) {
        match victim {
            Victim::Client(number) => self.clients[number] = None,
            Victim::Server => self.server = None,
        }
    }

    /// Lets all end by themselves, the server last.
    ///
    /// # Errors
    /// When one ends with an error.
    pub fn finish(mut self) -> Result<(), Failure> {
        let clients = self.clients.iter_mut().filter_map(Option::take);
        let workers: Vec<Worker> = clients.chain(self.server.take()).collect();
        for worker in workers {
            let pid = worker.pid();
            let status = worker.join().doing("wait")?;
            if !status.success() {
                let message = format!("helper process {pid} ended with {status}");
                return Err(Failure::internal(message));
            }
        }
        Ok(())
    }
}
