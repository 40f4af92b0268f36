//! The other processes of `bench`: a server that answers, clients that call, clients that idle.
//!
//! Each takes commands as lines on standard input and ends with it.

use std::io;
use std::time::Instant;

use callgate::{
    Call, CallOptions, Client, ClientOptions, Reply, ReplyError, Server, ServerOptions,
};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::sample::{Pace, Trip, pack, repeat};
use crate::exit::{Doing, Failure};
use crate::scratch;
use crate::worker::{read_line, report};

/// Options of `bench-server`.
#[derive(Args, Debug)]
pub struct ServerArgs {
    name: String,
    #[arg(long)]
    workers: Option<usize>,
}

/// Options of `bench-client`.
#[derive(Args, Debug)]
pub struct ClientArgs {
    name: String,
}

/// Options of `bench-idlers`.
#[derive(Args, Debug)]
pub struct IdlersArgs {
    name: String,
}

/// What a helper says once it is ready, and after each command to idlers.
#[derive(Serialize, Deserialize)]
pub struct Ready {
    /// Connections it holds.
    pub connections: u64,
}

/// A measurement for a client.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Order {
    /// Bytes of request and of reply.
    pub size: usize,
    /// Without copies, rather than with one in and one out on each side.
    pub in_place: bool,
    /// How often and how long.
    pub pace: Pace,
}

/// What a client measured.
#[derive(Serialize, Deserialize)]
pub struct Times {
    /// Pairs of nanoseconds and count.
    pub pairs: Vec<(u64, u64)>,
    /// From the first call to the last, pauses and checks included.
    pub elapsed_ns: u64,
}

/// What a client says after an order: its times, or what went wrong.
pub type Measured = Result<Times, String>;

/// The whole message goes through private memory on both sides.
const METHOD_COPY: u32 = 1;
/// Request and reply are read and written where they lie; only their ends are touched.
const METHOD_IN_PLACE: u32 = 2;
/// Answered with nothing.
const METHOD_NOTHING: u32 = 3;

/// Runs the hidden `bench-server`.
///
/// # Errors
/// When the name can't be served.
pub fn serve(args: &ServerArgs) -> Result<(), Failure> {
    let mut options = ServerOptions::default();
    options.workers = args.workers.unwrap_or(options.workers);
    let server = Server::serve_with(&args.name, options, |call: Call<'_>| {
        // The caller sees what went wrong, or is gone.
        let _ = answer(call);
    })?;
    report(&Ready { connections: 0 })?;
    let mut input = io::stdin().lock();
    while read_line::<()>(&mut input).doing("standard input")?.is_some() {}
    drop(server);
    scratch::forget(&args.name);
    Ok(())
}

thread_local! {
    /// Where requests are copied to; kept, so that no allocation is measured.
    static MESSAGE: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn answer(call: Call<'_>) -> Result<(), ReplyError> {
    match call.method() {
        METHOD_COPY => MESSAGE.with_borrow_mut(|message| {
            let len = call.request().len();
            message.resize(len, 0);
            call.request().copy_to(message);
            if let Some(first) = message.first_mut() {
                *first = !*first;
            }
            call.reply(message)
        }),
        METHOD_IN_PLACE => {
            let len = call.request().len();
            let ends = Ends::of_request(&call);
            let mut reply = call.loan(len)?;
            ends.inverted().write(&mut reply);
            reply.send()
        }
        _ => call.reply(&[]),
    }
}

/// The first and the last eight bytes of a message, which has at least sixteen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ends([u8; 8], [u8; 8]);

impl Ends {
    fn numbered(number: u64) -> Ends {
        Ends(number.to_le_bytes(), number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
    }

    fn of_request(call: &Call<'_>) -> Ends {
        let request = call.request();
        let mut ends = Ends([0; 8], [0; 8]);
        let last = request.len().saturating_sub(8);
        request.read_at(0, &mut ends.0);
        request.read_at(last, &mut ends.1);
        ends
    }

    fn of_reply(reply: &Reply) -> Ends {
        let payload = reply.payload();
        let mut ends = Ends([0; 8], [0; 8]);
        let last = payload.len().saturating_sub(8);
        payload.read_at(0, &mut ends.0);
        payload.read_at(last, &mut ends.1);
        ends
    }

    fn inverted(self) -> Ends {
        Ends(self.0.map(|byte| !byte), self.1.map(|byte| !byte))
    }

    fn write(self, message: &mut [u8]) {
        if let Some(start) = message.first_chunk_mut() {
            *start = self.0;
        }
        if let Some(end) = message.last_chunk_mut() {
            *end = self.1;
        }
    }
}

/// Runs the hidden `bench-client`: one [`Measured`] for each [`Order`].
///
/// # Errors
/// When the server can't be reached.
pub fn call(args: &ClientArgs) -> Result<(), Failure> {
    let client = Client::connect_with(&args.name, ClientOptions::default())?;
    report(&Ready { connections: 1 })?;
    let mut input = io::stdin().lock();
    while let Some(order) = read_line::<Order>(&mut input).doing("standard input")? {
        let start = Instant::now();
        let times = if order.in_place {
            repeat(
                &mut InPlace { client: &client, size: order.size, number: 0, back: None },
                order.pace,
            )
        } else {
            repeat(&mut Copy::new(&client, order.size), order.pace)
        };
        let elapsed_ns = start.elapsed().as_nanos() as u64;
        let times = times.map(|times| Times { pairs: pack(&times), elapsed_ns });
        let measured: Measured = times.map_err(|error| error.to_string());
        report(&measured)?;
    }
    Ok(())
}

struct Copy<'a> {
    client: &'a Client,
    number: u64,
    message: Vec<u8>,
    back: Vec<u8>,
}

impl Copy<'_> {
    fn new(client: &Client, size: usize) -> Copy<'_> {
        let message = (0..size).map(|index| (index.wrapping_mul(31) >> 3) as u8).collect();
        Copy { client, number: 0, message, back: vec![0; size] }
    }
}

impl Trip for Copy<'_> {
    fn prepare(&mut self) {
        self.number += 1;
        Ends::numbered(self.number).write(&mut self.message);
    }

    fn go(&mut self) -> io::Result<()> {
        let options = CallOptions::new().method(METHOD_COPY);
        let reply = self.client.call_with(options, &self.message).map_err(io::Error::other)?;
        if reply.len() != self.back.len() {
            return Err(io::Error::other(format!("a reply has {} bytes", reply.len())));
        }
        reply.payload().copy_to(&mut self.back);
        Ok(())
    }

    fn check(&mut self) -> io::Result<()> {
        let same = match (&self.message[..], &self.back[..]) {
            ([first, rest @ ..], [answer, others @ ..]) => *answer == !*first && rest == others,
            _ => self.message.is_empty() && self.back.is_empty(),
        };
        if same { Ok(()) } else { Err(io::Error::other("a reply is wrong")) }
    }
}

struct InPlace<'a> {
    client: &'a Client,
    size: usize,
    number: u64,
    back: Option<Ends>,
}

impl Trip for InPlace<'_> {
    fn prepare(&mut self) {
        self.number += 1;
    }

    fn go(&mut self) -> io::Result<()> {
        let mut loan = self.client.loan(self.size).map_err(io::Error::other)?;
        Ends::numbered(self.number).write(&mut loan);
        let options = CallOptions::new().method(METHOD_IN_PLACE);
        let reply = loan.call(options).map_err(io::Error::other)?;
        self.back = Some(Ends::of_reply(&reply)).filter(|_| reply.len() == self.size);
        Ok(())
    }

    fn check(&mut self) -> io::Result<()> {
        if self.back.take() == Some(Ends::numbered(self.number).inverted()) {
            Ok(())
        } else {
            Err(io::Error::other("a reply is wrong"))
        }
    }
}

/// Runs the hidden `bench-idlers`: for each number on its input, holds that many connections.
///
/// # Errors
/// When the server can't be reached.
pub fn idle(args: &IdlersArgs) -> Result<(), Failure> {
    let mut clients = Vec::new();
    report(&Ready { connections: 0 })?;
    let mut input = io::stdin().lock();
    while let Some(wanted) = read_line::<usize>(&mut input).doing("standard input")? {
        clients.truncate(wanted);
        while clients.len() < wanted {
            let client = Client::connect_with(&args.name, ClientOptions::default())?;
            // A call each, so that both sides have set up all that a connection has in use.
            client.call_with(CallOptions::new().method(METHOD_NOTHING), &[])?;
            clients.push(client);
        }
        report(&Ready { connections: clients.len() as u64 })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_the_ends() {
        let mut message = [0u8; 40];
        Ends::numbered(7).write(&mut message);
        assert_eq!(message[..8], 7u64.to_le_bytes());
        assert_eq!(message[8..32], [0; 24]);
        assert_ne!(message[32..], [0; 8]);
        assert_eq!(Ends::numbered(7).inverted().inverted(), Ends::numbered(7));
    }
}
