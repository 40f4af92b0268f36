//! What each peer must offer, and the list of them.

use std::error::Error;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::message::Message;
use crate::peers;

/// Whatever a peer's own errors are; they are told, not told apart.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A way to call between processes, used as its documentation recommends.
///
/// The server echoes: it makes each reply out of the bytes of the request, in the reply's memory
/// where the peer has such. It never answers requests that [`crate::message::answerable`] knows.
pub trait Peer {
    /// Its name in tables and on the command line.
    fn name(&self) -> &'static str;

    /// The crate that is measured, for its version; none for what the system gives.
    fn package(&self) -> Option<&'static str>;

    /// How it is used here, in one line.
    fn about(&self) -> &'static str;

    /// Whether it needs [`Peer::drive`] in a process beside servers and clients.
    fn has_driver(&self) -> bool {
        false
    }

    /// Runs that process until it is killed; calls `ready` when servers may start.
    ///
    /// # Errors
    /// Those of the peer.
    fn drive(&self, _place: &Place, _ready: &dyn Fn()) -> Result<()> {
        Err("this peer has no driver".into())
    }

    /// Serves until killed; calls `ready` when clients may connect.
    ///
    /// # Errors
    /// Those of the peer.
    fn serve(&self, place: &Place, ready: &dyn Fn()) -> Result<()>;

    /// Connects a client. Often called again when the earlier client has been dropped.
    ///
    /// # Errors
    /// Those of the peer.
    fn connect(&self, place: &Place) -> Result<Box<dyn Client>>;

    /// Whether clients have [`Client::submit`].
    fn has_window(&self) -> bool {
        true
    }
}

/// One connected client.
pub trait Client {
    /// Sends `message`, waits for the reply, and checks it.
    ///
    /// # Errors
    /// Those of the peer, and a wrong reply.
    fn call(&mut self, message: &Message) -> Result<()>;

    /// Sends `message` without waiting for a reply.
    ///
    /// # Errors
    /// Those of the peer.
    fn submit(&mut self, _message: &Message) -> Result<()> {
        Err("one call at a time".into())
    }

    /// Waits for the reply to the oldest message submitted, which was `message`, and checks it.
    ///
    /// # Errors
    /// Those of the peer, and a wrong reply.
    fn complete(&mut self, _message: &Message) -> Result<()> {
        Err("one call at a time".into())
    }
}

/// Where the processes of one round meet, and what they will send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// A directory of this round's own, removed afterwards.
    pub dir: PathBuf,
    /// A word of this round's own for names outside of it; what is in /dev/shm under names that
    /// begin with it is removed afterwards.
    pub tag: String,
    /// Bytes of each message.
    pub size: usize,
    /// Clients at a time.
    pub clients: usize,
    /// Which of them this is.
    pub client: usize,
    /// Calls in flight of one client at the most.
    pub window: usize,
}

/// All peers, callgate first.
pub fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(peers::callgate::Callgate),
        Box::new(peers::iceoryx2::Iceoryx2::Polling),
        Box::new(peers::iceoryx2::Iceoryx2::Events),
        Box::new(peers::ipc_channel::IpcChannel),
        #[cfg(feature = "aeron")]
        Box::new(peers::aeron::AeronIpc::Spin),
        #[cfg(feature = "aeron")]
        Box::new(peers::aeron::AeronIpc::Backoff),
        Box::new(peers::tonic::Tonic),
        Box::new(peers::tarpc::Tarpc),
        #[cfg(feature = "zmq")]
        Box::new(peers::zeromq::ZeroMq),
        Box::new(peers::unix::UnixSocket),
    ]
}

/// The peer of that name.
///
/// # Errors
/// When there is none.
pub fn named(name: &str) -> Result<Box<dyn Peer>> {
    let found = all().into_iter().find(|peer| peer.name() == name);
    found.ok_or_else(|| format!("there is no peer {name}").into())
}

/// The version of `package` that was built in.
pub fn version(package: &str) -> Option<&'static str> {
    let wanted = format!("name = \"{package}\"");
    let mut lines = include_str!("../Cargo.lock").lines().skip_while(|line| *line != wanted);
    lines.nth(1)?.strip_prefix("version = \"")?.strip_suffix('"')
}
