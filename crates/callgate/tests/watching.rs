//! Threads that watch peers have nothing to do with a connection that was dropped. In a program of its own, where no other
//! test closes anything meanwhile.
#![cfg(target_os = "linux")]

#[path = "../../callgate-sys/tests/lingering/mod.rs"]
mod lingering;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use callgate::{Call, Client, Server};

use lingering::lingering;

const BOUND: Duration = Duration::from_secs(60);

/// Where the kernel tells of the thread of this name, which has just begun, perhaps, and not said its name.
fn task(thread: &str) -> PathBuf {
    let began = Instant::now();
    loop {
        let tasks = std::fs::read_dir("/proc/self/task").expect("a directory");
        let mut folders = tasks.filter_map(|task| Some(task.ok()?.path()));
        let is_it = |folder: &PathBuf| {
            std::fs::read_to_string(folder.join("comm")).is_ok_and(|name| name.trim() == thread)
        };
        if let Some(found) = folders.find(is_it) {
            return found;
        }
        assert!(began.elapsed() < BOUND, "no thread is named {thread}");
        std::thread::yield_now();
    }
}

/// How long a thread has run.
fn ran(task: &Path) -> Duration {
    let text = std::fs::read_to_string(task.join("schedstat")).expect("it runs");
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number"))
}

fn stays_quiet(thread: &str) {
    let task = task(thread);
    let (before, looked) = (ran(&task), Duration::from_millis(500));
    // Nothing is waited for: it is the time that is looked at.
    std::thread::sleep(looked);
    let took = ran(&task) - before;
    assert!(took < looked / 10, "{thread} ran for {took:?} of {looked:?}");
}

/// A peer may hold up the thread that closes sockets. Behind it lie those of honest peers, which have ended, and would be
/// found so again and again.
#[test]
fn what_was_dropped_and_is_not_closed_yet_costs_nothing() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("s").to_str().expect("utf-8").to_owned();
    let server = Server::serve(path.as_str(), |call: Call<'_>| {
        let _ = call.reply(b"reply");
    });
    let server = server.expect("serve");
    let client = Client::connect(path.as_str()).expect("connect");
    assert_eq!(client.call(b"request").expect("a reply").to_vec(), b"reply");
    let (queue, first) = lingering();
    drop(queue);
    drop(client);
    stays_quiet("callgate-watch");
    // One more: for what comes after the first there is another thread by now.
    let (queue, second) = lingering();
    drop(queue);
    let half_open = callgate_sys::endpoint::connect(path.as_ref(), None).expect("connect");
    half_open.shutdown();
    stays_quiet("callgate-admit");
    drop((first, second, server));
}
