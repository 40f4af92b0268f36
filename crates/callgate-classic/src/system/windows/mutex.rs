//! Mutexes. One belongs to a thread, which may take it more than once.

use std::os::windows::io::{AsRawHandle, OwnedHandle};

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Threading::{
    CreateMutexExW, MUTEX_MODIFY_STATE, OpenMutexW, ReleaseMutex, SYNCHRONIZATION_SYNCHRONIZE,
};

use super::{Security, fault, owned, wide};
use crate::system::Fault;

/// Enough to wait for one, and to release it.
const RIGHTS: u32 = SYNCHRONIZATION_SYNCHRONIZE | MUTEX_MODIFY_STATE;

/// A mutex.
#[derive(Debug)]
pub(crate) struct Mutex(OwnedHandle);

impl Mutex {
    /// Makes one that nobody owns, or opens the one that has the name, as it is.
    pub(crate) fn create(name: &str, security: &Security) -> Result<Self, Fault> {
        let name = wide(name);
        // SAFETY: the name ends with a NUL, and it and the attributes outlive the call. No flag: not owned.
        let handle = unsafe { CreateMutexExW(security.attributes(), name.as_ptr(), 0, RIGHTS) };
        // SAFETY: just returned, to us alone.
        Ok(Self(unsafe { owned("CreateMutexExW", handle) }?))
    }

    /// Opens the one that has the name.
    pub(crate) fn open(name: &str) -> Result<Self, Fault> {
        let name = wide(name);
        // SAFETY: the name ends with a NUL and outlives the call.
        let handle = unsafe { OpenMutexW(RIGHTS, 0, name.as_ptr()) };
        // SAFETY: just returned, to us alone.
        Ok(Self(unsafe { owned("OpenMutexW", handle) }?))
    }

    /// Releases it once. Fails where this thread does not own it, and changes nothing then.
    pub(crate) fn release(&self) -> Result<(), Fault> {
        // SAFETY: an open handle of a mutex, owned by `self`.
        if unsafe { ReleaseMutex(self.handle()) } == 0 {
            Err(fault("ReleaseMutex"))
        } else {
            Ok(())
        }
    }

    pub(super) fn handle(&self) -> HANDLE {
        self.0.as_raw_handle()
    }
}
