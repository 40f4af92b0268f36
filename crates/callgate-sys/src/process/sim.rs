//! Simulated processes: who runs, on which CPU, and who is dead.

use std::io;
use std::ops::Deref;

use crate::poller::Pollable;
use crate::sim::kernel::Object;
use crate::sim::world::inside;
use crate::sim::{Handle, fault, here};
use crate::socket::Socket;

/// Every simulated process belongs to this user and this group.
const USER: u32 = 1_000;

/// The number that the first process of a world gets.
const FIRST_PID: u32 = 100;

pub(crate) fn pid_of(process: usize) -> u32 {
    FIRST_PID + process as u32
}

/// Gives this process's id.
pub fn pid() -> u32 {
    here().map_or(0, |here| pid_of(here.process))
}

/// Gives this process's effective user id.
pub fn uid() -> u32 {
    USER
}

/// Gives this process's effective group id.
pub fn gid() -> u32 {
    USER
}

/// Gives the user id that must authorise nothing.
pub fn overflow_uid() -> u32 {
    65_534
}

/// Gives the token of this process's life.
pub fn generation() -> u32 {
    pid()
}

/// Tells whether `token` is of the process that runs now.
pub fn is_current(token: u32) -> bool {
    token != 0 && token == pid()
}

/// Gives the number of CPUs of the world, or of the affinity that chance gave it.
pub fn cpus_usable() -> usize {
    inside().world.lock().cpus as usize
}

/// Gives the number of CPUs in this thread's affinity mask.
pub fn cpus_allowed() -> usize {
    inside().world.lock().cpus as usize
}

/// Gives the CPU that the task runs on; it moves by chance.
pub fn current_cpu() -> u32 {
    let mut state = inside().world.lock();
    let cpus = state.cpus;
    state.rng.below(cpus.into()) as u32
}

/// Lets others run.
pub fn yield_now() {
    let here = inside();
    here.point("sys.process.yield", 300);
    here.switch(here.world.lock());
}

/// Does nothing: a hint for caches.
pub fn will_write<T>(_place: *const T) {}

/// Does nothing: a hint for caches.
pub fn will_write_bytes(_place: *const u8, _len: usize) {}

/// Does nothing: a hint for caches.
pub fn will_read_bytes(_place: *const u8, _len: usize) {}

/// Waits a moment.
pub fn pause_ns(ns: u32) {
    if ns > 0 {
        inside().point("sys.process.pause", ns.into());
    }
}

/// Waits between two looks at memory that another CPU writes.
pub fn pause_between_looks() {
    pause_ns(50);
}

/// Gives a number other than 0 that no other process gets.
pub fn fresh_number() -> u64 {
    inside().world.lock().rng.number().max(1)
}

/// Slices are not simulated: the order in which tasks run is the seed's.
#[derive(Debug, Default)]
pub struct Slice;

impl Slice {
    /// Changes nothing.
    pub fn shorten(&mut self) {}

    /// Changes nothing.
    pub fn lengthen(&mut self) {}
}

/// No simulated task has a real-time policy.
pub fn is_realtime() -> bool {
    false
}

/// Gives limits that suffice.
///
/// # Errors
///
/// None.
pub fn raise_nofile() -> io::Result<(u64, u64)> {
    Ok((1 << 20, 1 << 20))
}

/// Makes what was set be seen (see [`LateFlag`](crate::sync::LateFlag)); all else every step makes be seen already.
pub fn barrier_all_threads() -> bool {
    let here = inside();
    here.point("sys.process.membarrier", 2_000);
    let mut state = here.world.lock();
    let has_barrier = state.has_barrier;
    state.processes[here.process].barriers += u64::from(has_barrier);
    has_barrier
}

/// A peer process; readable for a poller once it is dead.
#[derive(Debug)]
pub struct PidFd(Handle);

impl PidFd {
    /// Opens the process at the other end of `socket`.
    ///
    /// # Errors
    ///
    /// `ESRCH` when it is dead, `EMFILE` by chance.
    pub fn peer_of(socket: &Socket) -> io::Result<PidFd> {
        let here = inside();
        here.operation("sys.process.peer_pidfd", 500, |state| {
            fault(state, libc::EMFILE)?;
            let (pair, side) = state.kernel.socket(socket.number());
            let process = pair.process[1 - side];
            if state.processes[process].dead {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(PidFd(Handle::new(state, here.process, Object::PidFd(process))))
        })
    }

    /// Whether an error of [`PidFd::peer_of`] means that the peer is dead.
    pub fn says_dead(error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::ESRCH)
    }

    /// Tells whether the process has ended.
    pub fn is_dead(&self) -> bool {
        inside().operation("sys.process.poll_pidfd", 300, |state| {
            state.kernel.readiness(self.0.0, &state.processes).readable
        })
    }
}

impl Pollable for PidFd {
    fn number(&self) -> u64 {
        self.0.0
    }
}

/// A static of which each simulated process has its own; made by `process_local!`.
#[derive(Debug)]
pub struct ProcessLocal<T> {
    make: fn() -> T,
}

impl<T> ProcessLocal<T> {
    /// `make` gives the value that a process begins with.
    pub const fn new(make: fn() -> T) -> ProcessLocal<T> {
        ProcessLocal { make }
    }
}

impl<T: Sync + 'static> Deref for ProcessLocal<T> {
    type Target = T;

    fn deref(&self) -> &T {
        let here = inside();
        let mut state = here.world.lock();
        let locals = &mut state.processes[here.process].locals;
        let key = (&raw const *self).addr();
        let value = match locals.iter().find(|(local, _)| *local == key) {
            Some((_, value)) => *value,
            None => {
                let value = (&raw const *Box::leak(Box::new((self.make)()))).expose_provenance();
                locals.push((key, value));
                value
            }
        };
        // SAFETY: a leaked box of this static's type, found under this static's address.
        unsafe { &*std::ptr::with_exposed_provenance::<T>(value) }
    }
}
