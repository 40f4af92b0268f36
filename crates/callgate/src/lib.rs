//! Client/server calls between processes on one machine, over shared memory.
//!
//! A [`Server`] answers calls under a name; any number of [`Client`]s call it. Requests and replies travel in memory that
//! both processes map. A call blocks until it has ended, and it always ends: with the reply, or with a [`CallError`] that
//! says what is known.
//!
//! ```
//! use callgate::{Call, Client, Server};
//! # let directory = tempfile::tempdir()?;
//! # let name = directory.path().join("sum.sock").to_str().unwrap().to_owned();
//! # let name = name.as_str();
//! let server = Server::serve(name, |call: Call<'_>| {
//!     let mut sum = 0u64;
//!     call.request().for_each_chunk(|bytes| sum += bytes.iter().map(|b| u64::from(*b)).sum::<u64>());
//!     let _ = call.reply(&sum.to_le_bytes());
//! })?;
//!
//! let client = Client::connect(name)?;
//! let reply = client.call(&[1, 2, 3])?;
//! assert_eq!(reply.to_vec(), 6u64.to_le_bytes());
//! # drop(server);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Nothing that a peer does, be it buggy, hostile or killed, can crash or hang this process, corrupt another's data or
//! make memory grow without bound; PROTOCOL.md and SECURITY.md in the repository say how.

mod caller;
#[cfg(windows)]
pub mod classic;
mod client;
mod endpoint;
mod error;
mod options;
mod payload;
mod region;
mod server;
mod status;
mod wait;

pub use caller::Caller;
pub use callgate_proto::Violation;
pub use client::{Client, Loan, Pending, Reply};
pub use endpoint::{Endpoint, EndpointEntry, ToEndpoint, endpoints};
pub use error::{CallError, EndpointError, ReplyError, ServeError, Side, Started, codes};
pub use options::{
    Access, CallOptions, ClientOptions, Limits, Retry, ServerIdentity, ServerOptions, WaitPolicy,
    WhenFull,
};
pub use payload::{CHUNK_BYTES, Payload};
pub use server::{Call, Deferred, Handler, ReplyLoan, Server};
pub use status::{ServerStatus, status};
