//! A server that accepts on a Unix socket and echoes one message for each connection: the limit for
//! connecting.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::{Actor, Limit, verify};
use crate::bench::process::Partner;
use crate::bench::sample::Trip;

/// Bytes of the message, there and back.
pub const BYTES: usize = 32;

/// The server's address; dropping it removes the file.
pub struct Address(PathBuf);

impl Address {
    /// Chooses a path that no other process uses, since it holds our process id. An earlier process
    /// of that id may have been killed and have left its file there.
    pub fn new() -> Address {
        let name = format!("callgate-bench-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        Address(path)
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Starts the server.
///
/// # Errors
/// When the path can't be bound, or the process not forked.
pub fn serve(address: &Address) -> io::Result<Partner> {
    let listener = UnixListener::bind(address.path())?;
    Partner::fork(&[], move || {
        for socket in listener.incoming() {
            // A client that goes away in between is its own affair.
            let _ = socket.and_then(|mut socket| {
                let mut message = [0; BYTES];
                socket.read_exact(&mut message)?;
                message[0] = !message[0];
                socket.write_all(&message)
            });
        }
    })
}

/// Makes the limit: a client that connects again and again.
///
/// # Errors
/// As [`serve`].
pub fn limit(address: &Address) -> io::Result<Limit> {
    let server = serve(address)?;
    let trip =
        Connecting { path: address.path().to_owned(), number: 0, back: [0; BYTES], open: None };
    Ok(Limit { clients: vec![Actor::repeating(trip)?], server })
}

/// Connects, and sends a message there and back.
///
/// # Errors
/// Those of the socket.
pub fn connect_and_echo(path: &Path, number: u8) -> io::Result<(UnixStream, [u8; BYTES])> {
    let mut socket = UnixStream::connect(path)?;
    socket.write_all(&[number; BYTES])?;
    let mut back = [0; BYTES];
    socket.read_exact(&mut back)?;
    Ok((socket, back))
}

/// Whether that is the answer to the message of that number.
pub fn is_answer(back: &[u8], number: u8) -> bool {
    back.len() == BYTES && back[0] == !number && back[1..].iter().all(|byte| *byte == number)
}

struct Connecting {
    path: PathBuf,
    number: u8,
    back: [u8; BYTES],
    open: Option<UnixStream>,
}

impl Trip for Connecting {
    fn prepare(&mut self) {
        self.number = self.number.wrapping_add(1);
    }

    fn go(&mut self) -> io::Result<()> {
        let (socket, back) = connect_and_echo(&self.path, self.number)?;
        self.back = back;
        self.open = Some(socket);
        Ok(())
    }

    fn check(&mut self) -> io::Result<()> {
        self.open = None;
        verify(is_answer(&self.back, self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_echoes() {
        let mut message = [7; BYTES];
        assert!(!is_answer(&message, 7));
        message[0] = !7;
        assert!(is_answer(&message, 7) && !is_answer(&message[1..], 7));
    }
}
