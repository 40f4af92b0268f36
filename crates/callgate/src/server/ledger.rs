//! What each user uses of a server: clients, reply memory until the kernel proves that it was released, and descriptors on
//! their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use callgate_proto::arena::REGIONS_MAX;
use callgate_sys::collections::HashMap;
use callgate_sys::process;
use callgate_sys::shm::{Hold, MemFd, ReleaseId, ReleaseWatch, Told};
use callgate_sys::sync::{Mutex, MutexGuard};

use super::holds::{Holds, Lent};
use crate::options::Limits;

/// Messages with descriptors that a client may leave unread: as many as a burst of growing replies can need before a
/// client that is merely slow to be scheduled has read one.
const UNREAD_MAX: u32 = REGIONS_MAX as u32;
/// The same where all clients together leave many unread, and those of its user more than their share.
const UNREAD_MAX_TIGHT: u32 = 2;

/// Holds on memory that a user may have however many others there are, where all together have many.
const HOLDS_MIN: u32 = REGIONS_MAX as u32;

/// Counts what users use, against the server's limits.
pub(crate) struct Ledger {
    limits: Limits,
    /// How many messages with descriptors, unread by all clients together, are much.
    unread_max: u32,
    /// How many descriptors there are for holds on memory.
    holds_max: u32,
    watch: Option<ReleaseWatch>,
    /// What is asked before memory may go.
    pub(super) holds: Arc<Holds>,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    users: HashMap<u32, User>,
    clients: u32,
    bytes: u64,
    unread: u32,
    holds: u32,
    /// A hold could not be had, which was said.
    was_not_held: bool,
    regions: HashMap<ReleaseId, Region>,
}

#[derive(Default)]
struct User {
    clients: u32,
    bytes: u64,
    /// Messages with descriptors that its clients may not have read.
    unread: u32,
    /// Regions by each of which the server keeps a descriptor.
    holds: u32,
}

struct Region {
    charge: Charge,
    account: Arc<AtomicU64>,
}

/// Bytes put on a user's and a connection's account.
#[derive(Clone, Copy)]
pub(crate) struct Charge {
    uid: u32,
    bytes: u64,
    /// Whether the server is to keep a descriptor of the memory.
    is_held: bool,
}

impl Charge {
    /// Whether the memory is to be made with a hold.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held
    }
}

/// Which limit a client met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Clients(u32),
    ClientsOfUser(u32),
}

impl Ledger {
    pub(crate) fn new(limits: Limits, unread_max: u32, holds_max: u32) -> Self {
        let watch = ReleaseWatch::new()
            .inspect_err(|error| {
                tracing::warn!(%error, "no inotify: reply memory stays on its user's account until the server ends");
            })
            .ok();
        let holds = Arc::default();
        Self { limits, unread_max, holds_max, watch, holds, books: Mutex::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock()
    }

    /// What tells of releases, to be polled; then call [`Ledger::settle`].
    pub(crate) fn watch(&self) -> Option<&ReleaseWatch> {
        self.watch.as_ref()
    }

    pub(crate) fn admit(&self, uid: u32, clients_max: u32) -> Result<(), Full> {
        let books = &mut *self.books();
        if books.clients >= clients_max {
            return Err(Full::Clients(clients_max));
        }
        let user = books.users.entry(uid).or_default();
        if user.clients >= self.limits.clients_per_uid {
            return Err(Full::ClientsOfUser(self.limits.clients_per_uid));
        }
        user.clients += 1;
        books.clients += 1;
        Ok(())
    }

    pub(crate) fn leave(&self, uid: u32) {
        let mut books = self.books();
        books.clients -= 1;
        books.change(uid, |user| user.clients -= 1);
    }

    /// A message with a descriptor was sent.
    pub(crate) fn announced(&self, uid: u32) {
        let books = &mut *self.books();
        books.unread += 1;
        books.users.entry(uid).or_default().unread += 1;
    }

    /// So many of these were read, or will never be.
    pub(crate) fn has_read(&self, uid: u32, count: u32) {
        if count > 0 {
            let mut books = self.books();
            books.unread -= count;
            books.change(uid, |user| user.unread -= count);
        }
    }

    /// How many of them each client of a user may leave unread. The kernel counts all against the server's own user; so
    /// while all together leave many, clients of a user that has more than its share may leave few. A user always has the
    /// share of one client.
    pub(crate) fn unread_allowed(&self, uid: u32) -> u32 {
        let books = self.books();
        let users = u32::try_from(books.users.len()).unwrap_or(u32::MAX).max(1);
        let share = (self.unread_max / users).max(UNREAD_MAX);
        let own = books.users.get(&uid).map_or(0, |user| user.unread);
        let is_tight = books.unread >= self.unread_max && own >= share;
        if is_tight { UNREAD_MAX_TIGHT } else { UNREAD_MAX }
    }

    #[cfg(test)]
    fn clients(&self) -> u32 {
        self.books().clients
    }

    /// Reply memory handed out and not proven released, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.books().bytes
    }

    /// Puts `bytes` on the accounts, if both limits allow; else says which does not.
    pub(crate) fn charge(
        &self,
        uid: u32,
        account: &AtomicU64,
        account_max: u64,
        bytes: u64,
    ) -> Result<Charge, String> {
        let books = &mut *self.books();
        let used = account.load(Ordering::Relaxed);
        if used.saturating_add(bytes) > account_max {
            return Err(format!("this client holds {used} of its {account_max} bytes"));
        }
        let user = books.users.entry(uid).or_default();
        let limit = self.limits.bytes_per_uid;
        if user.bytes.saturating_add(bytes) > limit {
            return Err(format!("user {uid} holds {} of its {limit} bytes", user.bytes));
        }
        let has = user.holds;
        let is_held = self.watch.is_some() && self.may_hold(books, has);
        // Who is of the server's own user can send it signals, and look into it. It gets its memory all the same.
        let is_own = uid == process::uid() || uid == 0;
        if self.watch.is_some() && !is_held && !is_own {
            return Err(format!("user {uid} holds {has} regions; the server has few descriptors"));
        }
        let user = books.users.entry(uid).or_default();
        user.bytes += bytes;
        user.holds += u32::from(is_held);
        books.bytes += bytes;
        books.holds += u32::from(is_held);
        // Relaxed: all changes are made under the lock of `books`.
        account.fetch_add(bytes, Ordering::Relaxed);
        Ok(Charge { uid, bytes, is_held })
    }

    /// Whether there is a descriptor for one more hold of a user that has so many. Where half of them are in use, for those
    /// who have less than their share only; a user always has the share of one client.
    fn may_hold(&self, books: &Books, has: u32) -> bool {
        let users = u32::try_from(books.users.len()).unwrap_or(u32::MAX).max(1);
        let share = (self.holds_max / users).max(HOLDS_MIN);
        books.holds < self.holds_max && (books.holds < self.holds_max / 2 || has < share)
    }

    /// The memory was made without a hold: none can be had.
    pub(crate) fn is_not_held(&self, charge: &mut Charge) {
        if std::mem::take(&mut charge.is_held) {
            let mut books = self.books();
            books.holds -= 1;
            books.change(charge.uid, |user| user.holds -= 1);
            if !std::mem::replace(&mut books.was_not_held, true) && cfg!(not(windows)) {
                tracing::warn!(
                    "no leases: pages of reply memory that clients keep are not counted"
                );
            }
        }
    }

    /// Takes a charge back whose memory was never handed out.
    pub(crate) fn refund(&self, charge: Charge, account: &AtomicU64) {
        self.books().refund(charge, account);
    }

    /// The memory behind `fd` is about to be handed out: its charge lasts until the kernel says that nobody holds it, or,
    /// on a system without inotify, as long as the server. What is given is to be dropped once this process has unmapped
    /// it. On an error it must not be handed out.
    pub(crate) fn hand_out(
        &self,
        charge: Charge,
        account: &Arc<AtomicU64>,
        fd: &MemFd,
        hold: &mut Option<Hold>,
    ) -> Result<Lent, String> {
        let Some(watch) = &self.watch else { return Ok(Lent::unwatched()) };
        let mut books = self.books();
        let id = watch.watch(fd).map_err(|error| format!("release cannot be watched: {error}"))?;
        books.regions.insert(id, Region { charge, account: account.clone() });
        Ok(self.holds.lend(id, charge.uid, hold.take()))
    }

    /// Takes back the charges of all memory that was released since the last time. Never blocks.
    pub(crate) fn settle(&self) {
        let Some(watch) = &self.watch else { return };
        let (mut closed, mut gone) = (Vec::new(), Vec::new());
        watch.drain(|told| match told {
            Told::Closed(id) => closed.push(id),
            Told::Gone(id) => gone.push(id),
        });
        self.holds.closed(&closed);
        let mut books = self.books();
        for id in gone {
            if let Some(region) = books.regions.remove(&id) {
                books.refund(region.charge, &region.account);
            }
        }
    }
}

impl Books {
    fn refund(&mut self, charge: Charge, account: &AtomicU64) {
        account.fetch_sub(charge.bytes, Ordering::Relaxed);
        self.bytes -= charge.bytes;
        self.holds -= u32::from(charge.is_held);
        self.change(charge.uid, |user| {
            user.bytes -= charge.bytes;
            user.holds -= u32::from(charge.is_held);
        });
    }

    fn change(&mut self, uid: u32, change: impl FnOnce(&mut User)) {
        if let Some(user) = self.users.get_mut(&uid) {
            change(user);
            if user.clients == 0 && user.bytes == 0 && user.unread == 0 && user.holds == 0 {
                self.users.remove(&uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use callgate_sys::shm::PayloadWriter;

    fn ledger() -> Ledger {
        let limits = Limits { clients_per_uid: 2, bytes_per_uid: 100_000, ..Limits::default() };
        Ledger::new(limits, 64, 8)
    }

    #[test]
    fn clients_are_counted_by_user_and_in_all() {
        let ledger = ledger();
        assert_eq!(ledger.admit(1, 3), Ok(()));
        assert_eq!(ledger.admit(1, 3), Ok(()));
        assert_eq!(ledger.admit(1, 3), Err(Full::ClientsOfUser(2)));
        assert_eq!(ledger.admit(2, 3), Ok(()));
        assert_eq!(ledger.admit(3, 3), Err(Full::Clients(3)));
        ledger.leave(1);
        assert_eq!(ledger.admit(1, 3), Ok(()));
        assert_eq!(ledger.clients(), 3);
    }

    #[cfg(windows)]
    #[test]
    fn memory_stays_charged_until_this_process_has_let_go_of_it() {
        let ledger = ledger();
        let account = Arc::new(AtomicU64::new(0));
        let charge = ledger.charge(1, &account, 1 << 20, 65_536).expect("within limits");
        assert!(ledger.charge(1, &account, 1 << 20, 65_536).is_err(), "the user's limit");
        let (region, fd) = PayloadWriter::create(65_536).expect("memory");
        let lent = ledger.hand_out(charge, &account, &fd, &mut None).expect("watched");
        drop(fd);
        ledger.settle();
        assert_eq!(ledger.bytes(), 65_536, "it is mapped");
        drop((region, lent));
        ledger.settle();
        assert_eq!((ledger.bytes(), account.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn a_user_that_reads_nothing_keeps_nobody_else_from_its_share() {
        let ledger = ledger();
        (0..63).for_each(|_| ledger.announced(1));
        assert_eq!(ledger.unread_allowed(1), UNREAD_MAX, "there is room for all");
        ledger.announced(1);
        assert_eq!(ledger.unread_allowed(1), UNREAD_MAX_TIGHT, "it has all there is");
        assert_eq!(ledger.unread_allowed(2), UNREAD_MAX);
        (0..31).for_each(|_| ledger.announced(2));
        assert_eq!(ledger.unread_allowed(2), UNREAD_MAX, "less than its half");
        ledger.announced(2);
        assert_eq!(ledger.unread_allowed(2), UNREAD_MAX_TIGHT);
        // However many users there are, each has one client's share.
        (10..100).for_each(|uid| ledger.announced(uid));
        assert!((10..100).all(|uid| ledger.unread_allowed(uid) == UNREAD_MAX));
        (10..100).for_each(|uid| ledger.has_read(uid, 1));
        ledger.has_read(1, 33);
        assert_eq!(ledger.unread_allowed(2), UNREAD_MAX, "there is room again");
        ledger.has_read(1, 31);
        ledger.has_read(2, 32);
        assert!(ledger.books().users.is_empty());
    }

    #[cfg(not(windows))]
    #[test]
    fn memory_stays_charged_until_the_kernel_proves_its_release() {
        use std::os::fd::AsFd;
        let ledger = ledger();
        let account = Arc::new(AtomicU64::new(0));
        let charge = ledger.charge(1, &account, 1 << 20, 65_536).expect("within limits");
        assert!(ledger.charge(1, &account, 1 << 20, 65_536).is_err(), "the user's limit");
        assert!(ledger.charge(2, &account, 65_536, 1).is_err(), "the connection's limit");
        let (region, fd) = PayloadWriter::create(65_536).expect("memory");
        let lent = ledger.hand_out(charge, &account, &fd, &mut None).expect("watched");
        drop((region, lent));
        ledger.settle();
        assert_eq!(ledger.bytes(), 65_536, "somebody still holds the descriptor");
        let peer = fd.as_fd().try_clone_to_owned().expect("descriptor");
        drop(fd);
        ledger.settle();
        assert_eq!(ledger.bytes(), 65_536, "the peer holds it");
        drop(peer);
        ledger.settle();
        assert_eq!((ledger.bytes(), account.load(Ordering::Relaxed)), (0, 0));
    }
}
