//! When a caller stops waiting, as a request carries it.

/// A deadline in ticks of 2^16 ns (65.536 us), rounded up; 0 stands for none.
///
/// The clock is the machine's monotonic clock, the same in all its processes. Ticks wrap after 78 hours, so a deadline
/// further off than 39 hours is sent as none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline(pub(super) u32);

const TICK_SHIFT: u32 = 16;
const HORIZON_TICKS: u64 = 1 << 31;

impl Deadline {
    /// No deadline.
    pub const NONE: Self = Self(0);

    /// Encodes an instant, given as nanoseconds of the monotonic clock, seen from `now_ns`.
    #[must_use]
    pub fn encode(deadline_ns: u64, now_ns: u64) -> Self {
        let tick = (deadline_ns >> TICK_SHIFT) + 1;
        if tick.saturating_sub(now_ns >> TICK_SHIFT) >= HORIZON_TICKS {
            return Self::NONE;
        }
        Self((tick as u32).max(1))
    }

    /// The instant in nanoseconds of the monotonic clock; `None` when there is no deadline.
    #[must_use]
    pub fn decode(self, now_ns: u64) -> Option<u64> {
        if self.0 == 0 {
            return None;
        }
        let now = now_ns >> TICK_SHIFT;
        let ahead = i64::from(self.0.wrapping_sub(now as u32) as i32);
        Some(now.saturating_add_signed(ahead) << TICK_SHIFT)
    }
}
