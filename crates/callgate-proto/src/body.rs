//! What a cell carries besides its state: the head word, and a body that is a short payload or the place of a long one.
//!
//! ```text
//! head of a request   bits  0..16  next      cell of the client's next call: this one, or another
//!                     bits 16..22  length    bytes inside the cell, 0..=48; 0 when far
//!                     bit  22      far       the body is a place
//!                     bits 23..28  zero
//!                     bits 28..32  think     how long the client thought since its last reply ([`Think`])
//!                     bits 32..64  method
//! head of a reply     bits  0..16  active    connections that the server's worker polls, itself included (0: unknown)
//!                     bits 16..22  length
//!                     bit  22      far
//!                     bit  23      failure   the word is a failure's code, the payload its message
//!                     bits 24..32  zero
//!                     bits 32..64  cpu + 1   on which the server answered; 0: unknown
//! place               body[0] region id, body[1] offset in bytes, body[2] length in bytes
//! ```

use crate::Violation;
pub use crate::layout::INLINE_MAX;
use crate::sync::{AtomicU64, Ordering};

const LENGTH_SHIFT: u32 = 16;
const LENGTH_MASK: u64 = 0x3f;
const FAR: u64 = 1 << 22;
const FAILURE: u64 = 1 << 23;
const THINK_SHIFT: u32 = 28;
const HIGH_SHIFT: u32 = 32;
const REQUEST_ZERO: u64 = 0b1_1111 << 23;
const REPLY_ZERO: u64 = 0xff << 24;

/// Up to 48 bytes in private memory, on their way into or out of a cell.
#[derive(Clone, Copy, Default)]
pub struct Inline {
    words: [u64; 6],
    len: u8,
}

impl Inline {
    /// No bytes.
    pub const EMPTY: Self = Self { words: [0; 6], len: 0 };

    /// Takes the bytes if they fit into a cell, which holds [`INLINE_MAX`].
    #[must_use]
    #[inline]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > INLINE_MAX {
            return None;
        }
        let mut inline = Self { words: [0; 6], len: bytes.len() as u8 };
        copy_short(bytes, &mut inline.as_mut_bytes48()[..bytes.len()]);
        Some(inline)
    }

    /// The bytes of a reply that is neither far nor a failure; `None` also where its head makes no sense.
    #[inline(always)]
    pub(crate) fn from_answer(head: u64, words: [u64; 6]) -> Option<Self> {
        let len = (head >> LENGTH_SHIFT) & LENGTH_MASK;
        if head & (REPLY_ZERO | FAR | FAILURE) != 0 || len > INLINE_MAX as u64 {
            return None;
        }
        Some(Self { words, len: len as u8 })
    }

    /// Copies as many bytes as both have to the start of `out`; returns how many.
    #[inline]
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let count = usize::from(self.len).min(out.len());
        copy_short(&self.as_bytes48()[..count], &mut out[..count]);
        count
    }

    /// The payload bytes.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.as_bytes48()[..usize::from(self.len)]
    }

    /// Number of payload bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Copies at most [`INLINE_MAX`] bytes between slices of one length, in moves of 8 bytes, of which the last may overlap.
///
/// A call of `memcpy` with a length known only at run time costs more than all that is done here. Wider moves would load
/// what was just stored word by word, and processors forward a load only from a single store.
#[inline(always)]
fn copy_short(from: &[u8], to: &mut [u8]) {
    #[inline(always)]
    fn ends<const N: usize>(from: &[u8], to: &mut [u8]) -> bool {
        let (Some(first), Some(last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) else {
            return false;
        };
        let (first, last) = (*first, *last);
        if let Some(place) = to.first_chunk_mut::<N>() {
            *place = first;
        }
        if let Some(place) = to.last_chunk_mut::<N>() {
            *place = last;
        }
        true
    }
    if from.len() < 8 {
        if !ends::<4>(from, to) {
            to.iter_mut().zip(from).for_each(|(place, byte)| *place = *byte);
        }
        return;
    }
    if let (Some(last), Some(place)) = (from.last_chunk::<8>(), to.last_chunk_mut::<8>()) {
        *place = *last;
    }
    for word in 0..INLINE_MAX / 8 - 1 {
        let bytes = word * 8..word * 8 + 8;
        let (Some(from), Some(to)) = (from.get(bytes.clone()), to.get_mut(bytes)) else { return };
        if let (Some(from), Some(to)) = (from.first_chunk::<8>(), to.first_chunk_mut::<8>()) {
            *to = *from;
        }
    }
}

/// Where a payload lies in its sender's memory: a region's id, an offset and a length in bytes.
///
/// As read from a cell it is an allegation; [`Place::check`] holds it against the region's real size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Id under which the sender announced the region.
    pub region: u32,
    /// Offset of the first byte from the start of the region.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Place {
    /// Returns the byte range inside a region of `size` bytes.
    ///
    /// # Errors
    /// [`Violation`] when any byte of it lies outside of the region.
    pub fn check(self, size: u64) -> Result<core::ops::Range<usize>, Violation> {
        let room = size.checked_sub(self.offset).ok_or(Violation::new(
            "place.offset",
            self.offset,
            size,
        ))?;
        if self.len > room {
            return Err(Violation::new("place.len", self.len, room));
        }
        let start = usize::try_from(self.offset)
            .map_err(|_| Violation::new("place.offset", self.offset, usize::MAX as u64))?;
        let len = usize::try_from(self.len)
            .map_err(|_| Violation::new("place.len", self.len, usize::MAX as u64))?;
        Ok(start..start + len)
    }
}

/// A payload as a cell carries it.
#[derive(Clone, Copy)]
pub enum Body {
    /// The bytes themselves.
    Inline(Inline),
    /// Where they are.
    Far(Place),
}

impl Default for Body {
    fn default() -> Self {
        Self::Inline(Inline::EMPTY)
    }
}

impl Body {
    /// Payload length in bytes, as the sender states it.
    #[must_use]
    #[inline]
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(inline) => u64::from(inline.len),
            Self::Far(place) => place.len,
        }
    }

    /// Whether the payload has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub(crate) fn from_words(head: u64, words: [u64; 6]) -> Result<Self, Violation> {
        let len = (head >> LENGTH_SHIFT) & LENGTH_MASK;
        if head & FAR == 0 {
            if len > INLINE_MAX as u64 {
                return Err(Violation::new("head.length", len, INLINE_MAX as u64));
            }
            return Ok(Self::Inline(Inline { words, len: len as u8 }));
        }
        if len != 0 {
            return Err(Violation::new("head.length", len, 0));
        }
        let region = u32::try_from(words[0])
            .map_err(|_| Violation::new("place.region", words[0], u64::from(u32::MAX)))?;
        Ok(Self::Far(Place { region, offset: words[1], len: words[2] }))
    }

    /// Reads what a cell with this head carries to where it is wanted, each word loaded once, if that is what most requests
    /// are: short, and with a head that makes sense. Else false: [`RequestHead::decode`] and [`Body::from_words`] tell.
    #[inline(always)]
    pub(crate) fn read_short(&mut self, head: u64, slots: &[AtomicU64; 6]) -> bool {
        // One comparison: what a short one has as zeros stands next to its length, and above.
        let len = head >> LENGTH_SHIFT & (LENGTH_MASK | (FAR | REQUEST_ZERO) >> LENGTH_SHIFT);
        if len > INLINE_MAX as u64 {
            return false;
        }
        *self = Self::Inline(Inline { words: load(slots), len: len as u8 });
        true
    }
}

/// Copies a cell's body into private memory, each word loaded once.
#[inline(always)]
pub(crate) fn load(slots: &[AtomicU64; 6]) -> [u64; 6] {
    std::array::from_fn(|at| slots[at].load(Ordering::Relaxed))
}

/// A payload on its way into a cell.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    /// Bytes that a cell holds: at most [`INLINE_MAX`]; what is beyond is not sent.
    Short(&'a [u8]),
    /// Where they are.
    Far(Place),
}

impl<'a> From<&'a Body> for Content<'a> {
    #[inline]
    fn from(body: &'a Body) -> Self {
        match body {
            Body::Inline(inline) => Self::Short(inline.bytes()),
            Body::Far(place) => Self::Far(*place),
        }
    }
}

impl Content<'_> {
    /// Payload length in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> u64 {
        match self {
            Self::Short(bytes) => bytes.len() as u64,
            Self::Far(place) => place.len,
        }
    }

    /// Whether the payload has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the cell has it all.
    #[must_use]
    #[inline]
    pub fn is_short(&self) -> bool {
        matches!(self, Self::Short(_))
    }

    #[inline(always)]
    fn head_bits(&self) -> u64 {
        match self {
            Self::Short(bytes) => (bytes.len().min(INLINE_MAX) as u64) << LENGTH_SHIFT,
            Self::Far(_) => FAR,
        }
    }

    /// Stores it, word by word; the words that it does not need stay as they are. Relaxed: what publishes it comes later.
    #[inline(always)]
    pub(crate) fn store(self, body: &[AtomicU64; 6]) {
        match self {
            Self::Short(bytes) => {
                let mut rest = &bytes[..bytes.len().min(INLINE_MAX)];
                for slot in body {
                    let Some((word, after)) = rest.split_first_chunk::<8>() else {
                        if !rest.is_empty() {
                            slot.store(last_word(bytes, rest.len()), Ordering::Relaxed);
                        }
                        break;
                    };
                    slot.store(u64::from_le_bytes(*word), Ordering::Relaxed);
                    rest = after;
                }
            }
            Self::Far(place) => {
                body[0].store(u64::from(place.region), Ordering::Relaxed);
                body[1].store(place.offset, Ordering::Relaxed);
                body[2].store(place.len, Ordering::Relaxed);
            }
        }
    }
}

/// The last `rest` of these bytes, of which there are 1 to 7, as a word with zeros behind. Without a loop where there are
/// four bytes or more: the word is put together from pieces that may overlap.
#[inline(always)]
fn last_word(bytes: &[u8], rest: usize) -> u64 {
    if let Some(last) = bytes.last_chunk::<8>() {
        return u64::from_le_bytes(*last) >> (64 - 8 * rest);
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        return u64::from(first) | u64::from(last) << (8 * (rest - 4));
    }
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// How long a client thought between its last reply and this request, in powers of two of a microsecond.
///
/// 0: not measured. 1: below 1 us. n: below 2^(n-1) us. 15: 8 ms or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Think(u8);

impl Think {
    /// Not measured.
    pub const UNKNOWN: Self = Self(0);

    /// Encodes a duration in nanoseconds.
    #[must_use]
    pub fn from_ns(ns: u64) -> Self {
        let us = ns / 1_000;
        Self((1 + (64 - us.leading_zeros())).min(15) as u8)
    }

    /// Upper bound in nanoseconds; `None` when not measured.
    #[must_use]
    pub fn ns_max(self) -> Option<u64> {
        match self.0 {
            0 => None,
            15 => Some(u64::MAX),
            n => Some(1_000 << (n - 1)),
        }
    }
}

/// The head word of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// The method number that the caller chose.
    pub method: u32,
    /// The cell that the client will publish next.
    pub next: u16,
    /// How long the client thought before this request.
    pub think: Think,
}

impl RequestHead {
    #[inline(always)]
    pub(crate) fn encode(self, content: Content<'_>) -> u64 {
        (u64::from(self.method) << HIGH_SHIFT)
            | (u64::from(self.think.0) << THINK_SHIFT)
            | content.head_bits()
            | u64::from(self.next)
    }

    #[inline]
    pub(crate) fn decode(head: u64) -> Result<Self, Violation> {
        if head & REQUEST_ZERO != 0 {
            return Err(Violation::new("head.zero", head & REQUEST_ZERO, 0));
        }
        Ok(Self::of(head))
    }

    #[inline(always)]
    pub(crate) fn of(head: u64) -> Self {
        Self {
            method: (head >> HIGH_SHIFT) as u32,
            next: head as u16,
            think: Think(((head >> THINK_SHIFT) & 0xf) as u8),
        }
    }
}

/// What a server says of itself with a reply: connections that it polls (bits 0..16, 0: unknown), and the CPU on which it
/// answered plus one (bits 32..64, 0: unknown).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints(pub(crate) u64);

impl Hints {
    #[inline(always)]
    pub(crate) fn of(head: u64) -> Self {
        Self(head & (u64::from(u32::MAX) << HIGH_SHIFT | 0xffff))
    }

    /// Connections that the server polls; 0 when unknown.
    #[inline(always)]
    #[must_use]
    pub fn active(self) -> u16 {
        self.0 as u16
    }
}

/// The head word of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyHead {
    /// Whether this is a failure: the word is its code and the payload its message.
    pub failure: bool,
    /// Connections that the answering worker polls; 0 when unknown.
    pub active: u16,
    /// The CPU on which the server answered, when known.
    pub cpu: Option<u32>,
}

impl ReplyHead {
    #[inline(always)]
    pub(crate) fn encode(self, content: Content<'_>) -> u64 {
        (self.cpu.map_or(0, |cpu| u64::from(cpu) + 1) << HIGH_SHIFT)
            | if self.failure { FAILURE } else { 0 }
            | content.head_bits()
            | u64::from(self.active)
    }

    /// What the server says of itself.
    #[inline]
    #[must_use]
    pub fn hints(&self) -> Hints {
        Hints(self.cpu.map_or(0, |cpu| u64::from(cpu) + 1) << HIGH_SHIFT | u64::from(self.active))
    }

    #[inline]
    pub(crate) fn decode(head: u64) -> Result<Self, Violation> {
        if head & REPLY_ZERO != 0 {
            return Err(Violation::new("head.zero", head & REPLY_ZERO, 0));
        }
        Ok(Self {
            failure: head & FAILURE != 0,
            active: head as u16,
            cpu: ((head >> HIGH_SHIFT) as u32).checked_sub(1),
        })
    }
}

mod cast {
    use super::Inline;

    impl Inline {
        /// The six words as bytes. Cells are little-endian; so is every machine that callgate runs on.
        #[inline]
        pub(super) fn as_bytes48(&self) -> &[u8; 48] {
            #[cfg(not(target_endian = "little"))]
            compile_error!("callgate runs on little-endian machines only");
            bytes_of(&self.words)
        }
    }

    impl Inline {
        #[inline]
        pub(super) fn as_mut_bytes48(&mut self) -> &mut [u8; 48] {
            zerocopy::transmute_mut!(&mut self.words)
        }
    }

    #[inline]
    fn bytes_of(words: &[u64; 6]) -> &[u8; 48] {
        zerocopy::transmute_ref!(words)
    }
}

#[cfg(test)]
mod tests;
