//! The client's end: reaching a server by its path.

use std::io;
use std::os::windows::io::AsRawHandle;
use std::path::Path;
use std::time::Duration;

use callgate_points::at;
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_BAD_PATHNAME, ERROR_FILE_NOT_FOUND, ERROR_INVALID_NAME,
    ERROR_PATH_NOT_FOUND, ERROR_PIPE_BUSY,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW, FILE_FLAG_OVERLAPPED, FILE_GENERIC_READ, FILE_READ_ATTRIBUTES,
    FILE_WRITE_ATTRIBUTES, FILE_WRITE_DATA, OPEN_EXISTING, SECURITY_IDENTIFICATION,
    SECURITY_SQOS_PRESENT,
};
use windows_sys::Win32::System::Pipes::{
    PIPE_READMODE_MESSAGE, SetNamedPipeHandleState, WaitNamedPipeW,
};

use super::lock::is_served;
use super::name::Names;
use crate::clock;
use crate::endpoint::ConnectError;
use crate::socket::{Side, Socket};
use crate::win::{is_pipe_gone, ms_left, ok, own};

/// How long a connection without a deadline waits for a server that has no instance free.
const QUEUE_WAIT: Duration = Duration::from_secs(5);
/// How long it waits at a time before it looks whether that server lives.
const SLICE: Duration = Duration::from_millis(50);

/// What a client does with a pipe: read, write, and choose to read messages. Not to make further instances of it, which
/// GENERIC_WRITE would mean, too (FILE_APPEND_DATA is the same bit).
pub(super) const RIGHTS: u32 =
    FILE_GENERIC_READ | FILE_READ_ATTRIBUTES | FILE_WRITE_DATA | FILE_WRITE_ATTRIBUTES;

/// Connects to the server that listens at `socket_path`.
///
/// The server learns who we are, and cannot act in our name (SECURITY_IDENTIFICATION). Blocks only while that server has
/// no instance of its pipe free, until `deadline_ns` (nanoseconds of [`clock::now_ns`]), or 5 seconds without one. Who it
/// is isn't known yet.
///
/// # Errors
///
/// [`ConnectError`]; nothing is left open.
pub fn connect(socket_path: &Path, deadline_ns: Option<u64>) -> Result<Socket, ConnectError> {
    let path = || socket_path.to_owned();
    let names =
        Names::of(socket_path).map_err(|len| ConnectError::NameTooLong { path: path(), len })?;
    let deadline_ns = deadline_ns.unwrap_or_else(|| clock::deadline_ns(QUEUE_WAIT));
    loop {
        let error = match reach(&names) {
            Ok(socket) => return Ok(socket),
            Err(error) => error,
        };
        // Reached, and gone before it was of use.
        if is_pipe_gone(&error) {
            return Err(ConnectError::NotRunning { path: path() });
        }
        match error.raw_os_error().map_or(0, i32::cast_unsigned) {
            ERROR_FILE_NOT_FOUND | ERROR_PATH_NOT_FOUND => {
                return Err(ConnectError::NotRunning { path: path() });
            }
            ERROR_ACCESS_DENIED => return Err(ConnectError::Denied { path: path() }),
            ERROR_INVALID_NAME | ERROR_BAD_PATHNAME => {
                return Err(ConnectError::WrongKind { path: path() });
            }
            ERROR_PIPE_BUSY => {}
            _ => return Err(ConnectError::Os { call: "CreateFile", path: path(), source: error }),
        }
        // Instances are left of a server that has stopped, or died just now: of one that lives, one is free in a moment.
        if !is_served(&names) {
            return Err(ConnectError::NotRunning { path: path() });
        }
        if clock::now_ns() >= deadline_ns {
            return Err(ConnectError::TimedOut { path: path() });
        }
        let slice_ns = clock::deadline_ns(SLICE).min(deadline_ns);
        // SAFETY: the name ends with a zero, and lives for the call. 0 would mean the server's own time limit.
        at!("sys.endpoint.wait_pipe", unsafe {
            WaitNamedPipeW(names.pipe.as_ptr(), ms_left(Some(slice_ns)).max(1))
        });
    }
}

fn reach(names: &Names) -> io::Result<Socket> {
    // SAFETY: the name ends with a zero, and lives for the call.
    let pipe = own(at!("sys.endpoint.connect", unsafe {
        CreateFileW(
            names.pipe.as_ptr(),
            RIGHTS,
            0,
            std::ptr::null(),
            OPEN_EXISTING,
            FILE_FLAG_OVERLAPPED | SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION,
            std::ptr::null_mut(),
        )
    }))?;
    let mode = PIPE_READMODE_MESSAGE;
    // SAFETY: the handle is open; the mode is a live local, and nothing else is changed.
    ok(at!("sys.endpoint.message_mode", unsafe {
        SetNamedPipeHandleState(
            pipe.as_raw_handle(),
            &raw const mode,
            std::ptr::null(),
            std::ptr::null(),
        )
    }))?;
    Socket::new(pipe, Side::Client)
}
