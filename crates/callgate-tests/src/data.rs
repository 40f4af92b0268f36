//! Requests and replies whose every byte can be checked, and the methods that the test server knows.

use std::sync::OnceLock;

use crate::rng::Rng;

/// Methods of the test server (see [`crate::roles::server`]).
pub mod method {
    /// Replies the request's bytes.
    pub const ECHO: u32 = 0;
    /// Checks the request's bytes, replies as many as it asks for.
    pub const CHECKED: u32 = 1;
    /// The same, and writes the call's id into the record first.
    pub const RECORDED: u32 = 2;
    /// Fails with code 7 and a long message.
    pub const FAIL: u32 = 3;
    /// Panics.
    pub const PANIC: u32 = 4;
    /// Drops the call.
    pub const DROP: u32 = 5;
    /// Defers the call until the command `release`; prints `held`.
    pub const HOLD: u32 = 6;
    /// Blocks its worker until the command `unblock`; prints `blocked`.
    pub const BLOCK: u32 = 7;
    /// Blocks a thread of its own until the command `unblock`; prints `blocked`.
    pub const BLOCK_ASIDE: u32 = 8;
    /// Replies the caller's pid, uid and gid.
    pub const CALLER: u32 = 9;
    /// Calls its own server and replies 1 if that would deadlock.
    pub const SELF: u32 = 10;
    /// Replies with status 42.
    pub const STATUS: u32 = 11;
    /// Replies as many zeros as the request's u64 says.
    pub const ZEROS: u32 = 12;
    /// Of the server that is lied to: see [`crate::liars::probe`].
    pub const TURN: u32 = 13;
}

/// Bytes of a request of [`method::CHECKED`] before its pattern: the id and the reply's length.
pub const HEAD: usize = 12;
const TURNED: u64 = 0x5851_f42d_4c95_7f2d;
const WINDOW: usize = 1 << 18;
/// Longest pattern.
pub const LEN_MAX: usize = 1 << 20;

/// The `len` bytes that belong to `id`.
fn pattern(id: u64, len: usize) -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let table = TABLE.get_or_init(|| Rng::new(7).bytes(WINDOW + LEN_MAX));
    let start = Rng::new(id).below(WINDOW);
    &table[start..start + len]
}

/// Builds the request `id` into `out` (of at least [`HEAD`] bytes), asking for a reply of `reply_len` bytes.
pub fn fill_request(out: &mut [u8], id: u64, reply_len: u32) {
    let (head, rest) = out.split_at_mut(HEAD);
    head[..8].copy_from_slice(&id.to_le_bytes());
    head[8..].copy_from_slice(&reply_len.to_le_bytes());
    rest.copy_from_slice(pattern(id, rest.len()));
}

/// Builds a request of `len` bytes, of at least [`HEAD`].
#[must_use]
pub fn request(id: u64, len: usize, reply_len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len.max(HEAD)];
    fill_request(&mut bytes, id, u32::try_from(reply_len).expect("short"));
    bytes
}

/// The id of a request and its reply's length, if every byte of it is right.
#[must_use]
pub fn check_request(bytes: &[u8]) -> Option<(u64, usize)> {
    let id = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let reply_len = u32::from_le_bytes(bytes.get(8..HEAD)?.try_into().ok()?) as usize;
    let rest = &bytes[HEAD..];
    (rest.len() <= LEN_MAX && reply_len <= LEN_MAX && rest == pattern(id, rest.len()))
        .then_some((id, reply_len))
}

/// The reply to request `id`.
#[must_use]
pub fn reply(id: u64, len: usize) -> &'static [u8] {
    pattern(id ^ TURNED, len)
}

/// Whether every byte of a reply is right.
#[must_use]
pub fn is_reply(bytes: &[u8], id: u64, len: usize) -> bool {
    bytes == reply(id, len)
}

/// A line about a call for a file that several processes append to.
///
/// It has 32 bytes, so none lies across two pages, where a process that is killed could leave half of it.
#[must_use]
pub fn event(kind: &str, id: u64) -> String {
    let line = format!("{kind:<13}{id:>18}\n");
    assert_eq!(line.len(), 32);
    line
}

/// The kind and id of such a line.
#[must_use]
pub fn read_event(line: &str) -> Option<(&str, u64)> {
    let (kind, id) = line.split_at_checked(13)?;
    Some((kind.trim_end(), id.trim_start().parse().ok()?))
}
