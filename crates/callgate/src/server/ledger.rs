//! What each user uses of a server: clients, reply memory until the kernel proves that it was released, and descriptors on
//! their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use callgate_proto::arena::REGIONS_MAX;
use callgate_sys::collections::HashMap;
use callgate_sys::shm::{MemFd, ReleaseId, ReleaseWatch};
use callgate_sys::sync::{Mutex, MutexGuard};

use crate::options::Limits;

/// Messages with descriptors that a client may leave unread: as many as a burst of growing replies can need before a
/// client that is merely slow to be scheduled has read one.
const UNREAD_MAX: u32 = REGIONS_MAX as u32;
/// The same where all clients together leave many unread, and those of its user more than their share.
const UNREAD_MAX_TIGHT: u32 = 2;

/// Counts what users use, against the server's limits.
pub(crate) struct Ledger {
    limits: Limits,
    /// How many messages with descriptors, unread by all clients together, are much.
    unread_max: u32,
    watch: Option<ReleaseWatch>,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    users: HashMap<u32, User>,
    clients: u32,
    bytes: u64,
    unread: u32,
    regions: HashMap<ReleaseId, Region>,
}

#[derive(Default)]
struct User {
    clients: u32,
    bytes: u64,
    /// Messages with descriptors that its clients may not have read.
    unread: u32,
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
}

/// Which limit a client met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Clients(u32),
    ClientsOfUser(u32),
}

impl Ledger {
    pub(crate) fn new(limits: Limits, unread_max: u32) -> Self {
        let watch = ReleaseWatch::new()
            .inspect_err(|error| {
                tracing::warn!(%error, "no inotify: reply memory stays on its user's account until the server ends");
            })
            .ok();
        Self { limits, unread_max, watch, books: Mutex::default() }
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
        user.bytes += bytes;
        books.bytes += bytes;
        // Relaxed: all changes are made under the lock of `books`.
        account.fetch_add(bytes, Ordering::Relaxed);
        Ok(Charge { uid, bytes })
    }

    /// Takes a charge back whose memory was never handed out.
    pub(crate) fn refund(&self, charge: Charge, account: &AtomicU64) {
        self.books().refund(charge, account);
    }

    /// The memory behind `fd` is about to be handed out: its charge lasts until the kernel says that nobody holds it, or,
    /// on a system without inotify, as long as the server. On an error it must not be handed out.
    pub(crate) fn hand_out(
        &self,
        charge: Charge,
        account: &Arc<AtomicU64>,
        fd: &MemFd,
    ) -> Result<(), String> {
        let Some(watch) = &self.watch else { return Ok(()) };
        let mut books = self.books();
        let id = watch.watch(fd).map_err(|error| format!("release cannot be watched: {error}"))?;
        books.regions.insert(id, Region { charge, account: account.clone() });
        Ok(())
    }

    /// Takes back the charges of all memory that was released since the last time. Never blocks.
    pub(crate) fn settle(&self) {
        let Some(watch) = &self.watch else { return };
        let mut released = Vec::new();
        watch.drain(|id| released.push(id));
        let mut books = self.books();
        for id in released {
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
        self.change(charge.uid, |user| user.bytes -= charge.bytes);
    }

    fn change(&mut self, uid: u32, change: impl FnOnce(&mut User)) {
        if let Some(user) = self.users.get_mut(&uid) {
            change(user);
            if user.clients == 0 && user.bytes == 0 && user.unread == 0 {
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
        Ledger::new(limits, 64)
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
        ledger.hand_out(charge, &account, &fd).expect("watched");
        drop(fd);
        ledger.settle();
        assert_eq!(ledger.bytes(), 65_536, "it is mapped");
        drop(region);
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
        ledger.hand_out(charge, &account, &fd).expect("watched");
        drop(region);
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
