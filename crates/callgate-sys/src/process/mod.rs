//! This process and its peers: who they are, whether they live, what the machine gives us.

#[cfg(not(callgate_sim))]
mod hints;
#[cfg(all(target_os = "linux", not(callgate_sim)))]
mod linux;
#[cfg(not(callgate_sim))]
mod moment;
#[cfg(callgate_sim)]
mod sim;
#[cfg(all(windows, not(callgate_sim)))]
mod windows;

#[cfg(not(callgate_sim))]
pub use hints::{fresh_number, will_read_bytes, will_write, will_write_bytes};
#[cfg(not(callgate_sim))]
pub use moment::{pause_between_looks, pause_ns};

#[cfg(all(target_os = "linux", not(callgate_sim)))]
pub(crate) use linux::{PeerFd, TrackedFd, begin_closer};
#[cfg(all(target_os = "linux", not(callgate_sim)))]
pub use linux::{
    PidFd, Slice, barrier_all_threads, cpus_allowed, cpus_usable, current_cpu, generation, gid,
    is_current, is_realtime, overflow_uid, pid, raise_nofile, uid, yield_now,
};
#[cfg(callgate_sim)]
pub(crate) use sim::pid_of;
#[cfg(callgate_sim)]
pub use sim::{
    PidFd, ProcessLocal, Slice, barrier_all_threads, cpus_allowed, cpus_usable, current_cpu,
    fresh_number, generation, gid, is_current, is_realtime, overflow_uid, pause_between_looks,
    pause_ns, pid, raise_nofile, uid, will_read_bytes, will_write, will_write_bytes, yield_now,
};
#[cfg(all(windows, not(callgate_sim)))]
pub(crate) use windows::{Peer, Sid, Who, Word, own_sid_text};
#[cfg(all(windows, not(callgate_sim)))]
pub use windows::{
    PidFd, Slice, barrier_all_threads, cpus_allowed, cpus_usable, current_cpu, generation, gid,
    is_current, is_realtime, overflow_uid, pid, raise_nofile, uid, yield_now,
};

/// Of long payloads so many bytes are asked for: 16 lines, about as many as processors fetch at a time.
pub const HINT_MAX: usize = 1 << 10;

/// Who a process is, as the kernel says. It is never taken from a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Process id in our own pid namespace; 0 when the process lives in one that we can't see into.
    pub pid: u32,
    /// Effective user id when the process connected or listened; [`overflow_uid`] when it has none
    /// in our user namespace, and then it must authorise nothing.
    pub uid: u32,
    /// Effective group id at the same moment.
    pub gid: u32,
}

/// Declares a static that each process has for itself.
///
/// That is what a static is on a real system. Where several processes are simulated in one, each of
/// them gets a value of its own, made when it first looks.
#[cfg(not(callgate_sim))]
#[macro_export]
macro_rules! process_local {
    ($(#[$meta:meta])* static $name:ident: $type:ty = $value:expr;) => {
        $(#[$meta])*
        static $name: $type = $value;
    };
}

/// Declares a static that each simulated process has for itself.
#[cfg(callgate_sim)]
#[macro_export]
macro_rules! process_local {
    ($(#[$meta:meta])* static $name:ident: $type:ty = $value:expr;) => {
        $(#[$meta])*
        static $name: $crate::process::ProcessLocal<$type> =
            $crate::process::ProcessLocal::new(|| $value);
    };
}
