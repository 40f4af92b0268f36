//! How long a client thinks between its calls.

use super::WAKE_NS;
use crate::body::Think;

/// Calls in a row that tell the same without another look at the clock.
const REPEATS: u8 = 7;

/// What a client tells of its thinking, and when it looks at the clock for that: around the pauses after calls that it
/// slept for, and where these are long, around one in a few. A clock that has left the caches is part of what a sparse call
/// costs.
#[derive(Debug, Default)]
pub struct Thinking {
    now: Now,
    last: Think,
    repeats: u8,
    /// Number of the call that repeats may follow.
    after: u64,
}

#[derive(Debug, Default)]
enum Now {
    /// The last call was answered at once.
    #[default]
    Unknown,
    /// As long as the last time.
    Repeated,
    /// Since this instant.
    Since(u64),
}

impl Thinking {
    /// A call has ended. `number`: that of the next one. Calls that were answered at once need not be told of: who finds a
    /// gap in the numbers repeats nothing.
    #[inline]
    pub fn answered(&mut self, slept: bool, number: u64, now_ns: impl FnOnce() -> u64) {
        let follows = number == self.after.wrapping_add(1);
        self.after = number;
        self.now = if !slept {
            self.repeats = 0;
            Now::Unknown
        } else if self.repeats > 0 && follows {
            self.repeats -= 1;
            Now::Repeated
        } else {
            Now::Since(now_ns())
        };
    }

    /// Another one begins: what it tells.
    #[inline]
    pub fn ended(&mut self, now_ns: impl FnOnce() -> u64) -> Think {
        match std::mem::take(&mut self.now) {
            Now::Unknown => Think::UNKNOWN,
            Now::Repeated => self.last,
            Now::Since(began_ns) => {
                self.last = Think::from_ns(now_ns().saturating_sub(began_ns));
                let is_long = self.last.ns_max().is_some_and(|ns| ns > 2 * WAKE_NS);
                self.repeats = if is_long { REPEATS } else { 0 };
                self.last
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Makes calls that were slept for, with pauses; gives what they told, and how often they looked at the clock.
    fn told(thinking: &mut Thinking, pauses_us: &[u64]) -> (Vec<Think>, u32) {
        let (mut clock_ns, mut looks) = (1, 0);
        let first = thinking.after + 1;
        let thoughts = (first..).zip(pauses_us).map(|(number, us)| {
            thinking.answered(true, number, || {
                looks += 1;
                clock_ns
            });
            clock_ns += us * 1_000;
            thinking.ended(|| {
                looks += 1;
                clock_ns
            })
        });
        let thoughts = thoughts.collect();
        (thoughts, looks)
    }

    #[test]
    fn sparse_calls_look_at_the_clock_once_in_a_while() {
        let (thoughts, looks) = told(&mut Thinking::default(), &[1_000; 16]);
        assert_eq!(thoughts, [Think::from_ns(1_000_000); 16]);
        assert_eq!(looks, 4);
    }

    #[test]
    fn short_pauses_are_measured_each() {
        let (thoughts, looks) = told(&mut Thinking::default(), &[20, 3, 40]);
        assert_eq!(thoughts, [20, 3, 40].map(|us| Think::from_ns(us * 1_000)));
        assert_eq!(looks, 6);
    }

    #[test]
    fn a_change_is_told_after_eight_calls_at_most() {
        let mut thinking = Thinking::default();
        told(&mut thinking, &[1_000]);
        let (thoughts, _) = told(&mut thinking, &[1; 8]);
        assert_eq!(thoughts[6], Think::from_ns(1_000_000));
        assert_eq!(thoughts[7], Think::from_ns(1_000));
    }

    #[test]
    fn an_answer_at_once_ends_it() {
        let mut thinking = Thinking::default();
        told(&mut thinking, &[1_000]);
        thinking.answered(false, 2, || unreachable!());
        assert_eq!(thinking.ended(|| unreachable!()), Think::UNKNOWN);
        assert_eq!(told(&mut thinking, &[2]).0, [Think::from_ns(2_000)]);
    }

    #[test]
    fn calls_in_between_that_were_not_told_of_end_it() {
        let mut thinking = Thinking::default();
        told(&mut thinking, &[1_000; 2]);
        let later = thinking.after + 2;
        thinking.answered(true, later, || 1_000_000);
        assert_eq!(thinking.ended(|| 1_002_000), Think::from_ns(2_000));
    }

    #[test]
    fn who_did_not_call_before_tells_nothing() {
        assert_eq!(Thinking::default().ended(|| unreachable!()), Think::UNKNOWN);
    }
}
