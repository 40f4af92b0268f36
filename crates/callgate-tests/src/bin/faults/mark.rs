//! What the subject tells its tracer, by a `write` to descriptor -1 whose length is the message. Without a tracer it does
//! nothing.

/// From here on calls are counted.
pub const GO: usize = 1;
/// From here on no single call fails any more; those that are missing stay so.
pub const CLEAN: usize = 4;
/// This thread does the test's own work.
pub const HARNESS: usize = 2;
/// This thread works for the library again.
pub const LIBRARY: usize = 3;

/// Tells it.
pub fn mark(message: usize) {
    // SAFETY: the descriptor is none, so the kernel looks at nothing else.
    unsafe { libc::write(-1, std::ptr::null(), message) };
}

/// Does the test's own work, of which no system call is counted.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    mark(HARNESS);
    let done = work();
    mark(LIBRARY);
    done
}
