//! What a server does with an answer that is ready. Knows neither the system nor how bytes are kept.
//!
//! The client that an answer is meant for may have given up, and then nobody may get it: a client that finds Done set
//! takes whatever is in the memory for its own answer, and so does the next one, for ever. What can be known is looked
//! at in an order in which each look is still true when the next one is made.

use std::time::Duration;

/// What the server can look at. Each look may change something, and says so.
pub(crate) trait Looks {
    type Error;

    /// Whether a client owns Free. If none did, takes back Exec and Done, which nobody waits for.
    fn in_exchange(&mut self) -> Result<bool, Self::Error>;
    /// Whether Exec is set again; takes it.
    fn exec_again(&mut self) -> Result<bool, Self::Error>;
    /// Whether the memory still holds what the server took from it.
    fn unchanged(&mut self) -> bool;
}

/// Which looks are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Care {
    pub(crate) patience: Option<Duration>,
    pub(crate) watch_free: bool,
    pub(crate) watch_memory: bool,
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes to the memory, and Done is set.
    Publish,
    /// Nobody waits for it.
    Drop,
    /// Nobody waits for it, and Exec was taken for another request, which is in the memory.
    DropAndHandle,
}

/// Decides about an answer that took `took` since its request was taken.
pub(crate) fn verdict<L: Looks>(
    looks: &mut L,
    care: Care,
    took: Duration,
) -> Result<Verdict, L::Error> {
    if care.watch_free && !looks.in_exchange()? {
        return Ok(Verdict::Drop);
    }
    // Before the clock: a request that has come since is handled, however late this answer is.
    if care.watch_memory && looks.exec_again()? {
        return Ok(Verdict::DropAndHandle);
    }
    if care.patience.is_some_and(|patience| took >= patience) {
        return Ok(Verdict::Drop);
    }
    // Last, right before the memory is written: a client that has Free fills it in just now.
    if care.watch_memory && !looks.unchanged() {
        return Ok(Verdict::Drop);
    }
    Ok(Verdict::Publish)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Seen {
        owned: bool,
        again: bool,
        same: bool,
        looked: String,
    }

    impl Looks for Seen {
        type Error = ();

        fn in_exchange(&mut self) -> Result<bool, ()> {
            self.looked.push('f');
            Ok(self.owned)
        }

        fn exec_again(&mut self) -> Result<bool, ()> {
            self.looked.push('e');
            Ok(self.again)
        }

        fn unchanged(&mut self) -> bool {
            self.looked.push('m');
            self.same
        }
    }

    /// Every combination: what is found, and what is looked at, in which order.
    #[test]
    fn verdicts() {
        let bits = |n: u32| [1, 2, 4, 8, 16, 32].map(|bit| n & bit != 0);
        for [owned, again, same, late, watch_free, watch_memory] in (0..64).map(bits) {
            let mut seen = Seen { owned, again, same, looked: String::new() };
            let patience = Some(Duration::from_millis(10));
            let took = Duration::from_millis(if late { 10 } else { 9 });
            let care = Care { patience, watch_free, watch_memory };
            let (want, looked) = match () {
                () if watch_free && !owned => (Verdict::Drop, "f"),
                () if watch_memory && again => (Verdict::DropAndHandle, "fe"),
                () if late => (Verdict::Drop, "fe"),
                () if watch_memory && !same => (Verdict::Drop, "fem"),
                () => (Verdict::Publish, "fem"),
            };
            assert_eq!(verdict(&mut seen, care, took), Ok(want));
            let looked = looked
                .chars()
                .filter(|look| if *look == 'f' { watch_free } else { watch_memory })
                .collect::<String>();
            assert_eq!(seen.looked, looked);
            let care = Care { patience: None, watch_free: false, watch_memory: false };
            assert_eq!(verdict(&mut seen, care, Duration::MAX), Ok(Verdict::Publish));
        }
    }
}
