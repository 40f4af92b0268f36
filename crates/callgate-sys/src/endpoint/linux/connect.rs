//! The client's end: reaching a server by its path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use callgate_points::at;
use rustix::fs::{AtFlags, CWD, FileType, Stat, statat};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to, socket_with,
};

use super::address::{ADDRESS_LEN_MAX, Folder};
use crate::clock;
use crate::endpoint::{ConnectError, NAME_LEN_MAX};
use crate::process::{TrackedFd, begin_closer};
use crate::socket::Socket;

/// How long a connection without a deadline waits for a server whose queue is full.
const QUEUE_WAIT: Duration = Duration::from_secs(5);

/// Connects to the server that listens at `socket_path`.
///
/// Blocks only while that server's queue of connections is full, until `deadline_ns` (nanoseconds
/// of [`clock::now_ns`]), or 5 seconds without one. That the server has accepted, or who it is,
/// isn't known yet.
///
/// # Errors
///
/// [`ConnectError`]; nothing is left open.
pub fn connect(socket_path: &Path, deadline_ns: Option<u64>) -> Result<Socket, ConnectError> {
    let path = || socket_path.to_owned();
    let len = socket_path.file_name().map_or(0, |name| name.as_bytes().len());
    if len > NAME_LEN_MAX {
        return Err(ConnectError::NameTooLong { path: path(), len });
    }
    let failed = |call, error| match error {
        Errno::NOENT | Errno::NOTDIR | Errno::CONNREFUSED => {
            ConnectError::NotRunning { path: path() }
        }
        Errno::ACCESS | Errno::PERM => ConnectError::Denied { path: path() },
        Errno::AGAIN | Errno::TIMEDOUT => ConnectError::TimedOut { path: path() },
        Errno::PROTOTYPE | Errno::NOTSOCK => ConnectError::WrongKind { path: path() },
        error => ConnectError::Os { call, path: path(), source: error.into() },
    };
    let route = Route::to(socket_path).map_err(|(call, error)| failed(call, error))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = TrackedFd::open(|| {
        at!(
            "sys.endpoint.socket",
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        )
    })
    .map_err(|e| failed("socket", e))?;
    match reach(&socket, &route.address, deadline_ns) {
        Ok(()) => {
            begin_closer();
            Ok(socket.into())
        }
        Err(Errno::CONNREFUSED) => {
            // A file that isn't a socket refuses as a dead server's does.
            match route.stat(socket_path) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
                    Err(ConnectError::WrongKind { path: path() })
                }
                _ => Err(ConnectError::NotRunning { path: path() }),
            }
        }
        Err(error) => Err(failed("connect", error)),
    }
}

/// How a socket is addressed: by its path, where that fits into an address, else in its open folder.
struct Route<'a> {
    address: SocketAddrUnix,
    /// The folder and the name in it; kept open until the connection is made.
    folder: Option<(Folder, &'a OsStr)>,
}

impl<'a> Route<'a> {
    fn to(path: &'a Path) -> Result<Route<'a>, (&'static str, Errno)> {
        if path.file_name().is_some() && path.as_os_str().as_bytes().len() <= ADDRESS_LEN_MAX {
            let address = SocketAddrUnix::new(path).map_err(|e| ("connect", e))?;
            return Ok(Route { address, folder: None });
        }
        let (folder, name) = Folder::of(path).map_err(|e| ("open", e))?;
        let address = folder.address(name).map_err(|e| ("connect", e))?;
        Ok(Route { address, folder: Some((folder, name)) })
    }

    fn stat(&self, path: &Path) -> Result<Stat, Errno> {
        match &self.folder {
            None => statat(CWD, path, AtFlags::empty()),
            Some((folder, name)) => statat(&folder.fd, *name, AtFlags::empty()),
        }
    }
}

/// Connects at once, unless the server's queue is full: then waits at most until the deadline. The time-out stays on the
/// socket, and means nothing there: every send is MSG_DONTWAIT.
fn reach(
    socket: &TrackedFd,
    address: &SocketAddrUnix,
    deadline_ns: Option<u64>,
) -> Result<(), Errno> {
    match at!("sys.endpoint.connect_now", connect_to(socket, address)) {
        Err(Errno::AGAIN | Errno::INTR) => {}
        result => return result,
    }
    at!("sys.endpoint.may_block", ioctl_fionbio(socket, false))?;
    let deadline_ns = deadline_ns.unwrap_or_else(|| clock::deadline_ns(QUEUE_WAIT));
    loop {
        // Zero would mean no limit at all. The kernel's own clock ticks are coarser than this, and
        // it can't take u64::MAX.
        let left_ns = deadline_ns.saturating_sub(clock::now_ns()).clamp(1_000, u64::MAX / 1_000);
        let limit = Some(Duration::from_nanos(left_ns));
        at!("sys.endpoint.send_timeout", set_socket_timeout(socket, Timeout::Send, limit))?;
        match at!("sys.endpoint.connect", connect_to(socket, address)) {
            Err(Errno::INTR) => continue,
            result => return result,
        }
    }
}
