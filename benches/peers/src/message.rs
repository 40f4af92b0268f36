//! What is sent and must come back: a pattern of any length, with the call's number at both ends.

use crate::peer::Result;

/// The number of a call that the server takes and never answers.
const NEVER: u64 = u64::MAX;

/// A numbered message. Clients build it where they send it from, and check each byte of the reply.
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Makes message number 0 of `size` bytes.
    ///
    /// # Panics
    /// When `size` is below 16: a bug of the caller.
    pub fn new(size: usize) -> Message {
        assert!(size >= 16, "a message has a number at each end");
        let bytes = (0..size).map(|at| (at.wrapping_mul(31) >> 3) as u8).collect();
        let mut message = Message { bytes };
        message.renumber(0);
        message
    }

    /// Makes the message whose call is never answered.
    pub fn unanswered(size: usize) -> Message {
        let mut message = Message::new(size);
        message.renumber(NEVER);
        message
    }

    /// Gives the message another number.
    pub fn renumber(&mut self, number: u64) {
        let last = self.bytes.len() - 8;
        self.bytes[..8].copy_from_slice(&number.to_le_bytes());
        self.bytes[last..].copy_from_slice(&number.rotate_left(17).to_le_bytes());
    }

    /// Bytes of it, and of its reply.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The message, for what copies it into the place that it is sent from by itself.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes the message to where it is sent from.
    ///
    /// # Panics
    /// When `out` has another length: a bug of the caller.
    pub fn write(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.bytes);
    }

    /// Checks a reply.
    ///
    /// # Errors
    /// When it differs from the message in length or in any byte.
    pub fn check(&self, reply: &[u8]) -> Result<()> {
        if reply == self.bytes { Ok(()) } else { Err("a reply is wrong".into()) }
    }

    /// Whether the part of a reply that begins at `at` is right.
    pub fn has(&self, at: usize, part: &[u8]) -> bool {
        self.bytes.get(at..at + part.len()) == Some(part)
    }
}

/// Sleeps for good when `request` is one that shall never be answered.
pub fn answerable(request: &[u8]) {
    if is_unanswered(request) {
        loop {
            std::thread::park();
        }
    }
}

/// Whether `request` shall never be answered.
pub fn is_unanswered(request: &[u8]) -> bool {
    request.first_chunk() == Some(&NEVER.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_checked_to_the_last_byte() {
        let mut message = Message::new(40);
        message.renumber(7);
        let mut reply = vec![0; 40];
        message.write(&mut reply);
        assert!(message.check(&reply).is_ok());
        assert!(message.has(8, &reply[8..]));
        assert!(message.check(&reply[..39]).is_err());
        reply[39] ^= 1;
        assert!(message.check(&reply).is_err());
        assert!(!message.has(8, &reply[8..]));
    }

    #[test]
    fn only_one_number_is_never_answered() {
        let mut reply = vec![0; 32];
        Message::unanswered(32).write(&mut reply);
        assert!(is_unanswered(&reply));
        Message::new(32).write(&mut reply);
        assert!(!is_unanswered(&reply));
    }
}
