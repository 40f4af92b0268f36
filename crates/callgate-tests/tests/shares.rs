//! What one peer gets of a thread before another one's turn, in messages: however much lies in its socket.
//!
//! A program of its own: it listens to what the library reports, which only one may in a process. What is counted is
//! what has been read when somebody else is attended to, by the very thread that reads; no time takes part.

use std::fmt::Debug;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use callgate::{Call, CallError, Client, ClientOptions, Retry, Server};
use callgate_proto::wire::{Answer, Ask, Hello, Message, Versions, Welcome};
use callgate_sys::endpoint::Listener;
use callgate_sys::shm::Control;
use callgate_sys::socket::Socket;
use callgate_tests::hostile::{Raw, Words, receive, send, wait_closed};
use callgate_tests::memory::{memfd, payload_seals};
use callgate_tests::{BOUND, Place, until, within};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

const LONGEST: std::time::Duration = BOUND;
const QUOTA: u64 = 1 << 30;
const REGION: u64 = 65_536;

/// A thread that stops at a place and goes on when it is told.
struct Stop {
    stopped: Receiver<String>,
    go_on: Sender<()>,
}

impl Stop {
    /// And what the thread does there.
    fn new() -> (Self, impl Fn(String) + Send + Sync + 'static) {
        let (stops, stopped) = channel();
        let (go_on, told) = channel();
        let told = Mutex::new(told);
        let stop = move |what: String| {
            if stops.send(what).is_ok() {
                let _ = told.lock().unwrap_or_else(PoisonError::into_inner).recv();
            }
        };
        (Self { stopped, go_on }, stop)
    }

    /// Waits until it stands there.
    fn wait(&self) -> String {
        self.stopped.recv_timeout(BOUND).expect("it comes by")
    }

    fn go_on(&self) {
        self.go_on.send(()).expect("it waits");
    }
}

/// A server whose handler stops in each call.
fn serve(place: &Place) -> (Server, Stop) {
    let (stop, stops) = Stop::new();
    let server = Server::serve(place.name(), move |call: Call<'_>| {
        stops(String::new());
        let _ = call.reply(b"x");
    });
    (server.expect("serve"), stop)
}

/// Has `fill` send to a worker that is busy, then another client call; gives what then lies unread in the first one's
/// socket when the call begins, before and after.
fn beside(fill: impl FnOnce(&mut Raw)) -> (usize, usize) {
    let place = Place::new();
    let (_server, stop) = serve(&place);
    let mut raws: Vec<Raw> = (0..3).map(|_| Raw::connect(&place.path(), 65, QUOTA)).collect();
    let [gate, full, other] = &mut raws[..] else { unreachable!("three") };
    let held = gate.publish_bytes(0, b"");
    stop.wait();
    fill(full);
    let before = full.socket.unread().expect("a socket");
    let called = other.publish_bytes(0, b"");
    stop.go_on();
    stop.wait();
    let after = full.socket.unread().expect("a socket");
    stop.go_on();
    for (raw, ticket) in [(gate, held), (other, called)] {
        assert!(raw.wait(ticket).is_some(), "an honest client is answered");
    }
    assert!(!full.socket.is_closed(), "all of it is allowed");
    (before, after)
}

/// A worker that looks at its poller reads 16 messages of one socket, and perhaps looks twice; then it serves who
/// calls.
#[test]
fn a_socket_full_of_bells_gives_way_to_a_call() {
    within(LONGEST, || {
        let (before, after) = beside(|raw| {
            for _ in 0..200 {
                send(&raw.socket, Message::Bell.encode().as_bytes(), &[]).expect("room");
            }
        });
        let read = (before - after) * 200 / before;
        assert!(read <= 32, "{read} of 200 bells were read before the other's call");
    });
}

/// A region is mapped, which takes long: each look reads one.
#[test]
fn a_socket_full_of_regions_gives_way_to_a_call() {
    within(LONGEST, || {
        let (before, after) = beside(|raw| (0..12).for_each(|id| raw.add_region(id, 65_536)));
        let read = (before - after) * 12 / before;
        assert!(read <= 2, "{read} of 12 regions were mapped before the other's call");
    });
}

/// Many hang up at once: what they had is unmapped one by one, with calls of others in between.
#[test]
fn a_crowd_that_hangs_up_gives_way_to_calls() {
    within(LONGEST, || {
        let place = Place::new();
        let (server, stop) = serve(&place);
        let mut raw = Raw::connect(&place.path(), 65, QUOTA);
        let crowd: Vec<Raw> = (0..40).map(|_| Raw::connect(&place.path(), 65, QUOTA)).collect();
        let mut ticket = raw.publish_bytes(0, b"");
        stop.wait();
        drop(crowd);
        let mut left = server.status().clients;
        while left > 1 {
            // It is there when the worker is done with the one before.
            let next = raw.publish_bytes(0, b"");
            stop.go_on();
            assert!(raw.wait(ticket).is_some(), "an honest client is answered");
            raw.put_back(ticket);
            ticket = next;
            stop.wait();
            let now = server.status().clients;
            assert!(left - now <= 2, "{} connections were ended before the next call", left - now);
            left = now;
        }
        stop.go_on();
        assert!(raw.wait(ticket).is_some());
    });
}

/// A call that names a region which is not known yet has the worker read 64 messages, as many as an honest client may
/// have sent, and no more.
#[test]
fn a_region_that_lies_behind_too_much_is_not_looked_for() {
    within(LONGEST, || {
        let place = Place::new();
        let (server, stop) = serve(&place);
        let mut gate = Raw::connect(&place.path(), 65, QUOTA);
        for (bells, is_found) in [(20, true), (200, false)] {
            let mut raw = Raw::connect(&place.path(), 65, QUOTA);
            let held = gate.publish_bytes(0, b"");
            stop.wait();
            for _ in 0..bells {
                send(&raw.socket, Message::Bell.encode().as_bytes(), &[]).expect("room");
            }
            raw.add_region(0, 65_536);
            let ticket = raw.publish_far(0, 0, 0, 100);
            stop.go_on();
            assert!(gate.wait(held).is_some());
            gate.put_back(held);
            if is_found {
                stop.wait();
                stop.go_on();
                assert!(raw.wait(ticket).is_some(), "a call behind {bells} bells");
            } else {
                wait_closed(&raw.socket);
                assert_eq!(server.status().violations, 1);
            }
        }
    });
}

/// A server, as far as a client's thread that watches for its end can tell.
struct Host {
    socket: Socket,
    words: Words,
    client: Client,
}

impl Host {
    fn new(place: &Place) -> Self {
        let path = place.path();
        let lock = place.file("s.lock");
        let listener = Listener::bind(&path, &lock, 0o600, None).expect("the name is free");
        let name = place.name();
        let connecting = std::thread::spawn(move || {
            let mut options = ClientOptions::default();
            options.retry = Retry::Never;
            Client::connect_with(name, options).expect("connect")
        });
        let socket = until("a client comes", || listener.accept().expect("accept"));
        let (hello, fd) = receive(&socket).expect("a hello");
        let Ok(Hello { ask: Some(Ask::Connect { cells, control, .. }), .. }) =
            Hello::decode(&hello)
        else {
            panic!("an honest client");
        };
        let memory = fd.expect("memory");
        let control = Control::accept(memory, control as usize).expect("honest memory");
        let welcome = Welcome {
            epoch: 1,
            request_max: 1 << 20,
            reply_max: 1 << 20,
            quota: QUOTA,
            in_flight: cells - 1,
        };
        let answer = Answer::Welcome(welcome).encode(Versions::OURS);
        send(&socket, answer.as_bytes(), &[]).expect("sent");
        let words = Words { control, cells };
        Self { socket, words, client: connecting.join().expect("no panic") }
    }
}

/// What the thread that watches does when it reports the end of a connection.
type Hook = Arc<dyn Fn(String) + Send + Sync>;
static HOOK: Mutex<Option<Hook>> = Mutex::new(None);
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// This process's thread that watches all servers, standing still.
struct Watcher {
    stop: Stop,
    _one: MutexGuard<'static, ()>,
}

impl Watcher {
    /// Stops it where it reports the end of a connection to a place that ends now, and later that of one to `next`.
    fn stopped(next: &Place) -> Self {
        static LISTENS: Once = Once::new();
        let one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        LISTENS.call_once(|| {
            tracing::subscriber::set_global_default(Reports).expect("the only one");
        });
        let (stop, stops) = Stop::new();
        let place = Place::new();
        let names = [place.name(), next.name()];
        let hook = move |name| {
            if names.contains(&name) {
                stops(name);
            }
        };
        *HOOK.lock().expect("not poisoned") = Some(Arc::new(hook));
        let Host { socket, client: _client, .. } = Host::new(&place);
        drop(socket);
        assert_eq!(stop.wait(), place.name());
        Self { stop, _one: one }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        *HOOK.lock().expect("not poisoned") = None;
    }
}

/// Listens to the thread that watches.
struct Reports;

#[derive(Default)]
struct Seen {
    message: String,
    path: String,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "path" => self.path = format!("{value:?}"),
            _ => {}
        }
    }
}

impl Subscriber for Reports {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && std::thread::current().name() == Some("callgate-watch")
    }

    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut seen = Seen::default();
        event.record(&mut seen);
        let hook = HOOK.lock().expect("not poisoned").clone();
        if seen.message == "disconnected from server"
            && let Some(hook) = hook
        {
            hook(seen.path);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The thread that watches all servers of a client process reads 64 messages of one of them; then it attends to the
/// next.
#[test]
fn a_server_that_sends_without_end_hides_no_others_death() {
    within(LONGEST, || {
        let places = [Place::new(), Place::new()];
        let [full, dying] = places.each_ref().map(Host::new);
        let watcher = Watcher::stopped(&places[1]);
        let memory = memfd(REGION, true, payload_seals());
        for id in 0..100 {
            let region = Message::Region { id, size: REGION }.encode();
            send(&full.socket, region.as_bytes(), &[memory.as_fd()]).expect("room");
            send(&full.socket, Message::Retire { id }.encode().as_bytes(), &[]).expect("room");
        }
        let before = full.socket.unread().expect("a socket");
        drop(dying.socket);
        // Both are there when it looks again.
        watcher.stop.go_on();
        assert_eq!(watcher.stop.wait(), places[1].name());
        let after = full.socket.unread().expect("a socket");
        watcher.stop.go_on();
        until("the rest is read, too", || (full.socket.unread().ok()? == 0).then_some(()));
        let read = (before - after) * 200 / before;
        assert!(read <= 64, "{read} of 200 messages were read before another server's end");
    });
}

/// That thread stands still, as it does where what the program does with reports blocks: a caller that sleeps asks the
/// kernel itself, after a second.
#[test]
fn a_caller_does_not_depend_on_the_thread_that_watches() {
    within(LONGEST, || {
        let place = Place::new();
        let Host { socket, words, client } = Host::new(&place);
        let watcher = Watcher::stopped(&place);
        let calling = std::thread::spawn(move || client.call(b"x"));
        until("it has called", || {
            words.cells()[0].has_request(Raw::first_turn(), None).expect("honest").then_some(())
        });
        drop(socket);
        let ended = calling.join().expect("no panic");
        assert!(matches!(ended, Err(CallError::Disconnected { .. })), "{ended:?}");
        watcher.stop.go_on();
    });
}
