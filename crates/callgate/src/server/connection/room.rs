//! Making a connection's reply memory, on the thread that answers.
//!
//! Populating takes milliseconds for many megabytes. The lock is released meanwhile: the worker takes it too, and has others
//! to serve.

use std::sync::atomic::Ordering;
use std::time::Duration;

use callgate_proto::arena::{Block, Placing, REGION_MIN};
use callgate_proto::cell::Turn;
use callgate_proto::wire::Message;
use callgate_sys::shm::{Hold, MemFd, PayloadWriter, page_size};
use callgate_sys::sync::MutexGuard;

use super::{Connection, Out};
use crate::error::ReplyError;
use crate::server::holds::Lent;
use crate::server::ledger::Charge;

/// A worker waits for memory that another thread makes up to so many bytes, which takes about as long as making its own; it
/// does not wait for more.
const AWAITED_MAX: u64 = 1 << 20;
/// How long a thread waits for another one's memory before it looks again, in case it was not told.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A region that was made and not announced.
struct Spare {
    region: PayloadWriter,
    fd: MemFd,
    size: u64,
    state: State,
}

/// How far a region has come.
enum State {
    /// On the accounts.
    Charged(Charge, Option<Hold>),
    /// The kernel watches for its release.
    Watched(Lent),
}

/// A region that the client was told of. The fields are dropped in this order.
pub(super) struct Region {
    pub(super) memory: PayloadWriter,
    _lent: Lent,
}

impl Connection {
    /// Finds room for a reply as [`Connection::place`] does, making more.
    #[cold]
    pub(super) fn make_room<'a>(
        &'a self,
        mut out: MutexGuard<'a, Out>,
        cell: usize,
        turn: Turn,
        len: u64,
        is_worker: bool,
    ) -> Result<(Block, *mut [u8]), ReplyError> {
        let no_memory = |why: String| ReplyError::NoMemory { len, why };
        let mut spare: Option<Spare> = None;
        let found = loop {
            if self.is_gone() {
                break Err(ReplyError::Disconnected);
            }
            match out.outgoing.place(len) {
                Placing::Placed(block) => break Ok(out.placed(cell, turn, block)),
                Placing::Grow(size) => match spare.take() {
                    Some(made) if made.size <= size => match self.announce(&mut out, made) {
                        Ok(()) => {}
                        Err((why, made)) => {
                            spare = Some(made);
                            break Err(no_memory(why));
                        }
                    },
                    Some(other) => {
                        // Others have used the quota meanwhile.
                        drop(out);
                        self.discard(other);
                        out = self.out();
                    }
                    // One at a time: what it makes may have room for this reply, too.
                    None if out.making > 0 && (!is_worker || out.making <= AWAITED_MAX) => {
                        out = self.made.wait_timeout(out, LOOK_AGAIN);
                    }
                    None => {
                        let charged = self.may_announce(&mut out);
                        match charged.and_then(|()| self.charge(&mut out, len, size)) {
                            Ok((charge, size)) => {
                                drop(out);
                                let made = self.make(charge, size);
                                out = self.out();
                                match made {
                                    Ok(made) => spare = Some(made),
                                    Err(why) => break Err(no_memory(why)),
                                }
                            }
                            Err(why) => break Err(no_memory(why)),
                        }
                    }
                },
                Placing::Full => {
                    let reclaimed = self.reclaim_released(&mut out);
                    let retired = self.retire(&mut out, 0);
                    if !reclaimed && !retired {
                        break Err(no_memory("the connection's quota is used up".into()));
                    }
                }
            }
        };
        drop(out);
        if let Some(spare) = spare {
            self.discard(spare);
        }
        found
    }

    /// Puts a new region on the accounts, of at most `wanted` bytes, or of just enough for `len`. Gives its size.
    fn charge(&self, out: &mut Out, len: u64, wanted: u64) -> Result<(Charge, u64), String> {
        // Regions that the client has let go of may be on the account still.
        self.shared.ledger.settle();
        let least = len.next_multiple_of(page_size() as u64).min(wanted);
        let limit = self.shared.limits.bytes_per_client;
        let uid = self.caller.uid;
        // However small, a region takes a watch and an inode.
        let charge = |bytes: u64| {
            let bytes = bytes.max(REGION_MIN);
            self.shared.ledger.charge(uid, &self.account, limit.max(REGION_MIN), bytes)
        };
        let (charge, size) = match charge(wanted) {
            Ok(charge) => (charge, wanted),
            Err(_) => (charge(least)?, least),
        };
        out.making += size;
        Ok((charge, size))
    }

    /// Makes a region that is on the accounts. To be called without the lock.
    fn make(&self, mut charge: Charge, size: u64) -> Result<Spare, String> {
        let made = usize::try_from(size).map_err(|_| std::io::ErrorKind::OutOfMemory.into());
        let made = made.and_then(|len| match charge.is_held() {
            true => PayloadWriter::create_held(len),
            false => PayloadWriter::create(len).map(|(region, fd)| (region, fd, None)),
        });
        match made {
            Ok((region, fd, hold)) => {
                if hold.is_none() {
                    self.shared.ledger.is_not_held(&mut charge);
                }
                Ok(Spare { region, fd, size, state: State::Charged(charge, hold) })
            }
            Err(error) => {
                self.shared.ledger.refund(charge, &self.account);
                self.is_made(&mut self.out(), size);
                Err(error.to_string())
            }
        }
    }

    /// A region that was charged is announced, or is no more.
    fn is_made(&self, out: &mut Out, size: u64) {
        out.making -= size;
        self.made.notify_all();
    }

    /// Lets go of a region that nobody was told of. To be called without the lock.
    fn discard(&self, spare: Spare) {
        let Spare { region, fd, size, state } = spare;
        drop((region, fd));
        match state {
            State::Charged(charge, hold) => {
                drop(hold);
                self.shared.ledger.refund(charge, &self.account);
            }
            // Nobody else had it: the watch tells of its end at once, or the charge stays where nothing watches.
            State::Watched(lent) => {
                lent.take_back();
                self.shared.ledger.settle();
            }
        }
        self.is_made(&mut self.out(), size);
    }

    /// Tells the client of a region and adds it; keeps the lock, so that ids and messages have one order. Else gives it back,
    /// to be discarded.
    fn announce(&self, out: &mut Out, spare: Spare) -> Result<(), (String, Spare)> {
        if let Err(why) = self.may_announce(out) {
            return Err((why, spare));
        }
        let message = Message::Region { id: out.outgoing.next_id(), size: spare.size }.encode();
        // Watched before it is sent: from then on the kernel alone says when it is released.
        let (Spare { region, fd, size, state }, ledger) = (spare, &self.shared.ledger);
        let lent = match state {
            State::Watched(lent) => lent,
            State::Charged(charge, mut hold) => {
                match ledger.hand_out(charge, &self.account, &fd, &mut hold) {
                    Ok(lent) => lent,
                    Err(why) => {
                        let state = State::Charged(charge, hold);
                        return Err((why, Spare { region, fd, size, state }));
                    }
                }
            }
        };
        if let Err(error) = self.socket.send_memory(message.as_bytes(), &fd) {
            let state = State::Watched(lent);
            return Err((error.to_string(), Spare { region, fd, size, state }));
        }
        out.unread += 1;
        self.shared.ledger.announced(self.caller.uid);
        out.outgoing.add(size, Region { memory: region, _lent: lent });
        self.mapped.store(out.outgoing.total(), Ordering::Relaxed);
        self.is_made(out, size);
        Ok(())
    }

    /// Whether the client reads its socket, so that another descriptor can be sent.
    fn may_announce(&self, out: &mut Out) -> Result<(), String> {
        self.flush_retires(out);
        // Asked each time: what was read long ago is not to count against its user.
        if out.unread > 0 && self.socket.unread().map_err(|error| error.to_string())? == 0 {
            self.forget_unread(out);
        }
        if out.unread >= self.shared.ledger.unread_allowed(self.caller.uid)
            || !out.unsent_retires.is_empty()
        {
            return Err("the client does not read its socket".into());
        }
        Ok(())
    }
}
