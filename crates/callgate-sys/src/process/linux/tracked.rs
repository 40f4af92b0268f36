//! Descriptors that a forked child must not keep.
//!
//! A child that kept a connection or a listener open would hide its parent's death from every peer.
//! So each descriptor of this crate is entered in a table while it lives, and a fork handler takes
//! all of them from the child: it puts an inert descriptor (`O_PATH` of `/`) in the place of each.
//! Every operation on that fails with `EBADF`, just as on a closed one, but the number isn't given
//! out again, so a stale handle in the child can't reach a stranger's file and may be dropped like
//! any other. Close-on-exec is kept.
//!
//! `vfork` and `posix_spawn` run no handlers and need none: close-on-exec does it. A raw `clone`
//! runs none either; its child keeps the descriptors until it drops them.

use std::cell::{Cell, UnsafeCell};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed,
    Ordering::Release,
};

use callgate_points::at;

use super::generation::{generation, is_current, wipe};

/// An owned descriptor, closed on exec and taken away from forked children.
#[derive(Debug)]
pub(crate) struct TrackedFd {
    fd: RawFd,
    generation: u32,
}

impl TrackedFd {
    /// Runs `open` and takes what it gives, without a fork in between.
    ///
    /// `open` must not block: a fork of any thread waits for it. The descriptor must be
    /// close-on-exec.
    pub(crate) fn open<E>(open: impl FnOnce() -> Result<OwnedFd, E>) -> Result<TrackedFd, E> {
        Ok(Self::open_with(|| open().map(|fd| (Some(fd), ())))?
            .0
            .expect("the descriptor just given"))
    }

    /// Runs `open`, which may give a descriptor together with something else, as
    /// [`TrackedFd::open`] does.
    pub(crate) fn open_with<T, E>(
        open: impl FnOnce() -> Result<(Option<OwnedFd>, T), E>,
    ) -> Result<(Option<TrackedFd>, T), E> {
        let generation = generation();
        let _no_fork = Gate::enter();
        let (fd, rest) = open()?;
        Ok((fd.map(|fd| TrackedFd::enter(fd, generation)), rest))
    }

    /// Runs `action` without a fork meanwhile. It must not block.
    pub(crate) fn no_fork<T>(action: impl FnOnce() -> T) -> T {
        let _no_fork = Gate::enter();
        action()
    }

    /// Whether this process owns it, rather than one that it was forked from: then it is inert here, or gone.
    pub(super) fn is_ours(&self) -> bool {
        is_current(self.generation)
    }

    /// Closes it as drop does, but a fork need not wait for the close itself, which may take as long as a peer wants. (A
    /// child that is forked just then has a copy of it, which it knows nothing of.)
    pub(super) fn close_outside(self) {
        let this = ManuallyDrop::new(self);
        {
            let _no_fork = Gate::enter();
            TABLE.clear(this.fd);
        }
        // Most sockets that would linger do not any more. Others, and what lies in a socket's queue, may.
        let linger = libc::linger { l_onoff: 0, l_linger: 0 };
        // SAFETY: the option is a live local of the size that is given. It fails for what is no socket.
        at!("sys.process.no_linger", unsafe {
            let size = size_of::<libc::linger>() as libc::socklen_t;
            let option = (&raw const linger).cast();
            libc::setsockopt(this.fd, libc::SOL_SOCKET, libc::SO_LINGER, option, size)
        });
        // SAFETY: this was the only owner, of this process, and is forgotten.
        at!("sys.process.close_outside", unsafe { libc::close(this.fd) });
    }

    fn enter(fd: OwnedFd, generation: u32) -> TrackedFd {
        let fd = fd.into_raw_fd();
        TABLE.set(fd);
        TrackedFd { fd, generation }
    }
}

impl From<OwnedFd> for TrackedFd {
    /// Takes over a descriptor. A fork just before has already given the child its own copy.
    fn from(fd: OwnedFd) -> TrackedFd {
        let generation = generation();
        let _no_fork = Gate::enter();
        TrackedFd::enter(fd, generation)
    }
}

impl AsFd for TrackedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor came from an OwnedFd and is closed by Drop only. In a forked child
        // its number is held by the inert descriptor; only where even that couldn't be opened is it
        // free, as after any failed dup.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl Drop for TrackedFd {
    fn drop(&mut self) {
        if self.generation <= LOST.load(Relaxed) {
            return; // the fork handler had to close it, so the number may be somebody else's by now
        }
        let _no_fork = Gate::enter();
        TABLE.clear(self.fd);
        // SAFETY: this was the only owner; see `as_fd` for a child. The bit went first: from here
        // the number may return.
        at!("sys.process.close", unsafe { libc::close(self.fd) });
    }
}

/// Descriptors of this token and below were closed by the fork handler for want of an inert one.
/// Writer: the handler.
static LOST: AtomicU32 = AtomicU32::new(0);

/// The highest token under which a descriptor was entered; the handler can't ask for the parent's,
/// it is wiped already.
static ENTERED: AtomicU32 = AtomicU32::new(0);

static TABLE: Table = Table { chunks: [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS] };

const CHUNKS: usize = 2048;
const WORDS: usize = 512;
const BITS: usize = WORDS * 64;

/// One chunk of the table: a bit for each of 32,768 descriptor numbers.
type Chunk = [AtomicU64; WORDS];

/// A bit for each descriptor number that is tracked; chunks are made when first needed and never
/// freed.
struct Table {
    chunks: [AtomicPtr<Chunk>; CHUNKS],
}

impl Table {
    fn set(&self, fd: RawFd) {
        ENTERED.fetch_max(generation(), Relaxed);
        if let Some((chunk, word, bit)) = place(fd) {
            self.chunk(chunk)[word].fetch_or(bit, Relaxed);
        }
    }

    fn clear(&self, fd: RawFd) {
        if let Some((chunk, word, bit)) = place(fd) {
            self.chunk(chunk)[word].fetch_and(!bit, Relaxed);
        }
    }

    fn chunk(&self, index: usize) -> &Chunk {
        let slot = &self.chunks[index];
        let mut chunk = slot.load(Acquire);
        if chunk.is_null() {
            let fresh = Box::into_raw(Box::new([const { AtomicU64::new(0) }; WORDS]));
            // EDGE chunk-made (other end: the Acquire load above): whoever sees the pointer sees
            // the zeros behind it.
            chunk = match slot.compare_exchange(std::ptr::null_mut(), fresh, AcqRel, Acquire) {
                Ok(_) => fresh,
                Err(first) => {
                    // SAFETY: `fresh` came from Box::into_raw just above and lost the race, so
                    // nobody else has it.
                    drop(unsafe { Box::from_raw(fresh) });
                    first
                }
            };
        }
        // SAFETY: a chunk in the table came from Box::into_raw and is never freed.
        unsafe { &*chunk }
    }

    /// Calls `each` with every tracked number. Allocates nothing.
    fn for_each(&self, mut each: impl FnMut(RawFd)) {
        for (index, slot) in self.chunks.iter().enumerate() {
            let chunk = slot.load(Acquire);
            if chunk.is_null() {
                continue;
            }
            // SAFETY: as in `chunk`.
            for (at, word) in unsafe { &*chunk }.iter().enumerate() {
                let mut bits = word.load(Relaxed);
                while bits != 0 {
                    each((index * BITS + at * 64 + bits.trailing_zeros() as usize) as RawFd);
                    bits &= bits - 1;
                }
            }
        }
    }
}

/// Where the bit of `fd` is; `None` above 67 million, which no kernel configuration in use allows.
fn place(fd: RawFd) -> Option<(usize, usize, u64)> {
    let fd = usize::try_from(fd).ok()?;
    (fd < CHUNKS * BITS).then(|| (fd / BITS, fd % BITS / 64, 1 << (fd % 64)))
}

/// Keeps forks out while descriptors come and go: those who open share it, a fork has it alone.
///
/// A pthread lock, since std's can't be held from one fork handler to the next.
struct Gate {
    lock: UnsafeCell<libc::pthread_rwlock_t>,
}

// SAFETY: the lock is only touched through pthread functions, which are made for many threads, and
// by a forked child's handler, when that child has one thread.
unsafe impl Sync for Gate {}

static GATE: Gate = Gate { lock: UnsafeCell::new(libc::PTHREAD_RWLOCK_INITIALIZER) };

/// Proof that no fork of this process happens now.
struct NoFork {
    locked: bool,
}

impl Gate {
    fn enter() -> NoFork {
        // EDGE handlers (other end: `register`): Acquire sees that they are registered.
        if HANDLERS.load(Acquire) != REGISTERED {
            register();
        }
        // Not while this thread forks itself: another library's fork handler may call us then.
        // SAFETY: GATE is a static, initialised lock.
        let locked =
            DEPTH.get() == 0 && unsafe { libc::pthread_rwlock_rdlock(GATE.lock.get()) } == 0;
        NoFork { locked }
    }
}

/// Who registers the fork handlers: nobody yet (0), the process with this id, or [`REGISTERED`].
static HANDLERS: AtomicU32 = AtomicU32::new(0);
const REGISTERED: u32 = u32::MAX;

#[cold]
fn register() {
    if !claim(&HANDLERS, super::pid()) {
        return;
    }
    // SAFETY: the three functions live as long as this code does and do what is allowed around a
    // fork.
    let failed = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    assert_eq!(failed, 0, "no memory to register the fork handlers");
    // EDGE handlers (other end: `Gate::enter`): Release hands over the registration.
    HANDLERS.store(REGISTERED, Release);
}

/// Makes this process, of id `own`, the one that registers; false when that has been done, which it
/// waits for where another thread is about it.
///
/// A fork in the middle leaves the child with a registrar that does not exist there: its parent. So
/// the child registers them itself, perhaps a second time (see `DEPTH`).
fn claim(handlers: &AtomicU32, own: u32) -> bool {
    loop {
        let registrar = handlers.load(Acquire);
        if registrar == REGISTERED {
            return false;
        }
        if registrar != own && handlers.compare_exchange(registrar, own, Relaxed, Relaxed).is_ok() {
            return true;
        }
        std::thread::yield_now();
    }
}

thread_local! {
    /// How often `before` ran for the fork that this thread is about: twice where the handlers were
    /// registered twice.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

impl Drop for NoFork {
    fn drop(&mut self) {
        if self.locked {
            // SAFETY: this thread took the lock in `enter`.
            unsafe { libc::pthread_rwlock_unlock(GATE.lock.get()) };
        }
    }
}

unsafe extern "C" fn before() {
    if DEPTH.get() == 0 {
        // SAFETY: GATE is a static, initialised lock, which this thread does not have.
        unsafe { libc::pthread_rwlock_wrlock(GATE.lock.get()) };
    }
    DEPTH.set(DEPTH.get() + 1);
}

unsafe extern "C" fn in_parent() {
    DEPTH.set(DEPTH.get() - 1);
    if DEPTH.get() == 0 {
        // SAFETY: `before` took the lock in this thread.
        unsafe { libc::pthread_rwlock_unlock(GATE.lock.get()) };
    }
}

/// Runs in the child: async-signal-safe calls only.
unsafe extern "C" fn in_child() {
    // Unlocking would fail: the holder on record is the parent's thread. The child has one thread,
    // so a new lock is right.
    // SAFETY: nobody else can touch the lock, see above; all-initial is its valid unlocked state.
    unsafe { GATE.lock.get().write(libc::PTHREAD_RWLOCK_INITIALIZER) };
    DEPTH.set(0);
    wipe();
    let mut inert = -1;
    let mut lost = false;
    TABLE.for_each(|fd| {
        if inert < 0 {
            // SAFETY: the path is a C string; open with O_PATH has no side effect.
            inert = unsafe { libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
        }
        // SAFETY: `fd` is one of ours (its bit is set), and what stands in its place is described
        // at the top.
        if inert < 0 || unsafe { libc::dup3(inert, fd, libc::O_CLOEXEC) } < 0 {
            lost = true;
            TABLE.clear(fd);
            // SAFETY: as above; LOST keeps the owner from closing it once more.
            unsafe { libc::close(fd) };
        }
    });
    if lost {
        LOST.store(ENTERED.load(Relaxed), Relaxed);
    }
    if inert >= 0 {
        // SAFETY: opened above, and nobody else knows it.
        unsafe { libc::close(inert) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_finds_what_was_set() {
        let table = Table { chunks: [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS] };
        let numbers = [0, 1, 63, 64, 20_000, BITS as RawFd - 1, BITS as RawFd, 1_048_575];
        for fd in numbers {
            table.set(fd);
        }
        table.clear(64);
        let mut found = Vec::new();
        table.for_each(|fd| found.push(fd));
        assert_eq!(found, [0, 1, 63, 20_000, BITS as RawFd - 1, BITS as RawFd, 1_048_575]);
        table.set(-1);
        table.set(RawFd::MAX);
    }

    #[test]
    fn who_registers_is_one_of_this_process() {
        let (nobody, parent, child) = (0, 7, 8);
        let handlers = AtomicU32::new(nobody);
        assert!(claim(&handlers, parent));
        // Forked in the middle of it: nobody here would ever come to an end with it.
        assert!(claim(&handlers, child));
        handlers.store(REGISTERED, Relaxed);
        assert!(!claim(&handlers, child));
    }

    #[test]
    fn a_second_registration_does_no_harm() {
        // They run twice for each fork from here on, also for those of other tests.
        // SAFETY: as `register` does it.
        let failed = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        assert_eq!(failed, 0);
        for _ in 0..3 {
            let child = crate::testing::Child::fork(|_| {
                TrackedFd::open(|| rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC))
                    .is_ok()
            });
            assert!(child.join());
        }
        drop(Gate::enter());
    }

    #[test]
    fn descriptors_are_entered_while_they_live() {
        let is_set = |fd: RawFd| {
            let mut set = false;
            TABLE.for_each(|each| set |= each == fd);
            set
        };
        let fd =
            TrackedFd::open(|| rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC))
                .unwrap();
        assert!(is_set(fd.fd));
        let failed: Result<TrackedFd, i32> = TrackedFd::open(|| Err(7));
        assert_eq!(failed.unwrap_err(), 7);
    }
}
