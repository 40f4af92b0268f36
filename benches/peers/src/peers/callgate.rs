//! callgate with default options: messages of less than a page by value, longer ones in place.

use std::cell::Cell;
use std::collections::VecDeque;

use callgate::{Call, CallOptions, Endpoint, Pending, Reply, Server};

use crate::message::{Message, answerable};
use crate::peer::{Client, Peer, Place, Result};

/// From here on messages are built and read in place.
const IN_PLACE_BYTES: usize = 1024;

/// The library that this is all about.
pub struct Callgate;

impl Peer for Callgate {
    fn name(&self) -> &'static str {
        "callgate"
    }

    fn package(&self) -> Option<&'static str> {
        Some("callgate")
    }

    fn about(&self) -> &'static str {
        "default options; loans from 1 KiB"
    }

    fn serve(&self, place: &Place, ready: &dyn Fn()) -> Result<()> {
        let server = Server::serve(endpoint(place)?, |call: Call<'_>| {
            let mut start = [0; 8];
            call.request().read_at(0, &mut start);
            answerable(&start);
            // An error means that the caller is gone, or has been told.
            let _ = echo(call);
        })?;
        ready();
        server.wait();
        Ok(())
    }

    fn connect(&self, place: &Place) -> Result<Box<dyn Client>> {
        let client = callgate::Client::connect(endpoint(place)?)?;
        Ok(Box::new(Connected { client, buffer: vec![0; place.size], pending: VecDeque::new() }))
    }
}

fn endpoint(place: &Place) -> Result<Endpoint> {
    Ok(Endpoint::at(place.dir.join("callgate"))?)
}

fn echo(call: Call<'_>) -> std::result::Result<(), callgate::ReplyError> {
    let len = call.request().len();
    if len < IN_PLACE_BYTES {
        let mut bytes = [0; IN_PLACE_BYTES];
        call.request().copy_to(&mut bytes[..len]);
        return call.reply(&bytes[..len]);
    }
    let mut reply = call.loan(len)?;
    let (request, out) = reply.split();
    request.copy_to(out);
    reply.send()
}

struct Connected {
    client: callgate::Client,
    buffer: Vec<u8>,
    pending: VecDeque<Pending>,
}

impl Client for Connected {
    fn call(&mut self, message: &Message) -> Result<()> {
        if message.len() >= IN_PLACE_BYTES {
            let mut loan = self.client.loan(message.len())?;
            message.write(&mut loan);
            return check(message, &loan.call(CallOptions::new())?);
        }
        message.write(&mut self.buffer);
        let reply = self.client.call(&self.buffer)?;
        check(message, &reply)
    }

    fn submit(&mut self, message: &Message) -> Result<()> {
        message.write(&mut self.buffer);
        self.pending.push_back(self.client.submit(CallOptions::new(), &self.buffer)?);
        Ok(())
    }

    fn complete(&mut self, message: &Message) -> Result<()> {
        let oldest = self.pending.pop_front().ok_or("nothing was submitted")?;
        check(message, &oldest.wait()?)
    }
}

fn check(message: &Message, reply: &Reply) -> Result<()> {
    let (at, right) = (Cell::new(0), Cell::new(true));
    reply.payload().for_each_chunk(|chunk| {
        right.set(right.get() && message.has(at.get(), chunk));
        at.set(at.get() + chunk.len());
    });
    if right.get() && at.get() == message.len() { Ok(()) } else { Err("a reply is wrong".into()) }
}
