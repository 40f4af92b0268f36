//! A socket that takes an hour to close.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use callgate_sys::socket::Socket;

/// What would take that long, if somebody waited.
const LINGER: Duration = Duration::from_secs(3_600);

/// A socket that takes so long to close while the connection's other end lives and does not read: a connection that lingers
/// lies in its queue.
pub fn lingering() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut connection = TcpStream::connect(address).expect("connected");
    let (other, _) = listener.accept().expect("accepted");
    connection.set_nonblocking(true).expect("an option");
    while connection.write(&[0; 1 << 16]).is_ok() {}
    connection.set_nonblocking(false).expect("an option");
    rustix::net::sockopt::set_socket_linger(&connection, Some(LINGER)).expect("an option");
    let (queue, sender) = Socket::pair().expect("sockets");
    sender.send(b"x", Some(connection.as_fd())).expect("sent");
    (queue, other)
}
