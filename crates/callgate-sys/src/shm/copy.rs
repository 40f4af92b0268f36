//! Copying out of memory that another process may be writing at the same time.

/// Copies `len` bytes from `src` to `dst`, whatever another process writes to `src` meanwhile.
///
/// What arrives is then any mixture of old and new bytes, and nothing worse: the compiler can't see
/// the reads, so it can't read twice, invent reads, or assume that two reads agree. As fast as
/// `memcpy`, but for a nanosecond at a few hundred bytes. Never blocks.
///
/// # Safety
///
/// * `src` is readable for `len` bytes, in a mapping that stays and can't shrink.
/// * `dst` is writable for `len` bytes, and nobody else reads or writes it during the call.
/// * The two ranges don't overlap.
#[inline]
pub unsafe fn copy_from_shared(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: the caller's promises are those of `copy`.
    unsafe { arch::copy(src, dst, len) }
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use std::arch::asm;

    /// From this many bytes on the wide copy pays.
    const WIDE_MIN: usize = 128;

    /// From this many bytes on it pays to align the stores.
    const ALIGN_MIN: usize = 1024;

    /// `rep movsb` isn't used: where the two addresses lie close to each other within their pages,
    /// processors have been seen to copy 10 to 30 times slower with it, and a vector loop was never
    /// slower than the best case.
    #[inline]
    pub(super) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
        // SAFETY: the caller's promises cover exactly the bytes that these touch; AVX is there
        // where it is used.
        unsafe {
            if len >= WIDE_MIN && is_x86_feature_detected!("avx") {
                wide(src, dst, len);
            } else {
                narrow(src, dst, len);
            }
        }
    }

    /// 128 bytes a round, then 32, then the last 32 once more as they end; at least [`WIDE_MIN`]
    /// bytes.
    #[target_feature(enable = "avx")]
    unsafe fn wide(src: *const u8, dst: *mut u8, len: usize) {
        // Long copies start with 32 bytes that overlap what follows, so that the others are stored
        // aligned. Bytes that are read twice are a mixture all the same.
        let skip = if len >= ALIGN_MIN { 32 - dst.addr() % 32 } else { 0 };
        // SAFETY: len >= 128, so 32 bytes are there at both ends, and skip is at most 32; each loop
        // runs only while its step is left, so it touches no byte beyond. Every ymm register is
        // named, since vzeroupper changes them all.
        unsafe {
            asm!(
                "vmovups ymm0, [{src}]",
                "vmovups [{dst}], ymm0",
                "add {src}, {skip}",
                "add {dst}, {skip}",
                "cmp {left}, 128",
                "jb 3f",
                "2:",
                "vmovups ymm0, [{src}]",
                "vmovups ymm1, [{src} + 32]",
                "vmovups ymm2, [{src} + 64]",
                "vmovups ymm3, [{src} + 96]",
                "vmovups [{dst}], ymm0",
                "vmovups [{dst} + 32], ymm1",
                "vmovups [{dst} + 64], ymm2",
                "vmovups [{dst} + 96], ymm3",
                "add {src}, 128",
                "add {dst}, 128",
                "sub {left}, 128",
                "cmp {left}, 128",
                "jae 2b",
                "3:",
                "cmp {left}, 32",
                "jb 5f",
                "4:",
                "vmovups ymm0, [{src}]",
                "vmovups [{dst}], ymm0",
                "add {src}, 32",
                "add {dst}, 32",
                "sub {left}, 32",
                "cmp {left}, 32",
                "jae 4b",
                "5:",
                "vmovups ymm0, [{src} + {left} - 32]",
                "vmovups [{dst} + {left} - 32], ymm0",
                "vzeroupper",
                src = inout(reg) src => _, dst = inout(reg) dst => _,
                left = inout(reg) len - skip => _, skip = in(reg) skip,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                options(nostack)
            );
        }
    }

    /// 64 bytes a round, then 16, then 8, 4, 2 and 1 as the length says.
    #[inline]
    unsafe fn narrow(src: *const u8, dst: *mut u8, len: usize) {
        // SAFETY: each loop runs only while its step is left, and each bit of the rest stands for
        // bytes that are left, so no byte beyond is touched.
        unsafe {
            asm!(
                "cmp {len}, 64",
                "jb 3f",
                "2:",
                "movups {a}, [{src}]",
                "movups {b}, [{src} + 16]",
                "movups {c}, [{src} + 32]",
                "movups {d}, [{src} + 48]",
                "movups [{dst}], {a}",
                "movups [{dst} + 16], {b}",
                "movups [{dst} + 32], {c}",
                "movups [{dst} + 48], {d}",
                "add {src}, 64",
                "add {dst}, 64",
                "sub {len}, 64",
                "cmp {len}, 64",
                "jae 2b",
                "3:",
                "cmp {len}, 16",
                "jb 5f",
                "4:",
                "movups {a}, [{src}]",
                "movups [{dst}], {a}",
                "add {src}, 16",
                "add {dst}, 16",
                "sub {len}, 16",
                "cmp {len}, 16",
                "jae 4b",
                "5:",
                "test {len}, 8",
                "je 6f",
                "mov {rest}, [{src}]",
                "mov [{dst}], {rest}",
                "add {src}, 8",
                "add {dst}, 8",
                "6:",
                "test {len}, 4",
                "je 7f",
                "mov {rest:e}, [{src}]",
                "mov [{dst}], {rest:e}",
                "add {src}, 4",
                "add {dst}, 4",
                "7:",
                "test {len}, 2",
                "je 8f",
                "mov {rest:x}, [{src}]",
                "mov [{dst}], {rest:x}",
                "add {src}, 2",
                "add {dst}, 2",
                "8:",
                "test {len}, 1",
                "je 9f",
                "mov {rest:l}, [{src}]",
                "mov [{dst}], {rest:l}",
                "9:",
                src = inout(reg) src => _, dst = inout(reg) dst => _, len = inout(reg) len => _,
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                rest = out(reg) _,
                options(nostack)
            );
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    use std::arch::asm;

    /// 64 bytes a round, then 16, then the rest byte by byte.
    #[inline]
    pub(super) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
        // SAFETY: each loop runs only while its step is left in `len`, so it touches no byte beyond
        // what the caller promised.
        unsafe {
            asm!(
                "cmp {len}, #64",
                "b.lo 3f",
                "2:",
                "ldp {a:q}, {b:q}, [{src}]",
                "ldp {c:q}, {d:q}, [{src}, #32]",
                "stp {a:q}, {b:q}, [{dst}]",
                "stp {c:q}, {d:q}, [{dst}, #32]",
                "add {src}, {src}, #64",
                "add {dst}, {dst}, #64",
                "sub {len}, {len}, #64",
                "cmp {len}, #64",
                "b.hs 2b",
                "3:",
                "cmp {len}, #16",
                "b.lo 5f",
                "4:",
                "ldr {a:q}, [{src}], #16",
                "str {a:q}, [{dst}], #16",
                "sub {len}, {len}, #16",
                "cmp {len}, #16",
                "b.hs 4b",
                "5:",
                "cbz {len}, 7f",
                "6:",
                "ldrb {byte:w}, [{src}], #1",
                "strb {byte:w}, [{dst}], #1",
                "subs {len}, {len}, #1",
                "b.ne 6b",
                "7:",
                src = inout(reg) src => _, dst = inout(reg) dst => _, len = inout(reg) len => _,
                a = out(vreg) _, b = out(vreg) _, c = out(vreg) _, d = out(vreg) _,
                byte = out(reg) _,
                options(nostack)
            );
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod arch {
    /// Volatile reads: a word at a time where `src` is aligned, else a byte.
    #[inline]
    pub(super) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
        const WORD: usize = size_of::<usize>();
        let mut at = 0;
        while at < len {
            // SAFETY: at < len, and a word is only read where one is left and `src + at` is aligned
            // for it.
            unsafe {
                if len - at >= WORD && src.add(at).addr().is_multiple_of(WORD) {
                    let word = src.add(at).cast::<usize>().read_volatile();
                    dst.add(at).cast::<usize>().write_unaligned(word);
                    at += WORD;
                } else {
                    dst.add(at).write(src.add(at).read_volatile());
                    at += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::copy_from_shared;

    #[test]
    fn every_length_and_alignment() {
        let source: Vec<u8> = (0..1200u32).map(|n| (n * 7 % 251) as u8).collect();
        for len in (0..300).chain([511, 512, 513, 1000, 1023, 1100]) {
            for (from, to) in [(0, 0), (1, 0), (0, 1), (3, 5), (8, 0), (31, 17), (0, 33)] {
                let mut target = vec![0xEE; 1300];
                // SAFETY: both ranges lie within their vectors, which are two.
                unsafe {
                    copy_from_shared(source.as_ptr().add(from), target.as_mut_ptr().add(to), len)
                };
                assert_eq!(
                    target[to..to + len],
                    source[from..from + len],
                    "{len} bytes from {from} to {to}"
                );
                assert!(target[..to].iter().chain(&target[to + len..]).all(|&byte| byte == 0xEE));
            }
        }
    }

    #[test]
    fn megabytes() {
        let source: Vec<u8> = (0..5_000_000u32).map(|n| (n % 253) as u8).collect();
        let mut target = vec![0; source.len()];
        // SAFETY: both ranges are whole vectors of the same length, which are two.
        unsafe { copy_from_shared(source.as_ptr(), target.as_mut_ptr(), source.len()) };
        assert!(target == source);
    }
}
