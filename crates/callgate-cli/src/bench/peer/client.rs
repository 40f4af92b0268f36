//! The hidden clients: `bench-client` measures, `bench-idlers` holds connections, `bench-fresh`
//! makes one call and ends.

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use callgate::{CallError, CallOptions, Client};
use clap::Args;

use super::trips::{Connect, Copied, Flight, InPlace, Small};
use super::{METHOD_NOTHING, Measured, Order, Ready, Work};
use crate::bench::bare::accept;
use crate::bench::flow::keep_in_flight;
use crate::bench::sample::{Pace, Sample, histogram, repeat};
use crate::exit::{Doing, Failure};
use crate::worker::{read_line, report};

/// Options of `bench-client`.
#[derive(Args, Debug)]
pub struct ClientArgs {
    name: String,
}

/// Options of `bench-idlers`.
#[derive(Args, Debug)]
pub struct IdlersArgs {
    name: String,
}

/// Options of `bench-fresh`.
#[derive(Args, Debug)]
pub struct FreshArgs {
    /// Of a callgate server, or the path of a Unix socket
    name: PathBuf,
    /// The name is a path
    #[arg(long)]
    unix: bool,
}

/// Runs the hidden `bench-client`: one [`Measured`] for each [`Order`].
///
/// # Errors
/// When the server can't be reached.
pub fn call(args: &ClientArgs) -> Result<(), Failure> {
    let client = Client::connect(&args.name)?;
    report(&Ready::with(1))?;
    let mut input = io::stdin().lock();
    while let Some(order) = read_line::<Order>(&mut input).doing("standard input")? {
        let measured: Measured =
            measure(&client, &args.name, order).map_err(|error| error.to_string());
        report(&measured)?;
    }
    Ok(())
}

fn measure(client: &Client, name: &str, Order { work, pace }: Order) -> io::Result<Sample> {
    match work {
        Work::Small { size: 48, handler_ns } => {
            repeat(&mut Small::<48>::new(client, handler_ns), pace)
        }
        Work::Small { handler_ns, .. } => repeat(&mut Small::<32>::new(client, handler_ns), pace),
        Work::InPlace { size } => repeat(&mut InPlace::new(client, size), pace),
        Work::Copied { size } => repeat(&mut Copied::new(client, size), pace),
        Work::Flight { window } => keep_in_flight(&mut Flight::new(client, window), window, pace),
        Work::Threads { threads } => from_threads(client, threads, pace),
        Work::Connect => repeat(&mut Connect::new(name), pace),
    }
}

/// Calls from several threads at the same time; their times and trips together.
fn from_threads(client: &Client, threads: usize, pace: Pace) -> io::Result<Sample> {
    let samples: Vec<io::Result<Sample>> = std::thread::scope(|scope| {
        let call = || repeat(&mut Small::<32>::new(client, 0), pace);
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(call)).collect();
        let crashed = |_| Err(io::Error::other("a thread panicked"));
        running.into_iter().map(|thread| thread.join().unwrap_or_else(crashed)).collect()
    });
    let mut times = histogram();
    let mut all = Sample::default();
    for sample in samples {
        let sample = sample?;
        sample.add_to(&mut times);
        all.elapsed_ns = all.elapsed_ns.max(sample.elapsed_ns);
    }
    let elapsed = std::time::Duration::from_nanos(all.elapsed_ns);
    Ok(Sample::new(&times, elapsed))
}

/// Runs the hidden `bench-idlers`: for each number on its input, holds that many connections.
///
/// # Errors
/// When the server can't be reached.
pub fn idle(args: &IdlersArgs) -> Result<(), Failure> {
    let mut clients = Vec::new();
    report(&Ready::with(0))?;
    let mut input = io::stdin().lock();
    while let Some(wanted) = read_line::<usize>(&mut input).doing("standard input")? {
        clients.truncate(wanted);
        let mut ready = Ready::with(wanted as u64);
        while clients.len() < wanted {
            let client = connect(&args.name, &mut ready)?;
            // A call each, so that both sides have set up all that a connection has in use.
            client.call_with(CallOptions::new().method(METHOD_NOTHING), &[])?;
            clients.push(client);
        }
        report(&ready)?;
    }
    Ok(())
}

/// Connects; where the server refuses, counts that and tries again.
fn connect(name: &str, ready: &mut Ready) -> Result<Client, CallError> {
    let mut tries = 0;
    loop {
        match Client::connect(name) {
            Err(CallError::Refused { reason, .. }) if tries < TRIES_MAX => {
                tries += 1;
                ready.refused += 1;
                ready.reason = Some(reason);
            }
            ended => return ended,
        }
    }
}

/// How often a refused connection is tried again.
const TRIES_MAX: u32 = 5;

/// Runs the hidden `bench-fresh`: tells how long the first call of this process took, in
/// nanoseconds, from before connecting.
///
/// # Errors
/// When the server can't be reached, or the answer is wrong.
pub fn fresh(args: &FreshArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let (took, right) = if args.unix {
        let (_socket, back) = accept::connect_and_echo(&args.name, 1).doing("connect")?;
        (start.elapsed(), accept::is_answer(&back, 1))
    } else {
        let name = args.name.to_string_lossy();
        let client = Client::connect(&*name)?;
        let reply = client.call(&[1; accept::BYTES])?;
        let mut back = [0; accept::BYTES];
        let len = reply.payload().copy_to(&mut back);
        // The server inverts the first eight bytes.
        let inverted = back.iter().take_while(|byte| **byte == !1).count();
        (start.elapsed(), (len, inverted, back[31]) == (accept::BYTES, 8, 1))
    };
    if !right {
        return Err(Failure::internal("the first answer is wrong"));
    }
    Ok(report(&(took.as_nanos() as u64))?)
}
