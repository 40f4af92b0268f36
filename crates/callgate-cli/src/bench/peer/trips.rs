//! What one call is, in each way to make one.

use std::collections::VecDeque;
use std::io;

use callgate::{CallOptions, Client, Pending};

use super::METHOD_WORK_MAX;
use crate::bench::bytes::{expected, fill, sum};
use crate::bench::flow::Flow;
use crate::bench::sample::Trip;

/// A message of `N` bytes from and into arrays on the stack.
pub struct Small<'a, const N: usize> {
    client: &'a Client,
    options: CallOptions,
    number: u64,
    message: [u8; N],
    back: [u8; N],
}

impl<'a, const N: usize> Small<'a, N> {
    /// Calls with that many nanoseconds of work in the handler.
    pub fn new(client: &'a Client, handler_ns: u32) -> Small<'a, N> {
        let options = CallOptions::new().method(handler_ns.min(METHOD_WORK_MAX));
        let message = std::array::from_fn(|index| index as u8);
        Small { client, options, number: 0, message, back: [0; N] }
    }
}

/// Puts the number into the first word of a message.
fn stamp<const N: usize>(message: &mut [u8; N], number: u64) {
    if let Some(first) = message.first_chunk_mut() {
        *first = number.to_le_bytes();
    }
}

/// The answer to a message.
fn answer<const N: usize>(message: &[u8; N], number: u64) -> [u8; N] {
    let mut answer = *message;
    stamp(&mut answer, !number);
    answer
}

impl<const N: usize> Trip for Small<'_, N> {
    #[inline]
    fn prepare(&mut self) {
        self.number += 1;
        stamp(&mut self.message, self.number);
    }

    #[inline]
    fn go(&mut self) -> io::Result<()> {
        let reply = self.client.call_with(self.options, &self.message).map_err(io::Error::other)?;
        copied(reply.payload().copy_to(&mut self.back), N)
    }

    #[inline]
    fn check(&mut self) -> io::Result<()> {
        right(self.back == answer(&self.message, self.number))
    }
}

/// A large message, built and read in shared memory. What happens to its bytes stands at
/// `bare::area`, for both sides.
pub struct InPlace<'a> {
    client: &'a Client,
    size: usize,
    number: u64,
    sum: u64,
}

impl<'a> InPlace<'a> {
    /// Calls with messages of `size` bytes.
    pub fn new(client: &'a Client, size: usize) -> InPlace<'a> {
        InPlace { client, size, number: 0, sum: 0 }
    }
}

impl Trip for InPlace<'_> {
    fn prepare(&mut self) {
        self.number += 1;
    }

    fn go(&mut self) -> io::Result<()> {
        let mut loan = self.client.loan(self.size).map_err(io::Error::other)?;
        fill(&mut loan, self.number);
        let reply = loan.call(CallOptions::new()).map_err(io::Error::other)?;
        self.sum = 0;
        let payload = reply.payload();
        payload.for_each_chunk(|chunk| self.sum = self.sum.wrapping_add(sum(chunk)));
        copied(payload.len(), self.size)
    }

    fn check(&mut self) -> io::Result<()> {
        right(self.sum == expected(self.size, self.number))
    }
}

/// A large message from and into a private buffer.
pub struct Copied<'a> {
    client: &'a Client,
    private: Vec<u8>,
    number: u64,
    sum: u64,
}

impl<'a> Copied<'a> {
    /// Calls with messages of `size` bytes.
    pub fn new(client: &'a Client, size: usize) -> Copied<'a> {
        Copied { client, private: vec![0; size], number: 0, sum: 0 }
    }
}

impl Trip for Copied<'_> {
    fn prepare(&mut self) {
        self.number += 1;
    }

    fn go(&mut self) -> io::Result<()> {
        fill(&mut self.private, self.number);
        let reply = self.client.call(&self.private).map_err(io::Error::other)?;
        copied(reply.payload().copy_to(&mut self.private), self.private.len())?;
        self.sum = sum(&self.private);
        Ok(())
    }

    fn check(&mut self) -> io::Result<()> {
        right(self.sum == expected(self.private.len(), self.number))
    }
}

/// A new client for each trip, and its first call; what the last one leaves is not timed.
pub struct Connect<'a> {
    name: &'a str,
    number: u64,
    open: Option<Client>,
    back: [u8; 32],
}

impl<'a> Connect<'a> {
    /// Connects to the server of that name.
    pub fn new(name: &'a str) -> Connect<'a> {
        Connect { name, number: 0, open: None, back: [0; 32] }
    }
}

impl Trip for Connect<'_> {
    fn prepare(&mut self) {
        self.number += 1;
    }

    fn go(&mut self) -> io::Result<()> {
        let client = Client::connect(self.name).map_err(io::Error::other)?;
        let mut message = [0; 32];
        stamp(&mut message, self.number);
        let reply = client.call(&message).map_err(io::Error::other)?;
        copied(reply.payload().copy_to(&mut self.back), 32)?;
        self.open = Some(client);
        Ok(())
    }

    fn check(&mut self) -> io::Result<()> {
        self.open = None;
        right(self.back == answer(&[0; 32], self.number))
    }
}

/// Calls of 48 bytes, many in flight.
pub struct Flight<'a> {
    client: &'a Client,
    sent: u64,
    received: u64,
    pending: VecDeque<Pending>,
}

impl<'a> Flight<'a> {
    /// Calls with room for `window` at a time.
    pub fn new(client: &'a Client, window: usize) -> Flight<'a> {
        Flight { client, sent: 0, received: 0, pending: VecDeque::with_capacity(window) }
    }

    fn message(number: u64) -> [u8; 48] {
        let mut message = std::array::from_fn(|index| index as u8);
        stamp(&mut message, number);
        message
    }
}

impl Flow for Flight<'_> {
    #[inline]
    fn send(&mut self) -> io::Result<()> {
        let message = Self::message(self.sent);
        self.sent += 1;
        let pending = self.client.submit(CallOptions::new(), &message).map_err(io::Error::other)?;
        self.pending.push_back(pending);
        Ok(())
    }

    #[inline]
    fn receive(&mut self) -> io::Result<()> {
        let pending = self.pending.pop_front().ok_or(io::ErrorKind::NotFound)?;
        let reply = pending.wait().map_err(io::Error::other)?;
        let mut back = [0; 48];
        copied(reply.payload().copy_to(&mut back), 48)?;
        let message = Self::message(self.received);
        self.received += 1;
        right(back == answer(&message, self.received - 1))
    }
}

#[inline]
fn copied(count: usize, wanted: usize) -> io::Result<()> {
    if count == wanted {
        Ok(())
    } else {
        Err(io::Error::other(format!("a reply has {count} bytes, not {wanted}")))
    }
}

#[inline]
fn right(right: bool) -> io::Result<()> {
    if right { Ok(()) } else { Err(io::Error::other("a reply is wrong")) }
}
