//! What a client process does once it is told to go.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::clock;
use crate::message::Message;
use crate::order::{Outcome, Task};
use crate::peer::{Client, Peer, Place, Result};
use crate::situation::Work;

/// Connections made at the least, since some take long.
const LEAST_CONNECTIONS: u64 = 3;

/// Makes an empty histogram of nanoseconds up to five minutes, exact to three digits.
pub fn histogram() -> Histogram<u64> {
    // Fails only for bounds and digits other than these.
    Histogram::new_with_bounds(1, 300_000_000_000, 3).expect("constant bounds are valid")
}

/// Measures with `client`, which is connected, except for [`Work::Connect`], where it is `None`.
///
/// # Errors
/// Those of the peer, and wrong replies.
pub fn measure(
    peer: &dyn Peer,
    place: &Place,
    task: Task,
    client: Option<Box<dyn Client>>,
    charged: &[u32],
) -> Result<Outcome> {
    match (task.work, client) {
        (Work::Calls(gap), Some(client)) => calls(client, place, task.time, gap, charged),
        (Work::Window(window), Some(client)) => counted(client, place, task.time, window, charged),
        (Work::Killed, Some(client)) => unanswered(client, place),
        (Work::Connect, _) => connections(peer, place, task.time, charged),
        (_, None) => Err("a client was not connected".into()),
    }
}

fn calls(
    mut client: Box<dyn Client>,
    place: &Place,
    time: Duration,
    gap: Duration,
    charged: &[u32],
) -> Result<Outcome> {
    let mut message = Message::new(place.size);
    let mut number = 0;
    timed(time, 1, charged, || {
        if !gap.is_zero() {
            std::thread::sleep(gap);
        }
        number += 1;
        message.renumber(number);
        let start = Instant::now();
        client.call(&message)?;
        Ok((start.elapsed(), ()))
    })
}

fn connections(peer: &dyn Peer, place: &Place, time: Duration, charged: &[u32]) -> Result<Outcome> {
    let message = Message::new(place.size);
    timed(time, LEAST_CONNECTIONS, charged, || {
        let start = Instant::now();
        let mut client = peer.connect(place)?;
        client.call(&message)?;
        // The client is handed out so that it disconnects outside of the measured time.
        Ok((start.elapsed(), client))
    })
}

/// Repeats `step`, which says how long it took, first for a tenth of `time` without counting.
fn timed<T>(
    time: Duration,
    least: u64,
    charged: &[u32],
    mut step: impl FnMut() -> Result<(Duration, T)>,
) -> Result<Outcome> {
    let clock = clock::cost_ns();
    let mut times = histogram();
    let mut repeat = |time: Duration, least: u64, times: &mut Histogram<u64>| {
        let end = Instant::now() + time;
        while Instant::now() < end || times.len() < least {
            let (took, _kept) = step()?;
            let took = (took.as_nanos() as u64).saturating_sub(clock);
            times.saturating_record(took.max(1));
        }
        Result::Ok(())
    };
    repeat(time / 10, 1, &mut times)?;
    times.reset();
    let meter = Meter::start(charged)?;
    repeat(time, least, &mut times)?;
    let recorded = times.iter_recorded();
    let pairs = recorded.map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
    meter.stop(times.len(), pairs)
}

/// Keeps `window` calls in flight, and counts them.
fn counted(
    mut client: Box<dyn Client>,
    place: &Place,
    time: Duration,
    window: usize,
    charged: &[u32],
) -> Result<Outcome> {
    let (mut sent, mut back) = (Message::new(place.size), Message::new(place.size));
    let window = window as u64;
    let (mut submitted, mut completed) = (0, 0);
    let mut repeat = |time: Duration| {
        let (before, end) = (completed, Instant::now() + time);
        // The clock is read once a window: it would cost as much as a call does.
        while Instant::now() < end {
            for _ in 0..window {
                if submitted - completed == window {
                    back.renumber(completed);
                    client.complete(&back)?;
                    completed += 1;
                }
                sent.renumber(submitted);
                client.submit(&sent)?;
                submitted += 1;
            }
        }
        Result::Ok(completed - before)
    };
    repeat(time / 10)?;
    let meter = Meter::start(charged)?;
    let calls = repeat(time)?;
    meter.stop(calls, Vec::new())
}

/// Makes a call that only an error ends.
fn unanswered(mut client: Box<dyn Client>, place: &Place) -> Result<Outcome> {
    let ended = client.call(&Message::unanswered(place.size));
    let ended_ns = clock::monotonic_ns();
    match ended {
        Ok(()) => Err("a call was answered that should not have been".into()),
        Err(_) => Ok(Outcome { calls: 1, ended_ns, ..Outcome::default() }),
    }
}

/// Time and CPU time from here on.
struct Meter<'a> {
    charged: &'a [u32],
    cpu_ns: u64,
    start: Instant,
}

impl Meter<'_> {
    fn start(charged: &[u32]) -> Result<Meter<'_>> {
        Ok(Meter { charged, cpu_ns: cpu_ns(charged)?, start: Instant::now() })
    }

    fn stop(self, calls: u64, times: Vec<(u64, u64)>) -> Result<Outcome> {
        let elapsed_ns = self.start.elapsed().as_nanos() as u64;
        let cpu_ns = cpu_ns(self.charged)?.saturating_sub(self.cpu_ns);
        Ok(Outcome { times, calls, elapsed_ns, cpu_ns, ended_ns: clock::monotonic_ns() })
    }
}

fn cpu_ns(charged: &[u32]) -> Result<u64> {
    let all = charged.iter().copied().chain([std::process::id()]);
    all.map(clock::cpu_ns).sum()
}
