//! callgate's servers and clients that serve a whole run, so that what they have learned in one
//! situation meets the next.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::peer::{Measured, Order, Ready};
use super::sample::Sample;
use super::watch::await_input;
use crate::exit::{Doing, Failure};
use crate::scratch;
use crate::worker::{Said, Worker};

/// A client process.
pub struct Helper {
    worker: Worker,
    said: Said,
}

/// A client process that several situations use, one after the other.
pub type Client = Rc<RefCell<Helper>>;

/// A server process and the clients that were needed of it so far.
pub struct Post {
    clients: Vec<Client>,
    server: Worker,
    /// Behind the processes, since it is to be dropped after them.
    name: scratch::Name,
}

impl Post {
    /// Starts a server; `what` tells its name from those of others.
    ///
    /// # Errors
    /// When the process fails.
    pub fn start(what: &str) -> Result<Post, Failure> {
        let name = scratch::Name::new(what);
        let (server, mut said) =
            Worker::start(["bench-server", name.as_str()]).doing("start a server")?;
        said.expect::<Ready>().doing("bench-server")?;
        Ok(Post { clients: Vec::new(), server, name })
    }

    /// The server's name.
    pub fn name(&self) -> &scratch::Name {
        &self.name
    }

    /// The server's process.
    pub fn server(&self) -> &Worker {
        &self.server
    }

    /// The first clients of this server, connected; starts those that are missing.
    ///
    /// # Errors
    /// When a process fails.
    pub fn clients(&mut self, count: usize) -> Result<Vec<Client>, Failure> {
        while self.clients.len() < count {
            let (worker, mut said) =
                Worker::start(["bench-client", self.name.as_str()]).doing("start a client")?;
            said.expect::<Ready>().doing("bench-client")?;
            self.clients.push(Rc::new(RefCell::new(Helper { worker, said })));
        }
        Ok(self.clients[..count].to_vec())
    }

    /// Lets all processes end.
    ///
    /// # Errors
    /// When one of them does so with an error.
    pub fn stop(self) -> Result<(), Failure> {
        for client in self.clients {
            let helper = Rc::try_unwrap(client);
            let helper = helper.map_err(|_| Failure::internal("a client is still in use"))?;
            ended(helper.into_inner().worker, "bench-client")?;
        }
        ended(self.server, "bench-server")
    }
}

impl Helper {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.worker.pid()
    }

    /// Lets it measure a round.
    ///
    /// # Errors
    /// When it is gone.
    pub fn tell(&mut self, order: &Order) -> Result<(), Failure> {
        self.worker.tell(order).doing("bench-client")
    }

    /// Waits for what it has measured.
    ///
    /// # Errors
    /// What went wrong there, such as the server's death; and after `patience`.
    pub fn hear(&mut self, patience: Duration) -> Result<Sample, Failure> {
        await_input(self.said.input(), patience, None).doing("bench-client")?;
        let measured: Measured = self.said.expect().doing("bench-client")?;
        measured.map_err(|error| Failure::internal(format_args!("a call failed: {error}")))
    }
}

/// Waits for a helper that has nothing left to do.
///
/// # Errors
/// When it ends with an error.
pub fn ended(worker: Worker, what: &str) -> Result<(), Failure> {
    let status = worker.join().doing(what)?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::internal(format_args!("{what} ended with {status}")))
    }
}
