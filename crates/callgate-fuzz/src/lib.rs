//! What is done with bytes of a peer or a user, as functions that take anything and check what comes out. Not published.
//!
//! `fuzz/` runs them under libFuzzer; `tests/replay.rs` runs them on the corpora that were kept, and on random bytes, with
//! every `cargo test`.
//!
//! | target | is about |
//! | --- | --- |
//! | [`handshake`] | the messages of the socket, in both directions |
//! | [`requests`] | control memory as a server reads it: the chain, state words, request heads, detours |
//! | [`replies`] | a cell as a client reads it: state word, reply head, body |
//! | [`regions`] | places, the sender's arenas, and the receiver's table over real descriptors |
//! | [`names`] | endpoint names and paths |
//! | [`arguments`] | command lines, durations and sizes |
//! | [`reports`] | files of `bench --json`, and what helper processes say |

mod cells;
mod input;
mod memory;
#[path = "../../callgate/src/region.rs"]
#[allow(dead_code, unreachable_pub, reason = "the library's own file; not all of it is used here")]
mod region;
mod wire;

pub use cells::{replies, requests};
pub use input::{arguments, names, reports};
pub use memory::regions;
pub use wire::handshake;

/// Takes anything; panics when something is wrong.
pub type Target = fn(&[u8]);

/// What each target is called in `fuzz/`.
pub const TARGETS: [(&str, Target); 7] = [
    ("handshake", handshake),
    ("requests", requests),
    ("replies", replies),
    ("regions", regions),
    ("names", names),
    ("arguments", arguments),
    ("reports", reports),
];

/// PROTOCOL.md names each field of a violation.
const PROTOCOL: &str = include_str!("../../../PROTOCOL.md");

/// Fails unless the paper has the field's name.
fn assert_named(violation: callgate_proto::Violation) {
    let name = format!("`{}`", violation.field);
    assert!(PROTOCOL.contains(&name), "PROTOCOL.md does not name {violation}");
}

/// Bytes, taken one after another; zeros when there are no more.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let count = N.min(self.0.len());
        let (now, later) = self.0.split_at(count);
        out[..count].copy_from_slice(now);
        self.0 = later;
        out
    }

    fn u8(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}
