//! Linux: sealed memfds on tmpfs.

mod hold;
mod mapping;
mod memfd;
mod presence;
mod release;

pub use hold::Hold;
pub use mapping::{Control, PayloadReader, PayloadWriter};
pub use memfd::MemFd;
pub use release::{ReleaseId, ReleaseWatch};

/// Gives the size of a page of memory in bytes: 4096 on most machines, up to 65,536 on some. No
/// system call.
pub fn page_size() -> usize {
    rustix::param::page_size()
}

#[cfg(test)]
mod tests;
