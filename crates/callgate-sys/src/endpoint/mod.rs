//! Endpoints: where a server listens, how a second one is kept away, how clients find it.
//!
//! An endpoint is two paths. The lock file carries a POSIX record lock for as long as its server
//! lives; the kernel frees it at death, even by `kill -9`, even when a child of the server lives
//! on, and tells everybody who holds it. The file itself is never removed: if it were, two servers
//! could hold locks on two files of one name. The socket file is replaced by each new server and
//! removed by one that ends in order.
//!
//! Paths may be as long as the system allows, though a socket address can't: see [`NAME_LEN_MAX`].

#[cfg(all(target_os = "linux", not(callgate_sim)))]
mod linux;
#[cfg(callgate_sim)]
mod sim;
#[cfg(all(windows, not(callgate_sim)))]
mod windows;

use std::io;
use std::path::PathBuf;
#[cfg(not(windows))]
use std::{ffi::OsString, path::Path};

#[cfg(all(target_os = "linux", not(callgate_sim)))]
pub use linux::{Listener, connect, holder, private_dir, private_dir_if_exists};
#[cfg(callgate_sim)]
pub use sim::{Listener, connect, holder, private_dir, private_dir_if_exists};
#[cfg(all(windows, not(callgate_sim)))]
pub use windows::{Listener, connect, holder, names, private_dir, private_dir_if_exists};

/// Gives the names of the files in a folder of endpoints; none where there is no such folder.
///
/// # Errors
///
/// What the system says.
#[cfg(not(windows))]
pub fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    match std::fs::read_dir(folder) {
        Ok(files) => Ok(files.flatten().map(|file| file.file_name()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The longest file name of a socket, in bytes. The folder's path may be longer.
pub const NAME_LEN_MAX: usize = 80;

/// Why there is no folder for private endpoints.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// Something that isn't a folder has its name (a symbolic link isn't followed).
    #[error("{} is not a directory (or is a symbolic link)", path.display())]
    NotADirectory {
        /// Its path.
        path: PathBuf,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to user {owner}, not to user {uid}", path.display())]
    WrongOwner {
        /// Its path.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        uid: u32,
    },
    /// Others may enter it or write to it.
    #[error("{} is open to others: its mode is {mode:o}, it must be 700", path.display())]
    OpenToOthers {
        /// Its path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A system call failed.
    #[error("{call} failed for {}", path.display())]
    Os {
        /// The call.
        call: &'static str,
        /// What it was about.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why a server can't listen. Nothing is left behind but the lock file, which stays in any case.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A server with this name runs.
    #[error("a server is running at {} already{}", path.display(), of_process(*pid))]
    InUse {
        /// The path of the socket.
        path: PathBuf,
        /// Its process; our own if it is in this one; `None` where the kernel can't say.
        pid: Option<u32>,
    },
    /// The socket's path is taken by something that isn't a socket. It is left alone.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The folder doesn't exist.
    #[error("the directory {} does not exist", path.display())]
    NoDirectory {
        /// The folder's path.
        path: PathBuf,
    },
    /// We aren't allowed to use a path.
    #[error("no permission for {}", path.display())]
    Denied {
        /// The path.
        path: PathBuf,
    },
    /// The file name of the socket is too long.
    #[error(
        "the name of the socket {} has {len} bytes, at most {NAME_LEN_MAX} are possible",
        path.display()
    )]
    NameTooLong {
        /// The path.
        path: PathBuf,
        /// Bytes of its last part.
        len: usize,
    },
    /// Members of a group were to be let in, on Windows.
    #[error("access for a group is not supported on Windows")]
    NoGroups,
    /// A system call failed.
    #[error("{call} failed for {}", path.display())]
    Os {
        /// The call.
        call: &'static str,
        /// What it was about.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there: no such file or folder, or its server is gone.
    #[error("no server is running at {}", path.display())]
    NotRunning {
        /// The path that was tried.
        path: PathBuf,
    },
    /// We aren't allowed to reach or to use the path.
    #[error("no permission to connect to {}", path.display())]
    Denied {
        /// The path.
        path: PathBuf,
    },
    /// A server is there, but it didn't take the connection in time: more wait than it lets queue.
    #[error("the server at {} did not accept the connection in time", path.display())]
    TimedOut {
        /// The path.
        path: PathBuf,
    },
    /// What is there isn't an endpoint: another kind of file, or of socket.
    #[error("{} is not a callgate endpoint", path.display())]
    WrongKind {
        /// The path.
        path: PathBuf,
    },
    /// The file name of the socket is too long, so no server can be there.
    #[error(
        "the name of the socket {} has {len} bytes, at most {NAME_LEN_MAX} are possible",
        path.display()
    )]
    NameTooLong {
        /// The path.
        path: PathBuf,
        /// Bytes of its last part.
        len: usize,
    },
    /// A system call failed.
    #[error("{call} failed for {}", path.display())]
    Os {
        /// The call.
        call: &'static str,
        /// What it was about.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn of_process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}
