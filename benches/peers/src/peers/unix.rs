//! A bare Unix stream socket: a length, then the message; a thread of the server for each client.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;

use crate::message::{Message, answerable};
use crate::peer::{Client, Peer, Place, Result};

/// Bytes of the length.
const PREFIX: usize = 4;

/// What most programs would write themselves.
pub struct UnixSocket;

impl Peer for UnixSocket {
    fn name(&self) -> &'static str {
        "unix-socket"
    }

    fn package(&self) -> Option<&'static str> {
        None
    }

    fn about(&self) -> &'static str {
        "std's UnixStream, length-prefixed, one write a message, a thread for each client"
    }

    fn serve(&self, place: &Place, ready: &dyn Fn()) -> Result<()> {
        let listener = UnixListener::bind(path(place))?;
        ready();
        for stream in listener.incoming() {
            let stream = stream?;
            thread::spawn(move || {
                // Ends when the client hangs up.
                let _ = echo(Framed::new(stream));
            });
        }
        Ok(())
    }

    fn connect(&self, place: &Place) -> Result<Box<dyn Client>> {
        let stream = UnixStream::connect(path(place))?;
        Ok(Box::new(Connected { framed: Framed::new(stream), out: Vec::new() }))
    }
}

fn path(place: &Place) -> PathBuf {
    place.dir.join("unix")
}

fn echo(mut framed: Framed) -> Result<()> {
    loop {
        let frame = framed.receive()?;
        answerable(&framed.bytes[frame.start + PREFIX..frame.end]);
        framed.stream.write_all(&framed.bytes[frame])?;
    }
}

/// A stream with what was read of it and not taken yet, so that few reads are needed.
struct Framed {
    stream: UnixStream,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Framed {
    fn new(stream: UnixStream) -> Framed {
        Framed { stream, bytes: vec![0; 64 * 1024], start: 0, end: 0 }
    }

    /// Reads until there is a whole frame; where it lies, prefix included.
    fn receive(&mut self) -> Result<std::ops::Range<usize>> {
        loop {
            let wanted = match self.bytes[self.start..self.end].first_chunk() {
                Some(prefix) => PREFIX + u32::from_le_bytes(*prefix) as usize,
                None => PREFIX,
            };
            if wanted > PREFIX && self.end - self.start >= wanted {
                let frame = self.start..self.start + wanted;
                self.start += wanted;
                return Ok(frame);
            }
            self.make_room(wanted);
            match self.stream.read(&mut self.bytes[self.end..])? {
                0 => return Err("the other side hung up".into()),
                more => self.end += more,
            }
        }
    }

    fn make_room(&mut self, wanted: usize) {
        if self.start == self.end || self.start + wanted > self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        }
    }
}

struct Connected {
    framed: Framed,
    out: Vec<u8>,
}

impl Client for Connected {
    fn call(&mut self, message: &Message) -> Result<()> {
        self.submit(message)?;
        self.complete(message)
    }

    fn submit(&mut self, message: &Message) -> Result<()> {
        self.out.resize(PREFIX + message.len(), 0);
        self.out[..PREFIX].copy_from_slice(&(message.len() as u32).to_le_bytes());
        message.write(&mut self.out[PREFIX..]);
        Ok(self.framed.stream.write_all(&self.out)?)
    }

    fn complete(&mut self, message: &Message) -> Result<()> {
        let frame = self.framed.receive()?;
        message.check(&self.framed.bytes[frame.start + PREFIX..frame.end])
    }
}
