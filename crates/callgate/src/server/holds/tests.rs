//! With real memory, whose pages are put into pipes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Instant;

use super::*;
use crate::options::Limits;
use crate::server::ledger::Ledger;
use callgate_sys::shm::{MemFd, PayloadWriter};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

const LEN: usize = 65_536;
const BOUND: Duration = Duration::from_secs(60);

struct Desk {
    ledger: Arc<Ledger>,
    account: Arc<AtomicU64>,
    asking: Option<JoinHandle<()>>,
}

impl Desk {
    fn new(holds_max: u32) -> Self {
        let ledger = Arc::new(Ledger::new(Limits::default(), 64, holds_max));
        let holds = ledger.holds.clone();
        let asking = Some(std::thread::spawn(move || holds.run()));
        Self { ledger, account: Arc::default(), asking }
    }

    /// Hands memory out to a user who unmaps it later than the server.
    fn hand_out(&self, uid: u32) -> MemFd {
        let bytes = LEN as u64;
        let charge = self.ledger.charge(uid, &self.account, 1 << 30, bytes).expect("limits");
        let (memory, fd, mut hold) = PayloadWriter::create_held(LEN).expect("memory");
        let lent = self.ledger.hand_out(charge, &self.account, &fd, &mut hold);
        drop((memory, lent.expect("watched")));
        fd
    }

    fn until(&self, what: &str, mut condition: impl FnMut(&State) -> bool) {
        let began = Instant::now();
        loop {
            self.ledger.settle();
            if condition(&self.ledger.holds.state()) {
                return;
            }
            assert!(began.elapsed() < BOUND, "never: {what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.ledger.holds.end();
        self.asking.take().expect("once").join().expect("it ended");
    }
}

/// Pages of memory in a pipe; all else is let go of.
fn keep_pages(fd: MemFd) -> OwnedFd {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let mut offset = 0;
    let taken = splice(fd.as_fd(), Some(&mut offset), &writer, None, 4_096, SpliceFlags::empty());
    assert_eq!(taken, Ok(4_096));
    reader
}

#[test]
fn pages_keep_the_charge_until_they_are_read() {
    let desk = Desk::new(8);
    let pages = keep_pages(desk.hand_out(1));
    desk.until("pages are in use", |state| state.holders.contains_key(&1));
    assert_eq!(desk.ledger.bytes(), LEN as u64);
    drop(pages);
    desk.until("nothing is left", |state| state.kept.is_empty());
    desk.until("it is paid for no more", |_| desk.ledger.bytes() == 0);
    assert!(desk.ledger.holds.state().holders.is_empty());
}

#[test]
fn who_keeps_pages_comes_last() {
    let desk = Desk::new(32);
    let pages: Vec<_> = (0..10).map(|_| keep_pages(desk.hand_out(1))).collect();
    desk.until("the first is being asked of", |state| {
        state.is_asking || state.holders.contains_key(&1)
    });
    drop(desk.hand_out(2));
    let mut asked = 0;
    desk.until("the other user's is gone", |state| {
        asked = state.holders.get(&1).copied().unwrap_or(0);
        state.kept.values().all(|kept| kept.uid == 1)
    });
    assert!(asked < 10, "it waited for all of them");
    drop(pages);
    desk.until("all are gone", |state| state.kept.is_empty());
}

#[test]
fn memory_in_use_is_not_asked_of() {
    let desk = Desk::new(8);
    let fd = desk.hand_out(1);
    let again =
        File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd())));
    let again = again.expect("this user's");
    assert!(desk.ledger.holds.state().kept.values().all(|kept| kept.place == Place::InUse));
    drop(fd);
    desk.until("it is open once more", |state| {
        state.kept.values().any(|kept| matches!(kept.place, Place::Open(_)))
    });
    assert_eq!(desk.ledger.bytes(), LEN as u64);
    drop(again);
    desk.until("nothing is left", |state| state.kept.is_empty());
}

#[test]
fn a_user_without_a_descriptor_gets_no_memory_and_the_servers_own_does() {
    let desk = Desk::new(2);
    let other = process::uid() + 1;
    let charge = |uid| desk.ledger.charge(uid, &desk.account, 1 << 30, 1);
    let first = [charge(other), charge(other)].map(|charge| charge.expect("two are left"));
    assert!(first.iter().all(|charge| charge.is_held()));
    assert!(charge(other).is_err());
    let own = charge(process::uid()).expect("unheld");
    assert!(!own.is_held());
    desk.ledger.refund(first[0], &desk.account);
    assert!(charge(other).expect("one is left").is_held());
}
