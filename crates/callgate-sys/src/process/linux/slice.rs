//! Time slices of the fair scheduler.
//!
//! Where a waker and the woken share a CPU, the fair scheduler lets the woken run at once if its slice is the shorter one,
//! and its due share is not used up; otherwise when the waker sleeps or yields. See
//! <https://docs.kernel.org/scheduler/sched-eevdf.html>; a thread may choose its slice since Linux 6.12.

use std::mem;

/// The shortest slice that the kernel grants, in nanoseconds.
const SLICE_MIN_NS: u64 = 100_000;
/// Size of the first version of `sched_attr`: a kernel neither reads nor writes what came later (clamps of utilisation).
const ATTR_SIZE: u32 = 48;

/// The time slice of the thread that owns this.
#[derive(Debug, Default)]
pub struct Slice {
    is_short: bool,
    /// What it was before it became short, in nanoseconds; `None` where it did not.
    usual_ns: Option<u64>,
}

impl Slice {
    /// Asks that the calling thread be given the CPU in slices as short as there are (0.1 ms), and so at once when it was
    /// woken. It gets no more of the CPU for that, and one that yields goes on sooner than others do.
    ///
    /// Nothing changes where the kernel can't do it or refuses, under other policies, and for who has asked for a slice as
    /// short before. A thread that is started meanwhile inherits it.
    #[inline]
    pub fn shorten(&mut self) {
        if !self.is_short {
            self.is_short = true;
            self.usual_ns = set_slice(SLICE_MIN_NS).filter(|ns| *ns > SLICE_MIN_NS);
        }
    }

    /// Asks for the slices as they were before.
    #[inline]
    pub fn lengthen(&mut self) {
        if self.is_short {
            self.is_short = false;
            if let Some(usual_ns) = self.usual_ns.take() {
                set_slice(usual_ns);
            }
        }
    }
}

/// Gives what the slice was. `None` where nothing was changed.
#[cold]
fn set_slice(ns: u64) -> Option<u64> {
    let mut attr = attr()?;
    let before_ns = mem::replace(&mut attr.sched_runtime, ns);
    // Kernels that know no slices of a thread's own tell of none.
    if attr.sched_policy != libc::SCHED_OTHER as u32 || before_ns == 0 || before_ns == ns {
        return None;
    }
    // SAFETY: sched_setattr reads `size` bytes of the struct, which is that long; 0 is the calling thread.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    (set == 0).then_some(before_ns)
}

fn attr() -> Option<libc::sched_attr> {
    // SAFETY: sched_attr is made of integers alone.
    let mut attr: libc::sched_attr = unsafe { mem::zeroed() };
    // SAFETY: sched_getattr writes at most ATTR_SIZE bytes to the struct, which is at least that long; 0 is the calling thread.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, ATTR_SIZE, 0) };
    attr.size = ATTR_SIZE;
    (got == 0).then_some(attr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_becomes_short_and_what_it_was_and_nothing_else_changes() {
        std::thread::spawn(|| {
            let Some(before) = attr().filter(|attr| attr.sched_runtime > SLICE_MIN_NS) else {
                eprintln!("left out: no slices here");
                return;
            };
            let all =
                |attr: &libc::sched_attr| (attr.sched_policy, attr.sched_nice, attr.sched_flags);
            let mut slice = Slice::default();
            for _ in 0..2 {
                for _ in 0..2 {
                    slice.shorten();
                    let now = attr().unwrap();
                    assert_eq!(now.sched_runtime, SLICE_MIN_NS);
                    assert_eq!(all(&now), all(&before));
                }
                for _ in 0..2 {
                    slice.lengthen();
                    let now = attr().unwrap();
                    assert_eq!(now.sched_runtime, before.sched_runtime);
                    assert_eq!(all(&now), all(&before));
                }
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn who_has_a_short_one_keeps_it() {
        std::thread::spawn(|| {
            if set_slice(SLICE_MIN_NS).is_none() {
                eprintln!("left out: no slices here");
                return;
            }
            let mut slice = Slice::default();
            slice.shorten();
            slice.lengthen();
            assert_eq!(attr().unwrap().sched_runtime, SLICE_MIN_NS);
        })
        .join()
        .unwrap();
    }
}
