//! Time limits: a condition is waited for, never a time, and never for ever.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a test waits for what must happen soon. Generous: a loaded machine is no failure.
pub const BOUND: Duration = Duration::from_secs(30);

/// Runs a whole test in a thread of its own and fails if it takes longer than `limit`: a hang is a failure, not a hang.
///
/// # Panics
/// When the body panics or hangs.
pub fn within<T: Send + 'static>(limit: Duration, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
        let ended = catch_unwind(AssertUnwindSafe(body));
        let _ = sender.send(ended);
    });
    thread.expect("a thread");
    match receiver.recv_timeout(limit) {
        Ok(Ok(value)) => value,
        Ok(Err(panic)) => resume_unwind(panic),
        Err(RecvTimeoutError::Timeout) => panic!("{name} hangs: not done after {limit:?}"),
        Err(RecvTimeoutError::Disconnected) => panic!("{name} vanished"),
    }
}

/// Waits until `condition` gives a value, looking again and again, for at most [`BOUND`].
///
/// # Panics
/// When it does not within the bound.
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    until_for(BOUND, what, condition)
}

/// As [`until`], with a bound of its own.
///
/// # Panics
/// When the condition is not met within `bound`.
pub fn until_for<T>(bound: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < bound, "not within {bound:?}: {what}");
        // Between two looks only: the machine has work to do meanwhile.
        std::thread::sleep(Duration::from_millis(1));
    }
}
