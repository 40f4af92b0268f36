//! What the processes of the demo tell each other: lines of JSON between the parent and its
//! children, and the methods and layouts of the calls between clients and server.

#[cfg(not(windows))]
use std::ffi::{OsStr, OsString};
#[cfg(not(windows))]
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The request is a whole file, the reply its digest.
pub const METHOD_WHOLE: u32 = 1;
/// Opens a digest; the request is a [`Header`].
pub const METHOD_BEGIN: u32 = 2;
/// Adds to a digest; the request is a [`Header`] and the bytes from its offset on.
pub const METHOD_UPDATE: u32 = 3;
/// Ends a digest; the request is a [`Header`], the reply the digest.
pub const METHOD_FINISH: u32 = 4;
/// Drops a digest; the request is a [`Header`].
pub const METHOD_ABORT: u32 = 5;

/// No digest with that id is open: the server was restarted since, or dropped it as stale.
pub const CODE_UNKNOWN: u32 = 1;
/// The bytes do not follow those that came before.
pub const CODE_OFFSET: u32 = 2;
/// Too many digests are open.
pub const CODE_TOO_MANY: u32 = 3;
/// No such method, or a request that is too short for it.
pub const CODE_MALFORMED: u32 = 4;

/// The first bytes of every request that is a part of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Chosen by the client; unique among its open digests.
    pub id: u64,
    /// Bytes digested before these.
    pub offset: u64,
}

impl Header {
    /// Bytes that a header takes.
    pub const LEN: usize = 16;

    /// Both numbers, little-endian.
    pub fn to_bytes(self) -> [u8; Header::LEN] {
        let mut bytes = [0; Header::LEN];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// The reverse of [`Header::to_bytes`].
    pub fn from_bytes(bytes: [u8; Header::LEN]) -> Header {
        let [a, b, c, d, e, f, g, h, offset @ ..] = bytes;
        Header {
            id: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            offset: u64::from_le_bytes(offset),
        }
    }
}

/// Parent to client: a file to check.
#[derive(Serialize, Deserialize, Debug)]
pub struct Job {
    /// Number of the job.
    pub job: u32,
    /// The file.
    pub path: PathText,
}

/// A path as JSON: text where it is UTF-8, bytes where it is not.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
#[serde(untagged)]
pub enum PathText {
    /// As text.
    Text(String),
    /// As bytes.
    #[cfg(not(windows))]
    Bytes(Vec<u8>),
    /// As units of UTF-16.
    #[cfg(windows)]
    Units(Vec<u16>),
}

impl From<&Path> for PathText {
    fn from(path: &Path) -> PathText {
        match path.to_str() {
            Some(text) => PathText::Text(text.to_owned()),
            #[cfg(windows)]
            None => PathText::Units(
                std::os::windows::ffi::OsStrExt::encode_wide(path.as_os_str()).collect(),
            ),
            #[cfg(not(windows))]
            None => PathText::Bytes(OsStr::as_bytes(path.as_os_str()).to_vec()),
        }
    }
}

impl From<PathText> for PathBuf {
    fn from(path: PathText) -> PathBuf {
        match path {
            PathText::Text(text) => PathBuf::from(text),
            #[cfg(windows)]
            PathText::Units(units) => {
                let path: std::ffi::OsString =
                    std::os::windows::ffi::OsStringExt::from_wide(&units);
                PathBuf::from(path)
            }
            #[cfg(not(windows))]
            PathText::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        }
    }
}

/// Client to parent.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum FromClient {
    /// Connected, ready for jobs.
    Ready,
    /// What was done since the last such message.
    Did(Did),
    /// A call ended with an error; it will be repeated.
    Failed(CallFailed),
}

/// Work of one client.
#[derive(Serialize, Deserialize, Debug, Default)]
pub struct Did {
    /// Jobs that ended.
    pub jobs: Vec<(u32, Outcome)>,
    /// File contents digested by the server, in bytes.
    pub bytes: u64,
    /// What each call that was answered took, in nanoseconds.
    pub round_trips: Vec<u64>,
}

/// How a job ended.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Both digests are the same.
    Right,
    /// They are not.
    Wrong {
        /// The client's, in hexadecimal.
        ours: String,
        /// The server's.
        theirs: String,
    },
    /// The file could not be checked.
    Skipped(Skip),
    /// The server could not be reached, or kept failing.
    Failed(String),
}

/// Why a file was not checked.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    /// It is gone, or no longer a file.
    Vanished,
    /// It can't be opened or read.
    Unreadable,
    /// It changed while it was read; what was read was digested right.
    Changed,
}

/// A call that ended with an error.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub struct CallFailed {
    /// In one word.
    pub error: String,
    /// When the call began, in nanoseconds of the monotonic clock.
    pub began_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
}

/// Parent to server.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum ToServer {
    /// Watch for the next client that goes away, and tell when it did.
    Watch,
}

/// Server to parent.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum FromServer {
    /// It serves.
    Ready,
    /// It watches; so many clients are connected.
    Watching(u64),
    /// A client less is connected since this moment, in nanoseconds of the monotonic clock.
    ClientGone(u64),
}

/// The monotonic clock, which is the same for all processes, in nanoseconds.
pub fn now_ns() -> u64 {
    #[cfg(windows)]
    return callgate_sys::clock::now_ns();
    #[cfg(not(windows))]
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    #[cfg(not(windows))]
    return (now.tv_sec as u64) * 1_000_000_000 + now.tv_nsec as u64;
}

/// A digest in hexadecimal.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_travel() {
        let header = Header { id: 0x0102_0304_0506_0708, offset: u64::MAX - 1 };
        assert_eq!(Header::from_bytes(header.to_bytes()), header);
    }

    #[cfg(not(windows))]
    #[test]
    fn paths_travel_even_when_they_are_not_text() {
        for name in [&b"plain"[..], b"two\nlines", b"\xff\xfe", "ümläut".as_bytes()] {
            let path = PathBuf::from(OsString::from_vec(name.to_vec()));
            let line = serde_json::to_string(&PathText::from(path.as_path())).unwrap();
            let back: PathText = serde_json::from_str(&line).unwrap();
            assert_eq!(PathBuf::from(back), path);
        }
    }
}
