//! Reading bytes that another process may still be writing.
//!
//! A peer that breaks the protocol can change a message while it is read. References to such bytes would be undefined
//! behaviour, so there are none: [`Payload`] copies, through a copy that the compiler cannot see into.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use callgate_proto::body::Inline;
use callgate_sys::shm::{PayloadReader, copy_from_shared};

/// Largest piece that [`Payload::for_each_chunk`] hands out, in bytes: it stays in the first-level cache.
pub const CHUNK_BYTES: usize = 4 << 10;

/// The same for payloads that are longer than two of those.
///
/// So short that a processor begins to fetch the next piece while this one is worked on: with longer ones memory and work
/// take turns. benches/walls/pieces.c measures it.
const SHORT_CHUNK_BYTES: usize = 512;

/// The bytes of a request or of a reply, where they lie.
///
/// Short messages were copied into private memory when they were taken. Longer ones lie in the sender's shared memory,
/// which the receiver maps for reading only; honest senders leave it alone until they are answered, others can change it
/// at any time. So read each byte once, and decide on the copy.
///
/// None of the methods blocks, makes a system call or panics. In a forked child the payloads of the parent's connections
/// are empty.
#[derive(Clone, Copy)]
pub struct Payload<'a>(Bytes<'a>);

/// Room for a piece; aligned for wide loads and stores.
#[repr(align(64))]
struct Chunk([MaybeUninit<u8>; CHUNK_BYTES]);

#[derive(Clone, Copy)]
enum Bytes<'a> {
    Private(&'a Inline),
    Shared { start: *const u8, len: usize, region: PhantomData<&'a PayloadReader> },
}

// SAFETY: the pointer is only read through, by copies that tolerate concurrent writers, while the region that `'a` borrows
// stays mapped; nothing about it is bound to a thread.
unsafe impl Send for Bytes<'_> {}
// SAFETY: as for Send; all methods take `&self` and only read.
unsafe impl Sync for Bytes<'_> {}

impl<'a> Payload<'a> {
    #[inline]
    pub(crate) fn private(inline: &'a Inline) -> Self {
        Self(Bytes::Private(inline))
    }

    /// `range` was checked against the region (`Place::check`).
    pub(crate) fn shared(region: &'a PayloadReader, range: Range<usize>) -> Self {
        if !region.is_ours() {
            // In a forked child: the bytes are not mapped here.
            return Self::private(&Inline::EMPTY);
        }
        assert!(range.start <= range.end && range.end <= region.len(), "a checked range");
        // SAFETY: inside the mapping, asserted above.
        let start = unsafe { region.as_ptr().add(range.start) };
        Self(Bytes::Shared { start, len: range.len(), region: PhantomData })
    }

    /// Length in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        match self.0 {
            Bytes::Private(inline) => inline.len(),
            Bytes::Shared { len, .. } => len,
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes from `offset` on into `out`, as many as both have; returns how many.
    #[inline]
    pub fn read_at(&self, offset: usize, out: &mut [u8]) -> usize {
        let Some(room) = self.len().checked_sub(offset) else { return 0 };
        let count = room.min(out.len());
        match self.0 {
            Bytes::Private(inline) => {
                out[..count].copy_from_slice(&inline.bytes()[offset..offset + count]);
            }
            // SAFETY: offset + count <= len, which lies in the mapping that `'a` keeps (established in `shared`); `out`
            // holds count bytes and is private.
            Bytes::Shared { start, .. } => unsafe {
                copy_from_shared(start.add(offset), out.as_mut_ptr(), count);
            },
        }
        count
    }

    /// Copies the payload to the start of `out`, as much as fits; returns how many bytes.
    #[inline]
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        match self.0 {
            Bytes::Private(inline) => inline.copy_to(out),
            Bytes::Shared { .. } => self.read_at(0, out),
        }
    }

    /// Copies the payload into a new vector.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let len = self.len();
        match self.0 {
            Bytes::Private(inline) => inline.bytes().to_vec(),
            Bytes::Shared { start, .. } => {
                let mut out = Vec::with_capacity(len);
                // SAFETY: the source lies in the mapping (established in `shared`); the vector has room for len bytes,
                // all of which are written before its length says so.
                unsafe {
                    copy_from_shared(start, out.as_mut_ptr(), len);
                    out.set_len(len);
                }
                out
            }
        }
    }

    /// Hands the payload to `each` in order, in private pieces of at most [`CHUNK_BYTES`]: to hash, fold or parse
    /// without a copy of the whole.
    ///
    /// ```
    /// # use callgate::Payload;
    /// fn sum(payload: Payload<'_>) -> u64 {
    ///     let mut sum = 0;
    ///     payload.for_each_chunk(|bytes| sum += bytes.iter().map(|b| u64::from(*b)).sum::<u64>());
    ///     sum
    /// }
    /// ```
    pub fn for_each_chunk(&self, mut each: impl FnMut(&[u8])) {
        match self.0 {
            Bytes::Private(inline) if inline.is_empty() => {}
            Bytes::Private(inline) => each(inline.bytes()),
            Bytes::Shared { start, len, .. } => {
                let mut chunk = Chunk([const { MaybeUninit::uninit() }; CHUNK_BYTES]);
                let most = if len > 2 * CHUNK_BYTES { SHORT_CHUNK_BYTES } else { CHUNK_BYTES };
                let mut at = 0;
                while at < len {
                    let count = most.min(len - at);
                    // SAFETY: at + count <= len, which lies in the mapping that `'a` keeps (established in `shared`); the
                    // chunk has room for count bytes, all of which are written before the slice over them is made.
                    let bytes = unsafe {
                        let chunk = chunk.0.as_mut_ptr().cast::<u8>();
                        copy_from_shared(start.add(at), chunk, count);
                        std::slice::from_raw_parts(chunk, count)
                    };
                    each(bytes);
                    at += count;
                }
            }
        }
    }

    /// The bytes themselves, without a copy.
    ///
    /// # Safety
    /// The peer must not write to this message while the slice lives. callgate cannot make sure of that: it holds for
    /// peers that use callgate as documented and are not hostile or corrupted. Against any other peer this is undefined
    /// behaviour; use the copying methods there.
    #[must_use]
    pub unsafe fn as_slice(&self) -> &'a [u8] {
        match self.0 {
            Bytes::Private(inline) => inline.bytes(),
            // SAFETY: inside the mapping that `'a` keeps (established in `shared`); nobody writes (contract).
            Bytes::Shared { start, len, .. } => unsafe { std::slice::from_raw_parts(start, len) },
        }
    }
}

impl std::fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use callgate_proto::body::Place;
    use callgate_sys::shm::PayloadWriter;

    fn region(bytes: &[u8]) -> PayloadReader {
        let size = bytes.len().next_multiple_of(4096);
        let (writer, fd) = PayloadWriter::create(size).expect("memory");
        let place = Place { region: 0, offset: 0, len: bytes.len() as u64 };
        // SAFETY: the region has `size` bytes, and nobody else uses it yet.
        unsafe { &mut *crate::region::block_bytes(&writer, place) }.copy_from_slice(bytes);
        PayloadReader::accept(fd, size).expect("sealed")
    }

    fn reads(payload: Payload<'_>, bytes: &[u8]) {
        let len = bytes.len();
        assert_eq!(payload.len(), len);
        assert_eq!(payload.to_vec(), bytes);
        let mut joined = Vec::new();
        payload.for_each_chunk(|chunk| joined.extend_from_slice(chunk));
        assert_eq!(joined, bytes);
        let mut whole = vec![0; len + 3];
        assert_eq!(payload.copy_to(&mut whole), len);
        assert_eq!((&whole[..len], &whole[len..]), (bytes, &[0; 3][..]));
        let mut part = [0; 7];
        assert_eq!(payload.read_at(len - 2, &mut part), 2);
        assert_eq!(part[..2], bytes[len - 2..]);
        assert_eq!(payload.read_at(len, &mut part), 0);
        assert_eq!(payload.read_at(usize::MAX, &mut part), 0);
        // SAFETY: nobody writes to these bytes.
        assert_eq!(unsafe { payload.as_slice() }, bytes);
    }

    #[test]
    fn shared_and_private_payloads_read_alike() {
        let bytes: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        reads(Payload::shared(&region(&bytes), 0..bytes.len()), &bytes);
        for len in 2..=48 {
            let inline = Inline::new(&bytes[..len]).expect("short");
            reads(Payload::private(&inline), &bytes[..len]);
        }
    }

    #[test]
    fn empty_payloads_have_no_chunks() {
        Payload::private(&Inline::EMPTY).for_each_chunk(|_| panic!("no chunk"));
        assert!(Payload::private(&Inline::EMPTY).is_empty());
    }
}
