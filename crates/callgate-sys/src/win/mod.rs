//! What every Windows part needs: owned handles, events, waits, security descriptors, and what a handle refers to.
//!
//! No operation of the crate is known here.

mod object;
mod operation;
mod security;

use std::ffi::OsStr;
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};

use callgate_points::at;
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE, WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::Threading::{
    CreateEventW, INFINITE, SetEvent, WaitForSingleObject,
};

#[cfg(test)]
pub(crate) use object::handle_count;
pub(crate) use object::{
    Kind, close_in, copy_of, current_process, exchange, give, granted, is_pipe_gone, kind, narrow,
    value, was_aborted,
};
pub(crate) use operation::{Operation, Progress};
pub(crate) use security::Security;

use crate::clock;

/// Takes over a handle that a call has just made; what the system says where it made none.
pub(crate) fn own(handle: HANDLE) -> io::Result<OwnedHandle> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, so this handle is open, and nobody else's.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// Turns the result of a call into an error where it is FALSE.
pub(crate) fn ok(result: windows_sys::core::BOOL) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The text as the system wants it: UTF-16, ending with a zero.
pub(crate) fn wide(text: &OsStr) -> Vec<u16> {
    text.encode_wide().chain([0]).collect()
}

/// The time left in milliseconds, for the waits that take that. Rounded up: a wait that ends before its deadline would be
/// repeated.
pub(crate) fn ms_left(deadline_ns: Option<u64>) -> u32 {
    let Some(deadline_ns) = deadline_ns else { return INFINITE };
    let left_ms = deadline_ns.saturating_sub(clock::now_ns()).div_ceil(1_000_000);
    u32::try_from(left_ms).unwrap_or(INFINITE - 1).min(INFINITE - 1)
}

/// Whether a deadline has passed.
pub(crate) fn has_passed(deadline_ns: Option<u64>) -> bool {
    deadline_ns.is_some_and(|deadline_ns| clock::now_ns() >= deadline_ns)
}

/// Something that a thread can wait for, made known by whoever has the right to.
#[derive(Debug)]
pub(crate) struct Event(OwnedHandle);

impl Event {
    /// One that stays set until an operation that is given it begins.
    pub(crate) fn manual() -> io::Result<Event> {
        Self::new(true, std::ptr::null())
    }

    /// One that lets one waiter go and is unset again, and that nobody can have more rights to than were given.
    pub(crate) fn auto_for_peers() -> io::Result<Event> {
        let security = Security::nobody()?;
        Self::new(false, &security.attributes())
    }

    fn new(
        manual: bool,
        attributes: *const windows_sys::Win32::Security::SECURITY_ATTRIBUTES,
    ) -> io::Result<Event> {
        // SAFETY: the attributes are null, or live for the call; there is no name.
        own(at!("sys.win.create_event", unsafe {
            CreateEventW(attributes, manual.into(), 0, std::ptr::null())
        }))
        .map(Event)
    }

    /// Takes over an event that a peer made, with whatever rights there are.
    pub(crate) fn from_peer(handle: OwnedHandle) -> Event {
        Event(handle)
    }

    pub(crate) fn raw(&self) -> HANDLE {
        self.0.as_raw_handle()
    }

    /// Sets it. Never blocks; where the right is missing nothing happens.
    pub(crate) fn set(&self) {
        // SAFETY: the handle is open while `self` lives.
        at!("sys.win.set_event", unsafe { SetEvent(self.raw()) });
    }

    /// Waits until it is set (true), or the deadline has passed (false).
    pub(crate) fn wait(&self, deadline_ns: Option<u64>) -> bool {
        wait(self.raw(), deadline_ns)
    }
}

/// Waits until an object is signalled (true), or the deadline has passed (false). `handle` is open.
pub(crate) fn wait(handle: HANDLE, deadline_ns: Option<u64>) -> bool {
    loop {
        let ms = ms_left(deadline_ns);
        // SAFETY: the handle is open, as the caller promises; a wait touches no memory of ours.
        let waited = at!("sys.win.wait", unsafe { WaitForSingleObject(handle, ms) });
        match waited {
            WAIT_OBJECT_0 => return true,
            WAIT_TIMEOUT if !has_passed(deadline_ns) => {}
            _ => return false,
        }
    }
}
