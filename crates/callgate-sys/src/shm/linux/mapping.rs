//! Mappings of memfds: the writer's, the reader's, and the one that both write.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use callgate_points::at;
use rustix::fs::SealFlags;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::hold::Hold;
use super::memfd::{MemFd, failed};
use super::page_size;
use crate::futex::{self, Waited};
use crate::process::{TrackedFd, generation, is_current};
use crate::shm::Rejected;

/// How much is populated at a time, in bytes, a multiple of any page: some 50 us, in which no other
/// thread of the process can map or unmap anything.
const POPULATED_AT_ONCE: usize = 256 << 10;

/// Shared memory at a fixed address; not inherited by forked children, for whom the address means
/// nothing.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
    generation: u32,
}

// SAFETY: a Mapping owns address space, which belongs to no thread. It gives out raw pointers only;
// whoever dereferences one answers for what other threads and processes do there.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method changes anything through `&self`.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: &MemFd, len: usize, protection: ProtFlags) -> Result<Mapping, Errno> {
        let generation = generation();
        // Without a fork between the two calls: a child would keep the memory, and memory is proven
        // released by its absence.
        TrackedFd::no_fork(|| {
            // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
            let start = at!("sys.shm.mmap", unsafe {
                mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0)
            })?;
            let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
            let mapping = Mapping { start, len, generation };
            mapping.advise(0, len, Advice::LinuxDontFork)?;
            Ok(mapping)
        })
    }

    fn advise(&self, offset: usize, len: usize, advice: Advice) -> Result<(), Errno> {
        assert!(offset <= self.len && len <= self.len - offset);
        // SAFETY: the range lies in this mapping, as was just checked, and the advices used (no
        // fork, populate) don't change its contents.
        at!("sys.shm.madvise", unsafe {
            madvise(self.start.as_ptr().add(offset).cast::<c_void>(), len, advice)
        })
    }

    /// Makes every page of `fd`, which this maps, present and ours to write. For memory that nobody
    /// else has seen, since it may write zeros. Blocks as long as the kernel zeroes memory.
    fn populate(&self, fd: &MemFd) -> Result<(), Errno> {
        let mut offset = 0;
        while offset < self.len {
            let len = POPULATED_AT_ONCE.min(self.len - offset);
            match self.advise(offset, len, Advice::LinuxPopulateWrite) {
                Ok(()) => offset += len,
                Err(Errno::INTR | Errno::AGAIN) => continue,
                // Before Linux 5.14.
                Err(Errno::INVAL) => return self.touch(fd),
                // A page could not be had. Allocating them says why.
                Err(error) => return fd.allocate(self.len).and(Err(error)),
            }
        }
        Ok(())
    }

    /// Does what [`Mapping::populate`] does, page by page.
    fn touch(&self, fd: &MemFd) -> Result<(), Errno> {
        // First: a touch of a page that the system does not have would end the process.
        fd.allocate(self.len)?;
        for offset in (0..self.len).step_by(page_size()) {
            // SAFETY: the offset is inside the mapping, which is writable; the page behind it
            // is allocated.
            unsafe { self.start.add(offset).write_volatile(0) };
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // In a forked child there is nothing at this address, or by now something else.
        if is_current(self.generation) {
            // SAFETY: the range is what `new` mapped, and the owner, who answered for its pointers,
            // gives it up.
            let _ = at!("sys.shm.munmap", unsafe { munmap(self.start.as_ptr().cast(), self.len) });
        }
    }
}

/// Payload memory that this process alone can write, for a peer to read.
#[derive(Debug)]
pub struct PayloadWriter(Mapping);

impl PayloadWriter {
    /// Makes `len` bytes of zeros and gives them together with the descriptor for the peer.
    ///
    /// Every page is present. From then on no one, this process included, can resize the memory,
    /// punch holes in it, map it writable once more or write to the descriptor; this mapping goes
    /// on writing. Blocks as long as the kernel zeroes the pages: about 5 us for 4 KiB, 50 us for
    /// 256 KiB.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a length of zero or above `i64::MAX`. Else what the kernel says: no
    /// memory, no descriptor. Nothing is left behind.
    pub fn create(len: usize) -> io::Result<(PayloadWriter, MemFd)> {
        let (writer, fd) = PayloadWriter::unsealed(len)?;
        // Last: FUTURE_WRITE forbids the writable mapping that had to be made before.
        fd.seal(PAYLOAD_SEALS | SealFlags::SEAL)?;
        Ok((writer, fd))
    }

    /// Does what [`PayloadWriter::create`] does, and gives a hold on the memory too, by which to ask
    /// later what is left of it; none where this kernel cannot tell. Who is handed the descriptor
    /// can only read.
    ///
    /// # Errors
    ///
    /// As [`PayloadWriter::create`], and `NotFound` without `/proc`.
    pub fn create_held(len: usize) -> io::Result<(PayloadWriter, MemFd, Option<Hold>)> {
        let (writer, fd) = PayloadWriter::unsealed(len)?;
        // Not SEAL: that nobody may write any more is the seal by which a hold asks.
        fd.seal(PAYLOAD_SEALS)?;
        match Hold::split(fd)? {
            Ok((fd, hold)) => Ok((writer, fd, Some(hold))),
            Err(fd) => {
                fd.seal(SealFlags::SEAL)?;
                Ok((writer, fd, None))
            }
        }
    }

    fn unsealed(len: usize) -> io::Result<(PayloadWriter, MemFd)> {
        let fd = MemFd::create(len)?;
        let mapping = Mapping::new(&fd, len, ProtFlags::READ | ProtFlags::WRITE)?;
        mapping.populate(&fd)?;
        Ok((PayloadWriter(mapping), fd))
    }

    /// Gives the address of the first byte; writable for [`PayloadWriter::len`] bytes while this
    /// value lives.
    ///
    /// Aligned to a page. Only this process writes there, so a `&mut [u8]` over a part that no
    /// other thread uses is sound.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.start.as_ptr()
    }

    /// Gives the length in bytes; never zero.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.0.len
    }
}

/// Payload memory that a peer writes and this process reads.
#[derive(Debug)]
pub struct PayloadReader(Mapping);

impl PayloadReader {
    /// Whether this process mapped it. A forked child has the value, but nothing is mapped there.
    #[inline]
    pub fn is_ours(&self) -> bool {
        is_current(self.0.generation)
    }
}

impl PayloadReader {
    /// Checks that `fd` is sealed payload memory of exactly `len` bytes, maps it read-only, and
    /// closes the descriptor.
    ///
    /// Never blocks, whatever a peer sent, as long as closing it doesn't; but on a system without
    /// `cachestat` (before Linux 6.5, or by a filter) for as long as the peer holds the memory's inode.
    ///
    /// # Errors
    ///
    /// [`Rejected`] says which check failed; nothing is mapped then, and the descriptor is closed.
    pub fn accept(fd: MemFd, len: usize) -> Result<PayloadReader, Rejected> {
        PayloadReader::accept_sealed(fd, len, PAYLOAD_SEALS | SealFlags::SEAL)
    }

    /// Does what [`PayloadReader::accept`] does, with memory on which its maker may have a hold: it
    /// need not be sealed against seals. No seal that its maker could add takes anything from a
    /// reader.
    ///
    /// # Errors
    ///
    /// As [`PayloadReader::accept`].
    pub fn accept_held(fd: MemFd, len: usize) -> Result<PayloadReader, Rejected> {
        PayloadReader::accept_sealed(fd, len, PAYLOAD_SEALS)
    }

    fn accept_sealed(fd: MemFd, len: usize, want: SealFlags) -> Result<PayloadReader, Rejected> {
        let fd = fd.checked(len, want)?;
        Mapping::new(&fd, len, ProtFlags::READ).map(PayloadReader).map_err(|error| match error {
            // Opened for writing only.
            Errno::ACCESS => Rejected::NotReadable,
            error => failed("mmap", error),
        })
    }

    /// Gives the address of the first byte; readable for [`PayloadReader::len`] bytes while this
    /// value lives.
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

/// A small region that both sides write, as atomics only.
///
/// The peer can punch holes in it, so any word of it may become zero at any moment. It can't resize
/// it.
#[derive(Debug)]
pub struct Control(Mapping);

impl Control {
    /// Makes `len` bytes of zeros, present and sealed against resizing, and the descriptor for the
    /// peer.
    ///
    /// # Errors
    ///
    /// As [`PayloadWriter::create`].
    pub fn create(len: usize) -> io::Result<(Control, MemFd)> {
        let fd = MemFd::create(len)?;
        let mapping = Mapping::new(&fd, len, ProtFlags::READ | ProtFlags::WRITE)?;
        mapping.populate(&fd)?;
        fd.seal(CONTROL_SEALS)?;
        Ok((Control(mapping), fd))
    }

    /// Checks that `fd` is memory of exactly `len` bytes, sealed against resizing, maps it, and
    /// closes the descriptor.
    ///
    /// # Errors
    ///
    /// As [`PayloadReader::accept`]; [`Rejected::NotWritable`] for one that is sealed against writing, or was opened for
    /// reading only.
    pub fn accept(fd: MemFd, len: usize) -> Result<Control, Rejected> {
        let fd = fd.checked(len, CONTROL_SEALS)?;
        let mapping = Mapping::new(&fd, len, ProtFlags::READ | ProtFlags::WRITE);
        mapping.map(Control).map_err(|error| match error {
            // ACCESS: opened for reading only.
            Errno::PERM | Errno::ACCESS => Rejected::NotWritable,
            error => failed("mmap", error),
        })
    }

    /// Sleeps as [`futex::wait`] does, on a word of this region that the peer wakes.
    #[inline]
    pub fn wait(&self, word: &AtomicU32, expected: u32, deadline_ns: u64) -> Waited {
        futex::wait(word, expected, Some(deadline_ns))
    }

    /// Wakes at most `count` sleepers of a word of this region, in either process. Never blocks.
    #[inline]
    pub fn wake(&self, word: &AtomicU32, count: u32) {
        futex::wake(word, count);
    }

    /// Wakes all sleepers of these words of the region. Never blocks.
    pub fn wake_all<'a>(&self, words: impl Iterator<Item = &'a AtomicU32>) {
        for word in words {
            futex::wake(word, u32::MAX);
        }
    }

    /// Gives the address of the first byte; valid for [`Control::len`] bytes while this value
    /// lives, to be touched as atomics. Aligned to a page.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.start.as_ptr()
    }

    /// Gives the length in bytes; never zero.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.0.len
    }
}

/// The seals of control memory.
const CONTROL_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// The seals of payload memory, besides `SEAL`, which that on which its maker has a hold does not have.
const PAYLOAD_SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_kernel_allocates_every_page_too() {
        let len = 5 * page_size();
        for touched in [false, true] {
            let fd = MemFd::create(len).unwrap();
            let mapping = Mapping::new(&fd, len, ProtFlags::READ | ProtFlags::WRITE).unwrap();
            if touched {
                mapping.touch(&fd).unwrap();
            }
            fd.seal(PAYLOAD_SEALS | SealFlags::SEAL).unwrap();
            // A receiver refuses memory with holes, so this tells whether there are any.
            let accepted = PayloadReader::accept(fd, len);
            assert_eq!(accepted.is_ok(), touched, "{accepted:?}");
        }
    }
}
