//! iceoryx2's request-response ports, with slices loaned and read in place.
//!
//! Polling is what its own benchmark does. With events a request or a response is followed by a
//! notification, as in its example of event-based communication: one listener of the server, and
//! one of each client, which a request names in its user header.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use iceoryx2::active_request::ActiveRequest;
use iceoryx2::node::Node;
use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::client::Client as ClientPort;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::event::PortFactory as EventFactory;
use iceoryx2::service::port_factory::request_response::PortFactory;

use crate::message::{Message, answerable};
use crate::peer::{Client, Peer, Place, Result};

type Calls = PortFactory<ipc::Service, [u8], u64, [u8], ()>;
type Request = ActiveRequest<ipc::Service, [u8], u64, [u8], ()>;
type Pending = PendingResponse<ipc::Service, [u8], u64, [u8], ()>;

/// How often a waiting client looks whether the server has closed the connection.
const LOOK: Duration = Duration::from_millis(100);

/// The two ways to wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Iceoryx2 {
    /// Both sides look all the time.
    Polling,
    /// Both sides sleep until they are notified.
    Events,
}

impl Peer for Iceoryx2 {
    fn name(&self) -> &'static str {
        match self {
            Iceoryx2::Polling => "iceoryx2-poll",
            Iceoryx2::Events => "iceoryx2-event",
        }
    }

    fn package(&self) -> Option<&'static str> {
        Some("iceoryx2")
    }

    fn about(&self) -> &'static str {
        match self {
            Iceoryx2::Polling => "request-response, loaned slices, both sides poll without a pause",
            Iceoryx2::Events => {
                "request-response, loaned slices, a notification after each message"
            }
        }
    }

    fn serve(&self, place: &Place, ready: &dyn Fn()) -> Result<()> {
        let node = node(place)?;
        let calls = calls(&node, place)?;
        let server = calls.server_builder().initial_max_slice_len(place.size).create()?;
        if *self == Iceoryx2::Polling {
            ready();
            loop {
                if let Some(request) = server.receive()? {
                    answer(&request)?;
                }
            }
        }
        let listener = event(&node, "requests")?.listener_builder().create()?;
        let mut bells = HashMap::new();
        ready();
        loop {
            listener.blocking_wait(|_| {})?;
            while let Some(request) = server.receive()? {
                let client = *request.user_header();
                answer(&request)?;
                if let Some(bell) = bells.get(&client) {
                    notify(bell)?;
                } else {
                    let bell = reply_event(&node, client)?.notifier_builder().create()?;
                    notify(&bell)?;
                    bells.insert(client, bell);
                }
            }
        }
    }

    fn connect(&self, place: &Place) -> Result<Box<dyn Client>> {
        let node = node(place)?;
        let key = place.client as u64;
        let bells = match self {
            Iceoryx2::Polling => None,
            Iceoryx2::Events => Some(Bells {
                server: event(&node, "requests")?.notifier_builder().create()?,
                own: reply_event(&node, key)?.listener_builder().create()?,
            }),
        };
        let calls = calls(&node, place)?;
        let client = calls.client_builder().initial_max_slice_len(place.size).create()?;
        Ok(Box::new(Connected { bells, pending: VecDeque::new(), client, key, _node: node }))
    }
}

/// A node whose files are the round's own, so that they can be swept after a kill.
fn node(place: &Place) -> Result<Node<ipc::Service>> {
    set_log_level(LogLevel::Error);
    let mut config = Config::default();
    config
        .global
        .set_root_path(&Path::new(place.dir.join("iceoryx2").as_os_str().as_encoded_bytes())?);
    config.global.prefix = FileName::new(place.tag.as_bytes())?;
    Ok(NodeBuilder::new().config(&config).create()?)
}

fn calls(node: &Node<ipc::Service>, place: &Place) -> Result<Calls> {
    Ok(node
        .service_builder(&"echo".try_into()?)
        .request_response::<[u8], [u8]>()
        .request_user_header::<u64>()
        .max_servers(1)
        .max_clients(place.clients)
        .max_nodes(place.clients + 1)
        .max_active_requests_per_client(place.window)
        .max_response_buffer_size(1)
        .open_or_create()?)
}

fn event(node: &Node<ipc::Service>, name: &str) -> Result<EventFactory<ipc::Service>> {
    Ok(node.service_builder(&name.try_into()?).event().open_or_create()?)
}

fn reply_event(node: &Node<ipc::Service>, client: u64) -> Result<EventFactory<ipc::Service>> {
    event(node, &format!("replies/{client}"))
}

fn notify(bell: &Notifier<ipc::Service>) -> Result<()> {
    bell.notify()?;
    Ok(())
}

fn answer(request: &Request) -> Result<()> {
    answerable(request.payload());
    let response = request.loan_slice_uninit(request.payload().len())?;
    response.write_from_slice(request.payload()).send()?;
    Ok(())
}

struct Bells {
    server: Notifier<ipc::Service>,
    own: Listener<ipc::Service>,
}

struct Connected {
    bells: Option<Bells>,
    pending: VecDeque<Pending>,
    client: ClientPort<ipc::Service, [u8], u64, [u8], ()>,
    key: u64,
    _node: Node<ipc::Service>,
}

impl Connected {
    fn send(&mut self, message: &Message) -> Result<Pending> {
        let mut request = self.client.loan_slice_uninit(message.len())?;
        *request.user_header_mut() = self.key;
        let request = request.write_from_slice(message.bytes());
        let pending = request.send()?;
        if let Some(bells) = &self.bells {
            notify(&bells.server)?;
        }
        Ok(pending)
    }

    fn wait(&self, pending: &Pending, message: &Message) -> Result<()> {
        loop {
            // Asked first: a server that has answered closes the connection too.
            let connected = pending.is_connected();
            if let Some(response) = pending.receive()? {
                return message.check(response.payload());
            }
            if !connected {
                return Err("the server closed the connection".into());
            }
            if let Some(bells) = &self.bells {
                bells.own.timed_wait(|_| {}, LOOK)?;
            }
        }
    }
}

impl Client for Connected {
    fn call(&mut self, message: &Message) -> Result<()> {
        let pending = self.send(message)?;
        self.wait(&pending, message)
    }

    fn submit(&mut self, message: &Message) -> Result<()> {
        let pending = self.send(message)?;
        self.pending.push_back(pending);
        Ok(())
    }

    fn complete(&mut self, message: &Message) -> Result<()> {
        let oldest = self.pending.pop_front().ok_or("nothing was submitted")?;
        self.wait(&oldest, message)
    }
}
