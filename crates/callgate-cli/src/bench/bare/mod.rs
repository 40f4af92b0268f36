//! The bare limits that calls are compared with, each a pair or a crowd of forked processes.
//!
//! | file | what |
//! | --- | --- |
//! | `line` | one cache line that two processes poll, small messages in it |
//! | `area` | such a line, with large messages in shared memory beside it |
//! | `kernel` | futex, eventfd, Unix sockets, pipe: both sides sleep |
//! | `crowd` | many clients of one server, all sleeping on futexes |
//! | `ring` | two rings, many messages on their way |
//! | `accept` | a server that accepts on a Unix socket |
//!
//! The processes of a limit live as long as its situation, and sleep between its rounds.

pub mod accept;
pub mod area;
pub mod crowd;
pub mod kernel;
pub mod line;
pub mod ring;

use std::io::{self, BufReader, PipeReader, PipeWriter};
use std::time::Duration;

use super::process::Partner;
use super::sample::{Pace, Sample, Trip, repeat};
use super::watch::await_input;
use crate::worker::{read_line, write_line};

/// A forked client: measures a round for each pace that it is told. Dropping it kills it.
pub struct Actor {
    orders: PipeWriter,
    results: BufReader<PipeReader>,
    partner: Partner,
}

/// A limit that is ready to be measured.
pub struct Limit {
    /// Who calls.
    pub clients: Vec<Actor>,
    /// Who answers.
    pub server: Partner,
}

impl Actor {
    /// Forks a client.
    ///
    /// # Errors
    /// When this process has other threads, or the system refuses.
    pub fn fork(mut measure: impl FnMut(Pace) -> io::Result<Sample>) -> io::Result<Actor> {
        let (told, orders) = io::pipe()?;
        let (results, mut say) = io::pipe()?;
        let partner = Partner::fork(&[], || {
            let mut told = BufReader::new(told);
            while let Ok(Some(pace)) = read_line::<Pace>(&mut told) {
                let measured = measure(pace).map_err(|error| error.to_string());
                if write_line(&mut say, &measured).is_err() {
                    break;
                }
            }
        })?;
        // The child alone holds the end that it writes to, so that its death ends the pipe.
        drop(say);
        Ok(Actor { orders, results: BufReader::new(results), partner })
    }

    /// Forks a client that repeats a trip.
    ///
    /// # Errors
    /// As [`Actor::fork`].
    pub fn repeating(mut trip: impl Trip) -> io::Result<Actor> {
        Actor::fork(move |pace| repeat(&mut trip, pace))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.partner.pid()
    }

    /// Lets it measure a round.
    ///
    /// # Errors
    /// When it is gone.
    pub fn tell(&mut self, pace: &Pace) -> io::Result<()> {
        write_line(&mut self.orders, pace)
    }

    /// Waits for what it has measured with the help of `server`.
    ///
    /// # Errors
    /// What went wrong there; also when the server has ended, or after `patience`.
    pub fn hear(&mut self, patience: Duration, server: Option<&Partner>) -> io::Result<Sample> {
        await_input(&self.results, patience, server)?;
        let measured: Option<Result<Sample, String>> = read_line(&mut self.results)?;
        let measured = measured.ok_or_else(|| io::Error::other("a forked client ended early"))?;
        measured.map_err(io::Error::other)
    }
}

/// Fails where an answer is wrong.
///
/// # Errors
/// Then.
#[inline]
pub fn verify(right: bool) -> io::Result<()> {
    if right { Ok(()) } else { Err(io::Error::other("a message came back wrong")) }
}
