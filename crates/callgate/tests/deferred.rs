//! Large replies of calls that were deferred: the thread that answers makes their memory, and the worker goes on.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callgate::{Call, CallOptions, Client, Deferred, Server};

const BIG: u32 = 1;
/// Takes tens of milliseconds to populate.
const BIG_BYTES: usize = 128 << 20;
/// Populating may be over before the other client has a CPU; then it is tried again.
const TRIES: usize = 20;
/// Calls of another client within one populating that show that the worker went on: it slept between them.
const ENOUGH: usize = 8;

/// Ends the other client's calls, also when a test fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn place() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let name = directory.path().join("s").to_str().expect("utf-8").to_owned();
    (directory, name)
}

/// Answers small calls at once and hands the others over.
fn serve(name: &str, deferred: Sender<Deferred>, small: Arc<AtomicUsize>) -> Server {
    let deferred = Mutex::new(deferred);
    Server::serve(name.to_owned(), move |call: Call<'_>| {
        if call.method() == BIG {
            let _ = deferred.lock().expect("one worker").send(call.defer());
        } else {
            small.fetch_add(1, Ordering::Relaxed);
            let _ = call.reply(b"x");
        }
    })
    .expect("serve")
}

#[test]
#[cfg_attr(windows, ignore = "making memory takes no time there: pages come with their use")]
fn the_worker_goes_on_while_memory_is_made() {
    let (_directory, name) = place();
    let small = Arc::new(AtomicUsize::new(0));
    let (sender, deferred) = channel::<Deferred>();
    let _server = serve(&name, sender, small.clone());
    let stop = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        scope.spawn(|| {
            let client = Client::connect(name.clone()).expect("connect");
            while !stop.load(Ordering::Relaxed) {
                client.call(b"x").expect("a reply");
                // A sparse caller: what the worker asks of connections it asks before it sleeps.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let mut most = 0;
        for _ in 0..TRIES {
            // A new connection has no reply memory.
            let client = Client::connect(name.clone()).expect("connect");
            let pending = client.submit(CallOptions::new().method(BIG), b"x").expect("room");
            let call = deferred.recv().expect("it was deferred");
            let before = small.load(Ordering::Relaxed);
            let loan = call.loan(BIG_BYTES).expect("memory");
            most = most.max(small.load(Ordering::Relaxed) - before);
            loan.send().expect("sent");
            assert_eq!(pending.wait().expect("a reply").len(), BIG_BYTES);
            if most >= ENOUGH {
                break;
            }
        }
        most
    });
    assert!(most >= ENOUGH, "at most {most} calls of another client while memory was made");
}

/// Many threads answer at once, with room for nothing yet: what one makes the others use, and no reply is lost.
#[test]
fn threads_that_need_memory_at_once() {
    const CALLS: usize = 48;
    let (_directory, name) = place();
    let (sender, deferred) = channel::<Deferred>();
    let _server = serve(&name, sender, Arc::default());
    for len in [3_000, 100_000, 1 << 20] {
        let client = Client::connect(name.clone()).expect("connect");
        let options = CallOptions::new().method(BIG);
        let pending: Vec<_> =
            (0..CALLS).map(|_| client.submit(options, b"x").expect("room")).collect();
        let calls: Vec<_> = deferred.iter().take(CALLS).collect();
        let barrier = std::sync::Barrier::new(CALLS);
        std::thread::scope(|scope| {
            for (at, call) in calls.into_iter().enumerate() {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    call.reply(&vec![at as u8; len]).expect("sent");
                });
            }
        });
        for (at, pending) in pending.into_iter().enumerate() {
            assert_eq!(pending.wait().expect("a reply").to_vec(), vec![at as u8; len]);
        }
    }
}
