//! The completion port itself.

use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};

use callgate_points::at;
use windows_sys::Win32::Foundation::{INVALID_HANDLE_VALUE, WAIT_TIMEOUT};
use windows_sys::Win32::System::IO::{
    CreateIoCompletionPort, GetQueuedCompletionStatusEx, OVERLAPPED_ENTRY,
    PostQueuedCompletionStatus,
};

use crate::win::own;

/// A queue of keys. Any thread may put one in.
#[derive(Debug)]
pub struct Port(OwnedHandle);

impl Port {
    pub(super) fn new() -> io::Result<Port> {
        // SAFETY: it makes a port, and binds no file to it.
        own(at!("sys.poller.create", unsafe {
            CreateIoCompletionPort(INVALID_HANDLE_VALUE, std::ptr::null_mut(), 0, 1)
        }))
        .map(Port)
    }

    /// Binds a file to this port for as long as it is open: each operation on it that ends puts the key in.
    pub(crate) fn bind(&self, file: &OwnedHandle, key: u64) -> io::Result<()> {
        // SAFETY: both handles are open.
        let bound = at!("sys.poller.bind", unsafe {
            CreateIoCompletionPort(file.as_raw_handle(), self.0.as_raw_handle(), key as usize, 0)
        });
        if bound.is_null() { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Puts a key in. Never blocks. Where the system has no memory for it, the waiting thread learns of it when it looks
    /// next.
    pub(crate) fn post(&self, key: u64) {
        // SAFETY: the port is open; no memory is passed.
        at!("sys.poller.post", unsafe {
            PostQueuedCompletionStatus(
                self.0.as_raw_handle(),
                0,
                key as usize,
                std::ptr::null_mut(),
            )
        });
    }

    /// Takes keys out; waits at most so many milliseconds for the first.
    pub(super) fn take(&self, entries: &mut [OVERLAPPED_ENTRY], ms: u32) -> io::Result<usize> {
        if entries.is_empty() {
            return Ok(0);
        }
        let mut count = 0;
        // SAFETY: at most as many entries are written as there are; the count is a live local.
        let taken = at!("sys.poller.wait", unsafe {
            GetQueuedCompletionStatusEx(
                self.0.as_raw_handle(),
                entries.as_mut_ptr(),
                entries.len() as u32,
                &raw mut count,
                ms,
                0,
            )
        });
        if taken != 0 {
            return Ok(count as usize);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(WAIT_TIMEOUT as i32) { Ok(0) } else { Err(error) }
    }
}
