//! ipc-channel: a thread of the server for each client, which blocks on a channel of its own.
//!
//! Small messages go through byte channels, which serialise nothing. Large ones are shared memory,
//! handed over a typed channel. A client finds the server by the name of a one-shot server; names
//! are left in files, the next one before the last is used up.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use ipc_channel::ipc::{
    self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender,
    IpcSharedMemory,
};
use serde::{Deserialize, Serialize};

use crate::message::{Message, answerable};
use crate::peer::{Client, Peer, Place, Result};

/// From here on messages are shared memory.
const SHARED_BYTES: usize = 64 * 1024;

/// Channels between processes.
pub struct IpcChannel;

/// What a client sends first.
#[derive(Serialize, Deserialize)]
enum Hello {
    Bytes { requests: IpcBytesReceiver, replies: IpcBytesSender },
    Shared { requests: IpcReceiver<IpcSharedMemory>, replies: IpcSender<IpcSharedMemory> },
}

impl Peer for IpcChannel {
    fn name(&self) -> &'static str {
        "ipc-channel"
    }

    fn package(&self) -> Option<&'static str> {
        Some("ipc-channel")
    }

    fn about(&self) -> &'static str {
        "byte channels, IpcSharedMemory from 64 KiB, a thread for each client"
    }

    fn serve(&self, place: &Place, ready: &dyn Fn()) -> Result<()> {
        let mut doors = Vec::new();
        for client in 0..place.clients {
            doors.push((client, open_door(place, client, 0)?));
        }
        ready();
        thread::scope(|scope| {
            for (client, mut door) in doors {
                scope.spawn(move || -> Result<()> {
                    for turn in 1.. {
                        let next = open_door(place, client, turn)?;
                        let (_, hello) = door.accept()?;
                        door = next;
                        thread::spawn(move || echo(hello));
                    }
                    Ok(())
                });
            }
        });
        Ok(())
    }

    fn connect(&self, place: &Place) -> Result<Box<dyn Client>> {
        // The names of earlier turns are gone: the first that is there is the next.
        let (mut turn, mut waited) = (0, 0);
        let name = loop {
            let file = door_file(place, place.client, turn);
            let used = file.with_extension("used");
            if used.exists() {
                turn += 1;
            } else if let Ok(name) = fs::read_to_string(&file) {
                fs::rename(&file, &used)?;
                break name;
            } else if waited < 1000 {
                waited += 1;
                thread::sleep(Duration::from_millis(1));
            } else {
                return Err("the server left no name".into());
            }
        };
        let door = IpcSender::connect(name)?;
        if place.size < SHARED_BYTES {
            let (to, requests) = ipc::bytes_channel()?;
            let (replies, from) = ipc::bytes_channel()?;
            door.send(Hello::Bytes { requests, replies })?;
            Ok(Box::new(Bytes { to, from, buffer: vec![0; place.size] }))
        } else {
            let (to, requests) = ipc::channel()?;
            let (replies, from) = ipc::channel()?;
            door.send(Hello::Shared { requests, replies })?;
            Ok(Box::new(Shared { to, from, buffer: vec![0; place.size] }))
        }
    }
}

fn door_file(place: &Place, client: usize, turn: usize) -> PathBuf {
    place.dir.join(format!("door-{client}-{turn}"))
}

/// Leaves the name of a new one-shot server in a file.
fn open_door(place: &Place, client: usize, turn: usize) -> Result<IpcOneShotServer<Hello>> {
    let (server, name) = IpcOneShotServer::new()?;
    let file = door_file(place, client, turn);
    fs::write(file.with_extension("new"), name)?;
    fs::rename(file.with_extension("new"), file)?;
    Ok(server)
}

/// Answers one client until it hangs up.
fn echo(hello: Hello) -> Result<()> {
    match hello {
        Hello::Bytes { requests, replies } => loop {
            let request = requests.recv()?;
            answerable(&request);
            replies.send(&request)?;
        },
        Hello::Shared { requests, replies } => loop {
            let request = requests.recv()?;
            answerable(&request);
            replies.send(IpcSharedMemory::from_bytes(&request))?;
        },
    }
}

struct Bytes {
    to: IpcBytesSender,
    from: IpcBytesReceiver,
    buffer: Vec<u8>,
}

impl Client for Bytes {
    fn call(&mut self, message: &Message) -> Result<()> {
        self.submit(message)?;
        self.complete(message)
    }

    fn submit(&mut self, message: &Message) -> Result<()> {
        message.write(&mut self.buffer);
        Ok(self.to.send(&self.buffer)?)
    }

    fn complete(&mut self, message: &Message) -> Result<()> {
        message.check(&self.from.recv()?)
    }
}

struct Shared {
    to: IpcSender<IpcSharedMemory>,
    from: IpcReceiver<IpcSharedMemory>,
    buffer: Vec<u8>,
}

impl Client for Shared {
    fn call(&mut self, message: &Message) -> Result<()> {
        self.submit(message)?;
        self.complete(message)
    }

    fn submit(&mut self, message: &Message) -> Result<()> {
        message.write(&mut self.buffer);
        Ok(self.to.send(IpcSharedMemory::from_bytes(&self.buffer))?)
    }

    fn complete(&mut self, message: &Message) -> Result<()> {
        message.check(&self.from.recv()?)
    }
}
