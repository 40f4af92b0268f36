//! A path taken apart into an open folder and a name, so that it fits a socket address and can't
//! change underneath.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use callgate_points::at;
use rustix::fs::{CWD, Mode, OFlags, Stat, openat};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::SocketAddrUnix;

/// The most bytes of a path that a socket address takes, the ending zero not counted.
pub(super) const ADDRESS_LEN_MAX: usize = 107;

/// A folder, held open (`O_PATH`, which holds no lock and keeps nothing alive but the folder).
pub(super) struct Folder {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
}

impl Folder {
    /// Opens the folder of `path` and gives the name in it.
    ///
    /// `EINVAL` for a path without a last name, such as `/` or `a/..`.
    pub(super) fn of(path: &Path) -> Result<(Folder, &OsStr), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = at!(
            "sys.endpoint.open_folder",
            retry_on_intr(|| openat(CWD, parent, flags, Mode::empty()))
        )?;
        Ok((Folder { fd, path: parent.to_owned() }, name))
    }

    /// Gives the address of `name` in this folder: the path itself if it fits, else by way of
    /// `/proc/self/fd`.
    pub(super) fn address(&self, name: &OsStr) -> Result<SocketAddrUnix, Errno> {
        let path = self.path.join(name);
        if path.as_os_str().as_bytes().len() <= ADDRESS_LEN_MAX {
            return SocketAddrUnix::new(path);
        }
        SocketAddrUnix::new(self.by_proc(name))
    }

    /// Gives the path of `name` by way of `/proc/self/fd`.
    pub(super) fn by_proc(&self, name: &OsStr) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.fd.as_raw_fd())).join(name)
    }
}

/// Which file it is: device and inode.
pub(super) type FileId = (u64, u64);

/// Tells which file `stat` describes.
#[allow(clippy::unnecessary_cast, reason = "the width of the fields differs between architectures")]
pub(super) fn file_id(stat: &Stat) -> FileId {
    (stat.st_dev as u64, stat.st_ino as u64)
}
