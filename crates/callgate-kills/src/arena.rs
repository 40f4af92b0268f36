//! Memory that the driver and its children share, and that outlives each of them: the plan of a kill, the passages of
//! points, what became of calls, and what went wrong.
//!
//! It must not know what a point or a call is.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use callgate_sys::clock;

use crate::book::Book;
use crate::mix::Pids;
use crate::points::PLACES;
use crate::tenths::Tenths;

/// What happens at the planned passage.
pub mod action {
    /// The process kills itself.
    pub const KILL: u32 = 0;
    /// It forks in another thread, and then kills itself; the child lives on.
    pub const FORK_AND_DIE: u32 = 1;
    /// It forks in another thread; the child does what a child must not, and is killed; the process lives on.
    pub const FORK_AND_LIVE: u32 = 2;
}

/// What becomes of a victim: decided once, since one of its threads may be struck while another ends the process.
pub mod fate {
    /// It runs.
    pub const OPEN: u32 = 0;
    /// It was struck, and is killed.
    pub const KILLED: u32 = 1;
    /// It has come to its end; nothing strikes it any more.
    pub const ENDED: u32 = 2;
}

/// The plan for one victim. Written by the driver before the victim begins, and by the victim when it fires.
pub struct Plan {
    /// The place (see [`crate::points`]), or `u32::MAX` for none.
    pub place: AtomicU32,
    /// The passage, from 1.
    pub nth: AtomicU64,
    /// See [`action`].
    pub action: AtomicU32,
    /// Passages count only while this is not 0.
    pub armed: AtomicU32,
    /// When it fired, in nanoseconds of the machine's monotonic clock; 0 for not yet.
    pub fired_ns: AtomicU64,
    /// See [`fate`].
    pub fate: AtomicU32,
    /// The child that it forked; 0 for none.
    pub child: AtomicU32,
    /// What the child has done: 0 nothing yet, 1 all was refused as it should, 2 something was not.
    pub child_said: AtomicU32,
    /// Asks the scribbler to spoil the word once more, and its answer; only where `scribbling` is not 0.
    pub scribbling: AtomicU32,
    pub scribble_asked: AtomicU32,
    pub scribble_done: AtomicU32,
    /// How often each place was passed by the victim.
    pub passed: [AtomicU64; PLACES],
}

/// What a client saw that has nothing to do with the victim.
#[derive(Default)]
pub struct Others {
    pub calls: AtomicU64,
    pub longest_ns: AtomicU64,
}

/// Longest text of a flaw.
const NOTE: usize = 2_000;

/// All of it. Zeros are a valid beginning.
pub struct Arena {
    pub plan: Plan,
    pub others: Others,
    pub book: Book,
    /// In the soak: how long calls of others took, who lied, and children of victims.
    pub tenths: Tenths,
    pub liars: Pids,
    pub orphans: Pids,
    /// Longest time that a call which was pending at the death took to end.
    pub stall_ns: AtomicU64,
    note_len: AtomicUsize,
    note: [AtomicU32; NOTE / 4],
}

impl Arena {
    /// Notes what went wrong; the first note stays.
    pub fn flaw(&self, text: &str) {
        let text = text.as_bytes();
        let len = text.len().min(NOTE);
        if self.note_len.compare_exchange(0, usize::MAX, Relaxed, Relaxed).is_err() {
            return;
        }
        for (at, chunk) in text[..len].chunks(4).enumerate() {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            self.note[at].store(u32::from_le_bytes(word), Relaxed);
        }
        // EDGE note (other end: `take_flaw`): the text is there.
        self.note_len.store(len, std::sync::atomic::Ordering::Release);
    }

    /// The first note, which is forgotten.
    pub fn take_flaw(&self) -> Option<String> {
        // EDGE note (other end: `flaw`).
        let len = match self.note_len.load(std::sync::atomic::Ordering::Acquire) {
            0 => return None,
            usize::MAX => 0, // the writer was killed in the middle
            len => len,
        };
        let bytes: Vec<u8> =
            self.note.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).take(len).collect();
        self.note_len.store(0, Relaxed);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Forgets everything about the last victim.
    pub fn reset(&self) {
        let plan = &self.plan;
        for passed in &plan.passed {
            passed.store(0, Relaxed);
        }
        for word in [&plan.armed, &plan.fate, &plan.child, &plan.child_said] {
            word.store(0, Relaxed);
        }
        for word in [&plan.scribbling, &plan.scribble_asked, &plan.scribble_done] {
            word.store(0, Relaxed);
        }
        plan.fired_ns.store(0, Relaxed);
        plan.place.store(u32::MAX, Relaxed);
        self.stall_ns.store(0, Relaxed);
        self.others.longest_ns.store(0, Relaxed);
    }

    /// Notes that a call which began at `began_ns` has ended now.
    pub fn call_ended(&self, began_ns: u64) {
        let fired_ns = self.plan.fired_ns.load(Relaxed);
        if fired_ns != 0 && began_ns < fired_ns {
            self.stall_ns.fetch_max(clock::now_ns().saturating_sub(fired_ns), Relaxed);
        }
    }
}

/// Shared, zeroed memory that holds a `T`; never unmapped, so that a child's threads may use it to their end.
pub struct Shared<T: 'static>(&'static T);

impl<T> Shared<T> {
    /// Maps it.
    ///
    /// # Safety
    /// All zeros are a valid `T`, and `T` is changed through atomics only.
    pub unsafe fn new() -> Self {
        // SAFETY: a new anonymous mapping of the kernel's choice overlaps nothing.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED, "shared memory");
        // SAFETY: so many bytes are mapped, for good, aligned to a page; zeros are valid (contract).
        Self(unsafe { &*start.cast::<T>() })
    }

    /// The memory, for as long as the process lives.
    pub fn get(&self) -> &'static T {
        self.0
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0
    }
}
