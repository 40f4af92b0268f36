//! The two sides of the calls whose instructions `scripts/check-instructions` counts. Not for use by itself.
//!
//! `instructions server|client|load SITUATION PATH`. The script runs one side under callgrind and the other without;
//! `load` is the client of a server that is counted, and does not go to sleep while callgrind writes a file.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use callgate::{Call, CallOptions, Client, ClientOptions, Server, WaitPolicy};

/// Connections, one after the other: what a client learns about waiting goes with the connection.
const ROUNDS: u32 = 16;
/// Calls on a connection before any is counted.
const WARM_UP: u32 = 128;
/// Counted calls on a connection.
const COUNTED: u32 = 12;
/// Of so many calls one is counted. callgrind writes for a millisecond after it, in which the server falls asleep.
const ONE_OF: u32 = 16;
/// Of so many calls a server counts one. No divisor of the calls in flight, so that it is another one each time.
const TURNS: u64 = 37;
/// Calls in flight in `flight`.
const IN_FLIGHT: usize = 32;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, situation, path] = arguments.as_slice() else {
        panic!("server|client|load SITUATION PATH");
    };
    match role.as_str() {
        "server" => serve(situation, path),
        "client" => call(situation, path, &ClientOptions::default()),
        "load" => {
            let mut options = ClientOptions::default();
            options.wait = WaitPolicy::LowestLatency;
            call(situation, path, &options);
        }
        other => panic!("no role {other}"),
    }
}

/// Runs what is counted of a client. callgrind knows it by its name.
#[unsafe(no_mangle)]
#[inline(never)]
fn instructions_counted(call: &mut dyn FnMut()) {
    call();
    black_box(call); // so that the call above is no jump
}

fn call(situation: &str, path: &str, options: &ClientOptions) {
    for round in 0..ROUNDS {
        let client = Client::connect_with(path, options.clone()).expect("a server");
        copied::<32>(&client);
        if round == 0 {
            leave_the_servers_cpu();
        }
        match situation {
            "lone/32" => each(|| copied::<32>(&client)),
            "far/256" => each(|| copied::<256>(&client)),
            "loan/4k" => each(|| in_place::<4096>(&client)),
            "submit/48" | "flight/48" => flight(&client, true),
            "wait/48" => flight(&client, false),
            other => panic!("no situation {other}"),
        }
    }
}

/// Keeps this thread on the first CPU that it may use; the script keeps the server on the last. Side by side on one CPU
/// a reply is seldom there at the first look. The library has asked before how many CPUs there are, and keeps that.
fn leave_the_servers_cpu() {
    // SAFETY: an array of integers, for which zeros are a value.
    let mut cpus: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let size = size_of_val(&cpus);
    // SAFETY: the set is valid for reads and writes of its size, and thread 0 is this one.
    unsafe {
        assert_eq!(libc::sched_getaffinity(0, size, &mut cpus), 0);
        let first = (0..libc::CPU_SETSIZE as usize).find(|cpu| libc::CPU_ISSET(*cpu, &cpus));
        libc::CPU_ZERO(&mut cpus);
        libc::CPU_SET(first.expect("a CPU"), &mut cpus);
        assert_eq!(libc::sched_setaffinity(0, size, &cpus), 0);
    }
}

fn each(call: impl Fn()) {
    for number in 0..WARM_UP + COUNTED * ONE_OF {
        if number >= WARM_UP && number % ONE_OF == ONE_OF - 1 {
            instructions_counted(&mut || call());
        } else {
            call();
        }
    }
}

fn copied<const LEN: usize>(client: &Client) {
    let reply = client.call(black_box(&[7; LEN])).expect("a reply");
    let mut out = [0; LEN];
    assert_eq!(reply.payload().copy_to(&mut out), LEN);
    black_box(&out);
}

/// Few bytes are touched: what is done with the others is the user's affair.
fn in_place<const LEN: usize>(client: &Client) {
    let mut request = client.loan(black_box(LEN)).expect("memory");
    request[..8].copy_from_slice(&7u64.to_le_bytes());
    let reply = request.call(CallOptions::new()).expect("a reply");
    let mut out = [0; 8];
    reply.payload().copy_to(&mut out);
    assert_eq!((reply.len(), out), (LEN, 7u64.to_le_bytes()));
}

/// Fills the window, lets all replies come, then takes them: no wait is counted, and no call that found the server
/// asleep, as the first one may.
fn flight(client: &Client, submits: bool) {
    let submit = || client.submit(CallOptions::new(), black_box(&[7; 48])).expect("room");
    for window in 0..WARM_UP / 16 + COUNTED {
        let is_counted = window >= WARM_UP / 16;
        let mut pending = Vec::with_capacity(IN_FLIGHT);
        for number in 1..=IN_FLIGHT {
            let mut submit = || pending.push(submit());
            if is_counted && submits && number == IN_FLIGHT {
                instructions_counted(&mut submit);
            } else {
                submit();
            }
        }
        while !pending.iter().all(callgate::Pending::is_done) {
            std::hint::spin_loop();
        }
        for (number, pending) in pending.into_iter().enumerate() {
            let mut pending = Some(pending);
            let mut wait = || {
                let reply = pending.take().map(callgate::Pending::wait);
                assert_eq!(reply.expect("once").expect("a reply").len(), 48);
            };
            if is_counted && !submits && number == IN_FLIGHT / 2 {
                instructions_counted(&mut wait);
            } else {
                wait();
            }
        }
    }
}

/// Where the handler of a call begins from which on is counted. callgrind forgets what came before; it takes less long
/// than writing, so that the client does not fall asleep.
#[unsafe(no_mangle)]
#[inline(never)]
fn instructions_from(call: &Call<'_>) {
    black_box(call);
}

/// Where the handler of the next call begins. callgrind writes down what was counted.
#[unsafe(no_mangle)]
#[inline(never)]
fn instructions_to(call: &Call<'_>) {
    black_box((call, 0)); // not the same code as above, or the linker may make one of the two
}

fn serve(situation: &str, path: &str) {
    let in_place = situation == "loan/4k";
    let calls = AtomicU64::new(0);
    let _server = Server::serve(path, move |call: Call<'_>| {
        match calls.fetch_add(1, Ordering::Relaxed) % TURNS {
            0 => instructions_from(&call),
            1 => instructions_to(&call),
            _ => {}
        }
        // An error means that the caller is gone, and then it is the caller who says so.
        let _ = if in_place { answer_in_place(call) } else { answer_copied(call) };
    })
    .expect("the name is free");
    println!("serving");
    // Until the script is done.
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn answer_copied(call: Call<'_>) -> Result<(), callgate::ReplyError> {
    let mut bytes = [0; 256];
    let len = call.request().copy_to(&mut bytes);
    call.reply(&bytes[..len])
}

fn answer_in_place(call: Call<'_>) -> Result<(), callgate::ReplyError> {
    let len = call.request().len();
    let mut reply = call.loan(len)?;
    let (request, out) = reply.split();
    request.copy_to(&mut out[..8]);
    reply.send()
}
