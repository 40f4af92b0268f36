//! A token for this process's life, which a fork changes without anybody's help.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::shm::page_size;

/// Stands in for the page until there is one: always zero, so nothing is current then.
static NO_PAGE: AtomicU32 = AtomicU32::new(0);

/// Holds the token where no page can be had for it: then the fork handler alone wipes it.
static SPARE: AtomicU32 = AtomicU32::new(0);

/// The word that holds the token, in a page that the kernel wipes in a forked child.
///
/// Writer: the first [`generation`] of a process. Once it points to the page it never changes
/// again.
static WORD: AtomicPtr<AtomicU32> = AtomicPtr::new((&raw const NO_PAGE).cast_mut());

/// The highest token that this process or an ancestor of it was given; ordinary memory, so a child
/// inherits it.
static HIGHEST: AtomicU32 = AtomicU32::new(0);

#[inline]
fn word() -> &'static AtomicU32 {
    // SAFETY: WORD points to NO_PAGE, to SPARE, or to the page that `set_up` mapped; none is ever
    // unmapped, and each holds an aligned AtomicU32. `set_up` publishes an address whose memory the
    // kernel had zeroed before, so Relaxed is enough.
    unsafe { &*WORD.load(Relaxed) }
}

/// Gives the token of this process's life: never zero, and other than that of every process that it
/// was forked from.
///
/// Whatever must not be used in a forked child keeps the token and asks [`is_current`]. It isn't a
/// process id (those come again), but the number of this life in its line of forks. No system call
/// but the first time in a process.
pub fn generation() -> u32 {
    match word().load(Relaxed) {
        0 => begin(),
        token => token,
    }
}

/// Tells whether `token` was given out by [`generation`] in this very process, not before a fork.
///
/// Two relaxed loads and no system call: cheap enough for each call.
#[inline]
pub fn is_current(token: u32) -> bool {
    word().load(Relaxed) == token && token != 0
}

#[cold]
fn begin() -> u32 {
    if std::ptr::eq(word(), &NO_PAGE) {
        set_up();
    }
    // HIGHEST goes up before the token is used: a child forked at any moment starts above every
    // token ever used here.
    let token = HIGHEST.load(Relaxed) + 1;
    HIGHEST.fetch_max(token, Relaxed);
    match word().compare_exchange(0, token, Relaxed, Relaxed) {
        Ok(_) => token,
        Err(first) => first,
    }
}

fn set_up() {
    let size = page_size();
    // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing.
    let page = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            size,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    };
    // No lock around this: a fork in the middle would leave it locked in the child for ever.
    let none = (&raw const NO_PAGE).cast_mut();
    let Ok(page) = page else {
        // No memory, or as many mappings as a process may have.
        let spare = (&raw const SPARE).cast_mut();
        let _ = WORD.compare_exchange(none, spare, Relaxed, Relaxed);
        return;
    };
    // A kernel that refuses (some emulations do) is made up for by the fork handler, which calls
    // `wipe`.
    // SAFETY: the advice changes only what a child sees of this page, and a zeroed AtomicU32 is
    // valid.
    let _ = unsafe { madvise(page, size, Advice::LinuxWipeOnFork) };
    if WORD.compare_exchange(none, page.cast(), Relaxed, Relaxed).is_err() {
        // SAFETY: another thread was first; nobody has seen this page.
        let _ = unsafe { munmap(page, size) };
    }
}

/// Zeroes the token in a forked child, for kernels without `MADV_WIPEONFORK`. Async-signal-safe.
pub(super) fn wipe() {
    word().store(0, Relaxed);
}
