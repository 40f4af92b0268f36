//! SIGINT and SIGTERM as something a thread can act on.

use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::Failure;

/// Runs `act` with the signal's number for each SIGINT and SIGTERM, on a thread of its own, until
/// `act` returns false or the program ends.
///
/// Handlers are reset by exec, so that child programs start with the default ones.
///
/// # Errors
/// When the handlers can't be installed or the thread not started.
pub fn on_termination(mut act: impl FnMut(i32) -> bool + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            if !act(signal) {
                return;
            }
        }
    })?;
    Ok(())
}

/// Sleep that SIGINT and SIGTERM end, so that what was set up is taken down again.
pub struct Pauses(Receiver<i32>);

impl Pauses {
    /// Takes the signals over: from now on they only end pauses.
    ///
    /// # Errors
    /// Those of [`on_termination`].
    pub fn new() -> io::Result<Pauses> {
        let (send, signals) = channel();
        on_termination(move |signal| send.send(signal).is_ok())?;
        Ok(Pauses(signals))
    }

    /// Sleeps.
    ///
    /// # Errors
    /// When a signal came, during this pause or before it.
    pub fn pause(&self, time: Duration) -> Result<(), Failure> {
        match self.0.recv_timeout(time) {
            Ok(signal) => Err(Failure::silent(exit_code(signal))),
            Err(_) => Ok(()),
        }
    }
}

/// The exit code by which shells know that a signal ended a program.
pub fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(255)
}
