//! What a message of the pipe is made of: a header of ours, and what the protocol says.
//!
//! ```text
//! 0       4         8        12
//! | kind  | memory  | event  | the message, up to 64 bytes; none with kind 1
//! | u32   | u32     | u32    |
//! ```
//!
//! *kind* 0: a message. From a client, *memory* and *event* are the numbers that a section and an event have in the
//! client's own process, where the server takes them; from a server, *memory* is the number that a section has in the
//! client's process, where the server has put it. 0 is none. *kind* 1, from a server only: it has looked for *memory* more
//! of the sections that the client named, and needs them no longer there.

/// The header's length in bytes.
const HEADER: usize = 12;
/// The longest message of the protocol.
const MESSAGE_MAX: usize = 64;
/// One byte more than there can be, so that what is too long shows.
pub(crate) const FRAME_MAX: usize = HEADER + MESSAGE_MAX + 1;

const KIND_MESSAGE: u32 = 0;
const KIND_TAKEN: u32 = 1;

/// A message with its header.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    bytes: [u8; FRAME_MAX],
    len: usize,
}

impl Frame {
    /// A message without handles; `None` where it is empty or too long.
    pub(super) fn message(message: &[u8]) -> Option<Frame> {
        let fits = (1..=MESSAGE_MAX).contains(&message.len());
        fits.then(|| {
            let mut bytes = [0; FRAME_MAX];
            bytes[HEADER..HEADER + message.len()].copy_from_slice(message);
            Frame { bytes, len: HEADER + message.len() }
        })
    }

    /// Says that so many sections were looked for.
    pub(super) fn taken(count: u32) -> Frame {
        let mut frame = Frame { bytes: [0; FRAME_MAX], len: HEADER };
        frame.put(0, KIND_TAKEN);
        frame.put(1, count);
        frame
    }

    /// What came.
    pub(super) fn received(bytes: &[u8; FRAME_MAX], len: usize) -> Frame {
        Frame { bytes: *bytes, len: len.min(FRAME_MAX) }
    }

    /// Names the handles that come with it.
    pub(super) fn with_handles(mut self, memory: u32, event: u32) -> Frame {
        self.put(1, memory);
        self.put(2, event);
        self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Takes apart what came; `None` for what is no frame.
    pub(super) fn parse(&self) -> Option<Parsed<'_>> {
        if self.len < HEADER {
            return None;
        }
        let message = &self.bytes[HEADER..self.len];
        match self.get(0) {
            KIND_MESSAGE => {
                Some(Parsed::Message { memory: self.get(1), event: self.get(2), message })
            }
            KIND_TAKEN if message.is_empty() => Some(Parsed::Taken(self.get(1))),
            _ => None,
        }
    }

    fn put(&mut self, at: usize, value: u32) {
        self.bytes[4 * at..][..4].copy_from_slice(&value.to_le_bytes());
    }

    fn get(&self, at: usize) -> u32 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|byte| self.bytes[4 * at + byte]);
        u32::from_le_bytes([a, b, c, d])
    }
}

/// A frame that was taken apart. The numbers are the peer's word.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    Message { memory: u32, event: u32, message: &'a [u8] },
    Taken(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(bytes: &[u8]) -> Frame {
        let mut room = [0; FRAME_MAX];
        room[..bytes.len()].copy_from_slice(bytes);
        Frame::received(&room, bytes.len())
    }

    #[test]
    fn frames_come_as_they_went() {
        let frame = Frame::message(b"hello").unwrap().with_handles(0x44, 0x48);
        let parsed = Parsed::Message { memory: 0x44, event: 0x48, message: b"hello" };
        assert_eq!(came(frame.bytes()).parse(), Some(parsed));
        assert_eq!(came(Frame::taken(3).bytes()).parse(), Some(Parsed::Taken(3)));
        assert!(Frame::message(b"").is_none() && Frame::message(&[0; 65]).is_none());
        assert!(Frame::message(&[0; 64]).is_some());
    }

    #[test]
    fn what_is_no_frame_is_none() {
        for len in 0..HEADER {
            assert!(came(&[0; HEADER][..len]).parse().is_none(), "{len} bytes");
        }
        let mut other = [0; HEADER];
        other[0] = 2;
        assert!(came(&other).parse().is_none());
        let mut taken = [0; HEADER + 1];
        taken[0] = 1;
        assert!(came(&taken).parse().is_none());
    }
}
