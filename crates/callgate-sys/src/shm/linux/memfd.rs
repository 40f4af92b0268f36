//! Memfds: making, sealing, and the checks of rule "believe nothing".

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use callgate_points::at;
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat,
    fstatfs, ftruncate, memfd_create,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Resource, getrlimit};

use super::presence::{self, Untold};
use crate::process::{PeerFd, TrackedFd};
use crate::shm::Rejected;

/// What `statfs` says of every ordinary memfd.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The descriptor of memory on its way to a peer or from one; nothing is known of one that came
/// from a peer.
///
/// Close-on-exec, and taken from forked children. Close it soon: a mapping doesn't need it.
#[derive(Debug)]
pub struct MemFd(Held);

#[derive(Debug)]
enum Held {
    /// Ordinary memory: made here, or checked.
    Plain(TrackedFd),
    /// Anything at all, which may take long to close.
    Unknown(PeerFd),
}

impl MemFd {
    /// Makes `len` bytes of zeros, none of them allocated yet, none sealed.
    pub(super) fn create(len: usize) -> io::Result<MemFd> {
        let size = u64::try_from(len).ok().filter(|&size| size > 0 && i64::try_from(size).is_ok());
        let size = size.ok_or(io::ErrorKind::InvalidInput)?;
        // Beyond its limit of file sizes a process gets a signal, SIGXFSZ, which ends it.
        if getrlimit(Resource::Fsize).current.is_some_and(|limit| size > limit) {
            return Err(Errno::FBIG.into());
        }
        let fd = MemFd(Held::Plain(TrackedFd::open(open)?));
        at!("sys.shm.ftruncate", retry_on_intr(|| ftruncate(&fd, size)))?;
        Ok(fd)
    }

    /// Takes a descriptor of ordinary memory.
    pub(super) fn plain(fd: TrackedFd) -> MemFd {
        MemFd(Held::Plain(fd))
    }

    /// Allocates every page. Blocks as long as the kernel zeroes memory.
    pub(super) fn allocate(&self, len: usize) -> Result<(), Errno> {
        loop {
            match at!("sys.shm.fallocate", fallocate(self, FallocateFlags::empty(), 0, len as u64))
            {
                Err(Errno::INTR) => continue,
                result => return result,
            }
        }
    }

    /// Sets `seals`; with `SEAL` among them no other can be set.
    pub(super) fn seal(&self, seals: SealFlags) -> io::Result<()> {
        Ok(at!("sys.shm.add_seals", fcntl_add_seals(self, seals))?)
    }

    /// Gives it if [`MemFd::check`] holds. Then it is ordinary memory, which is closed at once.
    pub(super) fn checked(self, len: usize, want: SealFlags) -> Result<MemFd, Rejected> {
        self.check(len, want)?;
        Ok(match self.0 {
            Held::Unknown(fd) => MemFd(Held::Plain(fd.into_plain())),
            plain => MemFd(plain),
        })
    }

    /// Checks that it is memory of exactly `len` bytes with the seals `want` set and no page missing.
    ///
    /// The order matters. Seals come first: reading them runs no code of a file system, which the
    /// peer might be (FUSE); and what a seal fixes can be trusted by the checks that follow.
    /// None waits for what the peer does with the memory meanwhile, but for presence where the kernel
    /// does not tell it otherwise; see `presence`.
    fn check(&self, len: usize, want: SealFlags) -> Result<(), Rejected> {
        let have = match at!("sys.shm.get_seals", fcntl_get_seals(self)) {
            Ok(have) => have,
            // EBADF for one that was opened as a path only.
            Err(Errno::INVAL | Errno::BADF) => SealFlags::empty(),
            Err(error) => return Err(failed("fcntl(F_GET_SEALS)", error)),
        };
        // A mask, not equality: kernels add seals of their own (F_SEAL_EXEC).
        if !have.contains(want) {
            return Err(Rejected::MissingSeals { have: have.bits(), want: want.bits() });
        }
        let statfs = at!("sys.shm.fstatfs", retry_on_intr(|| fstatfs(self)));
        let statfs = statfs.map_err(|e| failed("fstatfs", e))?;
        let magic = statfs.f_type as u64;
        if magic != TMPFS_MAGIC {
            return Err(Rejected::NotTmpfs { magic });
        }
        let stat = at!("sys.shm.fstat", fstat(self)).map_err(|e| failed("fstat", e))?;
        let untold = match (want.contains(SealFlags::FUTURE_WRITE), want.contains(SealFlags::SEAL))
        {
            (false, _) => Untold::LetBe,
            (true, true) => Untold::WaitUnlessRefused,
            // Its maker has a hold on it, and lets no other user ask.
            (true, false) => Untold::Wait,
        };
        let (have, want) = (stat.st_size as u64, len as u64);
        if have != want || want == 0 {
            return Err(Rejected::Size { have, want });
        }
        presence::check(self.as_fd(), have, untold)
    }
}

impl AsFd for MemFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Held::Plain(fd) => fd.as_fd(),
            Held::Unknown(fd) => fd.as_fd(),
        }
    }
}

impl From<OwnedFd> for MemFd {
    fn from(fd: OwnedFd) -> MemFd {
        MemFd(Held::Unknown(fd.into()))
    }
}

impl From<TrackedFd> for MemFd {
    fn from(fd: TrackedFd) -> MemFd {
        MemFd(Held::Unknown(fd.into()))
    }
}

fn open() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match at!("sys.shm.memfd_create", memfd_create(c"callgate", flags | MemfdFlags::NOEXEC_SEAL)) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => at!("sys.shm.memfd_create_old", memfd_create(c"callgate", flags)),
        result => result,
    }
}

pub(super) fn failed(call: &'static str, error: Errno) -> Rejected {
    Rejected::Os { call, source: error.into() }
}
