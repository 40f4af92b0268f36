//! Server and client with each other, and beside programs that behave otherwise, in one process. On Windows with the
//! real objects, elsewhere with those of `system::sim`.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::system::{self, Any, Event, Section, Security, Woken};
use crate::*;

mod ends;
mod late;
mod objects;

#[derive(Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Sum {
    number: u32,
    a: u32,
    b: u32,
    sum: u32,
}

fn ask(number: u32) -> Sum {
    Sum { number, a: number, b: 1, sum: 0 }
}

fn answer(number: u32) -> Sum {
    Sum { sum: number + 1, ..ask(number) }
}

fn add(data: &mut Sum) {
    data.sum = data.a + data.b;
}

/// Names that nothing else on the machine has.
fn names(test: &str) -> Names {
    let of = |what| format!("callgate-test-{}-{test}-{what}", std::process::id());
    Names::new(of("memory"), of("exec"), of("done"), of("free")).unwrap()
}

/// Limits that no machine is too slow for.
fn patient() -> ClientOptions {
    let limit = Duration::from_secs(120);
    ClientOptions { busy: limit, answer: limit, settle: limit, ..ClientOptions::default() }
}

/// As `patient`, but gives up waiting for an answer soon: where none can come.
fn impatient() -> ClientOptions {
    ClientOptions { answer: Duration::from_millis(30), ..patient() }
}

fn client(names: &Names) -> Client<Sum> {
    Client::with(names, patient())
}

fn is_set(event: &Event) -> bool {
    system::wait(&[Any::Event(event)], Duration::ZERO).unwrap() != Woken::TimedOut
}

fn until(condition: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(120), "it does not come true");
        thread::yield_now();
    }
}

/// Calls until a server has taken the request, which it does not answer in time; a slow machine may take more than one
/// call. Gives what is known of the server.
fn call_in_vain(client: &Client<Sum>, number: u32) -> ServerState {
    loop {
        match client.call(&ask(number)) {
            Err(CallError::NoAnswer { started: Started::NotStarted, .. }) => {}
            Err(CallError::NoAnswer { server, waited, foreign: 0, .. }) => {
                assert!(waited >= Duration::from_millis(30));
                return server;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A handler that says when it has a request, and waits to be let go on.
fn held() -> (impl FnMut(&mut Sum) + Send, mpsc::Receiver<u32>, mpsc::Sender<()>) {
    let (tell, told) = mpsc::channel();
    let (go, gone) = mpsc::channel();
    let handler = move |data: &mut Sum| {
        tell.send(data.number).unwrap();
        // With a limit, so that a test that fails ends.
        let _ = gone.recv_timeout(Duration::from_secs(60));
        add(data);
    };
    (handler, told, go)
}

#[test]
fn calls() {
    let names = names("calls");
    let server = Server::serve(&names, add).unwrap();
    let client = client(&names);
    for number in 0..100 {
        assert_eq!(client.call(&ask(number)).unwrap(), answer(number));
    }
    let mut data = ask(100);
    client.call_in_place(&mut data).unwrap();
    assert_eq!(data, answer(100));
    assert_eq!(client.status(), ClientStatus { answered: 101, ..ClientStatus::default() });
    let status = server.status();
    assert_eq!((status.adopted, status.dropped, status.panics), (false, 0, 0));
    until(|| server.status().answered == 101);
}

#[test]
fn a_server_that_comes_and_goes() {
    let names = names("comes-and-goes");
    let client = client(&names);
    for number in 0..3 {
        match client.call(&ask(number)) {
            Err(CallError::NotRunning { object: Object::Memory, name }) => {
                assert_eq!(name, names.of(Object::Memory));
            }
            other => panic!("{other:?}"),
        }
        let server = Server::serve(&names, add).unwrap();
        assert_eq!(client.call(&ask(number)).unwrap(), answer(number));
        server.stop();
        server.wait().unwrap();
    }
}

#[test]
fn a_live_server_is_not_driven_out() {
    let names = names("driven-out");
    let server = Server::serve(&names, add).unwrap();
    match Server::serve(&names, add) {
        Err(ServeError::AlreadyServed { memory, owner }) => {
            assert_eq!((&*memory, &*owner), (names.of(Object::Memory), names.of(Object::Owner)));
        }
        other => panic!("{other:?}"),
    }
    drop(server);
    drop(Server::serve(&names, add).unwrap());
}

#[test]
fn a_thread_that_would_wait_for_itself() {
    let names = names("itself");
    let inner = self::client(&names);
    let handler = {
        let names = names.clone();
        move |data: &mut Sum| {
            let error = self::client(&names).call(data).unwrap_err();
            assert!(matches!(error, CallError::WouldDeadlock { .. }), "{error}");
            add(data);
        }
    };
    let server = Server::serve(&names, handler).unwrap();
    let outer = client(&names);
    let checked = outer.call_checked(&ask(1), |_| {
        for client in [&inner, &outer] {
            let error = client.call(&ask(2)).unwrap_err();
            assert!(matches!(error, CallError::WouldDeadlock { .. }), "{error}");
            client.detach();
        }
        true
    });
    assert_eq!(checked.unwrap(), answer(1));
    assert_eq!(inner.call(&ask(3)).unwrap(), answer(3));
    until(|| server.status().answered == 2);
    assert_eq!(server.status().panics, 0);
}

#[test]
fn busy_says_by_whom() {
    let names = names("busy");
    let (handler, told, go) = held();
    let _server = Server::serve(&names, handler).unwrap();
    let options = ClientOptions { busy: Duration::from_millis(20), ..patient() };
    let client = Client::<Sum>::with(&names, options);
    let holder = || match client.call(&ask(9)) {
        Err(CallError::Busy { name, holder, waited }) => {
            assert_eq!(name, names.of(Object::Free));
            assert!(waited >= Duration::from_millis(20));
            holder
        }
        other => panic!("{other:?}"),
    };
    thread::scope(|scope| {
        let call = scope.spawn(|| self::client(&names).call(&ask(1)));
        assert_eq!(told.recv(), Ok(1));
        assert_eq!(holder(), Holder::ThisProcess);
        go.send(()).unwrap();
        call.join().unwrap().unwrap();
    });
    let security = Security::of(&Access::System).unwrap();
    let free = system::Mutex::create(names.of(Object::Free), &security).unwrap();
    system::wait(&[Any::Mutex(&free)], Duration::ZERO).unwrap();
    thread::scope(|scope| {
        let other = scope.spawn(holder);
        assert_eq!(other.join().unwrap(), Holder::AnotherProcess);
    });
    free.release().unwrap();
    drop(go);
    assert_eq!(client.call(&ask(2)).unwrap(), answer(2));
}

#[test]
fn free_that_its_owner_left() {
    let names = names("abandoned");
    let server = Server::serve(&names, add).unwrap();
    let security = Security::of(&Access::System).unwrap();
    let free = system::Mutex::create(names.of(Object::Free), &security).unwrap();
    let done = Event::open(names.of(Object::Done)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            system::wait(&[Any::Mutex(&free)], Duration::ZERO).unwrap();
            Event::open(names.of(Object::Exec)).unwrap().set().unwrap();
            until(|| server.status().answered == 1);
            #[cfg(not(windows))]
            system::die();
        });
    });
    let client = client(&names);
    assert_eq!(client.call(&ask(1)).unwrap(), answer(1));
    let status = client.status();
    assert_eq!((status.abandoned, status.late), (1, 1));
    assert!(!is_set(&done));
}

#[test]
fn bytes_without_a_type() {
    let names = names("bytes");
    let handler = |data: &mut [u8]| data.reverse();
    for bytes in [1, 4_097] {
        let options = ServerOptions::default();
        let _server = Server::serve_bytes(&names, bytes, options, handler).unwrap();
        let call = |limits| match bytes {
            1 => Client::<[u8; 1]>::with(&names, limits).call(&[7]).map(|data| data[0]),
            _ => Client::<[u8; 4_097]>::with(&names, limits)
                .call(&std::array::from_fn(|at| u8::from(at == 4_096) * 7))
                .map(|data| data[0]),
        };
        assert_eq!(call(patient()).unwrap(), 7);
    }
    let none = Server::serve_bytes(&names, 0, ServerOptions::default(), handler);
    assert!(matches!(none, Err(ServeError::Option { option: "bytes", .. })));
}

#[test]
fn who_may_have_them() {
    fn shared_by_threads<T: Send + Sync>() {}
    shared_by_threads::<Client<Sum>>();
    shared_by_threads::<Server>();
}

#[test]
fn much_data() {
    const BYTES: usize = 8 << 20;
    let names = names("much");
    let double = |data: &mut [u8; BYTES]| data.iter_mut().for_each(|byte| *byte *= 2);
    let _server = Server::serve(&names, double).unwrap();
    let client = Client::<[u8; BYTES]>::with(&names, patient());
    let mut data: Box<[u8; BYTES]> = vec![3; BYTES].into_boxed_slice().try_into().unwrap();
    client.call_in_place(&mut data).unwrap();
    assert!(data.iter().all(|byte| *byte == 6));
}

#[test]
fn a_handler_that_panics() {
    let names = names("panics");
    let server = Server::serve(&names, |data: &mut Sum| {
        assert!(data.number != 1, "as it is meant to");
        add(data);
    });
    let server = server.unwrap();
    let options = ClientOptions { settle: Duration::from_millis(20), ..impatient() };
    let client = Client::with(&names, options);
    call_in_vain(&client, 1);
    until(|| server.status().panics > 0);
    // Its answer never comes, and the next call waits for it no longer than `settle`.
    assert_eq!(
        Client::with(&names, ClientOptions { settle: Duration::ZERO, ..patient() })
            .call(&ask(2))
            .unwrap(),
        answer(2)
    );
    assert_eq!(self::client(&names).call(&ask(3)).unwrap(), answer(3));
}

struct Ticks(mpsc::Sender<()>);

impl Handler<Sum> for Ticks {
    fn handle(&mut self, data: &mut Sum) -> Answer {
        if data.number == 7 {
            return Answer::None;
        }
        add(data);
        Answer::Ready
    }

    fn idle(&mut self) {
        let _ = self.0.send(());
    }
}

#[test]
fn idle_ticks() {
    let names = names("idle");
    let (tell, told) = mpsc::channel();
    let idle_interval = Duration::from_millis(5);
    let options = ServerOptions { idle_interval, ..ServerOptions::default() };
    let server = Server::serve_with(&names, options, Ticks(tell)).unwrap();
    for _ in 0..3 {
        told.recv().unwrap();
    }
    assert_eq!(client(&names).call(&ask(1)).unwrap(), answer(1));
    assert!(server.status().idle >= 3);
    // It has no answer to the seventh.
    call_in_vain(&Client::with(&names, impatient()), 7);
    assert!(server.status().unanswered > 0);
    for (idle_interval, patience) in [(0, 1), (1, 0)] {
        let options = ServerOptions {
            idle_interval: Duration::from_millis(idle_interval),
            patience: Some(Duration::from_millis(patience)),
            ..ServerOptions::default()
        };
        let error = Server::serve_with(&names, options, add).unwrap_err();
        assert!(matches!(error, ServeError::Option { .. }), "{error}");
    }
}

/// While no server is there the others' clients keep the memory, so limits have to be short here.
#[test]
fn many_threads_and_a_server_that_restarts() {
    const CALLS: u32 = 50;
    let names = names("many");
    let limit = Duration::from_millis(20);
    let options = ClientOptions { answer: limit, settle: limit, ..patient() };
    let done = AtomicU32::new(0);
    let shared = Client::with(&names, options.clone());
    thread::scope(|scope| {
        for thread in 0..4 {
            let (names, options, shared, done) = (&names, options.clone(), &shared, &done);
            scope.spawn(move || {
                let own = Client::with(names, options);
                let mut number = thread * 1_000;
                while number < thread * 1_000 + CALLS {
                    let client = if number % 2 == 0 { shared } else { &own };
                    match client.call(&ask(number)) {
                        Ok(data) => assert_eq!(data, answer(number)),
                        // Between two servers, or on a machine that is slow: once more.
                        Err(
                            CallError::NotRunning { .. }
                            | CallError::NoAnswer { .. }
                            | CallError::Unsettled { .. },
                        ) => {
                            thread::yield_now();
                            continue;
                        }
                        Err(error) => panic!("{error}"),
                    }
                    number += 1;
                    done.fetch_add(1, Relaxed);
                }
            });
        }
        for part in 1..=4 {
            let server = Server::serve(&names, add).unwrap();
            until(|| done.load(Relaxed) >= part * CALLS);
            drop(server);
        }
    });
    assert_eq!(done.load(Relaxed), 4 * CALLS);
}
