//! Memory that was handed out, until this process has let go of it.
//!
//! No call tells of the last mapping that any process has of a section. Nor is it needed as it is elsewhere: what a peer
//! keeps mapped is committed memory of the machine, as what it allocates itself is; there is no account of the server's
//! user that it could use up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::MemFd;
use crate::poller::{Flag, Pollable, Source};
use crate::shm::{Left, Told};
use crate::sync::Mutex;

/// One region that is being watched, as [`ReleaseWatch::watch`] named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseId(u64);

/// Tells when regions of memory are gone from this process: its mapping, and whatever is on its way to the peer. A client
/// that keeps a mapping keeps the memory, which nobody is charged for. Any thread may use it.
#[derive(Debug)]
pub struct ReleaseWatch(Arc<Releases>);

#[derive(Debug)]
pub(super) struct Releases {
    next: AtomicU64,
    gone: Mutex<Vec<ReleaseId>>,
    flag: Arc<Flag>,
}

impl Releases {
    pub(super) fn gone(&self, id: ReleaseId) {
        self.gone.lock().push(id);
        self.flag.set();
    }
}

impl ReleaseWatch {
    /// Makes one that watches nothing.
    ///
    /// # Errors
    ///
    /// None on this system.
    pub fn new() -> io::Result<ReleaseWatch> {
        let (next, gone) = (AtomicU64::new(0), Mutex::default());
        Ok(ReleaseWatch(Arc::new(Releases { next, gone, flag: Flag::new() })))
    }

    /// Starts to watch memory that was made here. Doesn't keep it from going.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for memory of a peer's, or that is watched already.
    pub fn watch(&self, fd: &MemFd) -> io::Result<ReleaseId> {
        let id = ReleaseId(self.0.next.fetch_add(1, Ordering::Relaxed));
        match fd.watch(&self.0, id) {
            true => Ok(id),
            false => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Reports each region that has gone since the last call, once. Never blocks.
    pub fn drain(&self, mut told: impl FnMut(Told)) {
        // First: what goes from here on sets it again.
        self.0.flag.clear();
        let gone = std::mem::take(&mut *self.0.gone.lock());
        gone.into_iter().for_each(|id| told(Told::Gone(id)));
    }
}

impl Pollable for ReleaseWatch {
    fn source(&self) -> Option<Arc<dyn Source>> {
        self.0.flag.source()
    }
}

/// What is left of memory elsewhere, no call tells here: there is none.
#[derive(Debug)]
pub enum Hold {}

/// Said, so that letting go of one reads the same on each system.
impl Drop for Hold {
    fn drop(&mut self) {
        match *self {}
    }
}

impl Hold {
    /// Is never called, since there is none.
    pub fn ask(&self) -> Left {
        match *self {}
    }
}
