//! Shared memory on the heap, counted by who holds it; seals are modelled by its kind.

use std::io;
use std::marker::PhantomData;
use std::sync::atomic::AtomicU32;

use super::{Left, Rejected, Told};
use crate::futex::{self, Waited};
use crate::poller::Pollable;
use crate::process::{generation, is_current};
use crate::sim::kernel::Object;
use crate::sim::world::inside;
use crate::sim::{Handle, PAGE, fault, here};

/// Gives the size of a page of memory in bytes.
pub fn page_size() -> usize {
    PAGE
}

/// The descriptor of memory on its way to a peer or from one.
#[derive(Debug)]
pub struct MemFd(Handle);

impl MemFd {
    pub(crate) fn new(handle: Handle) -> MemFd {
        MemFd(handle)
    }

    pub(crate) fn number(&self) -> u64 {
        self.0.0
    }
}

#[derive(Debug)]
struct Mapping {
    _handle: Handle,
    start: *mut u8,
    len: usize,
    generation: u32,
    _memory: PhantomData<*mut u8>,
}

// SAFETY: the address belongs to no thread; whoever dereferences it answers for what others do
// there.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method changes anything through `&self`.
unsafe impl Sync for Mapping {}

fn create(len: usize, payload: bool) -> io::Result<(Mapping, MemFd)> {
    if len == 0 || isize::try_from(len).is_err() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let here = inside();
    here.operation("sys.shm.create", 5_000, |state| {
        fault(state, libc::ENOMEM)?;
        let region = state.kernel.allocate(len, payload);
        let fd = MemFd(Handle::new(state, here.process, Object::Memory(region)));
        let handle = Handle::new(state, here.process, Object::Mapping(region));
        let (start, len) = state.kernel.memory(region);
        let (generation, _memory) = (generation(), PhantomData);
        Ok((Mapping { _handle: handle, start, len, generation, _memory }, fd))
    })
}

fn accept(fd: MemFd, len: usize, payload: bool) -> Result<Mapping, Rejected> {
    let here = inside();
    let mapped = here.operation("sys.shm.accept", 3_000, |state| {
        let Object::Memory(region) = *state.kernel.object(fd.0.0) else {
            unreachable!("a number of memory")
        };
        let (start, have) = state.kernel.memory(region);
        if payload && !state.kernel.regions[&region].payload {
            return Err(Rejected::MissingSeals { have: 0, want: 1 });
        }
        if have != len {
            return Err(Rejected::Size { have: have as u64, want: len as u64 });
        }
        if state.config.map_faults {
            fault(state, libc::ENOMEM).map_err(|source| Rejected::Os { call: "mmap", source })?;
        }
        let handle = Handle::new(state, here.process, Object::Mapping(region));
        let (generation, _memory) = (generation(), PhantomData);
        Ok(Mapping { _handle: handle, start, len, generation, _memory })
    });
    drop(fd);
    mapped
}

/// Payload memory that this process alone can write, for a peer to read.
#[derive(Debug)]
pub struct PayloadWriter(Mapping);

#[expect(clippy::len_without_is_empty, reason = "it is never empty")]
impl PayloadWriter {
    /// Makes `len` bytes of zeros and gives them together with the descriptor for the peer.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a length of zero, `ENOMEM` by chance.
    pub fn create(len: usize) -> io::Result<(PayloadWriter, MemFd)> {
        create(len, true).map(|(mapping, fd)| (PayloadWriter(mapping), fd))
    }

    /// Does what [`PayloadWriter::create`] does, and gives a hold on the memory too.
    ///
    /// # Errors
    ///
    /// As [`PayloadWriter::create`].
    pub fn create_held(len: usize) -> io::Result<(PayloadWriter, MemFd, Option<Hold>)> {
        let (writer, fd) = PayloadWriter::create(len)?;
        let here = inside();
        let hold = here.operation("sys.shm.reopen", 1_000, |state| {
            let Object::Memory(region) = *state.kernel.object(fd.0.0) else {
                unreachable!("a number of memory")
            };
            Hold(Handle::new(state, here.process, Object::Hold(region)))
        });
        Ok((writer, fd, Some(hold)))
    }

    /// Gives the address of the first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.start
    }

    /// Gives the length in bytes; never zero.
    pub fn len(&self) -> usize {
        self.0.len
    }
}

/// Payload memory that a peer writes and this process reads.
#[derive(Debug)]
pub struct PayloadReader(Mapping);

#[expect(clippy::len_without_is_empty, reason = "it is never empty")]
impl PayloadReader {
    /// Whether this process mapped it.
    pub fn is_ours(&self) -> bool {
        is_current(self.0.generation)
    }

    /// Checks that `fd` is payload memory of exactly `len` bytes and maps it.
    ///
    /// # Errors
    ///
    /// [`Rejected`] says which check failed.
    pub fn accept(fd: MemFd, len: usize) -> Result<PayloadReader, Rejected> {
        accept(fd, len, true).map(PayloadReader)
    }

    /// Does what [`PayloadReader::accept`] does.
    ///
    /// # Errors
    ///
    /// As [`PayloadReader::accept`].
    pub fn accept_held(fd: MemFd, len: usize) -> Result<PayloadReader, Rejected> {
        PayloadReader::accept(fd, len)
    }

    /// Gives the address of the first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.0.start
    }

    /// Gives the length in bytes; never zero.
    pub fn len(&self) -> usize {
        self.0.len
    }
}

/// A small region that both sides write, as atomics only.
#[derive(Debug)]
pub struct Control(Mapping);

#[expect(clippy::len_without_is_empty, reason = "it is never empty")]
impl Control {
    /// Makes `len` bytes of zeros and the descriptor for the peer.
    ///
    /// # Errors
    ///
    /// As [`PayloadWriter::create`].
    pub fn create(len: usize) -> io::Result<(Control, MemFd)> {
        create(len, false).map(|(mapping, fd)| (Control(mapping), fd))
    }

    /// Checks that `fd` is memory of exactly `len` bytes and maps it.
    ///
    /// # Errors
    ///
    /// As [`PayloadReader::accept`].
    pub fn accept(fd: MemFd, len: usize) -> Result<Control, Rejected> {
        accept(fd, len, false).map(Control)
    }

    /// Sleeps on a word of this region.
    pub fn wait(&self, word: &AtomicU32, expected: u32, deadline_ns: u64) -> Waited {
        futex::wait(word, expected, Some(deadline_ns))
    }

    /// Wakes at most `count` sleepers of a word of this region.
    pub fn wake(&self, word: &AtomicU32, count: u32) {
        futex::wake(word, count);
    }

    /// Wakes all sleepers of these words of the region.
    pub fn wake_all<'a>(&self, words: impl Iterator<Item = &'a AtomicU32>) {
        for word in words {
            futex::wake(word, u32::MAX);
        }
    }

    /// Gives the address of the first byte, to be touched as atomics.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.start
    }

    /// Gives the length in bytes; never zero.
    pub fn len(&self) -> usize {
        self.0.len
    }
}

/// Copies `len` bytes out of memory that another process may be writing: half, then, after others
/// have had their chance, the rest.
///
/// # Safety
///
/// * `src` is readable and `dst` writable for `len` bytes, and the ranges don't overlap.
/// * Nobody else uses `dst` during the call.
pub unsafe fn copy_from_shared(src: *const u8, dst: *mut u8, len: usize) {
    let half = len / 2;
    // SAFETY: the caller's promises, for the two halves. A task is alone between two points, so
    // nobody writes while one is copied.
    unsafe {
        std::ptr::copy_nonoverlapping(src, dst, half);
        if let Some(here) = here() {
            here.point("sys.shm.copy", 100);
        }
        std::ptr::copy_nonoverlapping(src.add(half), dst.add(half), len - half);
    }
}

/// One region that is being watched, as [`ReleaseWatch::watch`] named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseId(pub(crate) u32);

/// Tells when regions of memory are gone: unmapped and closed by every process.
#[derive(Debug)]
pub struct ReleaseWatch(Handle);

impl ReleaseWatch {
    /// Makes one that watches nothing.
    ///
    /// # Errors
    ///
    /// None: where it can't be had, memory stays charged by design, and nothing could be checked.
    pub fn new() -> io::Result<ReleaseWatch> {
        let here = inside();
        here.operation("sys.shm.inotify_init", 500, |state| {
            let (watched, told) = Default::default();
            let object = Object::Release { watched, told, next: 1 };
            Ok(ReleaseWatch(Handle::new(state, here.process, object)))
        })
    }

    /// Starts to watch the memory behind `fd`.
    ///
    /// # Errors
    ///
    /// None, as for [`ReleaseWatch::new`].
    pub fn watch(&self, fd: &MemFd) -> io::Result<ReleaseId> {
        inside().operation("sys.shm.inotify_add_watch", 500, |state| {
            let Object::Memory(region) = *state.kernel.object(fd.0.0) else {
                unreachable!("a number of memory")
            };
            let Object::Release { watched, next, .. } = state.kernel.object(self.0.0) else {
                unreachable!("a number of a watch")
            };
            if let Some((id, _)) = watched.iter().find(|(_, it)| *it == region) {
                return Ok(ReleaseId(*id));
            }
            *next += 1;
            watched.push((*next, region));
            Ok(ReleaseId(*next))
        })
    }

    /// Reports each region that has gone since the last call, once, and each of which somebody has
    /// let go of something.
    pub fn drain(&self, report: impl FnMut(Told)) {
        let told = inside().operation("sys.shm.inotify_read", 500, |state| {
            let Object::Release { told, .. } = state.kernel.object(self.0.0) else {
                unreachable!("a number of a watch")
            };
            std::mem::take(told)
        });
        told.into_iter().for_each(report);
    }
}

/// A hold on memory that was made here, by which to ask what others have of it.
#[derive(Debug)]
pub struct Hold(Handle);

impl Hold {
    /// Asks what anybody else has of the memory. By chance it says that single pages are in use.
    pub fn ask(&self) -> Left {
        inside().operation("sys.shm.seal_write", 1_000, |state| {
            let Object::Hold(region) = *state.kernel.object(self.0.0) else {
                unreachable!("a number of a hold")
            };
            if !state.kernel.is_only_held(region) {
                Left::Open
            } else if fault(state, libc::EBUSY).is_err() {
                Left::Pages
            } else {
                Left::Nothing
            }
        })
    }
}

impl Pollable for ReleaseWatch {
    fn number(&self) -> u64 {
        self.0.0
    }
}
