//! Where the last far reply of a connection lies: most replies go where the last one in their cell was.

use std::sync::atomic::{AtomicU64, Ordering};

use callgate_proto::layout::LINE;
use callgate_sys::process::{HINT_MAX, will_write_bytes};

const CELL_SHIFT: u32 = 48;
const _: () = assert!(HINT_MAX / LINE < LINE, "the number of lines has room in the address of one");

/// A hint for caches. Its word has the address of a line, and in the bits that such addresses have no use for the number of
/// lines (6, below) and the cell (16, above). Relaxed: if it is of another moment, that costs time at most.
#[derive(Default)]
pub(super) struct LastReply(AtomicU64);

impl LastReply {
    /// The reply in this cell is about to be written here.
    #[inline]
    pub(super) fn say(&self, cell: usize, bytes: *const [u8]) {
        let hint = word(cell, bytes);
        if self.0.load(Ordering::Relaxed) != hint {
            self.0.store(hint, Ordering::Relaxed);
        }
    }

    /// A far call was taken from this cell, so its client has let go of the last reply there: asks for those lines to write,
    /// since they come from the client, while the request is read.
    #[inline]
    pub(super) fn will_write(&self, cell: u16) {
        let hint = self.0.load(Ordering::Relaxed);
        if hint >> CELL_SHIFT == u64::from(cell) {
            let lines = hint as usize % LINE;
            let address = hint & ((1 << CELL_SHIFT) - LINE as u64);
            will_write_bytes(std::ptr::without_provenance(address as usize), lines * LINE);
        }
    }
}

fn word(cell: usize, bytes: *const [u8]) -> u64 {
    let address = bytes.cast::<u8>().addr() as u64;
    let lines = bytes.len().min(HINT_MAX).div_ceil(LINE) as u64;
    // Where addresses are longer there is no hint.
    if address >> CELL_SHIFT == 0 { address | lines | (cell as u64) << CELL_SHIFT } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_the_address_the_lines_and_the_cell() {
        let of = |address: usize, len| {
            std::ptr::slice_from_raw_parts(std::ptr::without_provenance::<u8>(address), len)
        };
        assert_eq!(word(3, of(0x7f00_1234_5640, 65)), 0x0003_7f00_1234_5642);
        assert_eq!(word(0xffff, of(0x40, 1)), 0xffff_0000_0000_0041);
        assert_eq!(word(1, of(0x40, 1 << 20)), 0x0001_0000_0000_0050, "so many are asked for");
        assert_eq!(word(1, of(0x0100_0000_0000_0000, 64)), 0, "no hint");
    }
}
