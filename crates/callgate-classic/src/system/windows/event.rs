//! Events that reset themselves.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Threading::{
    CreateEventExW, EVENT_MODIFY_STATE, OpenEventW, SYNCHRONIZATION_SYNCHRONIZE, SetEvent,
};

use super::{Security, fault, owned, wide};
use crate::system::Fault;

/// Enough to set one, to wait for it, and to ask for its kind.
const RIGHTS: u32 = EVENT_MODIFY_STATE | SYNCHRONIZATION_SYNCHRONIZE | EVENT_QUERY_STATE;
const EVENT_QUERY_STATE: u32 = 1;

/// An event.
#[derive(Debug)]
pub(crate) struct Event(OwnedHandle);

impl Event {
    /// Makes one without a name, for this process.
    pub(crate) fn unnamed() -> Result<Self, Fault> {
        // SAFETY: null stands for no name and for the default security.
        let handle = unsafe { CreateEventExW(null(), null(), 0, RIGHTS) };
        // SAFETY: just returned, to us alone.
        Ok(Self(unsafe { owned("CreateEventExW", handle) }?))
    }

    /// Makes one, not set, or opens the one that has the name, as it is.
    pub(crate) fn create(name: &str, security: &Security) -> Result<Self, Fault> {
        let name = wide(name);
        // SAFETY: the name ends with a NUL, and it and the attributes outlive the call. No flag: auto-reset, not set.
        let handle = unsafe { CreateEventExW(security.attributes(), name.as_ptr(), 0, RIGHTS) };
        // SAFETY: just returned, to us alone.
        Ok(Self(unsafe { owned("CreateEventExW", handle) }?))
    }

    /// Makes one that stays set, as other programs may.
    #[cfg(test)]
    pub(crate) fn with_manual_reset(name: &str) -> Result<Self, Fault> {
        use windows_sys::Win32::System::Threading::CREATE_EVENT_MANUAL_RESET;
        let name = wide(name);
        // SAFETY: the name ends with a NUL and outlives the call; null stands for the default security.
        let handle =
            unsafe { CreateEventExW(null(), name.as_ptr(), CREATE_EVENT_MANUAL_RESET, RIGHTS) };
        // SAFETY: just returned, to us alone.
        Ok(Self(unsafe { owned("CreateEventExW", handle) }?))
    }

    /// Opens the one that has the name.
    pub(crate) fn open(name: &str) -> Result<Self, Fault> {
        let name = wide(name);
        // SAFETY: the name ends with a NUL and outlives the call.
        let handle = unsafe { OpenEventW(RIGHTS, 0, name.as_ptr()) };
        // SAFETY: just returned, to us alone.
        Ok(Self(unsafe { owned("OpenEventW", handle) }?))
    }

    /// Sets it: one wait that is under way, or the next one, takes it.
    pub(crate) fn set(&self) -> Result<(), Fault> {
        // SAFETY: an open handle of an event, owned by `self`.
        if unsafe { SetEvent(self.handle()) } == 0 { Err(fault("SetEvent")) } else { Ok(()) }
    }

    /// Tells whether a wait resets it. Win32 has no call for it, so the system is asked directly.
    pub(crate) fn resets_itself(&self) -> Result<bool, Fault> {
        let mut state = EventBasicInformation { kind: 0, set: 0 };
        let bytes = size_of::<EventBasicInformation>() as u32;
        // SAFETY: an open handle; the class is the one whose answer has this type and length; no length is returned.
        let status =
            unsafe { NtQueryEvent(self.handle(), 0, (&raw mut state).cast(), bytes, null_mut()) };
        if status < 0 {
            let what = format!("status {status:#010x}");
            return Err(Fault::Os("NtQueryEvent", io::Error::other(what)));
        }
        Ok(state.kind == SYNCHRONIZATION_EVENT)
    }

    pub(super) fn handle(&self) -> HANDLE {
        self.0.as_raw_handle()
    }
}

/// Kind of an event that resets itself; the other is 0.
const SYNCHRONIZATION_EVENT: i32 = 1;

#[repr(C)]
struct EventBasicInformation {
    kind: i32,
    set: i32,
}

#[link(name = "ntdll")]
unsafe extern "system" {
    fn NtQueryEvent(
        event: HANDLE,
        class: i32,
        information: *mut c_void,
        information_bytes: u32,
        returned_bytes: *mut u32,
    ) -> i32;
}
