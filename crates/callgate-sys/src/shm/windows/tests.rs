//! What a client can do with the handles that it gets, and what a peer may try in their place.

use std::ffi::c_void;
use std::os::windows::io::{AsRawHandle, OwnedHandle};

use windows_sys::Win32::Foundation::{
    DUPLICATE_SAME_ACCESS, DuplicateHandle, ERROR_ACCESS_DENIED, GetLastError, HANDLE,
    INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Storage::FileSystem::{READ_CONTROL, SYNCHRONIZE, WRITE_DAC, WRITE_OWNER};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleA, GetProcAddress};
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, FILE_MAP_READ, FILE_MAP_WRITE, MapViewOfFile, PAGE_READONLY,
    PAGE_READWRITE, SEC_COMMIT, SEC_RESERVE, SECTION_ALL_ACCESS, SECTION_MAP_READ,
    SECTION_MAP_WRITE, VirtualProtect,
};
use windows_sys::Win32::System::Threading::{EVENT_ALL_ACCESS, EVENT_MODIFY_STATE};

use super::*;
use crate::shm::{Rejected, Told};
use crate::win::{Event, copy_of, current_process, give, granted, own};

/// This process, as a server has its client's: to put handles there.
fn process() -> OwnedHandle {
    let mut process = std::ptr::null_mut();
    // SAFETY: the result is a live local.
    let done = unsafe {
        DuplicateHandle(
            current_process(),
            current_process(),
            current_process(),
            &raw mut process,
            0,
            0,
            DUPLICATE_SAME_ACCESS,
        )
    };
    assert!(done != 0);
    own(process).unwrap()
}

/// The error of duplicating a handle with these rights; `None` where that is possible.
fn refusal(handle: HANDLE, rights: u32) -> Option<u32> {
    let mut more = std::ptr::null_mut();
    // SAFETY: the result is a live local.
    let done = unsafe {
        DuplicateHandle(current_process(), handle, current_process(), &raw mut more, rights, 0, 0)
    };
    if done == 0 {
        // SAFETY: it has no conditions.
        return Some(unsafe { GetLastError() });
    }
    drop(own(more));
    None
}

/// Nobody may change who may do what with it, nor wait for it who was not given that right.
///
/// Not under Wine: version 8 gives these rights to whoever asks, whatever the object's list says.
fn refuses_standard_rights(handle: HANDLE) {
    // SAFETY: both names end with a zero.
    let is_wine = unsafe {
        let ntdll = GetModuleHandleA(c"ntdll.dll".as_ptr().cast());
        GetProcAddress(ntdll, c"wine_get_version".as_ptr().cast()).is_some()
    };
    if is_wine {
        eprintln!("left out under Wine: it grants standard rights to whoever asks");
        return;
    }
    for rights in [READ_CONTROL, WRITE_DAC, WRITE_OWNER, SYNCHRONIZE] {
        assert_eq!(refusal(handle, rights), Some(ERROR_ACCESS_DENIED), "{rights:#x}");
    }
}

#[test]
fn a_reader_cannot_write_nor_get_the_right_to() {
    let (writer, fd) = PayloadWriter::create(page_size()).unwrap();
    let process = process();
    // As a server gives it to a client.
    let number = fd.give_to(&process).unwrap();
    let given = copy_of(&process, number).unwrap();
    assert_eq!(granted(given.as_raw_handle()), GIVEN_RIGHTS);
    let map = |access| {
        // SAFETY: a new mapping overlaps nothing.
        unsafe { MapViewOfFile(given.as_raw_handle(), access, 0, 0, 0) }.Value
    };
    assert!(map(FILE_MAP_WRITE).is_null());
    let view = map(FILE_MAP_READ);
    assert!(!view.is_null());
    let mut before = 0;
    // SAFETY: it asks for a change of the mapping just made, which nobody else uses.
    let writable =
        unsafe { VirtualProtect(view as *const c_void, 1, PAGE_READWRITE, &raw mut before) };
    assert_eq!(writable, 0, "a mapping for reading cannot be made writable");
    for rights in [SECTION_MAP_WRITE, SECTION_MAP_WRITE | SECTION_MAP_READ, SECTION_ALL_ACCESS] {
        assert_eq!(
            refusal(given.as_raw_handle(), rights),
            Some(ERROR_ACCESS_DENIED),
            "{rights:#x}"
        );
    }
    refuses_standard_rights(given.as_raw_handle());
    assert_eq!(refusal(given.as_raw_handle(), SECTION_MAP_READ), None);
    drop(writer);
}

#[test]
fn who_rings_cannot_wait() {
    let event = Event::auto_for_peers().unwrap();
    let process = process();
    let number = give(&process, event.raw(), EVENT_MODIFY_STATE).unwrap();
    let ringer = copy_of(&process, number).unwrap();
    assert_eq!(granted(ringer.as_raw_handle()), EVENT_MODIFY_STATE);
    // EVENT_QUERY_STATE, which has no name in the bindings, and all.
    for rights in [1, EVENT_ALL_ACCESS] {
        assert_eq!(
            refusal(ringer.as_raw_handle(), rights),
            Some(ERROR_ACCESS_DENIED),
            "{rights:#x}"
        );
    }
    refuses_standard_rights(ringer.as_raw_handle());
    let ringer = Event::from_peer(ringer);
    assert!(!ringer.wait(Some(0)));
    ringer.set();
    assert!(event.wait(Some(0)));
}

fn section(file: HANDLE, protection: u32, len: usize) -> OwnedHandle {
    // SAFETY: the file is open or none; there is no name.
    own(unsafe {
        CreateFileMappingW(file, std::ptr::null(), protection, 0, len as u32, std::ptr::null())
    })
    .unwrap()
}

#[test]
fn impostors_are_rejected() {
    let len = 2 * page_size();
    let payload = |handle| PayloadReader::accept(MemFd::from_peer(Some(handle), None), len);
    let control = |handle| {
        let event = section(INVALID_HANDLE_VALUE, PAGE_READWRITE, len);
        Control::accept(MemFd::from_peer(Some(handle), Some(event)), len)
    };
    let plain = |len| section(INVALID_HANDLE_VALUE, PAGE_READWRITE, len);
    assert!(payload(plain(len)).is_ok());
    assert!(matches!(payload(plain(len + page_size())), Err(Rejected::Size { .. })));
    assert!(matches!(payload(plain(page_size())), Err(Rejected::Size { .. })));
    // A touch of a page that is not committed would be a fault.
    let reserved = section(INVALID_HANDLE_VALUE, PAGE_READWRITE | SEC_RESERVE, len);
    assert!(matches!(payload(reserved), Err(Rejected::NotPlainMemory { .. })));
    // So would one of a file that cannot be read any more.
    let file = tempfile::tempfile().unwrap();
    file.set_len(len as u64).unwrap();
    let of_file = section(file.as_raw_handle(), PAGE_READWRITE | SEC_COMMIT, len);
    assert!(matches!(payload(of_file), Err(Rejected::NotPlainMemory { .. })));
    let read_only = section(INVALID_HANDLE_VALUE, PAGE_READONLY, len);
    assert!(control(read_only).is_err());
    assert!(matches!(control(plain(len)), Err(Rejected::NoEvent)), "a section is no event");
    let event = Event::manual().unwrap();
    let number = give(&process(), event.raw(), EVENT_ALL_ACCESS).unwrap();
    let event = copy_of(&process(), number).unwrap();
    assert!(matches!(payload(event), Err(Rejected::NotASection)));
    assert!(matches!(
        PayloadReader::accept(MemFd::from_peer(None, None), len),
        Err(Rejected::NotASection)
    ));
    // A handle that its peer may not read by, whatever we may do with the object.
    let (_writer, fd) = PayloadWriter::create(len).unwrap();
    let process = process();
    let (number, _) = fd.numbers();
    let all = copy_of(&process, number).unwrap();
    let number = give(&process, all.as_raw_handle(), SECTION_MAP_WRITE).unwrap();
    let writable_only = copy_of(&process, number).unwrap();
    assert!(matches!(payload(writable_only), Err(Rejected::NotReadable)));
}

#[test]
fn memory_is_watched_until_it_is_gone_from_here() {
    let watch = ReleaseWatch::new().unwrap();
    let (writer, fd) = PayloadWriter::create(page_size()).unwrap();
    let id = watch.watch(&fd).unwrap();
    let gone = || {
        let mut told = Vec::new();
        watch.drain(|it| told.push(it));
        told
    };
    drop(fd);
    assert_eq!(gone(), []);
    drop(writer);
    assert_eq!(gone(), [Told::Gone(id)]);
    assert_eq!(gone(), []);
}
