//! A connection of the liar, as an honest server would keep it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use callgate_proto::body::{Body, Inline, ReplyHead};
use callgate_proto::chain::{Deferred, Intake, Taken};
use callgate_proto::wire::{Answer, Ask, Hello, Message, Versions, Welcome};
use callgate_sys::shm::{Control, PayloadWriter};
use callgate_sys::socket::Socket;
use callgate_sys::{clock, futex};

use crate::hostile::{Words, receive, send, state};
use crate::rng::Rng;

/// Size of its regions.
pub const REGION: u64 = 65_536;
/// Longest reply that it says it gives.
pub const REPLY_MAX: u64 = 50_000;
/// Looks before it waits for its socket.
const LOOKS: u32 = 2_000;

/// A connection that was set up.
pub struct Link<'a> {
    /// Its socket.
    pub socket: &'a Socket,
    /// Its control region.
    pub words: Words,
    /// The region's descriptor, kept to spoil it with.
    pub fd: OwnedFd,
    /// Memory that was announced.
    pub regions: Vec<PayloadWriter>,
    /// Where its choices come from.
    pub rng: Rng,
    /// Whether it reads its socket.
    pub reads: bool,
    intake: Intake,
    deferred: Deferred,
}

/// What an honest server says.
#[must_use]
pub fn welcome(cells: u32) -> Welcome {
    Welcome {
        epoch: 1,
        request_max: 1 << 20,
        reply_max: REPLY_MAX,
        quota: 1 << 30,
        in_flight: cells - 1,
    }
}

impl<'a> Link<'a> {
    /// Does the handshake.
    #[must_use]
    pub fn welcome(socket: &'a Socket, rng: Rng) -> Option<Self> {
        let (bytes, fd) = receive(socket)?;
        let Ok(Hello { ask: Some(Ask::Connect { cells, control, .. }), .. }) =
            Hello::decode(&bytes)
        else {
            return None;
        };
        let memory = fd?;
        let fd = memory.as_fd().try_clone_to_owned().ok()?;
        let control = Control::accept(memory, control as usize).ok()?;
        let answer = Answer::Welcome(welcome(cells)).encode(Versions::OURS);
        let _ = send(socket, answer.as_bytes(), &[]);
        Some(Self {
            socket,
            words: Words { control, cells },
            fd,
            regions: Vec::new(),
            rng,
            reads: true,
            intake: Intake::new(cells),
            deferred: Deferred::default(),
        })
    }

    /// Waits for a call; `None` when the client has gone, or what stands there is nonsense, which is our own.
    pub fn take_next(&mut self) -> Option<Taken> {
        loop {
            for _ in 0..LOOKS {
                let (cells, detour) = (self.words.cells(), self.words.detour());
                match self.intake.take(cells, detour, &self.deferred) {
                    Ok(Some(taken)) => return Some(taken),
                    Ok(None) => std::hint::spin_loop(),
                    Err(_) => return None,
                }
            }
            if self.socket.is_closed() {
                return None;
            }
            let mut buffer = [0; 64];
            while self.reads && self.socket.recv(&mut buffer).is_ok() {}
            std::thread::yield_now();
        }
    }

    /// Does nothing until the client has gone.
    pub fn wait_gone(&self) {
        while !self.socket.is_closed() {
            let _ = self.socket.wait_readable(Some(clock::deadline_ns(Duration::from_millis(1))));
            let mut buffer = [0; 64];
            while self.reads && self.socket.recv(&mut buffer).is_ok() {}
        }
    }

    /// Wakes whoever sleeps on a cell's word.
    pub fn wake(&self, cell: u16) {
        futex::wake(self.words.cells()[usize::from(cell)].futex(), u32::MAX);
    }

    /// Answers a call as it should be.
    pub fn reply(&self, taken: &Taken, body: Body) {
        let cell = &self.words.cells()[usize::from(taken.cell)];
        if cell.publish_reply(taken.turn, ReplyHead::default(), 0, &body) {
            self.wake(taken.cell);
        }
    }

    /// Replies what came inline, nothing for what came otherwise.
    pub fn echo(&self, taken: &Taken) {
        let body = match taken.request.body {
            Body::Inline(inline) => Body::Inline(inline),
            Body::Far(_) => Body::Inline(Inline::EMPTY),
        };
        self.reply(taken, body);
    }

    /// Sends memory.
    pub fn region(&mut self, id: u32) {
        let (region, fd) = PayloadWriter::create(REGION as usize).expect("memory");
        let message = Message::Region { id, size: REGION }.encode();
        let _ = send(self.socket, message.as_bytes(), &[fd.as_fd()]);
        self.regions.push(region);
    }

    /// Writes an answer by hand: `turn` is counted from the call's own.
    pub fn write(&self, taken: &Taken, turn: u32, phase: u32, head: u64, body: [u64; 3]) {
        for (at, word) in body.into_iter().enumerate() {
            self.words.body(taken.cell, at).store(word, Ordering::Relaxed);
        }
        self.words.head(taken.cell).store(head, Ordering::Relaxed);
        let turn = state::number(taken.turn).wrapping_add(turn) & 0x03ff_ffff;
        self.words.state(taken.cell).store(state::word(turn, phase), Ordering::SeqCst);
        self.wake(taken.cell);
    }
}
