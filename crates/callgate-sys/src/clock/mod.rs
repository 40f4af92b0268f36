//! The one clock of every deadline: nanoseconds of `CLOCK_MONOTONIC`.
//!
//! Why this clock: it isn't moved when somebody sets the wall clock, it is the same in every
//! process of the machine, so that a deadline may be sent to a peer as a number, and the kernel's
//! waits take it directly. It doesn't count the time that the machine is suspended: a call with a
//! second left when the lid closes has a second left when it opens, instead of failing before the
//! peer could run at all.

#[cfg(all(target_os = "linux", not(callgate_sim)))]
mod linux;
#[cfg(callgate_sim)]
mod sim;
#[cfg(all(windows, not(callgate_sim)))]
mod windows;

use std::time::{Duration, Instant};

#[cfg(all(target_os = "linux", not(callgate_sim)))]
pub use linux::now_ns;
#[cfg(all(target_os = "linux", not(callgate_sim)))]
pub(crate) use linux::{left, timespec};
#[cfg(callgate_sim)]
pub use sim::now_ns;
#[cfg(all(windows, not(callgate_sim)))]
pub use windows::now_ns;

/// Gives the instant that lies `timeout` from now, in nanoseconds of [`now_ns`].
///
/// Saturates: a timeout that no clock will reach gives `u64::MAX`, which every wait of this crate
/// accepts. Never blocks; any thread may call it.
pub fn deadline_ns(timeout: Duration) -> u64 {
    let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
    now_ns().saturating_add(timeout_ns)
}

/// Converts nanoseconds of [`now_ns`] to an [`Instant`], as exactly as two clock reads in a row
/// allow.
///
/// An instant too far away for [`Instant`] to express is brought nearer: 30 years from now, or now
/// if it lies too far in the past. Never blocks; any thread may call it.
pub fn to_instant(at_ns: u64) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    let (now, instant) = (now_ns(), Instant::now());
    if at_ns >= now {
        let ahead = Duration::from_nanos(at_ns - now).min(FAR);
        instant.checked_add(ahead).unwrap_or(instant)
    } else {
        instant.checked_sub(Duration::from_nanos(now - at_ns)).unwrap_or(instant)
    }
}

#[cfg(all(test, not(callgate_sim)))]
mod tests {
    use super::*;

    #[test]
    fn deadline_saturates() {
        assert_eq!(deadline_ns(Duration::MAX), u64::MAX);
        assert!(deadline_ns(Duration::from_secs(1)) > now_ns());
    }

    #[test]
    fn instants_agree_with_the_clock() {
        let before = Instant::now();
        let converted = to_instant(now_ns());
        let after = Instant::now();
        // The conversion reads two clocks one after the other, so it may be late by what lies
        // between them.
        assert!(
            converted + Duration::from_secs(1) > before
                && converted < after + Duration::from_secs(1)
        );
        let later = to_instant(deadline_ns(Duration::from_secs(100)));
        assert!(later > Instant::now() + Duration::from_secs(90));
        assert!(to_instant(u64::MAX) > Instant::now());
        assert!(to_instant(0) <= Instant::now());
    }
}
