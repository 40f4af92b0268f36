//! Large messages in shared memory, handed over by a line that both sides poll: the floor under
//! large calls.
//!
//! What happens to the n bytes of a trip, all of it timed; callgate does the same work with the same
//! routines (`bytes`, and `memcpy` or its own copy out of shared memory):
//!
//! | | in place | copied |
//! | --- | --- | --- |
//! | client | writes a pattern into the shared request | writes it into a private buffer, copies that into the shared request |
//! | server | copies the request to the shared reply | the same |
//! | client | sums up the shared reply | copies it into a private buffer, sums that up |
//!
//! The sum is compared with the expected one after each trip, outside of its time.

use std::io;
use std::rc::Rc;

use super::line::{AREAS, Beat, Line, with_beat};
use super::{Actor, Limit, verify};
use crate::bench::bytes::{expected, fill, sum};
use crate::bench::process::Partner;
use crate::bench::sample::Trip;

/// Makes the limit for messages of `size` bytes.
///
/// # Errors
/// When the system has no memory or no processes.
pub fn limit(beat: Beat, size: usize, copied: bool) -> io::Result<Limit> {
    with_beat!(beat, pair, [], (size, copied))
}

fn pair<const PAUSES: u8, const FENCE: bool>(size: usize, copied: bool) -> io::Result<Limit> {
    let areas = Rc::new(Areas { line: Line::new(2 * size)?, size });
    let other = areas.clone();
    let server = Partner::fork(&[], move || {
        other.line.serve::<PAUSES, FENCE>(|_| other.copy_request_to_reply());
    })?;
    let private = if copied { vec![0; size] } else { Vec::new() };
    let trip = AreaTrip::<PAUSES, FENCE> { areas, copied, private, number: 0, sum: 0 };
    Ok(Limit { clients: vec![Actor::repeating(trip)?], server })
}

/// The line, and behind it the request's bytes and the reply's.
struct Areas {
    line: Line,
    size: usize,
}

impl Areas {
    fn start(&self, area: usize) -> *mut u8 {
        // SAFETY: `pair` mapped two areas of `size` bytes behind AREAS.
        unsafe { self.line.memory().start().add(AREAS + area * self.size) }
    }

    /// Server, in its turn.
    fn copy_request_to_reply(&self) {
        // SAFETY: two areas of `size` bytes that don't overlap; it is the server's turn, in which
        // the client touches neither.
        unsafe { copy(self.start(0), self.start(1), self.size) }
    }

    /// Client, in its turn: writes the request where it lies.
    fn fill_request(&self, number: u64) {
        // SAFETY: `size` bytes of the mapping, initialised with zeros; in the client's turn nobody
        // else touches them, and the reference ends with this line.
        fill(unsafe { std::slice::from_raw_parts_mut(self.start(0), self.size) }, number);
    }

    /// Client, in its turn: copies a request in.
    fn put_request(&self, message: &[u8]) {
        assert_eq!(message.len(), self.size);
        // SAFETY: `size` bytes on both sides (asserted), one of them private; in the client's turn
        // nobody else touches the area.
        unsafe { copy(message.as_ptr(), self.start(0), self.size) }
    }

    /// Client, in its turn: reads the reply where it lies.
    fn sum_reply(&self) -> u64 {
        // SAFETY: `size` initialised bytes of the mapping, to which nobody writes in the client's
        // turn; the reference ends with this line.
        sum(unsafe { std::slice::from_raw_parts(self.start(1), self.size) })
    }

    /// Client, in its turn: copies the reply out.
    fn get_reply(&self, message: &mut [u8]) {
        assert_eq!(message.len(), self.size);
        // SAFETY: as in `put_request`, in the other direction.
        unsafe { copy(self.start(1), message.as_mut_ptr(), self.size) }
    }
}

/// Bytes that one `memcpy` copies at most: a longer one goes around the caches, which makes those
/// wait who read the copy at once (half of the time at 16 MiB).
const PIECE: usize = 256 << 10;

/// Copies as fast as the machine can for a reader on the next core.
///
/// # Safety
/// As `std::ptr::copy_nonoverlapping`.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    let mut at = 0;
    while at < len {
        let piece = PIECE.min(len - at);
        // SAFETY: inside the ranges that the caller vouches for.
        unsafe { std::ptr::copy_nonoverlapping(from.add(at), to.add(at), piece) };
        at += piece;
    }
}

struct AreaTrip<const PAUSES: u8, const FENCE: bool> {
    areas: Rc<Areas>,
    copied: bool,
    private: Vec<u8>,
    number: u64,
    sum: u64,
}

impl<const PAUSES: u8, const FENCE: bool> Trip for AreaTrip<PAUSES, FENCE> {
    fn begin(&mut self) -> io::Result<()> {
        self.areas.line.begin(2 * self.number);
        Ok(())
    }

    fn end(&mut self) {
        self.areas.line.end();
    }

    fn prepare(&mut self) {
        self.number += 1;
    }

    fn go(&mut self) -> io::Result<()> {
        let turn = 2 * self.number - 1;
        if self.copied {
            fill(&mut self.private, self.number);
            self.areas.put_request(&self.private);
        } else {
            self.areas.fill_request(self.number);
        }
        self.areas.line.give::<FENCE>(turn);
        self.areas.line.poll::<PAUSES>(turn + 1);
        self.sum = if self.copied {
            self.areas.get_reply(&mut self.private);
            sum(&self.private)
        } else {
            self.areas.sum_reply()
        };
        Ok(())
    }

    fn check(&mut self) -> io::Result<()> {
        verify(self.sum == expected(self.areas.size, self.number))
    }
}
