//! `callgate ping`: round trips to a server, one after the other, and their statistics.

use std::io::Write;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use callgate::{CallError, CallOptions, Client};
use clap::Args;
use hdrhistogram::Histogram;

use crate::connect::ConnectArgs;
use crate::errors::call_code;
use crate::exit::{Code, Doing, Failure};
use crate::output::{self, HEAD, bytes, nanos, styled};
use crate::{signal, times};

/// Options of `ping`.
#[derive(Args, Debug)]
#[command(after_help = crate::exit::HELP)]
pub struct PingArgs {
    #[command(flatten)]
    server: ConnectArgs,
    /// Stop after so many round trips [default: until ctrl-C]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Pause between two round trips; 0 prints the statistics only
    #[arg(
        long, short, value_name = "TIME", default_value = "1s",
        value_parser = crate::duration::parse
    )]
    interval: Duration,
    /// Bytes in each request
    #[arg(
        long, short, value_name = "N", default_value = "32",
        value_parser = crate::duration::parse_bytes
    )]
    size: u64,
    /// Method number of the calls
    #[arg(long, value_name = "N", default_value_t = 0)]
    method: u32,
    /// Give each round trip that long; --wait comes before the first one
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = crate::duration::parse)]
    timeout: Duration,
}

/// What happened so far.
struct Tally {
    sent: u64,
    times: Histogram<u64>,
    last_error: Option<Code>,
}

/// Runs `ping`; a reply that is a handler's error is a round trip too.
///
/// # Errors
/// When the server can't be reached at first, or not one round trip succeeded.
pub fn run(args: &PingArgs) -> Result<(), Failure> {
    let client = args.server.connect()?;
    let tally =
        Arc::new(Mutex::new(Tally { sent: 0, times: times::histogram(), last_error: None }));
    let (end, ended) = channel();
    let started = Instant::now();
    let interrupted = end.clone();
    signal::on_termination(move |_| interrupted.send(Ok(())).is_ok()).doing("signals")?;
    let request = vec![0u8; usize::try_from(args.size).map_err(Failure::internal)?];
    let plan = Plan {
        options: CallOptions::new().method(args.method).timeout(args.timeout),
        name: args.server.name.to_string(),
        count: args.count.unwrap_or(u64::MAX),
        interval: args.interval,
    };
    let counted = tally.clone();
    // On a thread of its own, so that ctrl-C is answered while a call is waiting.
    thread::Builder::new()
        .spawn(move || {
            let _ = end.send(plan.ping(&client, &request, &counted));
        })
        .doing("thread")?;
    let result = ended.recv().unwrap_or(Ok(()));
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    print(&args.server.name.to_string(), &tally, started.elapsed())?;
    result?;
    match tally.last_error {
        Some(code) if tally.times.is_empty() => Err(Failure::silent(code as u8)),
        _ => Ok(()),
    }
}

struct Plan {
    options: CallOptions,
    name: String,
    count: u64,
    interval: Duration,
}

impl Plan {
    fn ping(&self, client: &Client, request: &[u8], tally: &Mutex<Tally>) -> Result<(), Failure> {
        let clock = times::clock_cost();
        let mut due = Instant::now();
        for number in 1..=self.count {
            let start = Instant::now();
            let result = client.call_with(self.options, request);
            let took = (start.elapsed().as_nanos() as u64).saturating_sub(clock);
            let line = {
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                tally.count(number, took, result.map(|reply| reply.len()), &self.name)
            };
            if self.interval.is_zero() {
                continue;
            }
            let mut out = output::out();
            writeln!(out, "{line}")?;
            out.flush()?;
            due += self.interval;
            if number < self.count {
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
        Ok(())
    }
}

impl Tally {
    /// Counts one round trip and says what to print about it.
    fn count(
        &mut self,
        number: u64,
        took: u64,
        result: Result<usize, CallError>,
        name: &str,
    ) -> String {
        self.sent = number;
        let reply = match result {
            Ok(len) => format!("{} from {name}", bytes(len as u64)),
            Err(CallError::Handler { code, .. }) => format!("error {code} from {name}"),
            Err(error) => {
                self.last_error = Some(call_code(&error));
                return format!("no reply: seq={number} {error}");
            }
        };
        self.times.saturating_record(took.max(1));
        format!("{reply}: seq={number} time={}", nanos(took))
    }
}

fn print(name: &str, tally: &Tally, time: Duration) -> Result<(), Failure> {
    let mut out = output::out();
    let (sent, times) = (tally.sent, &tally.times);
    let lost = sent - times.len();
    writeln!(out, "{}", styled(HEAD, format_args!("--- {name} ping statistics ---")))?;
    writeln!(
        out,
        "{sent} calls, {} replies, {lost} lost, time {}",
        times.len(),
        output::span(time)
    )?;
    if !times.is_empty() {
        let at = |quantile| nanos(times.value_at_quantile(quantile));
        writeln!(
            out,
            "round trip min {}  p50 {}  p99 {}  p99.9 {}  max {}",
            nanos(times.min()),
            at(0.5),
            at(0.99),
            at(0.999),
            nanos(times.max())
        )?;
    }
    Ok(out.flush()?)
}
