//! Security descriptors: who may do what with an object that this process makes, or finds.

use std::ffi::OsStr;
use std::io;

use callgate_points::at;
use windows_sys::Win32::Foundation::{HANDLE, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo, SDDL_REVISION_1,
    SE_KERNEL_OBJECT,
};
use windows_sys::Win32::Security::{
    ACE_HEADER, DACL_SECURITY_INFORMATION, GetAce, GetLengthSid, GetSecurityDescriptorDacl,
    GetSecurityDescriptorOwner, OWNER_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR,
    SECURITY_ATTRIBUTES,
};

use super::{ok, wide};

/// A security descriptor: to be given to the call that makes an object, or an object's own.
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

    /// Asks for an object's owner and list. The handle is open and has the right to ask (READ_CONTROL).
    pub(crate) fn of(object: HANDLE) -> io::Result<Security> {
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: the handle is open, as the caller promises; the result is written to a live local, and is ours to free.
        let error = at!("sys.win.query_security", unsafe {
            GetSecurityInfo(
                object,
                SE_KERNEL_OBJECT,
                OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                &raw mut descriptor,
            )
        });
        match error {
            0 => Ok(Security(descriptor)),
            code => Err(io::Error::from_raw_os_error(code as i32)),
        }
    }

    /// Gives the owner's SID; `None` where it says none.
    pub(crate) fn owner(&self) -> Option<Vec<u8>> {
        let (mut sid, mut defaulted) = (std::ptr::null_mut(), 0);
        // SAFETY: the descriptor is one while `self` lives; the results are live locals.
        ok(unsafe { GetSecurityDescriptorOwner(self.0, &raw mut sid, &raw mut defaulted) }).ok()?;
        if sid.is_null() {
            return None;
        }
        // SAFETY: the SID is part of the descriptor, and has that length.
        unsafe {
            Some(std::slice::from_raw_parts(sid.cast::<u8>(), GetLengthSid(sid) as usize).to_vec())
        }
    }

    /// Gives the entries of the list, in their order; `None` where there is no list, which lets everybody do everything.
    pub(crate) fn entries(&self) -> Option<Vec<Vec<u8>>> {
        let (mut has, mut list, mut defaulted) = (0, std::ptr::null_mut(), 0);
        // SAFETY: as in `owner`.
        ok(unsafe {
            GetSecurityDescriptorDacl(self.0, &raw mut has, &raw mut list, &raw mut defaulted)
        })
        .ok()?;
        if has == 0 || list.is_null() {
            return None;
        }
        // SAFETY: the list is part of the descriptor.
        let count = unsafe { (*list).AceCount };
        let entry = |at| {
            let mut entry = std::ptr::null_mut();
            // SAFETY: the list has so many entries; the result is a live local.
            ok(unsafe { GetAce(list, at, &raw mut entry) }).ok()?;
            // SAFETY: an entry begins with its header, which has the length of all of it.
            unsafe {
                let len = entry.cast::<ACE_HEADER>().read_unaligned().AceSize;
                Some(std::slice::from_raw_parts(entry.cast::<u8>(), len.into()).to_vec())
            }
        };
        (0..count.into()).map(entry).collect()
    }

    /// Whether both have the same owner, and let the same do the same.
    pub(crate) fn is_as(&self, other: &Security) -> bool {
        let owner = self.owner();
        owner.is_some() && owner == other.owner() && self.entries() == other.entries()
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
