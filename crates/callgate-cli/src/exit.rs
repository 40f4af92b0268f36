//! The exit codes of the program, and the failure that carries one to `main`.
//!
//! This is the one place where codes are decided; it knows nothing of any subcommand.

use std::fmt;
use std::io;

/// What the program's exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Everything asked for was done.
    Ok = 0,
    /// The server answered, but with a nonzero status or a handler error.
    Reply = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No server runs under that name.
    NotRunning = 3,
    /// The deadline passed.
    Deadline = 4,
    /// The server went away during the call.
    Disconnected = 5,
    /// The server refused us, or a limit was reached.
    Refused = 6,
    /// A peer broke the protocol.
    Violation = 7,
    /// Another server holds that name.
    InUse = 8,
    /// Anything else; also what the program's own checks report.
    Internal = 70,
}

/// The table of codes as `--help` prints it.
pub const HELP: &str = "\
Exit codes:
   0  done
   1  the reply has a nonzero status, or the handler failed
   2  wrong use of the command line
   3  no server runs under that name
   4  the deadline passed
   5  the server went away during the call
   6  refused, or over a limit
   7  a peer broke the protocol
   8  the name is in use by another server
  70  another error";

/// A failure on its way to `main`: what to print on standard error and how to exit.
#[derive(Debug)]
pub struct Failure {
    /// The process's exit code.
    pub code: u8,
    /// One or two lines for people; empty: nothing is printed.
    pub message: String,
}

impl Failure {
    /// Makes a failure that prints `message`.
    pub fn new(code: Code, message: impl fmt::Display) -> Failure {
        Failure { code: code as u8, message: message.to_string() }
    }

    /// Makes a failure for something that is nobody's fault but ours or the system's.
    pub fn internal(message: impl fmt::Display) -> Failure {
        Failure::new(Code::Internal, message)
    }

    #[cfg(not(windows))]
    /// Adds who failed.
    pub fn of(self, whose: &str) -> Failure {
        Failure { message: format!("{whose}: {}", self.message), ..self }
    }

    /// Makes an exit without a message.
    pub fn silent(code: u8) -> Failure {
        Failure { code, message: String::new() }
    }
}

/// A closed standard output (`callgate ls | head -1`) is the reader's choice, not an error.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::silent(Code::Ok as u8)
        } else {
            Failure::internal(error)
        }
    }
}

/// Adds what was being done to a system error.
pub trait Doing<T> {
    /// Turns the error into a [`Failure`] that reads `what: error`.
    ///
    /// # Errors
    /// Exactly when `self` is one; the code is [`Code::Internal`].
    fn doing(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::internal(format_args!("{what}: {}", error.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_each_code() {
        for code in [
            Code::Ok,
            Code::Reply,
            Code::Usage,
            Code::NotRunning,
            Code::Deadline,
            Code::Disconnected,
            Code::Refused,
            Code::Violation,
            Code::InUse,
            Code::Internal,
        ] {
            let number = format!("{:>4}  ", code as u8);
            assert!(HELP.lines().any(|line| line.starts_with(&number)), "{code:?}");
        }
    }

    #[test]
    fn broken_pipe_is_silent() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.code, failure.message.as_str()), (0, ""));
    }
}
