//! Aeron IPC through rusteron, with Aeron's C media driver in a process of its own.
//!
//! Aeron has streams, no calls. Clients publish requests on one stream; each listens for replies on
//! a stream of its own, which its first message names. Messages that fit into a frame are claimed
//! and read where they lie, longer ones are offered and reassembled.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rusteron_client::{
    Aeron, AeronContext, AeronExclusivePublication, AeronFragmentClosureAssembler, AeronHeader,
    AeronImage, AeronOfferError, AeronSubscription, BackoffIdleStrategy, Handlers, IdleStrategy,
};
use rusteron_media_driver::{AeronDriver, AeronDriverContext};

use crate::message::{Message, answerable};
use crate::peer::{Client, Peer, Place, Result};

/// All clients' requests.
const REQUESTS: i32 = 1;
/// Replies to the client number 0; each client has the next thousand.
const REPLIES: i32 = 1000;
/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Fragments taken in one poll, as in Aeron's samples.
const FRAGMENTS: usize = 10;

/// The two ways to use it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AeronIpc {
    /// As its ping-pong sample: busy spin, logs that are small, touched beforehand, with large
    /// frames.
    Spin,
    /// As it comes, with the idle strategy that is its default.
    Backoff,
}

impl Peer for AeronIpc {
    fn name(&self) -> &'static str {
        match self {
            AeronIpc::Spin => "aeron-spin",
            AeronIpc::Backoff => "aeron-backoff",
        }
    }

    fn package(&self) -> Option<&'static str> {
        Some("rusteron-client")
    }

    fn about(&self) -> &'static str {
        match self {
            AeronIpc::Spin => "tuned for latency: busy spin, small touched logs; driver process",
            AeronIpc::Backoff => "default channel and backoff idle strategy; driver process",
        }
    }

    fn has_driver(&self) -> bool {
        true
    }

    fn drive(&self, place: &Place, ready: &dyn Fn()) -> Result<()> {
        let context = AeronDriverContext::new()?;
        context.set_dir(&directory(place)?)?;
        context.set_term_buffer_sparse_file(*self == AeronIpc::Backoff)?;
        let driver = AeronDriver::new(&context)?;
        driver.start(true)?;
        ready();
        loop {
            driver.main_idle_strategy(driver.main_do_work()?);
        }
    }

    fn serve(&self, place: &Place, ready: &dyn Fn()) -> Result<()> {
        let (aeron, channel) = (self.open(place)?, self.channel(place)?);
        let requests = subscribe(&aeron, &channel, REQUESTS)?;
        ready();
        let mut assembler = self.assembler(place)?;
        let mut server = Server { claims: assembler.is_none(), ..Server::default() };
        let mut idle = Idle::new(*self);
        loop {
            let fragments = match &mut assembler {
                Some(assembler) => {
                    assembler.poll(&requests, &mut server, Server::answer, FRAGMENTS)?
                }
                None => {
                    requests.poll_fn(|bytes, header| server.answer(bytes, header), FRAGMENTS)?
                }
            };
            if let Some(failure) = server.failure.take() {
                return Err(failure);
            }
            for (session, stream) in server.new.drain(..) {
                server.replies.insert(session, publish(&aeron, &channel, stream)?);
            }
            idle.idle(fragments);
        }
    }

    fn connect(&self, place: &Place) -> Result<Box<dyn Client>> {
        static TURN: AtomicI32 = AtomicI32::new(0);
        let (aeron, channel) = (self.open(place)?, self.channel(place)?);
        let stream =
            REPLIES * (place.client as i32 + 1) + TURN.fetch_add(1, Ordering::Relaxed) % REPLIES;
        let replies = subscribe(&aeron, &channel, stream)?;
        let requests = publish(&aeron, &channel, REQUESTS)?;
        let mut idle = Idle::new(*self);
        while let Err(error) = requests.offer(&stream.to_le_bytes()) {
            retry(error, &mut idle)?;
        }
        let image = loop {
            match replies.image_at_index(0) {
                Some(image) => break image,
                None => idle.idle(0),
            }
        };
        let assembler = self.assembler(place)?;
        let buffer = if assembler.is_some() { vec![0; place.size] } else { Vec::new() };
        Ok(Box::new(Connected { image, requests, replies, assembler, buffer, idle, _aeron: aeron }))
    }
}

impl AeronIpc {
    fn open(self, place: &Place) -> Result<Aeron> {
        let context = AeronContext::new()?;
        context.set_dir(&directory(place)?)?;
        context.set_pre_touch_mapped_memory(self == AeronIpc::Spin)?;
        context
            .set_error_handler(Some(|code: i32, text: &str| eprintln!("aeron {code}: {text}")))?;
        let aeron = Aeron::new(&context)?;
        aeron.start()?;
        Ok(aeron)
    }

    /// A message may have an eighth of a term.
    fn channel(self, place: &Place) -> Result<CString> {
        let term = (place.size * 8).next_power_of_two();
        Ok(CString::new(match self {
            AeronIpc::Spin => format!("aeron:ipc?term-length={}|mtu=65504", term.max(1 << 20)),
            AeronIpc::Backoff if term > 1 << 26 => format!("aeron:ipc?term-length={term}"),
            AeronIpc::Backoff => "aeron:ipc".to_owned(),
        })?)
    }

    /// What puts long messages together again; none where all fit into a frame.
    fn assembler(self, place: &Place) -> Result<Option<AeronFragmentClosureAssembler>> {
        let frame = if self == AeronIpc::Spin { 65_504 } else { 1_408 };
        if place.size <= frame - 32 {
            return Ok(None);
        }
        Ok(Some(AeronFragmentClosureAssembler::new()?))
    }
}

fn directory(place: &Place) -> Result<CString> {
    Ok(CString::new(format!("/dev/shm/{}-aeron", place.tag))?)
}

fn publish(aeron: &Aeron, channel: &CString, stream: i32) -> Result<AeronExclusivePublication> {
    Ok(aeron.async_add_exclusive_publication(channel, stream)?.poll_blocking(PATIENCE)?)
}

fn subscribe(aeron: &Aeron, channel: &CString, stream: i32) -> Result<AeronSubscription> {
    let adding = aeron.async_add_subscription(channel, stream, Handlers::NONE, Handlers::NONE)?;
    Ok(adding.poll_blocking(PATIENCE)?)
}

/// Backs off after an error that passes, and returns any other.
fn retry(error: AeronOfferError, idle: &mut Idle) -> Result<()> {
    if !error.is_retryable() {
        return Err(error.into());
    }
    idle.idle(0);
    Ok(())
}

enum Idle {
    Spin,
    Backoff(BackoffIdleStrategy),
}

impl Idle {
    fn new(peer: AeronIpc) -> Idle {
        match peer {
            AeronIpc::Spin => Idle::Spin,
            AeronIpc::Backoff => Idle::Backoff(BackoffIdleStrategy::new()),
        }
    }

    fn idle(&mut self, work: i32) {
        match self {
            Idle::Spin if work == 0 => std::hint::spin_loop(),
            Idle::Spin => {}
            Idle::Backoff(strategy) => strategy.idle(work),
        }
    }
}

/// Publications by the sessions of their clients, and sessions that want one.
#[derive(Default)]
struct Server {
    /// Whether replies fit into a frame.
    claims: bool,
    replies: HashMap<i32, AeronExclusivePublication>,
    new: Vec<(i32, i32)>,
    failure: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Server {
    fn answer(&mut self, request: &[u8], header: AeronHeader) {
        let answered = self.try_answer(request, &header);
        self.failure = self.failure.take().or(answered.err());
    }

    fn try_answer(&mut self, request: &[u8], header: &AeronHeader) -> Result<()> {
        let session = header.session_id().ok_or("a message has no session")?;
        let Some(replies) = self.replies.get(&session) else {
            let stream = request.try_into().map_err(|_| "a client did not say where it listens")?;
            self.new.push((session, i32::from_le_bytes(stream)));
            return Ok(());
        };
        answerable(request);
        let mut idle = Idle::Spin;
        loop {
            let sent = if self.claims {
                replies.try_claim_owned(request.len()).map(|mut claim| {
                    claim.data().copy_from_slice(request);
                    claim.commit()
                })
            } else {
                replies.offer(request).map(Ok)
            };
            match sent {
                Ok(position) => return Ok(position.map(drop)?),
                // The client went away with its reply outstanding.
                Err(AeronOfferError::NotConnected) => return Ok(()),
                Err(error) => retry(error, &mut idle)?,
            }
        }
    }
}

// Fields are dropped in this order: an image must go before its subscription.
struct Connected {
    image: AeronImage,
    requests: AeronExclusivePublication,
    replies: AeronSubscription,
    assembler: Option<AeronFragmentClosureAssembler>,
    /// What long messages are built in.
    buffer: Vec<u8>,
    idle: Idle,
    _aeron: Aeron,
}

/// What a reply is compared with, and the outcome once it is there.
struct Awaited<'a> {
    message: &'a Message,
    outcome: Option<Result<()>>,
}

impl Awaited<'_> {
    fn take(&mut self, reply: &[u8], _: AeronHeader) {
        self.outcome = Some(self.message.check(reply));
    }
}

impl Connected {
    fn alive(&self) -> Result<()> {
        if self.image.is_closed() { Err("the server went away".into()) } else { Ok(()) }
    }
}

impl Client for Connected {
    fn call(&mut self, message: &Message) -> Result<()> {
        self.submit(message)?;
        self.complete(message)
    }

    fn submit(&mut self, message: &Message) -> Result<()> {
        if self.assembler.is_some() {
            message.write(&mut self.buffer);
            while let Err(error) = self.requests.offer(&self.buffer) {
                self.alive()?;
                retry(error, &mut self.idle)?;
            }
            return Ok(());
        }
        loop {
            match self.requests.try_claim_owned(message.len()) {
                Ok(mut claim) => {
                    message.write(claim.data());
                    claim.commit()?;
                    return Ok(());
                }
                Err(error) => {
                    self.alive()?;
                    retry(error, &mut self.idle)?;
                }
            }
        }
    }

    fn complete(&mut self, message: &Message) -> Result<()> {
        let mut awaited = Awaited { message, outcome: None };
        loop {
            let fragments = match &mut self.assembler {
                Some(assembler) => {
                    assembler.poll(&self.replies, &mut awaited, Awaited::take, FRAGMENTS)?
                }
                None => self.image.poll_fn(|reply, header| awaited.take(reply, header), 1)?,
            };
            if let Some(outcome) = awaited.outcome {
                return outcome;
            }
            if fragments == 0 {
                self.alive()?;
            }
            self.idle.idle(fragments);
        }
    }
}
