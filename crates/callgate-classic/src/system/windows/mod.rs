//! The objects of Win32. All `unsafe` of this crate is in this folder.
//!
//! Names come from [`Names`](crate::Names), which lets no NUL through. Handles are owned (`OwnedHandle`), so each that
//! is used is open; they are not inherited by child processes.

mod event;
mod mutex;
mod section;
mod security;
mod wait;

use std::io;
use std::os::windows::io::{FromRawHandle, OwnedHandle};

pub(crate) use event::Event;
pub(crate) use mutex::Mutex;
pub(crate) use section::{Section, page_bytes};
pub(crate) use security::Security;
pub(crate) use wait::wait;

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_FILE_NOT_FOUND, ERROR_INVALID_HANDLE, HANDLE,
};

use super::Fault;

/// A name as the system takes it, with its NUL.
fn wide(name: &str) -> Vec<u16> {
    name.encode_utf16().chain([0]).collect()
}

/// What the call that has just failed was refused for.
fn fault(call: &'static str) -> Fault {
    let error = io::Error::last_os_error();
    match error.raw_os_error().map(i32::cast_unsigned) {
        Some(ERROR_FILE_NOT_FOUND) => Fault::NotFound,
        Some(ERROR_ACCESS_DENIED) => Fault::Denied,
        Some(ERROR_INVALID_HANDLE) => Fault::WrongKind,
        _ => Fault::Os(call, error),
    }
}

/// Takes what a call that makes or opens an object has just returned: a handle of ours, or null for a failure.
///
/// # Safety
/// - `handle` is null, or open and owned by nobody else.
unsafe fn owned(call: &'static str, handle: HANDLE) -> Result<OwnedHandle, Fault> {
    if handle.is_null() {
        return Err(fault(call));
    }
    // SAFETY: not null, so open and nobody else's, by the contract.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}
