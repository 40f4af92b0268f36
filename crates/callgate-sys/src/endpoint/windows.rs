//! Windows: message pipes, and a mutex for each name. Nothing of it lies on a disk.

mod connect;
mod listener;
mod lock;
mod name;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

pub use connect::connect;
pub use listener::Listener;
pub use lock::holder;

use super::DirError;
use crate::process::own_sid_text;

/// Gives what stands before the names of this user's private endpoints: `\\.\pipe\callgate\SID`.
///
/// It is no folder: the names of pipes only look like paths. What keeps others out is each pipe's own list of who may
/// connect.
///
/// # Errors
///
/// [`DirError::Os`] when the system does not tell who the user is.
pub fn private_dir() -> Result<PathBuf, DirError> {
    let sid = own_sid_text().map_err(|source| DirError::Os {
        call: "GetTokenInformation",
        path: name::PIPES.into(),
        source,
    })?;
    Ok(Path::new(name::PIPES).join("callgate").join(sid))
}

/// Gives the same as [`private_dir`]: there is nothing to be made.
///
/// # Errors
///
/// As [`private_dir`].
pub fn private_dir_if_exists() -> Result<PathBuf, DirError> {
    private_dir()
}

/// Gives the last parts of the names of all pipes whose name begins with `folder`.
///
/// # Errors
///
/// What the system says.
pub fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    let Ok(below) = folder.strip_prefix(name::PIPES) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(name::PIPES)? {
        // The whole name, which has separators in it.
        let entry = PathBuf::from(entry?.file_name());
        if let Ok(rest) = entry.strip_prefix(below) {
            found.push(rest.as_os_str().to_owned());
        }
    }
    found.sort();
    // One pipe shows once for each of its instances, on some systems.
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests;
