//! Handles of other processes, and what a handle refers to.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};

use callgate_points::at;
use windows_sys::Wdk::Foundation::{NtQueryObject, ObjectBasicInformation, ObjectTypeInformation};
use windows_sys::Win32::Foundation::{
    DUPLICATE_CLOSE_SOURCE, DUPLICATE_SAME_ACCESS, DuplicateHandle, ERROR_BROKEN_PIPE,
    ERROR_NO_DATA, ERROR_OPERATION_ABORTED, ERROR_PIPE_NOT_CONNECTED, HANDLE, UNICODE_STRING,
};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use super::ok;

/// Kinds of objects that peers pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Section,
    Event,
    Other,
}

/// Gives this process, as the calls for handles want it.
pub(crate) fn current_process() -> HANDLE {
    // SAFETY: it gives a constant.
    unsafe { GetCurrentProcess() }
}

/// The number of a handle as messages carry it. Handles have 32 bits that mean something, in every process.
pub(crate) fn value(handle: HANDLE) -> u32 {
    handle.addr() as u32
}

fn handle(value: u32) -> HANDLE {
    std::ptr::without_provenance_mut(value as usize)
}

/// Takes a copy of another process's handle, by the number that it has there, with the rights that it has there.
///
/// Not with fewer, and not with others: a duplicate with rights that its source lacks is granted by what *we* may do with
/// the object, so a peer could have us open for it what it may not open itself. `granted` tells what there is.
pub(crate) fn copy_of(process: &OwnedHandle, number: u32) -> io::Result<OwnedHandle> {
    let mut copy = std::ptr::null_mut();
    // SAFETY: the process handle is open; the number is looked up in that process's table, whatever it is, and the
    // result is written to a live local.
    ok(at!("sys.win.duplicate_from_peer", unsafe {
        DuplicateHandle(
            process.as_raw_handle(),
            handle(number),
            current_process(),
            &raw mut copy,
            0,
            0,
            DUPLICATE_SAME_ACCESS,
        )
    }))?;
    // SAFETY: the call has succeeded, so this handle is open, and ours.
    Ok(unsafe { OwnedHandle::from_raw_handle(copy) })
}

/// Puts a handle with just these rights into another process's table; gives its number there.
pub(crate) fn give(process: &OwnedHandle, source: HANDLE, rights: u32) -> io::Result<u32> {
    let mut theirs = std::ptr::null_mut();
    // SAFETY: both handles are open, the second by the caller's promise; the result is a live local.
    ok(at!("sys.win.duplicate_to_peer", unsafe {
        DuplicateHandle(
            current_process(),
            source,
            process.as_raw_handle(),
            &raw mut theirs,
            rights,
            0,
            0,
        )
    }))?;
    Ok(value(theirs))
}

/// Closes a handle in another process's table that [`give`] put there and that process was not told of.
pub(crate) fn close_in(process: &OwnedHandle, number: u32) {
    // SAFETY: as in `copy_of`; without a target the source is closed only.
    at!("sys.win.duplicate_undo", unsafe {
        DuplicateHandle(
            process.as_raw_handle(),
            handle(number),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
            0,
            DUPLICATE_CLOSE_SOURCE,
        )
    });
}

/// Makes a handle of this process into one with just these rights, all of which it has, under another number.
///
/// # Safety
///
/// * Nothing in this process owns the old handle, which is closed.
pub(crate) unsafe fn exchange(old: HANDLE, rights: u32) -> io::Result<OwnedHandle> {
    let mut new = std::ptr::null_mut();
    // SAFETY: the old handle is given up, as the caller promises; the result is a live local.
    ok(at!("sys.win.duplicate_exchange", unsafe {
        DuplicateHandle(
            current_process(),
            old,
            current_process(),
            &raw mut new,
            rights,
            0,
            DUPLICATE_CLOSE_SOURCE,
        )
    }))?;
    // SAFETY: the call has succeeded, so this handle is open, and ours.
    Ok(unsafe { OwnedHandle::from_raw_handle(new) })
}

/// Keeps just these rights of a handle of ours, all of which it has.
pub(crate) fn narrow(source: OwnedHandle, rights: u32) -> io::Result<OwnedHandle> {
    let mut narrowed = std::ptr::null_mut();
    // SAFETY: the source is open, and given up here; the result is a live local.
    ok(at!("sys.win.duplicate_narrow", unsafe {
        DuplicateHandle(
            current_process(),
            source.as_raw_handle(),
            current_process(),
            &raw mut narrowed,
            rights,
            0,
            0,
        )
    }))?;
    // SAFETY: the call has succeeded, so this handle is open, and ours.
    Ok(unsafe { OwnedHandle::from_raw_handle(narrowed) })
}

/// `PUBLIC_OBJECT_BASIC_INFORMATION`.
#[repr(C)]
#[derive(Default)]
struct Basic {
    attributes: u32,
    granted: u32,
    handles: u32,
    pointers: u32,
    reserved: [u32; 10],
}

/// Gives the rights of a handle of this process; 0 where there is no such handle.
pub(crate) fn granted(handle: HANDLE) -> u32 {
    basic(handle).granted
}

/// Gives how many handles all processes have to the object behind a handle.
#[cfg(test)]
pub(crate) fn handle_count(handle: HANDLE) -> u32 {
    basic(handle).handles
}

/// All zeros where there is no such handle.
fn basic(handle: HANDLE) -> Basic {
    let mut basic = Basic::default();
    // SAFETY: at most the size given is written to a live local of integers.
    let status = at!("sys.win.query_object", unsafe {
        NtQueryObject(
            handle,
            ObjectBasicInformation,
            (&raw mut basic).cast(),
            size_of::<Basic>() as u32,
            std::ptr::null_mut(),
        )
    });
    if status < 0 { Basic::default() } else { basic }
}

/// Tells what a handle of this process refers to.
pub(crate) fn kind(handle: HANDLE) -> Kind {
    // The string comes behind the fixed part; names of types are short.
    let mut room = [0u64; 64];
    // SAFETY: at most the size given is written to a live local of integers.
    let status = at!("sys.win.query_type", unsafe {
        NtQueryObject(
            handle,
            ObjectTypeInformation,
            room.as_mut_ptr().cast(),
            size_of_val(&room) as u32,
            std::ptr::null_mut(),
        )
    });
    if status < 0 {
        return Kind::Other;
    }
    // SAFETY: the call has succeeded, so the room begins with a string, whose text lies behind it in the same room.
    let name = unsafe {
        let name = room.as_ptr().cast::<UNICODE_STRING>().read();
        std::slice::from_raw_parts(name.Buffer, usize::from(name.Length) / 2)
    };
    match String::from_utf16_lossy(name).as_str() {
        "Section" => Kind::Section,
        "Event" => Kind::Event,
        _ => Kind::Other,
    }
}

/// Whether an error says that the other end of a pipe is closed.
pub(crate) fn is_pipe_gone(error: &io::Error) -> bool {
    let gone = [ERROR_BROKEN_PIPE, ERROR_NO_DATA, ERROR_PIPE_NOT_CONNECTED];
    error.raw_os_error().is_some_and(|code| gone.contains(&(code as u32)))
}

/// Whether an error says that an operation was called back, as those are that a thread has begun when it ends.
pub(crate) fn was_aborted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(ERROR_OPERATION_ABORTED as i32)
}
