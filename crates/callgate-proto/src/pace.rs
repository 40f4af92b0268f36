//! The decisions of waiting: whether to spin, to yield or to sleep. Decisions only; the loops are elsewhere.
//!
//! | file | owns |
//! | --- | --- |
//! | `pace` | policies, and what looking is worth |
//! | `caller` | [`CallerPace`]: what callers have learned |
//! | `thinking` | [`Thinking`]: what clients tell of their pauses |
//! | `worker` | [`WorkerPace`]: what a server's worker has |
//! | `gap` | [`Gap`]: when to look for the first time |
//! | `yielding` | [`YieldHabit`], [`YieldBan`], turns in a crowd |
//!
//! Who spins while the peer must first be woken holds the CPU on which the peer could run, and pays a wake-up of a
//! halted one instead. So nobody spins blindly:
//!
//! * A caller that had to ring found the server asleep: it yields once, to a server that was woken on this CPU, and
//!   sleeps (COLD).
//! * A caller that found the server polling keeps away from the line for a moment ([`Gap`]), then spins: for twice as
//!   long as answers have been taking, at least half of a wake-up and never longer than looking is worth (HOT): a wake-up,
//!   and the time to move the message ([`worth_ns`]). Where answers take longer than that it sleeps (LONG), and tries
//!   again now and then.
//! * Where the active clients and the worker are more than the CPUs, or the server was last seen on the caller's own
//!   CPU, it yields instead of spinning (CROWD), and in a crowd gives way once in a turn even if answers come at
//!   once. Yields that brought the answer make a habit of it ([`YieldHabit`]). Several yields that took long mean
//!   that strangers want the CPU: then yielding is banned for a while that grows each time ([`YieldBan`]).
//! * The server polls after an answer while that pays: told by its clients how long they think between calls, and
//!   taught by polls that found nothing, and by calls that took long. Before it sleeps it yields once.

mod caller;
mod gap;
mod thinking;
mod worker;
mod yielding;

pub use caller::{CallerPace, Plan, Surroundings};
pub use gap::{Gap, Gaps, SizeClass};
pub use thinking::Thinking;
pub use worker::WorkerPace;
pub use yielding::{YIELD_ALONE_NS, YieldBan, YieldHabit, calls_per_turn, slow_yield_ns};

/// What the user wants of waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Spin long before sleeping. For pairs that have CPUs to themselves.
    LowestLatency,
    /// Learn when spinning pays.
    #[default]
    Balanced,
    /// Sleep whenever there is nothing to do, after giving way once.
    LowestCpu,
}

/// What a wake-up of a sleeping peer costs, in nanoseconds; spinning longer than this to avoid one is a loss.
pub const WAKE_NS: u64 = 50_000;

/// What a wake-up of a halted CPU can take, in nanoseconds. On a virtual machine 70 to 130 us were seen, for seconds on end:
/// a worker that gives up before its client has woken up pays that for each call, and so does the client.
pub const SLOW_WAKE_NS: u64 = 4 * WAKE_NS;

/// Beyond so many bytes a wake-up is nothing beside the message.
const WORTH_BYTES_MAX: u64 = 32 << 20;

/// How long it is worth to look for a peer that handles a message of so many bytes, in nanoseconds, rather than to sleep: a
/// wake-up, and the time that the message itself takes to be written and read, at some 8 bytes in a nanosecond. Both sides
/// use their CPUs for that anyway.
#[inline]
#[must_use]
pub fn worth_ns(bytes: u64) -> u64 {
    WAKE_NS + bytes.min(WORTH_BYTES_MAX) / 8
}

/// How long [`Policy::LowestLatency`] spins, in nanoseconds.
pub const LATENCY_SPIN_NS: u64 = 2_000_000;

#[cfg(all(test, not(loom)))]
mod tests;
