//! Requests that say how they want to be answered, and their right answers.

use callgate_sys::sim::Rng;

/// How a request wants to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Now,
    InPlace,
    Slowly,
    Later,
    Failing,
    Dropping,
    Panicking,
}

const KINDS: [Kind; 7] = [
    Kind::Now,
    Kind::InPlace,
    Kind::Slowly,
    Kind::Later,
    Kind::Failing,
    Kind::Dropping,
    Kind::Panicking,
];

/// Code of the failure that [`Kind::Failing`] wants.
pub(crate) const FAILURE: u32 = 77;

const HEAD: usize = 13;

/// A request: its identity, and how it is to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    len: usize,
    reply_len: usize,
}

impl Request {
    pub(crate) fn random(id: u64, rng: &mut Rng, largest: u64) -> Request {
        let mut len = || match rng.below(10) {
            0..=4 => rng.below(48),
            5..=7 => rng.below(9_000),
            _ => rng.below(largest),
        } as usize;
        let (len, reply_len) = (len(), len());
        let kind = match rng.below(16) {
            0..=6 => Kind::Now,
            7..=8 => Kind::InPlace,
            9 => Kind::Slowly,
            10..=12 => Kind::Later,
            13 => Kind::Failing,
            14 => Kind::Dropping,
            _ => Kind::Panicking,
        };
        Request { id, kind, len: len.max(HEAD), reply_len }
    }

    /// A large request that another thread answers.
    pub(crate) fn large(id: u64, rng: &mut Rng, largest: u64) -> Request {
        let len = rng.range(largest / 4, largest) as usize;
        Request { id, kind: Kind::Later, len, reply_len: rng.below(48) as usize }
    }

    /// A request that is simply answered.
    pub(crate) fn plain(id: u64, len: usize, reply_len: usize) -> Request {
        Request { id, kind: Kind::Now, len: len.max(HEAD), reply_len }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = filler(self.id, self.len);
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8] = self.kind as u8;
        bytes[9..HEAD].copy_from_slice(&(self.reply_len as u32).to_le_bytes());
        bytes
    }

    /// Reads a request, and checks every byte of it.
    pub(crate) fn read(bytes: &[u8]) -> Request {
        let id = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
        let reply_len = u32::from_le_bytes(bytes[9..HEAD].try_into().expect("4 bytes"));
        let kind = KINDS[usize::from(bytes[8])];
        let request = Request { id, kind, len: bytes.len(), reply_len: reply_len as usize };
        assert!(request.bytes() == bytes, "request {id:#x} arrived spoilt");
        request
    }

    /// The right answer.
    pub(crate) fn reply(&self) -> Vec<u8> {
        filler(!self.id, self.reply_len)
    }
}

/// Bytes that differ with the id and the place, a word at a time: they are a good part of what a world does.
fn filler(id: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len.next_multiple_of(8)];
    for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
        let mixed = (id ^ at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&(mixed ^ mixed >> 32).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
