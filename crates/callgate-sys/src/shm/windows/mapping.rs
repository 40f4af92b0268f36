//! Mappings of sections: the writer's, the reader's, and the one that both write.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use callgate_points::at;
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Memory::{
    FILE_MAP, FILE_MAP_READ, FILE_MAP_WRITE, MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile,
    SECTION_MAP_READ, SECTION_MAP_WRITE, UnmapViewOfFile,
};

use super::bell::Bell;
use super::release::Hold;
use super::section::{MemFd, Section};
use crate::futex::Waited;
use crate::shm::Rejected;
use crate::win::Event;

/// Shared memory at a fixed address.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a Mapping owns address space, which belongs to no thread. It gives out raw pointers only; whoever dereferences
// one answers for what other threads and processes do there.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method changes anything through `&self`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes, which are there: the section was made so here, or was checked.
    fn new(section: HANDLE, len: usize, access: FILE_MAP) -> io::Result<Mapping> {
        // SAFETY: a new mapping at an address of the system's choice overlaps nothing.
        let view = at!("sys.shm.map", unsafe { MapViewOfFile(section, access, 0, 0, len) });
        let start = NonNull::new(view.Value.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Mapping { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let view = MEMORY_MAPPED_VIEW_ADDRESS { Value: self.start.as_ptr().cast() };
        // SAFETY: the address is what `new` mapped, and the owner, who answered for its pointers, gives it up.
        at!("sys.shm.unmap", unsafe { UnmapViewOfFile(view) });
    }
}

/// Payload memory that this process alone can write, for a peer to read.
#[derive(Debug)]
pub struct PayloadWriter {
    map: Mapping,
    /// So that it is known when it is gone, and that a peer who is told of it finds it.
    _section: Arc<Section>,
}

impl PayloadWriter {
    /// Makes `len` bytes of zeros and gives them together with what goes to the peer.
    ///
    /// All of it is committed. A peer gets the right to map it for reading and no other, and cannot get more.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a length of zero or above `i64::MAX`. Else what the system says: no room in the page file.
    /// Nothing is left behind.
    pub fn create(len: usize) -> io::Result<(PayloadWriter, MemFd)> {
        let section = Section::create(len)?;
        let map = Mapping::new(section.raw(), len, FILE_MAP_READ | FILE_MAP_WRITE)?;
        let fd = MemFd::new(&section, None);
        Ok((PayloadWriter { map, _section: section }, fd))
    }

    /// Does what [`PayloadWriter::create`] does. There are no holds on this system.
    ///
    /// # Errors
    ///
    /// As [`PayloadWriter::create`].
    pub fn create_held(len: usize) -> io::Result<(PayloadWriter, MemFd, Option<Hold>)> {
        PayloadWriter::create(len).map(|(writer, fd)| (writer, fd, None))
    }

    /// Gives the address of the first byte; writable for [`PayloadWriter::len`] bytes while this value lives.
    ///
    /// Aligned to a page. Only this process writes there, so a `&mut [u8]` over a part that no other thread uses is sound.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.map.start.as_ptr()
    }

    /// Gives the length in bytes; never zero.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.map.len
    }
}

/// Payload memory that a peer writes and this process reads.
#[derive(Debug)]
pub struct PayloadReader(Mapping);

impl PayloadReader {
    /// Whether this process mapped it: it did.
    #[inline]
    pub fn is_ours(&self) -> bool {
        true
    }

    /// Checks that `fd` is memory of exactly `len` bytes that can be read at any time, maps it read-only, and lets go of it.
    ///
    /// # Errors
    ///
    /// [`Rejected`] says which check failed; nothing is mapped then.
    pub fn accept(fd: MemFd, len: usize) -> Result<PayloadReader, Rejected> {
        let section = fd.check(len, SECTION_MAP_READ)?;
        Mapping::new(section, len, FILE_MAP_READ).map(PayloadReader).map_err(failed)
    }

    /// Does what [`PayloadReader::accept`] does. There are no holds on this system.
    ///
    /// # Errors
    ///
    /// As [`PayloadReader::accept`].
    pub fn accept_held(fd: MemFd, len: usize) -> Result<PayloadReader, Rejected> {
        PayloadReader::accept(fd, len)
    }

    /// Gives the address of the first byte; readable for [`PayloadReader::len`] bytes while this value lives.
    ///
    /// Aligned to a page. The peer may write there at any moment: no reference may be made to it.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.0.start.as_ptr()
    }

    /// Gives the length in bytes; never zero.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.0.len
    }
}

/// A small region that both sides write, as atomics only, with what its maker sleeps on.
#[derive(Debug)]
pub struct Control {
    map: Mapping,
    bell: Bell,
}

impl Control {
    /// Makes `len` bytes of zeros, all committed, and an event, and what goes to the peer.
    ///
    /// # Errors
    ///
    /// As [`PayloadWriter::create`].
    pub fn create(len: usize) -> io::Result<(Control, MemFd)> {
        let section = Section::create(len)?;
        let map = Mapping::new(section.raw(), len, FILE_MAP_READ | FILE_MAP_WRITE)?;
        let event = Arc::new(Event::auto_for_peers()?);
        let fd = MemFd::new(&section, Some(&event));
        Ok((Control { map, bell: Bell::new(event) }, fd))
    }

    /// Checks that `fd` is memory of exactly `len` bytes that can be written at any time, with an event that can be rung,
    /// maps it, and lets go of the section.
    ///
    /// # Errors
    ///
    /// As [`PayloadReader::accept`]; [`Rejected::NotWritable`], [`Rejected::NoEvent`].
    pub fn accept(fd: MemFd, len: usize) -> Result<Control, Rejected> {
        let section = fd.check(len, SECTION_MAP_READ | SECTION_MAP_WRITE)?;
        let event = fd.bell().ok_or(Rejected::NoEvent)?;
        let map = Mapping::new(section, len, FILE_MAP_READ | FILE_MAP_WRITE).map_err(failed)?;
        Ok(Control { map, bell: Bell::new(event) })
    }

    /// Sleeps until the peer wakes who sleeps on a word of this region, as long as `word` holds `expected`, at most until
    /// `deadline_ns`. For who made the region. Blocks; may return for nothing.
    pub fn wait(&self, word: &AtomicU32, expected: u32, deadline_ns: u64) -> Waited {
        self.bell.wait(word, expected, deadline_ns)
    }

    /// Wakes the sleepers on words of this region, all of them, whichever word it is. Never blocks. For who accepted the
    /// region: the other side sleeps on no word.
    pub fn wake(&self, _word: &AtomicU32, _count: u32) {
        self.bell.ring();
    }

    /// Wakes all sleepers of this process on words of the region. Never blocks. For who made it.
    pub fn wake_all<'a>(&self, _words: impl Iterator<Item = &'a AtomicU32>) {
        self.bell.ring_all();
    }

    /// Gives the address of the first byte; valid for [`Control::len`] bytes while this value lives, to be touched as
    /// atomics. Aligned to a page.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.map.start.as_ptr()
    }

    /// Gives the length in bytes; never zero.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.map.len
    }
}

fn failed(source: io::Error) -> Rejected {
    Rejected::Os { call: "MapViewOfFile", source }
}
