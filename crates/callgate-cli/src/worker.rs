//! Copies of this program as child processes that talk with their parent in lines of JSON.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
#[cfg(not(windows))]
use std::os::unix::process::CommandExt;
#[cfg(windows)]
use std::os::windows::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A child process; dropping it kills and reaps it.
///
/// It should end by itself at the end of its standard input, so that it never outlives a parent
/// that was killed.
pub struct Worker {
    child: Child,
    input: Option<ChildStdin>,
}

/// What a worker says, line by line.
pub struct Said(BufReader<ChildStdout>);

impl Worker {
    /// Starts this program with the given arguments.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn start<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> io::Result<(Worker, Said)> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C is for the parent; its children see their input end, and clean up.
        #[cfg(not(windows))]
        command.process_group(0);
        #[cfg(windows)]
        command.creation_flags(windows_sys::Win32::System::Threading::CREATE_NEW_PROCESS_GROUP);
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
        Ok((Worker { child, input }, Said(BufReader::new(output))))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends one message.
    ///
    /// # Errors
    /// BrokenPipe when the child is gone.
    pub fn tell(&mut self, message: &impl Serialize) -> io::Result<()> {
        let input = self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        write_line(input, message)
    }

    /// Kills the child at once; it is not reaped before [`Worker::join`] or drop.
    ///
    /// # Errors
    /// Those of `kill`.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// Ends the child's input and waits for its end.
    ///
    /// # Errors
    /// Those of `wait`.
    pub fn join(mut self) -> io::Result<ExitStatus> {
        self.input = None;
        self.child.wait()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail harmlessly when it was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Said {
    /// Waits for the next message; None when the child has closed its output.
    ///
    /// # Errors
    /// When the line is not the message expected.
    pub fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        read_line(&mut self.0)
    }

    #[cfg(not(windows))]
    /// The pipe that it comes through, for those who do not want to wait forever.
    pub fn input(&self) -> &BufReader<ChildStdout> {
        &self.0
    }

    #[cfg(not(windows))]
    /// Waits for a message that must come.
    ///
    /// # Errors
    /// Also when the child has closed its output.
    pub fn expect<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        self.next()?.ok_or_else(|| io::Error::other("a helper process ended early"))
    }
}

/// Reads a message from the parent; None when there are no more.
///
/// # Errors
/// When the line is not the message expected.
pub fn read_line<T: DeserializeOwned>(input: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}

/// Writes a message as one line, in one piece, and flushes.
///
/// # Errors
/// Those of the writer.
pub fn write_line(output: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}

/// Tells the parent something.
///
/// # Errors
/// BrokenPipe when the parent is gone.
pub fn report(message: &impl Serialize) -> io::Result<()> {
    write_line(&mut io::stdout().lock(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_both_ways() {
        let mut pipe = Vec::new();
        write_line(&mut pipe, &(1, "two\nlines")).unwrap();
        write_line(&mut pipe, &(2, "")).unwrap();
        let mut input = pipe.as_slice();
        assert_eq!(read_line(&mut input).unwrap(), Some((1, "two\nlines".to_owned())));
        assert_eq!(read_line(&mut input).unwrap(), Some((2, String::new())));
        assert_eq!(read_line::<(u32, String)>(&mut input).unwrap(), None);
        assert!(read_line::<u32>(&mut "half".as_bytes()).is_err());
    }
}
