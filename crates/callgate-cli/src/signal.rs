//! SIGINT and SIGTERM as something a thread can act on.

use std::io;
#[cfg(not(windows))]
use std::sync::mpsc::Receiver;
use std::sync::mpsc::channel;
use std::thread;
#[cfg(not(windows))]
use std::time::Duration;

#[cfg(not(windows))]
use signal_hook::consts::{SIGINT, SIGTERM};
#[cfg(not(windows))]
use signal_hook::iterator::Signals;

#[cfg(not(windows))]
use crate::exit::Failure;

/// Runs `act` with the signal's number for each SIGINT and SIGTERM, on a thread of its own, until
/// `act` returns false or the program ends.
///
/// Handlers are reset by exec, so that child programs start with the default ones.
///
/// # Errors
/// When the handlers can't be installed or the thread not started.
#[cfg(not(windows))]
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

/// Runs `act` with a number for each ctrl-C (2, as SIGINT), and each ctrl-break, or end of the console or the session (15, as
/// SIGTERM), on a thread of its own, until `act` returns false or the program ends. For one part of the program.
///
/// # Errors
/// When the handler can't be installed or the thread not started.
#[cfg(windows)]
pub fn on_termination(mut act: impl FnMut(i32) -> bool + Send + 'static) -> io::Result<()> {
    use std::sync::OnceLock;
    use std::sync::mpsc::Sender;

    use windows_sys::Win32::System::Console::{
        CTRL_BREAK_EVENT, CTRL_C_EVENT, SetConsoleCtrlHandler,
    };

    static CAME: OnceLock<Sender<i32>> = OnceLock::new();

    unsafe extern "system" fn came(kind: u32) -> windows_sys::core::BOOL {
        let number = if kind == CTRL_C_EVENT { 2 } else { 15 };
        let heard = CAME.get().is_some_and(|came| came.send(number).is_ok());
        // When the console or the session ends, so does the process, as soon as this returns.
        if heard && !matches!(kind, CTRL_C_EVENT | CTRL_BREAK_EVENT) {
            loop {
                thread::park();
            }
        }
        heard.into()
    }

    let (send, signals) = channel();
    CAME.set(send).map_err(|_| io::ErrorKind::AlreadyExists)?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals {
            if !act(signal) {
                return;
            }
        }
    })?;
    // SAFETY: the function may be called on any thread, and lives as long as the program.
    match unsafe { SetConsoleCtrlHandler(Some(came), 1) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Sleep that SIGINT and SIGTERM end, so that what was set up is taken down again.
#[cfg(not(windows))]
pub struct Pauses(Receiver<i32>);

#[cfg(not(windows))]
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
