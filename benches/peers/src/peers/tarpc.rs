//! tarpc with its bincode transport over a Unix socket.
//!
//! The server has tokio's default runtime; a client that makes one call after another has one of
//! one thread.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::Pin;

use ::tarpc::client::{Config, RpcError};
use ::tarpc::context::{self, Context};
use ::tarpc::serde_transport::unix;
use ::tarpc::server::{BaseChannel, Channel};
use ::tarpc::tokio_serde::formats::Bincode;
use futures::StreamExt;
use serde_bytes::ByteBuf;
use tokio::runtime::{Builder, Runtime};

use crate::message::{Message, is_unanswered};
use crate::peer::{Client, Peer, Place, Result};

#[::tarpc::service]
trait Echo {
    /// Answers a message with the same message.
    async fn echo(message: ByteBuf) -> ByteBuf;
}

#[derive(Clone)]
struct Service;

impl Echo for Service {
    async fn echo(self, _: Context, message: ByteBuf) -> ByteBuf {
        if is_unanswered(&message) {
            std::future::pending::<()>().await;
        }
        message
    }
}

/// Remote calls for tokio.
pub struct Tarpc;

impl Peer for Tarpc {
    fn name(&self) -> &'static str {
        "tarpc"
    }

    fn package(&self) -> Option<&'static str> {
        Some("tarpc")
    }

    fn about(&self) -> &'static str {
        "bincode over a Unix socket, byte buffers; tokio's runtime: default server, 1-thread client"
    }

    fn serve(&self, place: &Place, ready: &dyn Fn()) -> Result<()> {
        Builder::new_multi_thread().enable_all().build()?.block_on(async {
            let mut incoming = unix::listen(path(place), Bincode::default).await?;
            incoming.config_mut().max_frame_length(usize::MAX);
            ready();
            while let Some(connection) = incoming.next().await {
                let channel = BaseChannel::with_defaults(connection?);
                tokio::spawn(channel.execute(Service.serve()).for_each(|response| async {
                    tokio::spawn(response);
                }));
            }
            Ok(())
        })
    }

    fn connect(&self, place: &Place) -> Result<Box<dyn Client>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(async {
            let mut connecting = unix::connect(path(place), Bincode::default);
            connecting.config_mut().max_frame_length(usize::MAX);
            let transport = connecting.await?;
            Result::Ok(EchoClient::new(Config::default(), transport).spawn())
        })?;
        Ok(Box::new(Connected { pending: VecDeque::new(), client, runtime }))
    }
}

fn path(place: &Place) -> PathBuf {
    place.dir.join("tarpc")
}

type Reply = std::result::Result<ByteBuf, RpcError>;

struct Connected {
    pending: VecDeque<Pin<Box<dyn Future<Output = Reply>>>>,
    client: EchoClient,
    runtime: Runtime,
}

fn start(client: &EchoClient, message: &Message) -> impl Future<Output = Reply> + 'static {
    let mut bytes = vec![0; message.len()];
    message.write(&mut bytes);
    let client = client.clone();
    async move { client.echo(context::current(), ByteBuf::from(bytes)).await }
}

impl Client for Connected {
    fn call(&mut self, message: &Message) -> Result<()> {
        message.check(&self.runtime.block_on(start(&self.client, message))?)
    }

    fn submit(&mut self, message: &Message) -> Result<()> {
        let call = start(&self.client, message);
        let task = self.runtime.spawn(call);
        self.pending.push_back(Box::pin(async move {
            // A task that panicked is a bug of the peer's.
            task.await.unwrap_or(Err(RpcError::Shutdown))
        }));
        Ok(())
    }

    fn complete(&mut self, message: &Message) -> Result<()> {
        let oldest = self.pending.pop_front().ok_or("nothing was submitted")?;
        message.check(&self.runtime.block_on(oldest)?)
    }
}
