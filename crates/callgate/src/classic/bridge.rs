//! Requests of the classic protocol, passed on as calls. Knows neither the struct nor the objects.

use callgate_classic::{Answer, Handler};

use crate::{CallError, CallOptions, Client};

/// Answers each request of a classic server by a call: the bytes of the memory are the request, and those of the reply
/// replace them.
///
/// ```no_run
/// use callgate::classic::{Bridge, Names, Server, ServerOptions};
/// use std::time::Duration;
///
/// let names = Names::new("OrdersMemory", "OrdersExec", "OrdersDone", "OrdersFree")?;
/// let client = callgate::Client::lazy("orders", callgate::ClientOptions::default())?;
/// // Less than the old clients wait for.
/// let limit = Duration::from_millis(200);
/// let options = callgate::CallOptions::new().timeout(limit);
/// let bridge = Bridge::new(client, options, |error| eprintln!("{error}"));
/// // An answer that this process was too slow with is nobody's any more, though the reply had come in time.
/// let mut options = ServerOptions::default();
/// options.patience = Some(limit);
/// let server = Server::serve_bytes(&names, 4_096, options, bridge)?;
/// server.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The classic protocol has no way to fail: where the call does, its client gets no answer and runs out of time, as it
/// does with a server that is dead. So calls need a time limit below that of the old clients; a call that takes longer
/// keeps all of them waiting, as one request is served at a time.
#[derive(Debug)]
pub struct Bridge<F> {
    client: Client,
    options: CallOptions,
    failed: F,
}

/// Why a request got no answer. The next one is passed on all the same.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// The call failed.
    #[error("a request of the classic protocol got no answer")]
    Call(#[from] CallError),
    /// The reply has a status, for which the old clients' struct has no place.
    #[error("a reply with status {status:#x} cannot answer a request of the classic protocol")]
    Status {
        /// The status, which is the application's.
        status: u32,
    },
    /// The reply does not have the length of the memory.
    #[error(
        "a reply of {len} bytes cannot answer a request of the classic protocol; its memory has {want}"
    )]
    Length {
        /// Bytes of the reply.
        len: usize,
        /// Bytes of the memory, and of the request.
        want: usize,
    },
}

impl<F: FnMut(&BridgeError) + Send + 'static> Bridge<F> {
    /// Makes a handler for [`Server::serve_bytes`](super::Server::serve_bytes) that calls with `client`, and tells
    /// `failed` of each request that gets no answer.
    #[must_use]
    pub fn new(client: Client, options: CallOptions, failed: F) -> Self {
        Self { client, options, failed }
    }

    fn pass_on(&self, data: &mut [u8]) -> Result<(), BridgeError> {
        let reply = self.client.call_with(self.options, data)?;
        let (status, len, want) = (reply.status(), reply.len(), data.len());
        if status != 0 {
            return Err(BridgeError::Status { status });
        }
        if len != want {
            return Err(BridgeError::Length { len, want });
        }
        reply.payload().copy_to(data);
        Ok(())
    }
}

impl<F: FnMut(&BridgeError) + Send + 'static> Handler<[u8]> for Bridge<F> {
    fn handle(&mut self, data: &mut [u8]) -> Answer {
        match self.pass_on(data) {
            Ok(()) => Answer::Ready,
            Err(error) => {
                (self.failed)(&error);
                Answer::None
            }
        }
    }
}
