//! Many calls in flight from one thread: how many a second.

use std::io;
use std::time::Instant;

use super::process;
use super::sample::{Pace, Sample, histogram};

/// Messages that are sent ahead of their answers, which come in order.
pub trait Flow {
    /// Sends the next one.
    ///
    /// # Errors
    /// Those of the transport.
    fn send(&mut self) -> io::Result<()>;

    /// Waits for the oldest answer, and checks it.
    ///
    /// # Errors
    /// Those of the transport, and a wrong answer.
    fn receive(&mut self) -> io::Result<()>;
}

/// Messages between two looks at the clock.
const STRIDE: u64 = 256;

/// Keeps `window` messages in flight for the time of `pace`: each answer makes room for the next.
///
/// # Errors
/// The first of the flow's.
pub fn keep_in_flight(flow: &mut impl Flow, window: usize, pace: Pace) -> io::Result<Sample> {
    process::sleep_until(pace.start_ns);
    for _ in 0..window {
        flow.send()?;
    }
    for _ in 0..pace.discard {
        flow.receive()?;
        flow.send()?;
    }
    let begun = Instant::now();
    let mut trips = 0;
    loop {
        for _ in 0..STRIDE {
            flow.receive()?;
            flow.send()?;
        }
        trips += STRIDE;
        if begun.elapsed() >= pace.time && trips >= pace.least {
            break;
        }
    }
    let elapsed = begun.elapsed();
    for _ in 0..window {
        flow.receive()?;
    }
    Ok(Sample { trips, ..Sample::new(&histogram(), elapsed) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Counting {
        sent: u64,
        received: u64,
        most: u64,
    }

    impl Flow for Counting {
        fn send(&mut self) -> io::Result<()> {
            self.sent += 1;
            self.most = self.most.max(self.sent - self.received);
            Ok(())
        }

        fn receive(&mut self) -> io::Result<()> {
            self.received += 1;
            Ok(())
        }
    }

    #[test]
    fn the_window_is_kept_and_emptied() {
        let mut flow = Counting::default();
        let pace = Pace { discard: 10, least: 1_000, ..Pace::default() };
        let sample = keep_in_flight(&mut flow, 64, pace).unwrap();
        assert_eq!(sample.trips, 1_024);
        assert_eq!((flow.most, flow.sent), (64, flow.received));
        assert_eq!(flow.sent, 64 + 10 + 1_024);
    }
}
