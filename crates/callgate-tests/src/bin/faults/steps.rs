//! What client and server do while calls are made to fail: each part of the protocol once, every byte checked.

use std::time::{Duration, Instant};

use callgate::{Call, CallError, CallOptions, Client, ClientOptions, Pending};

use super::mark::aside;

/// Methods of the handler.
const ECHO: u32 = 0;
const SLEEPY: u32 = 1;
const LATER: u32 = 2;
const MUCH_LATER: u32 = 3;

/// How long a call of `MUCH_LATER` takes.
const LATE: Duration = Duration::from_millis(30);
const LARGE: usize = 300_000;
/// The limit of each call: what takes so long hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// The handler of both servers.
pub fn handle(call: Call<'_>) {
    let pause = match call.method() {
        ECHO => return echo(call),
        SLEEPY => {
            aside(|| std::thread::sleep(Duration::from_millis(3)));
            return echo(call);
        }
        LATER => Duration::from_millis(1),
        _ => LATE,
    };
    let call = call.defer();
    aside(|| {
        std::thread::spawn(move || {
            aside(|| std::thread::sleep(pause));
            echo(call);
        })
    });
}

fn echo(call: Call<'_>) {
    let len = call.request().len();
    if let Ok(mut loan) = call.loan(len) {
        let (request, reply) = loan.split();
        request.copy_to(reply);
        let _ = loan.send();
    }
}

/// One client and what it has.
pub struct Caller {
    pub name: String,
    pub client: Option<Client>,
}

/// Something that a client does; the steps of a scenario run in this order.
pub struct Step {
    pub name: &'static str,
    pub run: fn(&mut Caller) -> Result<(), CallError>,
}

pub const STEPS: [Step; 10] = [
    Step { name: "status", run: status },
    Step { name: "connect", run: connect },
    Step { name: "short call", run: |caller| call(caller, ECHO, 16) },
    Step { name: "large call", run: |caller| call(caller, ECHO, LARGE) },
    Step { name: "sleeping call", run: |caller| call(caller, SLEEPY, 40) },
    Step { name: "loan", run: loan },
    Step { name: "deferred", run: deferred },
    Step { name: "two threads", run: two_threads },
    Step { name: "cancel", run: cancel },
    Step { name: "call with a deadline", run: |caller| call(caller, ECHO, 200) },
];

fn status(caller: &mut Caller) -> Result<(), CallError> {
    callgate::status(caller.name.as_str(), LIMIT).map(drop)
}

fn connect(caller: &mut Caller) -> Result<(), CallError> {
    caller.client = Some(Client::connect_with(caller.name.as_str(), options())?);
    Ok(())
}

fn options() -> ClientOptions {
    let mut options = ClientOptions::default();
    options.timeout = Some(LIMIT);
    // It is waited for when it begins anew.
    options.connect_timeout = LIMIT / 2;
    options
}

impl Caller {
    /// The client; a lazy one where connecting failed, so that the call connects.
    fn client(&mut self) -> Result<Client, CallError> {
        if self.client.is_none() {
            self.client = Some(Client::lazy(self.name.as_str(), options())?);
        }
        Ok(self.client.clone().expect("just made"))
    }
}

fn bytes(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251 + salt) as u8).collect()
}

/// A call that comes back with other bytes ends the program: nothing that fails may cause that.
fn check(reply: &[u8], request: &[u8]) {
    assert!(reply == request, "wrong bytes: a reply of {} to {}", reply.len(), request.len());
}

fn call(caller: &mut Caller, method: u32, len: usize) -> Result<(), CallError> {
    let request = bytes(len, method as usize);
    let client = caller.client()?;
    // The way without a deadline is another one than that with.
    let mut options = CallOptions::new().method(method);
    if len == 200 {
        options = options.timeout(LIMIT / 2);
    }
    check(&client.call_with(options, &request)?.to_vec(), &request);
    Ok(())
}

fn loan(caller: &mut Caller) -> Result<(), CallError> {
    let request = bytes(LARGE, 9);
    let mut loan = caller.client()?.loan(LARGE)?;
    loan.copy_from_slice(&request);
    check(&loan.call(CallOptions::new().method(ECHO))?.to_vec(), &request);
    Ok(())
}

fn deferred(caller: &mut Caller) -> Result<(), CallError> {
    let client = caller.client()?;
    let request = |at| bytes(30 + 70 * at, at);
    let sent: Vec<Result<Pending, CallError>> =
        (0..4).map(|at| client.submit(CallOptions::new().method(LATER), &request(at))).collect();
    let mut ended = Ok(());
    // In the other order; all of them end, whatever becomes of one.
    for (at, sent) in sent.into_iter().enumerate().rev() {
        match sent.and_then(Pending::wait) {
            Ok(reply) => check(&reply.to_vec(), &request(at)),
            Err(error) => ended = Err(error),
        }
    }
    ended
}

fn two_threads(caller: &mut Caller) -> Result<(), CallError> {
    let client = caller.client()?;
    let work = |client: Client, salt: usize| -> Result<(), CallError> {
        for at in 0..3 {
            let request = bytes(20 + 40 * at, salt + at);
            check(
                &client.call_with(CallOptions::new().method(SLEEPY), &request)?.to_vec(),
                &request,
            );
        }
        Ok(())
    };
    let other = client.clone();
    let thread = aside(|| std::thread::spawn(move || work(other, 50)));
    let here = work(client, 90);
    let there = aside(|| thread.join());
    here.and(there.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

fn cancel(caller: &mut Caller) -> Result<(), CallError> {
    let options = CallOptions::new().method(MUCH_LATER).timeout(Duration::from_millis(4));
    let began = Instant::now();
    match caller.client()?.call_with(options, b"nobody waits for it") {
        Err(CallError::DeadlineExceeded { .. }) => Ok(()),
        // On a starved machine the answer may be there before its caller runs again.
        Ok(_) if began.elapsed() >= LATE => Ok(()),
        Ok(_) => panic!("answered before it can have been"),
        Err(error) => Err(error),
    }
}
