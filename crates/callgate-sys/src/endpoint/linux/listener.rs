//! The server's end: being the only one, taking over a dead one's name, and listening.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use callgate_points::at;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Stat, chmodat, chownat, fstat, openat,
    renameat, renameat_with, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, accept_with, bind as bind_to, listen,
    shutdown, socket_with,
};

use super::address::{FileId, Folder, file_id};
use super::connect::connect;
use super::lock::{InstanceLock, LockError};
use crate::clock;
use crate::endpoint::{BindError, ConnectError, NAME_LEN_MAX};
use crate::process::{PeerFd, PidFd, TrackedFd, begin_closer, generation, is_current};
use crate::socket::Socket;

/// How long a server that is being killed is waited for.
const DYING_MAX: Duration = Duration::from_secs(2);
/// Connections that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A server's listening socket, and its right to the name.
///
/// Dropping it removes the socket file, if it is still this one's, hangs up on clients that wait, and then gives up the
/// instance lock; in a forked child it does nothing. Any thread may use it.
#[derive(Debug)]
pub struct Listener {
    /// Clients that were not accepted may have sent something already.
    socket: PeerFd,
    folder: OwnedFd,
    name: OsString,
    /// Which file our socket is.
    file: FileId,
    generation: u32,
    // After `socket`: fields are dropped in order, and the next server may come once the lock is
    // free.
    _lock: InstanceLock,
}

impl Listener {
    /// Becomes the server at `socket_path`, or tells who is.
    ///
    /// The instance lock on `lock_path` decides: of any number that try at once exactly one wins,
    /// and a server that died holds nothing. The lock file is made if there is none (mode 600) and
    /// is never removed. Then the socket is bound to a temporary name beside `socket_path`, gets
    /// `mode` (permission bits) and `group`, listens, and is moved over the final path: whoever
    /// finds the path finds a socket that listens. A file left there by a dead server is replaced.
    /// Connections go to those who may write to the socket: 0o600 means this user. Blocks only for
    /// the file system.
    ///
    /// # Errors
    ///
    /// [`BindError`]; the instance lock is free again then, and no socket is left. Blocks for up to 2 s for a server that is
    /// being killed at this moment.
    pub fn bind(
        socket_path: &Path,
        lock_path: &Path,
        mode: u32,
        group: Option<u32>,
    ) -> Result<Listener, BindError> {
        let len = socket_path.file_name().map_or(0, |name| name.as_bytes().len());
        if len > NAME_LEN_MAX {
            return Err(BindError::NameTooLong { path: socket_path.to_owned(), len });
        }
        let (folder, name) = Folder::of(socket_path).map_err(|e| no_folder(socket_path, e))?;
        let generation = generation();
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(".tmp");
        let site = Site { path: socket_path, folder: &folder, name, temporary: &temporary };
        // Looked at again under the lock; here so that a wrong path leaves no lock file behind.
        site.check_final()?;
        let lock = acquire_after_the_dying(lock_path).map_err(|error| match error {
            LockError::Held(pid) => BindError::InUse { path: socket_path.to_owned(), pid },
            LockError::Os("open", Errno::NOENT | Errno::NOTDIR) => {
                no_folder(lock_path, Errno::NOENT)
            }
            LockError::Os(call, error) => failed(call, lock_path, error),
        })?;
        if site.check_final()?
            && let Some(pid) = other_server(socket_path)
        {
            return Err(BindError::InUse { path: socket_path.to_owned(), pid });
        }
        let (socket, file) = site.listen(mode, group)?;
        begin_closer();
        Ok(Listener {
            socket: socket.into(),
            folder: folder.fd,
            name: name.to_owned(),
            file,
            generation,
            _lock: lock,
        })
    }

    /// Accepts a connection; `None` when none is waiting. Never blocks.
    ///
    /// # Errors
    ///
    /// What the kernel says: `EMFILE` or `ENFILE` when there are no descriptors left, `ENOMEM`. The
    /// connection goes on waiting.
    pub fn accept(&self) -> Result<Option<Socket>, io::Error> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            match TrackedFd::open(|| at!("sys.endpoint.accept", accept_with(&self.socket, flags))) {
                Ok(fd) => return Ok(Some(fd.into())),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Acquires the instance lock; one whose holder is being killed comes free once its memory is torn down, which can take
/// a tenth of a second, and is waited for.
fn acquire_after_the_dying(path: &Path) -> Result<InstanceLock, LockError> {
    let until_ns = clock::deadline_ns(DYING_MAX);
    loop {
        match InstanceLock::acquire(path) {
            Err(LockError::Held(Some(pid))) if is_dying(pid) && clock::now_ns() < until_ns => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

/// Who serves at a socket though its instance lock was free: somebody has removed the lock file, or its process has opened and
/// closed that file elsewhere, which frees a POSIX lock. `Some(None)` where a server cannot be named.
fn other_server(path: &Path) -> Option<Option<u32>> {
    let until_ns = clock::deadline_ns(DYING_MAX);
    loop {
        let socket = match connect(path, Some(clock::now_ns())) {
            Ok(socket) => socket,
            // More clients wait there than its queue takes.
            Err(ConnectError::TimedOut { .. }) => return Some(None),
            Err(_) => return None,
        };
        // The process that began to listen: a child of it that has the socket, too, does not serve.
        match PidFd::peer_of(&socket) {
            Ok(process) if process.is_dead() => return None,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return None,
            _ => {}
        }
        let pid = socket.peer().ok().map(|peer| peer.pid).filter(|pid| *pid != 0);
        // One that is being killed lets go of the lock a moment before it hangs up.
        if clock::now_ns() >= until_ns || !pid.is_some_and(is_dying) {
            return Some(pid);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process has been killed, or is on its way out.
fn is_dying(pid: u32) -> bool {
    const PF_EXITING: u64 = 4;
    const SIGKILL_PENDING: u64 = 1 << (libc::SIGKILL - 1);
    let file = |name| {
        at!("sys.endpoint.read_proc", std::fs::read_to_string(format!("/proc/{pid}/{name}")))
    };
    let (Ok(stat), Ok(status)) = (file("stat"), file("status")) else { return false };
    // The name of the program stands in brackets, and may have anything in it.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let state = fields.next().unwrap_or_default();
    let flags: u64 = fields.nth(5).and_then(|flags| flags.parse().ok()).unwrap_or(0);
    let pending = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    matches!(state, "Z" | "X")
        || flags & PF_EXITING != 0
        || (pending("SigPnd:") | pending("ShdPnd:")) & SIGKILL_PENDING != 0
}

impl AsFd for Listener {
    /// Readable while a connection is waiting.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !is_current(self.generation) {
            return;
        }
        // We still have the lock, so no other server replaces the file between the two.
        let ours = statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if ours.is_ok_and(|stat| file_id(&stat) == self.file) {
            let _ =
                at!("sys.endpoint.unlink", unlinkat(&self.folder, &self.name, AtFlags::empty()));
        }
        // A child that is forked while another thread closes the socket has a copy that listens on. So nobody is let in any
        // more, and nobody is left in the queue: there are only so many of them, and no others can come. (Without a descriptor
        // to spare they stay there until the last copy is closed.)
        let _ = at!("sys.endpoint.shut_listener", shutdown(&self.socket, Shutdown::Both));
        while let Ok(Some(_waits)) = self.accept() {}
    }
}

/// Where a socket is to be: the folder, the final name and the temporary one. Whoever has one has
/// the instance lock.
struct Site<'a> {
    path: &'a Path,
    folder: &'a Folder,
    name: &'a OsStr,
    /// The same for each server of this name, so that what a dead one left is found and replaced.
    temporary: &'a OsStr,
}

impl Site<'_> {
    fn listen(&self, mode: u32, group: Option<u32>) -> Result<(TrackedFd, FileId), BindError> {
        let os = |call| move |error| failed(call, self.path, error);
        let replaces = self.check_final()?;
        self.clear_temporary()?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = TrackedFd::open(|| {
            at!(
                "sys.endpoint.listener_socket",
                socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            )
        })
        .map_err(os("socket"))?;
        let address = self.folder.address(self.temporary).map_err(os("bind"))?;
        at!("sys.endpoint.bind", bind_to(&socket, &address)).map_err(os("bind"))?;
        let listening = self.permit(mode, group).and_then(|stat| {
            at!("sys.endpoint.listen", listen(&socket, BACKLOG)).map_err(os("listen"))?;
            self.publish(replaces)?;
            Ok(file_id(&stat))
        });
        match listening {
            Ok(file) => Ok((socket, file)),
            Err(error) => {
                // Only from here on is what has that name known to be ours.
                let _ = at!(
                    "sys.endpoint.unlink_failed",
                    unlinkat(&self.folder.fd, self.temporary, AtFlags::empty())
                );
                Err(error)
            }
        }
    }

    /// Tells whether a socket is at the final path already; refuses anything else there.
    fn check_final(&self) -> Result<bool, BindError> {
        match statat(&self.folder.fd, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_socket(&stat) => Ok(true),
            Ok(_) => Err(BindError::NotASocket { path: self.path.to_owned() }),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(failed("stat", self.path, error)),
        }
    }

    fn clear_temporary(&self) -> Result<(), BindError> {
        match statat(&self.folder.fd, self.temporary, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            Ok(stat) if !is_socket(&stat) => {
                return Err(BindError::NotASocket { path: self.folder.path.join(self.temporary) });
            }
            _ => {}
        }
        match at!(
            "sys.endpoint.unlink_stale",
            unlinkat(&self.folder.fd, self.temporary, AtFlags::empty())
        ) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("unlink", self.path, error)),
        }
    }

    /// Sets group and mode of the bound socket file. Nobody can connect yet: it doesn't listen.
    fn permit(&self, mode: u32, group: Option<u32>) -> Result<Stat, BindError> {
        let os = |call| move |error| failed(call, self.path, error);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = at!(
            "sys.endpoint.open_temporary",
            retry_on_intr(|| openat(&self.folder.fd, self.temporary, flags, Mode::empty()))
        )
        .map_err(os("open"))?;
        let stat = fstat(&file).map_err(os("fstat"))?;
        if !is_socket(&stat) {
            return Err(BindError::NotASocket { path: self.folder.path.join(self.temporary) });
        }
        // By the open file, not by its name: nobody can put a link in its place.
        if let Some(group) = group {
            let group = Some(Gid::from_raw(group));
            at!("sys.endpoint.chown", chownat(&file, "", None, group, AtFlags::EMPTY_PATH))
                .map_err(os("chown"))?;
        }
        let by_proc = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let mode = Mode::from_raw_mode((mode & 0o777) as _);
        at!("sys.endpoint.chmod", chmodat(CWD, by_proc, mode, AtFlags::empty()))
            .map_err(os("chmod"))?;
        Ok(stat)
    }

    /// Moves the listening socket to the final path.
    fn publish(&self, replaces: bool) -> Result<(), BindError> {
        let (folder, from, to) = (&self.folder.fd, self.temporary, self.name);
        let moved = if replaces {
            at!("sys.endpoint.rename_over", renameat(folder, from, folder, to))
        } else {
            // Something that came there meanwhile isn't a server's, which would need the lock: it
            // is left alone.
            match at!(
                "sys.endpoint.rename",
                renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE)
            ) {
                // A file system without this flag.
                Err(Errno::INVAL) => {
                    at!("sys.endpoint.rename_plain", renameat(folder, from, folder, to))
                }
                result => result,
            }
        };
        moved.map_err(|error| match error {
            Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY => {
                BindError::NotASocket { path: self.path.to_owned() }
            }
            error => failed("rename", self.path, error),
        })
    }
}

fn no_folder(path: &Path, error: Errno) -> BindError {
    match error {
        Errno::NOENT | Errno::NOTDIR => {
            BindError::NoDirectory { path: path.parent().unwrap_or(Path::new("")).to_owned() }
        }
        error => failed("open", path, error),
    }
}

fn failed(call: &'static str, path: &Path, error: Errno) -> BindError {
    match error {
        Errno::ACCESS | Errno::PERM | Errno::ROFS => BindError::Denied { path: path.to_owned() },
        error => BindError::Os { call, path: path.to_owned(), source: error.into() },
    }
}

fn is_socket(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Socket
}
