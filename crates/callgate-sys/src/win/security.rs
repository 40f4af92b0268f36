//! Security descriptors: who may do what with an object that this process makes.

use std::ffi::OsStr;
use std::io;

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES};

use super::{ok, wide};

/// A security descriptor, to be given to the call that makes an object.
pub(crate) struct Security(PSECURITY_DESCRIPTOR);

impl Security {
    /// Grants nobody anything: who was given a handle has the rights of that handle, and cannot duplicate it to more.
    ///
    /// The one entry takes from the object's owner what an owner has otherwise whatever the list says: to read and to
    /// change the list (READ_CONTROL, WRITE_DAC). A client of the same user is such an owner.
    pub(crate) fn nobody() -> io::Result<Security> {
        Self::parse("D:P(D;;GA;;;OW)")
    }

    /// Reads a descriptor in the system's own notation (SDDL).
    pub(crate) fn parse(text: &str) -> io::Result<Security> {
        let text = wide(OsStr::new(text));
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: the text ends with a zero; the result is written to a live local, and is ours to free.
        ok(unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                std::ptr::null_mut(),
            )
        })?;
        Ok(Security(descriptor))
    }

    /// What the system's calls take; good while `self` lives. Handles are not inherited by child processes.
    pub(crate) fn attributes(&self) -> SECURITY_ATTRIBUTES {
        SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: self.0,
            bInheritHandle: 0,
        }
    }
}

impl Drop for Security {
    fn drop(&mut self) {
        // SAFETY: from the call in `parse`, which says that it is freed so.
        unsafe { LocalFree(self.0) };
    }
}
