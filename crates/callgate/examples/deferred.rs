//! A server with slow and quick calls: the slow ones are answered later, from another thread, so
//! that the quick ones do not wait behind them.

use std::error::Error;
use std::sync::mpsc;
use std::thread;

use callgate::{Call, CallOptions, Client, Deferred, Server};

const NAME: &str = "example-deferred";
const SQUARE: u32 = 0;
const COUNT_PRIMES: u32 = 1;
const UNKNOWN_METHOD: u32 = 1;

fn number(call: &Call<'_>) -> u64 {
    let mut bytes = [0; 8];
    call.request().copy_to(&mut bytes);
    u64::from_le_bytes(bytes)
}

fn count_primes(call: Deferred) {
    let below = number(&call);
    let mut count = 0u64;
    for candidate in 2..below {
        // Nobody waits any more: dropping the call, or any answer, gives its memory back.
        if candidate % 4096 == 0 && call.is_cancelled() {
            return;
        }
        let is_prime = |n: u64| (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
        count += u64::from(is_prime(candidate));
    }
    let _ = call.reply(&count.to_le_bytes());
}

fn main() -> Result<(), Box<dyn Error>> {
    let (sender, receiver) = mpsc::channel::<Deferred>();
    let worker = thread::spawn(move || receiver.into_iter().for_each(count_primes));
    let server = Server::serve(NAME, move |call: Call<'_>| match call.method() {
        SQUARE => {
            let answer = number(&call).wrapping_pow(2);
            let _ = call.reply(&answer.to_le_bytes());
        }
        // If the worker is gone the call is dropped, which answers it with a failure.
        COUNT_PRIMES => drop(sender.send(call.defer())),
        other => drop(call.fail(UNKNOWN_METHOD, &format!("there is no method {other}"))),
    })?;

    let client = Client::connect(NAME)?;
    let slow = CallOptions::new().method(COUNT_PRIMES);
    let pending = client.submit(slow, &300_000u64.to_le_bytes())?;
    let given_up = client.submit(slow, &u64::MAX.to_le_bytes())?;
    let mut quick = 0;
    while !pending.is_done() {
        let reply = client.call(&12u64.to_le_bytes())?;
        assert_eq!(reply.to_vec(), 144u64.to_le_bytes());
        quick += 1;
    }
    let reply = pending.wait()?;
    assert_eq!(reply.to_vec(), 25_997u64.to_le_bytes());
    println!("25997 primes below 300000; {quick} quick calls were answered meanwhile");

    // The second slow call would take years: dropping it cancels it, and the handler can see that.
    given_up.cancel();
    drop(server); // and with it the handler and its sender, which ends the worker
    worker.join().map_err(|_| "the worker panicked")?;
    println!("the call that was given up did not keep its worker");
    Ok(())
}
