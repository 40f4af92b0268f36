//! The demo's server: digests whole files, and files in parts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use callgate::{Call, Handler, Payload, Server, ServerOptions};
use clap::Args;
use sha2::{Digest as _, Sha256};

use super::message::{
    CODE_MALFORMED, CODE_OFFSET, CODE_TOO_MANY, CODE_UNKNOWN, FromServer, Header, METHOD_ABORT,
    METHOD_BEGIN, METHOD_FINISH, METHOD_UPDATE, METHOD_WHOLE, ToServer, now_ns,
};
use crate::exit::{Doing, Failure};
use crate::scratch;
use crate::worker::{read_line, report};

/// Options of `demo-server`.
#[derive(Args, Debug)]
pub struct ServerArgs {
    name: String,
}

/// Digests that may be open; clients of the demo open one each.
const OPEN_MAX: usize = 256;

/// A digest that got nothing for so long is dropped: its client is gone.
const STALE: Duration = Duration::from_secs(30);

/// How often stale digests are looked for.
const IDLE: Duration = Duration::from_secs(1);

/// How long a watch for a client's departure lasts, and how often it looks.
const WATCH: (Duration, Duration) = (Duration::from_secs(5), Duration::from_micros(50));

/// Runs the hidden `demo-server`; it ends with its input.
///
/// # Errors
/// When the name can't be served.
pub fn run(args: &ServerArgs) -> Result<(), Failure> {
    let mut options = ServerOptions::default();
    options.idle_interval = Some(IDLE);
    let server = Arc::new(Server::serve_with(&args.name, options, Digests::default())?);
    report(&FromServer::Ready)?;
    let mut input = io::stdin().lock();
    while let Some(order) = read_line(&mut input).doing("standard input")? {
        match order {
            ToServer::Watch => {
                let clients = server.status().clients;
                let watched = server.clone();
                thread::spawn(move || watch(&watched, clients));
                report(&FromServer::Watching(clients))?;
            }
        }
    }
    server.stop();
    server.wait();
    scratch::forget(&args.name);
    Ok(())
}

/// Tells the parent when fewer clients are connected than before.
fn watch(server: &Server, before: u64) {
    let (patience, pause) = WATCH;
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if server.status().clients < before {
            let _ = report(&FromServer::ClientGone(now_ns()));
            return;
        }
        thread::sleep(pause);
    }
}

/// The open digests, each belonging to the process that began it.
#[derive(Default)]
struct Digests(Mutex<HashMap<Key, Open>>);

/// Process id and the id that it chose.
type Key = (u32, u64);

struct Open {
    hash: Sha256,
    len: u64,
    touched: Instant,
}

/// Why a request was not carried out.
struct Refusal(u32, &'static str);

impl Handler for Digests {
    fn handle(&self, call: Call<'_>) {
        let answer = self.answer(&call);
        // Whoever is gone needs no answer.
        let _ = match answer {
            Ok(digest) => call.reply(digest.as_deref().unwrap_or(&[])),
            Err(Refusal(code, message)) => call.fail(code, message),
        };
    }

    fn idle(&self) {
        self.open().retain(|_, open| open.touched.elapsed() < STALE);
    }
}

impl Digests {
    fn open(&self) -> MutexGuard<'_, HashMap<Key, Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, call: &Call<'_>) -> Result<Option<Vec<u8>>, Refusal> {
        let request = call.request();
        if call.method() == METHOD_WHOLE {
            let mut hash = Sha256::new();
            request.for_each_chunk(|chunk| hash.update(chunk));
            return Ok(Some(hash.finalize().to_vec()));
        }
        let mut header = [0; Header::LEN];
        if request.read_at(0, &mut header) < Header::LEN {
            return Err(Refusal(CODE_MALFORMED, "the request is too short"));
        }
        let header = Header::from_bytes(header);
        let key = (call.caller().pid.unwrap_or(0), header.id);
        match call.method() {
            METHOD_BEGIN => self.begin(key).map(|()| None),
            METHOD_UPDATE => self.update(key, header.offset, &request).map(|()| None),
            METHOD_FINISH => self.finish(key, header.offset).map(Some),
            METHOD_ABORT => {
                self.open().remove(&key);
                Ok(None)
            }
            _ => Err(Refusal(CODE_MALFORMED, "no such method")),
        }
    }

    fn begin(&self, key: Key) -> Result<(), Refusal> {
        let mut open = self.open();
        let full = open.len() >= OPEN_MAX;
        match open.entry(key) {
            Entry::Vacant(_) if full => Err(Refusal(CODE_TOO_MANY, "too many digests are open")),
            entry => {
                let digest = Open { hash: Sha256::new(), len: 0, touched: Instant::now() };
                entry.insert_entry(digest);
                Ok(())
            }
        }
    }

    fn update(&self, key: Key, offset: u64, request: &Payload<'_>) -> Result<(), Refusal> {
        let mut digest = self.take(key, offset)?;
        // Outside of the lock; nobody else has it meanwhile. The header comes first.
        let mut header = Header::LEN;
        request.for_each_chunk(|chunk| {
            let skipped = header.min(chunk.len());
            header -= skipped;
            digest.hash.update(&chunk[skipped..]);
        });
        digest.len += (request.len() - Header::LEN) as u64;
        digest.touched = Instant::now();
        self.open().insert(key, digest);
        Ok(())
    }

    fn finish(&self, key: Key, offset: u64) -> Result<Vec<u8>, Refusal> {
        Ok(self.take(key, offset)?.hash.finalize().to_vec())
    }

    /// Takes a digest out, provided that it has `offset` bytes so far.
    fn take(&self, key: Key, offset: u64) -> Result<Open, Refusal> {
        match self.open().entry(key) {
            Entry::Vacant(_) => Err(Refusal(CODE_UNKNOWN, "no such digest is open")),
            Entry::Occupied(digest) if digest.get().len != offset => {
                Err(Refusal(CODE_OFFSET, "the bytes do not follow those before"))
            }
            Entry::Occupied(digest) => Ok(digest.remove()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T>(result: Result<T, Refusal>) -> Option<u32> {
        result.err().map(|refusal| refusal.0)
    }

    #[test]
    fn digests_belong_to_their_process_and_offset() {
        let digests = Digests::default();
        assert_eq!(code(digests.begin((1, 7))), None);
        assert_eq!(code(digests.finish((2, 7), 0)), Some(CODE_UNKNOWN));
        assert_eq!(code(digests.finish((1, 7), 5)), Some(CODE_OFFSET));
        assert_eq!(digests.finish((1, 7), 0).ok(), Some(Sha256::digest([]).to_vec()));
        assert_eq!(code(digests.finish((1, 7), 0)), Some(CODE_UNKNOWN));
    }

    #[test]
    fn the_number_of_digests_is_bounded() {
        let digests = Digests::default();
        for id in 0..OPEN_MAX as u64 {
            assert_eq!(code(digests.begin((1, id))), None);
        }
        assert_eq!(code(digests.begin((1, 1 << 40))), Some(CODE_TOO_MANY));
        assert_eq!(code(digests.begin((1, 0))), None, "beginning again is no new one");
        digests.idle();
        assert_eq!(digests.open().len(), OPEN_MAX);
    }
}
