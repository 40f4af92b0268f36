//! What else befalls victims in the soak: they are stopped for a while, they fork, or they lie. Lies are those of the
//! campaign of liars, told to a server that other clients call meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use callgate_tests::Rng;
use callgate_tests::liars::client::{lies, tell};

use crate::arena::Arena;
use crate::forker;

/// Process ids that are remembered from one look to the next.
const PIDS: usize = 512;
/// How long a liar may take; then it is killed like the others.
pub const LYING_NS: u64 = 30_000_000;
/// Lies that are not told here: they send a file of a file system that the liar itself serves (FUSE). Who is killed with
/// one open hangs in the kernel, and so may whoever closes it (SECURITY.md, known weak points).
const NOT_HERE: [&str; 2] = ["memory that is none", "a region that is none"];
/// Calls that a liar makes first, at most.
const HONEST_CALLS: usize = 20;

/// Processes to be told apart, in shared memory. Zeros are an empty list.
pub struct Pids {
    count: AtomicUsize,
    pids: [AtomicU32; PIDS],
}

impl Pids {
    /// Adds this process.
    pub fn add_me(&self) {
        let at = self.count.fetch_add(1, Relaxed) % PIDS;
        self.pids[at].store(std::process::id(), Relaxed);
    }

    /// Whether that one is there.
    pub fn has(&self, pid: u32) -> bool {
        self.pids.iter().any(|other| other.load(Relaxed) == pid)
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.pids.iter().for_each(|pid| pid.store(0, Relaxed));
    }

    /// Waits for the ends of those that are children of this process by now, and forgets them.
    pub fn reap(&self) {
        for slot in &self.pids {
            let pid = slot.load(Relaxed);
            if pid == 0 {
                continue;
            }
            // SAFETY: no status is asked for. Those who added themselves end by themselves, and nobody else waits for
            // them.
            if unsafe { libc::waitpid(pid.cast_signed(), std::ptr::null_mut(), 0) } > 0 {
                slot.store(0, Relaxed);
            }
        }
    }
}

/// What befalls a victim before it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Nothing,
    Stopped,
    Forks,
    Lies,
}

impl Fate {
    /// One at random.
    pub fn draw(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0 | 1 => Self::Stopped,
            2 => Self::Forks,
            3 => Self::Lies,
            _ => Self::Nothing,
        }
    }

    /// Lets it come to this process, which is killed after `killed_ns`.
    pub fn befall(self, arena: &'static Arena, seed: u64, killed_ns: u64) {
        let mut rng = Rng::new(seed);
        let mut within_ns = |from: u64| from + rng.next() % (killed_ns - from).max(1);
        match self {
            Self::Stopped => {
                let stopped_ns = within_ns(0);
                signal_after(stopped_ns.max(1), libc::SIGSTOP);
                // The other half is killed while it is stopped.
                if seed.is_multiple_of(2) {
                    signal_after(within_ns(stopped_ns).max(1), libc::SIGCONT);
                }
            }
            Self::Forks => {
                let (forks_ns, lives_ns) = (within_ns(0), rng.next() % 10_000_000);
                forker::fork_after(arena, Duration::from_nanos(forks_ns), lives_ns);
            }
            Self::Nothing | Self::Lies => {}
        }
    }
}

/// Tells a lie at random; a child's body. What comes of it the campaign of liars judges; here it is the others who count.
pub fn lie(arena: &'static Arena, path: &Path, seed: u64) -> i32 {
    arena.liars.add_me();
    std::panic::set_hook(Box::new(|_| {}));
    let mut rng = Rng::new(seed);
    let all: Vec<&str> = lies().map(|lie| lie.0).filter(|lie| !NOT_HERE.contains(lie)).collect();
    let (name, calls) = (*rng.one_of(&all), rng.below(HONEST_CALLS) as u64);
    let _ = catch_unwind(AssertUnwindSafe(|| tell(path, name, rng, calls)));
    0
}

/// Lets the kernel send this process a signal after a while.
pub fn signal_after(delay_ns: u64, signal: i32) {
    // SAFETY: all zeros are a valid value of these plain structures, and the calls read live locals and write the
    // timer.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = signal;
        let mut timer: libc::timer_t = std::ptr::null_mut();
        let made = libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer);
        let mut when: libc::itimerspec = std::mem::zeroed();
        when.it_value.tv_sec = (delay_ns / 1_000_000_000).cast_signed();
        when.it_value.tv_nsec = (delay_ns % 1_000_000_000).cast_signed();
        let set = libc::timer_settime(timer, 0, &raw const when, std::ptr::null_mut());
        assert!(made == 0 && set == 0, "a timer: {}", std::io::Error::last_os_error());
    }
}
