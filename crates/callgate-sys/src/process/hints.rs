//! What needs no system: a hint for caches, and a number that nobody else has.

use std::hash::{BuildHasher, Hasher, RandomState};

use callgate_proto::layout::LINE;

use super::HINT_MAX;

/// Asks for the cache line of `place`, to be written soon: the request for it overlaps with what is done until then.
///
/// On x86-64 by PREFETCHW, written out: a compiler makes an instruction for *reading* of a prefetch for writing, unless it is
/// told that the processor has more (`-C target-feature=+prfchw`).
#[inline(always)]
pub fn will_write<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch faults at no address and changes nothing but caches. Processors of this architecture that cannot do
    // it take it for a NOP.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above, for PRFM.
    unsafe {
        core::arch::asm!("prfm pstl1keep, [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = place;
}

/// The same for the lines of what is longer; the first ones of them, as many as a processor fetches at a time.
#[inline]
pub fn will_write_bytes(place: *const u8, len: usize) {
    lines(place, len).for_each(will_write);
}

/// Asks for the first lines of `place`, to be read soon.
#[inline]
pub fn will_read_bytes(place: *const u8, len: usize) {
    lines(place, len).for_each(will_read);
}

/// The lines to ask for; beyond them a processor sees for itself that they are used in order.
#[inline(always)]
fn lines(place: *const u8, len: usize) -> impl Iterator<Item = *const u8> {
    (0..len.min(HINT_MAX)).step_by(LINE).map(move |at| place.wrapping_add(at))
}

#[inline(always)]
fn will_read(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch faults at no address and changes nothing but caches.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = place;
}

/// Gives a number other than 0 that no other process, and no other call, is likely to get.
pub fn fresh_number() -> u64 {
    // The hasher's keys are the system's randomness, different in each process and each call.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(crate::clock::now_ns());
    hasher.finish().max(1)
}
