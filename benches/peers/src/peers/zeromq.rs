//! ZeroMQ (libzmq): REQ and REP sockets over ipc://, and DEALER for several calls in flight.

use crate::message::{Message, answerable};
use crate::peer::{Client, Peer, Place, Result};

/// libzmq through the `zmq` crate.
pub struct ZeroMq;

impl Peer for ZeroMq {
    fn name(&self) -> &'static str {
        "zeromq"
    }

    fn package(&self) -> Option<&'static str> {
        Some("zmq")
    }

    fn about(&self) -> &'static str {
        "REQ and REP over ipc://, messages handed over without a copy; DEALER for many in flight"
    }

    fn serve(&self, place: &Place, ready: &dyn Fn()) -> Result<()> {
        let context = zmq::Context::new();
        let socket = context.socket(zmq::REP)?;
        socket.bind(&address(place))?;
        ready();
        loop {
            let request = socket.recv_msg(0)?;
            answerable(&request);
            // The reply is a message of its own, as one that was computed would be.
            socket.send(request.to_vec(), 0)?;
        }
    }

    fn connect(&self, place: &Place) -> Result<Box<dyn Client>> {
        let context = zmq::Context::new();
        let many = place.window > 1;
        let socket = context.socket(if many { zmq::DEALER } else { zmq::REQ })?;
        socket.set_linger(0)?;
        socket.connect(&address(place))?;
        Ok(Box::new(Connected { socket, many }))
    }
}

fn address(place: &Place) -> String {
    format!("ipc://{}", place.dir.join("zeromq").display())
}

struct Connected {
    socket: zmq::Socket,
    /// A DEALER writes and reads the empty frame itself that REQ hides.
    many: bool,
}

impl Client for Connected {
    fn call(&mut self, message: &Message) -> Result<()> {
        self.submit(message)?;
        self.complete(message)
    }

    fn submit(&mut self, message: &Message) -> Result<()> {
        let mut bytes = vec![0; message.len()];
        message.write(&mut bytes);
        if self.many {
            self.socket.send(zmq::Message::new(), zmq::SNDMORE)?;
        }
        Ok(self.socket.send(bytes, 0)?)
    }

    fn complete(&mut self, message: &Message) -> Result<()> {
        if self.many {
            self.socket.recv_msg(0)?;
        }
        message.check(&self.socket.recv_msg(0)?)
    }
}
