//! Waiting for what a process has measured, and not forever.
//!
//! What polls shared memory does not learn that its partner was killed, and must not ask while it is
//! timed. So the process that has started both looks, from outside and seldom.

use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::process::Partner;
use super::sample::Pace;

/// From one look to the next; most rounds are over before the first.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// What starting, connecting and a busy machine may take besides the measuring itself.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How much longer than planned measuring may take: crowds wait for each other.
const SLOWER: u32 = 5;

/// How long a round of this pace may take.
pub fn patience(pace: Pace) -> Duration {
    let planned = pace.time + pace.untimed + pace.gap * pace.least as u32;
    PATIENCE + SLOWER * planned
}

/// Waits until `input` has something to read, or its writer is gone.
///
/// # Errors
/// `TimedOut` after `patience`; within some seconds when `partner`, without whom nothing will come,
/// has ended.
pub fn await_input(
    input: &BufReader<impl AsFd>,
    patience: Duration,
    partner: Option<&Partner>,
) -> io::Result<()> {
    let begun = Instant::now();
    while input.buffer().is_empty() {
        match poll(&mut [PollFd::new(input.get_ref(), PollFlags::IN)], Some(&LOOK)) {
            Ok(0) | Err(Errno::INTR) => {}
            ended => return Ok(ended.map(drop)?),
        }
        if partner.is_some_and(Partner::has_ended) {
            return Err(io::Error::other("the process at the other end has ended"));
        }
        if begun.elapsed() >= patience {
            let message = format!("no answer for {} s", patience.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_comes_is_waited_for_and_nothing_else() {
        let (reader, mut writer) = io::pipe().unwrap();
        let input = BufReader::new(reader);
        let never = await_input(&input, Duration::ZERO, None).unwrap_err();
        assert_eq!(never.kind(), io::ErrorKind::TimedOut);
        writer.write_all(b"x").unwrap();
        await_input(&input, Duration::ZERO, None).unwrap();
        let (reader, writer) = io::pipe().unwrap();
        drop(writer);
        await_input(&BufReader::new(reader), Duration::ZERO, None).unwrap();
    }

    #[test]
    fn rounds_may_take_longer_than_planned() {
        let second = Duration::from_secs(1);
        let pace = Pace { time: second, gap: second, least: 3, ..Pace::default() };
        assert_eq!(patience(pace), PATIENCE + 20 * second);
    }
}
