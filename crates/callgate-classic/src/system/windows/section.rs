//! Memory that other processes map too, and may write at any time: never a reference to it, only copies in and out.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::ptr::{NonNull, null_mut};

use windows_sys::Win32::Foundation::{
    ERROR_ALREADY_EXISTS, GetLastError, HANDLE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, FILE_MAP_READ, FILE_MAP_WRITE, MEM_COMMIT, MEM_MAPPED,
    MEMORY_BASIC_INFORMATION, MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile, OpenFileMappingW,
    PAGE_READWRITE, SEC_COMMIT, SEC_LARGE_PAGES, SEC_NOCACHE, SEC_RESERVE, SEC_WRITECOMBINE,
    UnmapViewOfFile, VirtualQuery,
};

use super::{Security, fault, owned, wide};
use crate::system::Fault;

/// Bytes of a page; 4096 on every Windows of today.
pub(crate) fn page_bytes() -> usize {
    4096
}

/// Enough to map one for reading and writing, and to ask what it is.
const RIGHTS: u32 = FILE_MAP_READ | FILE_MAP_WRITE | SECTION_QUERY;
const SECTION_QUERY: u32 = 1;

/// A file mapping backed by the page file, mapped whole.
///
/// The handle stays open, and with it the name: a server that starts finds this memory, not other memory under one
/// name.
#[derive(Debug)]
pub(crate) struct Section {
    view: NonNull<u8>,
    bytes: usize,
    _handle: OwnedHandle,
}

// SAFETY: a mapping belongs to the process, not to a thread, and is touched by copies of bytes only.
unsafe impl Send for Section {}
// SAFETY: as above; the copies are as good against other threads as against other processes, which write at any time.
unsafe impl Sync for Section {}

impl Section {
    /// Makes one of so many bytes, zeroed, or opens the one that has the name. Tells whether it existed.
    pub(crate) fn create(
        name: &str,
        bytes: usize,
        security: &Security,
    ) -> Result<(Self, bool), Fault> {
        let name = wide(name);
        let (high, low) = ((bytes as u64 >> 32) as u32, bytes as u64 as u32);
        // SAFETY: the name ends with a NUL, and it and the attributes outlive the call. No file: the page file.
        let (handle, error) = unsafe {
            let handle = CreateFileMappingW(
                INVALID_HANDLE_VALUE,
                security.attributes(),
                PAGE_READWRITE,
                high,
                low,
                name.as_ptr(),
            );
            (handle, GetLastError())
        };
        // SAFETY: just returned, to us alone.
        let handle = unsafe { owned("CreateFileMappingW", handle) }?;
        Ok((Self::map(handle)?, error == ERROR_ALREADY_EXISTS))
    }

    /// Makes one that is a file's, as other programs may. The file goes with it.
    #[cfg(test)]
    pub(crate) fn of_a_file(name: &str, bytes: usize) -> impl Sized + use<> {
        use std::os::windows::fs::OpenOptionsExt;
        const FILE_FLAG_DELETE_ON_CLOSE: u32 = 0x0400_0000;
        let path = std::env::temp_dir().join(name);
        let mut options = std::fs::File::options();
        options.read(true).write(true).create_new(true).custom_flags(FILE_FLAG_DELETE_ON_CLOSE);
        let file = options.open(path).unwrap();
        file.set_len(bytes as u64).unwrap();
        let name = wide(name);
        // SAFETY: an open file; the name ends with a NUL and outlives the call; null stands for the default security.
        let handle = unsafe {
            let file = file.as_raw_handle();
            CreateFileMappingW(file, std::ptr::null(), PAGE_READWRITE, 0, 0, name.as_ptr())
        };
        // SAFETY: just returned, to us alone.
        (unsafe { owned("CreateFileMappingW", handle) }.unwrap(), file)
    }

    /// Opens the one that has the name.
    pub(crate) fn open(name: &str) -> Result<Self, Fault> {
        let name = wide(name);
        // SAFETY: the name ends with a NUL and outlives the call.
        let handle = unsafe { OpenFileMappingW(RIGHTS, 0, name.as_ptr()) };
        // SAFETY: just returned, to us alone.
        Self::map(unsafe { owned("OpenFileMappingW", handle) }?)
    }

    fn map(handle: OwnedHandle) -> Result<Self, Fault> {
        check(handle.as_raw_handle())?;
        let access = FILE_MAP_READ | FILE_MAP_WRITE;
        // SAFETY: an open handle of a mapping. No length: all of it, at an address of the system's choice.
        let view = unsafe { MapViewOfFile(handle.as_raw_handle(), access, 0, 0, 0) };
        let Some(view) = NonNull::new(view.Value.cast::<u8>()) else {
            return Err(fault("MapViewOfFile"));
        };
        // From here on it is unmapped when dropped.
        let mut section = Self { view, bytes: 0, _handle: handle };
        section.bytes = section.query()?;
        Ok(section)
    }

    /// Bytes from the beginning that can be touched, in whole pages: the rest of a mapping that was only reserved
    /// cannot.
    fn query(&self) -> Result<usize, Fault> {
        let mut region = MEMORY_BASIC_INFORMATION::default();
        let bytes = size_of::<MEMORY_BASIC_INFORMATION>();
        // SAFETY: the view is mapped, and the structure is writable and has that length.
        let got = unsafe { VirtualQuery(self.view.as_ptr().cast(), &raw mut region, bytes) };
        if got == 0 {
            return Err(fault("VirtualQuery"));
        }
        let usable = region.State == MEM_COMMIT
            && region.Type == MEM_MAPPED
            // Other bits say how it is cached.
            && region.Protect & 0xff == PAGE_READWRITE;
        Ok(if usable { region.RegionSize } else { 0 })
    }

    /// Its size in bytes, in whole pages.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies its first bytes out.
    ///
    /// # Panics
    /// If it has fewer.
    pub(crate) fn read(&self, into: &mut [u8]) {
        assert!(into.len() <= self.bytes);
        // SAFETY: the view has that many bytes that can be touched (`query`), mapped while `self` lives, and private
        // memory does not overlap it.
        unsafe { copy(self.view.as_ptr(), into.as_mut_ptr(), into.len()) };
    }

    /// Copies into its first bytes.
    ///
    /// # Panics
    /// If it has fewer.
    pub(crate) fn write(&self, from: &[u8]) {
        assert!(from.len() <= self.bytes);
        // SAFETY: as in `read`; the view is writable.
        unsafe { copy(from.as_ptr(), self.view.as_ptr(), from.len()) };
    }

    /// Tells whether its first bytes are these.
    ///
    /// # Panics
    /// If it has fewer.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        assert!(bytes.len() <= self.bytes);
        let mut piece = [0; 4096];
        let mut at = 0;
        bytes.chunks(piece.len()).all(|want| {
            let have = &mut piece[..want.len()];
            // SAFETY: as in `read`: `at` and these bytes are within `bytes`, which the view has.
            unsafe { copy(self.view.as_ptr().add(at), have.as_mut_ptr(), have.len()) };
            at += want.len();
            have == want
        })
    }
}

/// `SEC_` bits of memory that the page file backs, whole or as it is needed.
const OF_THE_PAGE_FILE: u32 = SEC_COMMIT | SEC_RESERVE;
/// And those that say how it is cached, which may stand beside them.
const HOW_CACHED: u32 = SEC_NOCACHE | SEC_WRITECOMBINE | SEC_LARGE_PAGES;
/// All that say what kind of mapping it is: of a file, of an image, and the like.
const KINDS: u32 = 0xffff_0000;

/// Refuses memory that could be cut off, or wait for somebody, under a touch. What a mapping is never changes.
fn check(section: HANDLE) -> Result<(), Fault> {
    let mut basic = SectionBasicInformation { base: 0, attributes: 0, size: 0 };
    let bytes = size_of::<SectionBasicInformation>();
    // SAFETY: an open handle; the class is the one whose answer has this type and length; no length is returned.
    let status = unsafe { NtQuerySection(section, 0, (&raw mut basic).cast(), bytes, null_mut()) };
    if status < 0 {
        let what = format!("status {status:#010x}");
        return Err(Fault::Os("NtQuerySection", io::Error::other(what)));
    }
    let kind = basic.attributes & KINDS & !HOW_CACHED;
    if kind == 0 || kind & !OF_THE_PAGE_FILE != 0 {
        return Err(Fault::NotPageFile(basic.attributes));
    }
    Ok(())
}

#[repr(C)]
struct SectionBasicInformation {
    base: usize,
    attributes: u32,
    size: i64,
}

#[link(name = "ntdll")]
unsafe extern "system" {
    fn NtQuerySection(
        section: HANDLE,
        class: i32,
        information: *mut c_void,
        information_bytes: usize,
        returned_bytes: *mut usize,
    ) -> i32;
}

impl Drop for Section {
    fn drop(&mut self) {
        let view = MEMORY_MAPPED_VIEW_ADDRESS { Value: self.view.as_ptr().cast() };
        // SAFETY: mapped by `map`, and unmapped only here.
        unsafe { UnmapViewOfFile(view) };
    }
}

/// Copies bytes of which one side may be changed by another process meanwhile. The compiler sees no access that could
/// race; what arrives may be a mixture.
///
/// # Safety
/// - Both sides have `len` bytes, readable and writable respectively, and do not overlap.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: both sides have `len` bytes, by the contract; the direction flag is clear, by the calling convention.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..len {
        use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
        // SAFETY: both sides have `len` bytes, by the contract; bytes are always aligned. The side that is shared is
        // only touched as atomics, and the other is private.
        unsafe {
            let byte = AtomicU8::from_ptr(from.add(at).cast_mut()).load(Relaxed);
            AtomicU8::from_ptr(to.add(at)).store(byte, Relaxed);
        }
    }
}
