//! The names that servers are reached by.

use std::fmt;
use std::path::{Path, PathBuf, is_separator};
use std::str::FromStr;

use callgate_sys::endpoint as sys;

use crate::error::EndpointError;

const NAME_BYTES_MAX: usize = 64;

/// The name that a server is reached by: private to the user, or an explicit path.
///
/// ```
/// use callgate::Endpoint;
/// let private = Endpoint::named("digest")?;
/// assert_eq!(Endpoint::parse("digest")?, private);
/// # #[cfg(unix)] {
/// let shared = Endpoint::at("/run/digest/socket")?;
/// assert_eq!(Endpoint::parse("/run/digest/socket")?, shared);
/// # }
/// assert!(Endpoint::named("no spaces").is_err());
/// # Ok::<(), callgate::EndpointError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint(Kind);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    Named(String),
    At(PathBuf),
}

impl Endpoint {
    /// A name private to this user: 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with `.` or `-`.
    ///
    /// # Errors
    /// [`EndpointError::Name`] says which rule the name breaks.
    pub fn named(name: &str) -> Result<Self, EndpointError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let problem = if name.is_empty() {
            Some("it is empty")
        } else if name.len() > NAME_BYTES_MAX {
            Some("it is longer than 64 bytes")
        } else if name.starts_with(['.', '-']) {
            Some("it begins with . or -")
        } else if !name.bytes().all(allowed) {
            Some("it has a character that is not allowed")
        } else {
            None
        };
        match problem {
            Some(problem) => Err(EndpointError::Name { name: name.into(), problem }),
            None => Ok(Self(Kind::Named(name.into()))),
        }
    }

    /// An explicit socket path, for endpoints that a group or everybody may use. The lock file lies beside it, with
    /// `.lock` appended. The directory must exist. On Windows nothing lies at the path, which names a pipe, or is a pipe's
    /// own (`\\.\pipe\…`).
    ///
    /// # Errors
    /// [`EndpointError::Path`] when the path is not absolute or has no file name.
    pub fn at(path: impl AsRef<Path>) -> Result<Self, EndpointError> {
        let path = path.as_ref();
        let problem = if !path.is_absolute() {
            Some("it is not absolute")
        } else if path.file_name().is_none()
            || path
                .as_os_str()
                .as_encoded_bytes()
                .last()
                .is_some_and(|last| is_separator((*last).into()))
        {
            Some("it has no file name")
        } else if path.as_os_str().as_encoded_bytes().contains(&0) {
            Some("it has a zero byte")
        } else {
            None
        };
        match problem {
            Some(problem) => Err(EndpointError::Path { path: path.into(), problem }),
            None => Ok(Self(Kind::At(path.into()))),
        }
    }

    /// Reads a name, or a path where the text has a `/`; a relative path is taken from the current directory.
    ///
    /// # Errors
    /// As [`Endpoint::named`] and [`Endpoint::at`].
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        if !text.contains(is_separator) {
            return Self::named(text);
        }
        let absolute = std::path::absolute(text).map_err(|_| EndpointError::Path {
            path: text.into(),
            problem: "it cannot be made absolute",
        })?;
        Self::at(if text.ends_with(is_separator) { PathBuf::from(text) } else { absolute })
    }

    /// The path of the socket. Creates nothing.
    ///
    /// # Errors
    /// [`EndpointError::Directory`] when this user's directory for endpoints exists and cannot be trusted.
    pub fn socket_path(&self) -> Result<PathBuf, EndpointError> {
        match &self.0 {
            Kind::Named(name) => {
                let directory = sys::private_dir_if_exists().map_err(directory_error)?;
                Ok(directory.join(format!("{name}{SOCKET_SUFFIX}")))
            }
            Kind::At(path) => Ok(path.clone()),
        }
    }

    /// The paths of socket and lock file for a server; creates the private directory if need be.
    pub(crate) fn server_paths(&self) -> Result<(PathBuf, PathBuf), EndpointError> {
        match &self.0 {
            Kind::Named(name) => {
                let directory = sys::private_dir().map_err(directory_error)?;
                Ok((
                    directory.join(format!("{name}{SOCKET_SUFFIX}")),
                    directory.join(format!("{name}{LOCK_SUFFIX}")),
                ))
            }
            Kind::At(path) => {
                let mut lock = path.clone().into_os_string();
                lock.push(LOCK_SUFFIX);
                Ok((path.clone(), lock.into()))
            }
        }
    }
}

const SOCKET_SUFFIX: &str = ".sock";
const LOCK_SUFFIX: &str = ".lock";

fn directory_error(error: sys::DirError) -> EndpointError {
    let source = std::error::Error::source(&error);
    EndpointError::Directory(match source {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Named(name) => f.write_str(name),
            Kind::At(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// What can be given where an endpoint is wanted: an [`Endpoint`], or text that [`Endpoint::parse`] reads.
pub trait ToEndpoint {
    /// Makes the endpoint.
    ///
    /// # Errors
    /// As [`Endpoint::parse`].
    fn to_endpoint(&self) -> Result<Endpoint, EndpointError>;
}

impl ToEndpoint for Endpoint {
    fn to_endpoint(&self) -> Result<Endpoint, EndpointError> {
        Ok(self.clone())
    }
}

impl ToEndpoint for str {
    fn to_endpoint(&self) -> Result<Endpoint, EndpointError> {
        Endpoint::parse(self)
    }
}

impl ToEndpoint for String {
    fn to_endpoint(&self) -> Result<Endpoint, EndpointError> {
        Endpoint::parse(self)
    }
}

impl<T: ToEndpoint + ?Sized> ToEndpoint for &T {
    fn to_endpoint(&self) -> Result<Endpoint, EndpointError> {
        (**self).to_endpoint()
    }
}

/// An endpoint found in this user's private directory.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EndpointEntry {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The process that serves it; `None` when nobody does.
    pub pid: Option<u32>,
    /// Whether the name was left by a server that died: nobody serves it, and the next server takes it over.
    pub stale: bool,
}

/// Lists this user's private endpoints, by name; those that a server left by stopping in good order are not listed.
///
/// # Errors
/// [`EndpointError::Directory`] when the directory exists and cannot be read or trusted.
pub fn endpoints() -> Result<Vec<EndpointEntry>, EndpointError> {
    let directory = sys::private_dir_if_exists().map_err(directory_error)?;
    let files = sys::names(&directory)
        .map_err(|error| EndpointError::Directory(format!("{}: {error}", directory.display())))?;
    let mut found = Vec::new();
    for file_name in files {
        let Some(name) = file_name.to_str().and_then(|name| name.strip_suffix(SOCKET_SUFFIX))
        else {
            continue;
        };
        let Ok(endpoint) = Endpoint::named(name) else { continue };
        let pid = sys::holder(&directory.join(format!("{name}{LOCK_SUFFIX}"))).unwrap_or(None);
        found.push(EndpointEntry { endpoint, pid, stale: pid.is_none() });
    }
    found.sort_by_key(|entry| entry.endpoint.to_string());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules() {
        for good in ["a", "A-b_c.d", "9", "_x", &"n".repeat(64)] {
            assert!(Endpoint::named(good).is_ok(), "{good}");
        }
        for bad in ["", ".x", "-x", "a b", "a/b", "ä", "a\0", "a\n", &"n".repeat(65)] {
            assert!(Endpoint::named(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn paths_are_absolute_and_name_a_file() {
        let good = if cfg!(windows) { r"C:\tmp\x.sock" } else { "/tmp/x.sock" };
        assert!(Endpoint::at(good).is_ok());
        for bad in ["x", "/", "/tmp/", "/tmp/.."] {
            assert!(Endpoint::at(bad).is_err(), "{bad}");
        }
        assert!(
            Endpoint::parse("./x")
                .expect("relative is fine here")
                .socket_path()
                .expect("path")
                .is_absolute()
        );
        assert!(Endpoint::parse("/tmp/").is_err());
    }

    #[test]
    fn lock_files_lie_beside_explicit_sockets() {
        let path = if cfg!(windows) { "C:/x/y" } else { "/x/y" };
        let (socket, lock) = Endpoint::at(path).expect("valid").server_paths().expect("paths");
        assert_eq!((socket, lock), (PathBuf::from(path), PathBuf::from(format!("{path}.lock"))));
    }
}
