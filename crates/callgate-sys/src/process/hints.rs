//! What needs no system: a hint for caches, and a number that nobody else has.

use std::hash::{BuildHasher, Hasher, RandomState};

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

/// Gives a number other than 0 that no other process, and no other call, is likely to get.
pub fn fresh_number() -> u64 {
    // The hasher's keys are the system's randomness, different in each process and each call.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(crate::clock::now_ns());
    hasher.finish().max(1)
}
