//! What a hostile or dying peer does to those who wait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use callgate::{Call, CallError, Client, ClientOptions, Deferred, Retry, Server, Started};
use callgate_sys::sim::{self, Config, Process, Report};
use callgate_sys::{clock, thread};

const NAME: &str = "hostile";

/// A call is under way for `waited`; then its server moves the sleeping caller to another word, and dies. The caller
/// must find out by itself within the time that it has waited and a second more, and within 30 s at the most.
///
/// # Errors
///
/// What went wrong, with the seed and the last steps.
pub fn run_moved(mut config: Config, waited: Duration) -> Result<Report, String> {
    config.horizon_ns = 400_000_000_000;
    sim::run(config, move || moved(waited))
}

fn moved(waited: Duration) {
    let server = Process::new("server");
    let began = server.run("main", || {
        let held: Mutex<Vec<Deferred>> = Mutex::default();
        let served = Server::serve(NAME, move |call: Call<'_>| {
            held.lock().unwrap_or_else(PoisonError::into_inner).push(call.defer());
        });
        // It is killed: what it had is lost for this program.
        std::mem::forget(served.expect("the name is free"));
    });
    began.join().expect("not killed yet");
    let client = Process::new("client");
    let call = client.run("main", || {
        let mut options = ClientOptions::default();
        // Two cells: all of them are woken each millisecond, for as long as somebody may sleep there.
        options.in_flight = Some(1);
        let client = Client::connect_with(NAME, options).expect("it serves");
        (client.call(b"x").map(drop), clock::now_ns())
    });
    thread::sleep(waited);
    let mut moved = 0;
    // A signal may have woken it just now.
    while moved == 0 {
        thread::sleep(Duration::from_micros(10));
        moved = client.move_sleepers();
    }
    server.kill();
    let killed_ns = clock::now_ns();
    let (ended, ended_ns) = call.join().expect("it lives");
    assert!(matches!(ended, Err(CallError::Disconnected { .. })), "{ended:?}");
    let late = Duration::from_nanos(ended_ns - killed_ns);
    let allowed = (waited + Duration::from_secs(1)).min(Duration::from_secs(30));
    assert!(late <= allowed + Duration::from_millis(50), "after {waited:?} it took {late:?}");
}

/// A server stops while calls come. What was said not to have started must not run.
///
/// # Errors
///
/// What went wrong, with the seed and the last steps.
pub fn run_stopped(config: Config) -> Result<Report, String> {
    sim::run(config, stopped)
}

/// Numbers of calls that ran, and of those whose callers were told that they did not start.
type Known = Arc<Mutex<(Vec<u32>, Vec<u32>)>>;

fn stopped() {
    let known: Known = Known::default();
    let ran = known.clone();
    let server = Process::new("server");
    let (client, callers) = (Process::new("client"), 3);
    let served = server.run("main", move || {
        Server::serve(NAME, move |call: Call<'_>| {
            let id = u32::from_le_bytes(call.request().to_vec().try_into().expect("four bytes"));
            let mut known = ran.lock().unwrap_or_else(PoisonError::into_inner);
            known.0.push(id);
            let was_denied = known.1.contains(&id);
            drop(known);
            if was_denied {
                sim::fail(&format!("call {id} runs, and its caller was told that it won't"));
            }
            let _ = call.reply(b"");
        })
        .expect("the name is free")
    });
    let served = served.join().expect("not killed");
    let told = known.clone();
    let connected = client.run("main", move || {
        let mut options = ClientOptions::default();
        options.retry = Retry::Never;
        Client::connect_with(NAME, options).expect("it serves")
    });
    let connected = connected.join().expect("it serves");
    let calls = client.run("calls", move || {
        let threads: Vec<_> = (0..callers)
            .map(|caller: u32| {
                let (client, told) = (connected.clone(), told.clone());
                let call = move || {
                    for at in 0.. {
                        let id = caller << 24 | at;
                        match client.call(&id.to_le_bytes()) {
                            Ok(_) => continue,
                            Err(CallError::Disconnected { started: Started::NotStarted }) => {
                                let mut known = told.lock().unwrap_or_else(PoisonError::into_inner);
                                known.1.push(id);
                                let has_run = known.0.contains(&id);
                                drop(known);
                                assert!(
                                    !has_run,
                                    "call {id} ran, and was said not to have started"
                                );
                            }
                            Err(_) => {}
                        }
                        return;
                    }
                };
                thread::Builder::new().name("caller".into()).spawn(call).expect("a thread")
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
    });
    thread::sleep(Duration::from_micros(sim::random(300)));
    server.run("stop", move || drop(served)).join().expect("it ends");
    calls.join().expect("all calls end");
}
