//! Security descriptors for the objects that this process makes.

use std::io;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES};

use super::wide;
use crate::options::Access;

/// Who may use an object that is made: nothing, for the system's default, or a descriptor.
pub(crate) struct Security(Option<Box<SECURITY_ATTRIBUTES>>);

impl Security {
    /// Makes it.
    pub(crate) fn of(access: &Access) -> io::Result<Self> {
        let Access::Sddl(sddl) = access else { return Ok(Self(None)) };
        if sddl.contains('\0') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has a NUL"));
        }
        let sddl = wide(sddl);
        let mut descriptor: PSECURITY_DESCRIPTOR = null_mut();
        // SAFETY: the text ends with a NUL and outlives the call; the descriptor's place is writable; no length is
        // returned.
        let made = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                sddl.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                null_mut(),
            )
        };
        if made == 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(Some(Box::new(SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: descriptor,
            bInheritHandle: 0,
        }))))
    }

    /// What calls that make objects take; valid while `self` lives.
    pub(super) fn attributes(&self) -> *const SECURITY_ATTRIBUTES {
        self.0.as_deref().map_or(null(), std::ptr::from_ref)
    }
}

impl Drop for Security {
    fn drop(&mut self) {
        if let Some(attributes) = &self.0 {
            // SAFETY: allocated by the conversion in `of`, which says to free it so, and freed only here.
            unsafe { LocalFree(attributes.lpSecurityDescriptor) };
        }
    }
}
