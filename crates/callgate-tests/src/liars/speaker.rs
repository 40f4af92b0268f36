//! A client that speaks the protocol by hand and correctly, so that a lie has honest calls before and around it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use callgate_proto::body::{Body, Inline, Place};
use callgate_proto::cell::TakenReply;
use callgate_proto::chain::Ticket;
use callgate_proto::wire::{MESSAGE_MAX, Message};
use callgate_sys::process;
use callgate_sys::shm::{PayloadReader, copy_from_shared};

use crate::bounded::BOUND;
use crate::data::{HEAD, is_reply, method, request};
use crate::hostile::{Raw, state};
use crate::rng::Rng;

/// Cells of its connections.
pub const CELLS: u32 = 65;
/// Most bytes of replies that it says it maps.
pub const QUOTA: u64 = 1 << 30;
/// Size of its region 0.
pub const REGION: usize = 65_536;

/// The honest part of a liar.
pub struct Speaker {
    /// The connection.
    pub raw: Raw,
    /// Where its choices come from.
    pub rng: Rng,
    /// Regions of replies, by id.
    pub incoming: HashMap<u32, PayloadReader>,
}

impl Speaker {
    /// Connects, and announces a region.
    #[must_use]
    pub fn connect(path: &Path, rng: Rng) -> Self {
        let mut raw = Raw::connect(path, CELLS, QUOTA);
        raw.add_region(0, REGION);
        Self { raw, rng, incoming: HashMap::new() }
    }

    /// Makes a call of some size, alone or so that others may come; whether the reply is right in every byte.
    pub fn call(&mut self) -> bool {
        let alone = self.rng.chance(60);
        self.call_as(alone)
    }

    /// The same.
    ///
    /// # Panics
    /// When a cell is lost.
    pub fn call_as(&mut self, alone: bool) -> bool {
        let Some(ticket) = self.raw.submitter.draw(alone) else { return false };
        let far = self.rng.chance(20);
        let len = HEAD + if far { self.rng.below(4_000) } else { self.rng.below(37) };
        let reply_len =
            if self.rng.chance(20) { self.rng.below(5_000) } else { self.rng.below(49) };
        let id = self.rng.next();
        let bytes = request(id, len, reply_len);
        let body = if let Some(inline) = Inline::new(&bytes) {
            Body::Inline(inline)
        } else {
            let offset = self.rng.below(60_000);
            // SAFETY: the region has 65,536 bytes, of which at most 64,012 are reached; this thread alone writes there.
            unsafe {
                let start = self.raw.regions[0].as_ptr().add(offset);
                start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
            Body::Far(Place { region: 0, offset: offset as u64, len: bytes.len() as u64 })
        };
        self.raw.publish_as(ticket, method::CHECKED, body);
        let Some(reply) = self.reply(ticket) else { return false };
        let right = !reply.head.failure
            && self.bytes(&reply).is_some_and(|bytes| is_reply(&bytes, id, reply_len));
        self.raw.words.cells()[usize::from(ticket.cell)].release();
        self.raw.put_back(ticket);
        right
    }

    /// Waits for a reply, looking all the time as a busy client does; `None` when the connection has ended, or the word is
    /// neither the request nor the reply.
    ///
    /// # Panics
    /// When nothing happens: the server hangs.
    #[must_use]
    pub fn reply(&self, ticket: Ticket) -> Option<TakenReply> {
        let cell = &self.raw.words.cells()[usize::from(ticket.cell)];
        let began = Instant::now();
        for look in 1u64.. {
            match cell.poll_reply(ticket.turn) {
                Ok(Some(reply)) => return Some(reply),
                Ok(None) => {}
                Err(_) => return None,
            }
            if look % 256 == 0 {
                if self.raw.socket.is_closed() {
                    return None;
                }
                assert!(began.elapsed() < BOUND, "no reply: the server hangs");
                process::yield_now();
            }
            std::hint::spin_loop();
        }
        None
    }

    /// The bytes of a reply, from wherever they are.
    fn bytes(&mut self, reply: &TakenReply) -> Option<Vec<u8>> {
        let place = match &reply.body {
            Body::Inline(inline) => return Some(inline.bytes().to_vec()),
            Body::Far(place) => *place,
        };
        if !self.incoming.contains_key(&place.region) {
            self.read_socket();
        }
        let region = self.incoming.get(&place.region)?;
        let range = place.check(region.len() as u64).ok()?;
        let mut out = vec![0; range.len()];
        // SAFETY: the range lies inside the region (checked), which `incoming` keeps mapped; `out` is as long.
        unsafe {
            copy_from_shared(region.as_ptr().add(range.start), out.as_mut_ptr(), range.len());
        }
        Some(out)
    }

    /// Reads what the server announced.
    pub fn read_socket(&mut self) {
        let mut buffer = [0; MESSAGE_MAX];
        while let Ok(received) = self.raw.socket.recv(&mut buffer) {
            match (Message::decode(&buffer[..received.len]), received.fd) {
                (Ok(Message::Region { id, size }), Some(fd)) => {
                    let region =
                        PayloadReader::accept_held(fd, size as usize).expect("honest memory");
                    self.incoming.insert(id, region);
                }
                (Ok(Message::Retire { id }), None) => drop(self.incoming.remove(&id)),
                other => panic!("an honest server said {:?}", other.0),
            }
        }
    }

    /// Publishes a call that the handler will hold, and waits until it does.
    ///
    /// # Panics
    /// When no cell is left.
    pub fn hold(&mut self) -> Ticket {
        let ticket = self.raw.submitter.draw(false).expect("a free cell");
        self.raw.publish_as(ticket, method::HOLD, Body::Inline(Inline::EMPTY));
        // Calls are taken in order, so this one was when the next one is answered.
        let _ = self.call_as(false);
        ticket
    }

    /// Draws the next call and writes its cell by hand; `edit` may change any of it. Then rings.
    ///
    /// # Panics
    /// When no cell is left.
    pub fn forge(&mut self, alone: bool, edit: impl FnOnce(&mut Rng, &mut Forged)) -> Ticket {
        let ticket = self.raw.submitter.draw(alone).expect("a free cell");
        let mut forged = Forged {
            turn: state::number(ticket.turn),
            phase: 1,
            flags: 0,
            word: 0,
            next: ticket.next,
            head: u64::from(method::ECHO) << 32,
            body: [0; 3],
        };
        edit(&mut self.rng, &mut forged);
        self.write(ticket.cell, &forged);
        ticket
    }

    /// Writes a cell as it is said, the state word last, and rings.
    pub fn write(&self, cell: u16, forged: &Forged) {
        let words = &self.raw.words;
        for (at, word) in forged.body.iter().enumerate() {
            words.body(cell, at).store(*word, Ordering::Relaxed);
        }
        words.head(cell).store(forged.head | u64::from(forged.next), Ordering::Relaxed);
        let at = callgate_proto::layout::CELLS_OFFSET / 4 + 16 * usize::from(cell) + 1;
        words.words32()[at].store(forged.word, Ordering::Relaxed);
        let turn = forged.turn & 0x03ff_ffff;
        let word = state::word(turn, forged.phase) | forged.flags;
        words.state(cell).swap(word, Ordering::SeqCst);
        let _ = self.raw.socket.ring();
    }

    /// Waits until the server has taken this turn.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_taken(&self, turn: u32) {
        crate::until("the call is taken", || {
            (self.raw.words.words32()[0].load(Ordering::Acquire) == turn).then_some(())
        });
    }
}

/// A call's line, in parts.
pub struct Forged {
    /// 26 bits.
    pub turn: u32,
    /// 0 blank, 1 request, 2 reply, 3 released.
    pub phase: u32,
    /// ASLEEP, CANCEL, ARMED, BELL.
    pub flags: u32,
    /// The word at offset 4.
    pub word: u32,
    /// The cell named as the next.
    pub next: u16,
    /// The rest of the head.
    pub head: u64,
    /// The first words of the body.
    pub body: [u64; 3],
}
