//! Memory that two processes map: created and sealed by one, checked and mapped by the other.
//!
//! [`PayloadWriter`] and [`PayloadReader`] are the two ends of memory that one side alone can
//! write; [`Control`] is a small region that both write. A receiver believes nothing: it maps only
//! what can neither shrink (touching it would be a fault) nor have holes (touching it would charge
//! us), and whose every file operation is known not to block.
//!
//! All of them hand out raw pointers only. Memory that a peer can write must never be behind a Rust
//! reference; read it with [`copy_from_shared`] or as atomics.

#[cfg(not(callgate_sim))]
mod copy;
#[cfg(all(target_os = "linux", not(callgate_sim)))]
mod linux;
#[cfg(callgate_sim)]
mod sim;
#[cfg(all(windows, not(callgate_sim)))]
mod windows;

use std::io;

#[cfg(all(target_os = "linux", not(callgate_sim)))]
pub use linux::{
    Control, Hold, MemFd, PayloadReader, PayloadWriter, ReleaseId, ReleaseWatch, page_size,
};
#[cfg(callgate_sim)]
pub use sim::{
    Control, Hold, MemFd, PayloadReader, PayloadWriter, ReleaseId, ReleaseWatch, copy_from_shared,
    page_size,
};
#[cfg(all(windows, not(callgate_sim)))]
pub use windows::{
    Control, Hold, MemFd, PayloadReader, PayloadWriter, ReleaseId, ReleaseWatch, page_size,
};
#[cfg(all(windows, not(callgate_sim)))]
pub(crate) use windows::{GIVEN_RIGHTS, READER_RIGHTS};

#[cfg(not(callgate_sim))]
pub use copy::copy_from_shared;

/// What others have of memory that was handed out; see [`Hold::ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// An open file: a descriptor, a mapping, or a message that is under way.
    Open,
    /// Single pages, in pipes, sockets or requests under way; or it could not be told.
    Pages,
}

/// What a [`ReleaseWatch`] tells of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A file that had it open is closed. A hint: it may come late, early, and more than once.
    Closed(ReleaseId),
    /// It is gone, once.
    Gone(ReleaseId),
}

/// Why a descriptor that a peer sent isn't memory that can be used. The descriptor is closed by
/// then.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// Not all the needed seals are set; 0 for something that can't be sealed at all.
    #[error("memory from the peer lacks seals: has {have:#x}, needs {want:#x}")]
    MissingSeals {
        /// The seals that are set, as the kernel numbers them.
        have: u32,
        /// Those that must be among them.
        want: u32,
    },
    /// Sealed, but not ordinary shared memory (huge pages, for one, come from another file system).
    #[error("memory from the peer is on a file system of type {magic:#x}, not tmpfs")]
    NotTmpfs {
        /// The type of its file system, as `statfs` gives it.
        magic: u64,
    },
    /// The size isn't the one agreed on.
    #[error("memory from the peer has {have} bytes, agreed were {want}")]
    Size {
        /// Size in bytes.
        have: u64,
        /// Agreed size in bytes.
        want: u64,
    },
    /// Not every page is present.
    #[error("memory from the peer of {size} bytes lacks {missing} bytes at or behind byte {at}")]
    Holes {
        /// Where the part begins that lacks them, in bytes.
        at: u64,
        /// How many bytes of that part are missing.
        missing: u64,
        /// Size in bytes.
        size: u64,
    },
    /// It is sealed against writing, or was opened for reading only, where both sides have to write.
    #[error("memory from the peer cannot be written")]
    NotWritable,
    /// It was opened for writing only.
    #[error("memory from the peer cannot be read")]
    NotReadable,
    /// It isn't a section of memory, or there is no such handle.
    #[cfg(windows)]
    #[error("what came from the peer is not a section of memory")]
    NotASection,
    /// It is a section, but not of the page file with each page committed.
    #[cfg(windows)]
    #[error(
        "memory from the peer has the attributes {attributes:#x}: it is not plain committed memory"
    )]
    NotPlainMemory {
        /// Its attributes, as the system numbers them (SEC_COMMIT and others).
        attributes: u32,
    },
    /// Control memory came without an event that can be rung.
    #[cfg(windows)]
    #[error("control memory from the peer came without an event that can be rung")]
    NoEvent,
    /// A system call failed, which tells nothing about the peer.
    #[error("{call} failed for memory from the peer")]
    Os {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}
