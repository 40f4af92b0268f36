//! gRPC: tonic's unary calls over a Unix socket.
//!
//! The server has tokio's default runtime; a client that makes one call after another has one of
//! one thread. The 4 MiB limit for a message is lifted.

use std::collections::VecDeque;
use std::path::PathBuf;

use ::tonic::transport::{Channel, Endpoint, Server};
use ::tonic::{Request, Response, Status};
use bytes::Bytes;
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;

use self::proto::echo_client::EchoClient;
use self::proto::echo_server::{Echo, EchoServer};
use crate::message::{Message, is_unanswered};
use crate::peer::{Client, Peer, Place, Result};

#[allow(missing_docs, reason = "made by tonic's generator")]
mod proto {
    ::tonic::include_proto!("echo");
}

struct Service;

#[::tonic::async_trait]
impl Echo for Service {
    async fn echo(
        &self,
        request: Request<proto::Message>,
    ) -> std::result::Result<Response<proto::Message>, Status> {
        let message = request.into_inner();
        if is_unanswered(&message.payload) {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(message))
    }
}

/// gRPC.
pub struct Tonic;

impl Peer for Tonic {
    fn name(&self) -> &'static str {
        "tonic"
    }

    fn package(&self) -> Option<&'static str> {
        Some("tonic")
    }

    fn about(&self) -> &'static str {
        "gRPC unary calls over a Unix socket; tokio's runtime: default server, 1-thread client"
    }

    fn serve(&self, place: &Place, ready: &dyn Fn()) -> Result<()> {
        Builder::new_multi_thread().enable_all().build()?.block_on(async {
            let listener = UnixListener::bind(path(place))?;
            ready();
            let echo = EchoServer::new(Service).max_decoding_message_size(usize::MAX);
            let incoming = UnixListenerStream::new(listener);
            Ok(Server::builder().add_service(echo).serve_with_incoming(incoming).await?)
        })
    }

    fn connect(&self, place: &Place) -> Result<Box<dyn Client>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let uri = format!("unix://{}", path(place).display());
        let channel = runtime.block_on(async { Endpoint::try_from(uri)?.connect().await })?;
        let client = EchoClient::new(channel).max_decoding_message_size(usize::MAX);
        Ok(Box::new(Connected { pending: VecDeque::new(), client, runtime }))
    }
}

fn path(place: &Place) -> PathBuf {
    place.dir.join("tonic")
}

struct Connected {
    pending: VecDeque<JoinHandle<std::result::Result<Bytes, Status>>>,
    client: EchoClient<Channel>,
    runtime: Runtime,
}

async fn echo(
    mut client: EchoClient<Channel>,
    payload: Bytes,
) -> std::result::Result<Bytes, Status> {
    Ok(client.echo(proto::Message { payload }).await?.into_inner().payload)
}

fn build(message: &Message) -> Bytes {
    let mut bytes = vec![0; message.len()];
    message.write(&mut bytes);
    Bytes::from(bytes)
}

impl Client for Connected {
    fn call(&mut self, message: &Message) -> Result<()> {
        let call = echo(self.client.clone(), build(message));
        message.check(&self.runtime.block_on(call)?)
    }

    fn submit(&mut self, message: &Message) -> Result<()> {
        let call = echo(self.client.clone(), build(message));
        self.pending.push_back(self.runtime.spawn(call));
        Ok(())
    }

    fn complete(&mut self, message: &Message) -> Result<()> {
        let oldest = self.pending.pop_front().ok_or("nothing was submitted")?;
        message.check(&self.runtime.block_on(oldest)??)
    }
}
