//! Threads that watch peers have nothing to do with a connection that was dropped. In a program of its own, where no other
//! test closes anything meanwhile.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use callgate::{Call, Client, Server};
use callgate_sys::socket::Socket;

/// A socket that takes an hour to close while the other end of what lies in its queue lives and does not read.
fn lingering() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut connection = TcpStream::connect(address).expect("connected");
    let (other, _) = listener.accept().expect("accepted");
    connection.set_nonblocking(true).expect("an option");
    while connection.write(&[0; 1 << 16]).is_ok() {}
    connection.set_nonblocking(false).expect("an option");
    let hour = Duration::from_secs(3_600);
    rustix::net::sockopt::set_socket_linger(&connection, Some(hour)).expect("an option");
    let (queue, sender) = Socket::pair().expect("sockets");
    sender.send(b"x", Some(connection.as_fd())).expect("sent");
    (queue, other)
}

/// How long the thread of this name has run.
fn ran(thread: &str) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("a directory");
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let mut folders = tasks.map(|task| task.expect("an entry").path());
    let task = folders.find(|task| read(task.join("comm")).trim() == thread);
    let text = read(task.expect("it runs").join("schedstat"));
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number"))
}

fn stays_quiet(thread: &str) {
    let (before, looked) = (ran(thread), Duration::from_millis(500));
    std::thread::sleep(looked);
    let took = ran(thread) - before;
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
