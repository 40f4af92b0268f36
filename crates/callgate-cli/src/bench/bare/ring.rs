//! Two rings of 64-byte messages between two processes that poll: the floor under many calls in
//! flight from one thread.
//!
//! Each ring has as many places as calls may be in flight, so that it is never full, and needs one
//! shared counter only: how many messages its writer has published. Messages lie in cache lines of
//! their own: a number and 48 bytes. The writer publishes each message, or some together; what has
//! to be waited for is always published first.

use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Actor, Limit, verify};
use crate::bench::bytes::{answer, words};
use crate::bench::flow::{Flow, keep_in_flight};
use crate::bench::process::{Partner, Shared, Switch};

/// A number, and 48 bytes.
type Message = [u64; 7];

/// Messages on their way at most; a power of two.
pub const WINDOW: usize = 64;

const SWITCH: usize = 1024;
const RINGS: usize = 4096;
const LINE: usize = 64;

/// The count that ends a round.
const STOP: u64 = u64::MAX;

/// How many messages are published together, at most, in each of the limits.
///
/// The first is what callgate is held against: a call that was submitted is on its way. The others
/// hold messages back until some are together or an answer is waited for, and are told beside it.
pub const BATCHES: [u64; 3] = [1, 8, 32];

/// How the first limit's name begins.
pub const AT_ONCE: &str = "rings";

/// How the names of the others begin.
pub const BATCHED: &str = "batching rings";

/// The name in tables.
pub fn name(batch: u64) -> String {
    if batch == 1 { AT_ONCE.to_owned() } else { format!("{BATCHED}, {batch}") }
}

/// Makes the limit that publishes up to `batch` messages together.
///
/// # Errors
/// When the system has no memory or no processes.
pub fn limit(batch: u64) -> io::Result<Limit> {
    let rings = Rc::new(Rings { shared: Shared::new(RINGS + 2 * WINDOW * LINE)? });
    let serving = rings.clone();
    let server = Partner::fork(&[], move || serving.serve(batch))?;
    let mut client = Client { rings, batch, written: 0, published: 0, read: 0, there: 0 };
    let client = Actor::fork(move |pace| {
        client.rings.switch().await_off();
        client.rings.count(0).store(client.published, Ordering::Relaxed);
        client.rings.switch().on();
        let sample = keep_in_flight(&mut client, WINDOW, pace);
        client.rings.count(0).store(STOP, Ordering::Release);
        sample
    })?;
    Ok(Limit { clients: vec![client], server })
}

/// Ring 0 holds requests, ring 1 replies.
struct Rings {
    shared: Shared,
}

impl Rings {
    fn switch(&self) -> Switch<'_> {
        Switch(self.shared.word(SWITCH))
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < RINGS + 2 * WINDOW * LINE);
        // SAFETY: inside the mapping and aligned (asserted); the mapping lives as long as `self`,
        // and both processes reach these words as atomics only.
        unsafe { AtomicU64::from_ptr(self.shared.start().add(offset).cast()) }
    }

    /// Messages published in a ring; far apart, so that no prefetch pairs them.
    fn count(&self, ring: usize) -> &AtomicU64 {
        self.word(ring * 256)
    }

    fn place(ring: usize, number: u64) -> usize {
        RINGS + (ring * WINDOW + (number as usize & (WINDOW - 1))) * LINE
    }

    fn put(&self, ring: usize, number: u64, message: Message) {
        let place = Self::place(ring, number);
        for (index, word) in message.into_iter().enumerate() {
            self.word(place + 8 * index).store(word, Ordering::Relaxed);
        }
    }

    fn get(&self, ring: usize, number: u64) -> Message {
        let place = Self::place(ring, number);
        std::array::from_fn(|index| self.word(place + 8 * index).load(Ordering::Relaxed))
    }

    fn serve(&self, batch: u64) {
        let mut done = 0;
        loop {
            self.switch().await_on();
            loop {
                let there = self.count(0).load(Ordering::Acquire);
                if there == STOP {
                    break;
                }
                if there == done {
                    std::hint::spin_loop();
                }
                while done < there {
                    let upto = there.min(done + batch);
                    while done < upto {
                        self.put(1, done, answer(self.get(0, done)));
                        done += 1;
                    }
                    self.count(1).store(done, Ordering::Release);
                }
            }
            self.switch().off();
        }
    }
}

struct Client {
    rings: Rc<Rings>,
    batch: u64,
    written: u64,
    published: u64,
    read: u64,
    /// Replies known to be there.
    there: u64,
}

impl Client {
    fn publish(&mut self) {
        self.published = self.written;
        self.rings.count(0).store(self.published, Ordering::Release);
    }
}

impl Flow for Client {
    #[inline]
    fn send(&mut self) -> io::Result<()> {
        self.rings.put(0, self.written, words(self.written));
        self.written += 1;
        if self.written - self.published >= self.batch {
            self.publish();
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self) -> io::Result<()> {
        if self.there == self.read {
            self.publish();
            loop {
                self.there = self.rings.count(1).load(Ordering::Acquire);
                if self.there != self.read {
                    break;
                }
                std::hint::spin_loop();
            }
        }
        let message = self.rings.get(1, self.read);
        verify(message == answer(words(self.read)))?;
        self.read += 1;
        Ok(())
    }
}
