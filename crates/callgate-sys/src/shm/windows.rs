//! Windows: unnamed sections in the page file, and events that wake across processes.

mod bell;
mod mapping;
mod release;
mod section;

use windows_sys::Win32::System::SystemInformation::GetSystemInfo;

pub use mapping::{Control, PayloadReader, PayloadWriter};
pub use release::{Hold, ReleaseId, ReleaseWatch};
pub use section::MemFd;
pub(crate) use section::{GIVEN_RIGHTS, READER_RIGHTS};

/// Gives the size of a page of memory in bytes: 4096.
pub fn page_size() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    match SIZE.load(Relaxed) {
        0 => {
            let mut info = Default::default();
            // SAFETY: the result is written to a live local.
            unsafe { GetSystemInfo(&raw mut info) };
            SIZE.store(info.dwPageSize as usize, Relaxed);
            info.dwPageSize as usize
        }
        known => known,
    }
}

#[cfg(test)]
mod tests;
