//! Servers that end, and what their clients find out.

use super::*;

/// Has no answer, and says when it has a request.
struct Silent(mpsc::Sender<()>, mpsc::Receiver<()>);

impl Handler<Sum> for Silent {
    fn handle(&mut self, _: &mut Sum) -> Answer {
        self.0.send(()).unwrap();
        let _ = self.1.recv_timeout(Duration::from_secs(60));
        Answer::None
    }
}

/// The client would wait for two minutes, and so it would once more for the late answer if it did not see that a server
/// is there which has drained it.
#[test]
fn a_server_that_ends_during_a_call() {
    let names = names("ends");
    let (tell, told) = mpsc::channel();
    let (go, gone) = mpsc::channel();
    let server = Server::serve(&names, Silent(tell, gone)).unwrap();
    // So that names outlive the server.
    let _memory = Section::open(names.of(Object::Memory)).unwrap();
    let _owner = system::Mutex::open(names.of(Object::Owner)).unwrap();
    let client = client(&names);
    thread::scope(|scope| {
        let call = scope.spawn(|| {
            let error = client.call(&ask(1)).unwrap_err();
            // Free and the server's mutex are this thread's no more: it lives on while they are used.
            let server = Server::serve(&names, add).unwrap();
            assert_eq!(client.call(&ask(2)).unwrap(), answer(2));
            assert!(server.status().adopted);
            error
        });
        told.recv().unwrap();
        server.stop();
        go.send(()).unwrap();
        match call.join().unwrap() {
            CallError::NoAnswer {
                started: Started::MayHaveRun,
                server: ServerState::Ended,
                ..
            } => {}
            other => panic!("{other}"),
        }
    });
    server.wait().unwrap();
    assert_eq!(server.status().unanswered, 1);
}

#[test]
fn a_look_at_the_servers_mutex_leaves_it_free() {
    let names = names("look");
    let server = Server::serve(&names, add).unwrap();
    let client = client(&names);
    assert_eq!(client.call(&ask(1)).unwrap(), answer(1));
    let _owner = system::Mutex::open(names.of(Object::Owner)).unwrap();
    drop(server);
    assert!(matches!(client.call(&ask(2)), Err(CallError::NotRunning { .. })));
    let _server = Server::serve(&names, add).unwrap();
    assert_eq!(client.call(&ask(3)).unwrap(), answer(3));
}

/// A server of another kind has come after one of this crate, whose mutex lives on and is nobody's. Another client has
/// Free and takes that mutex for its look when this one's call begins.
#[test]
#[cfg(not(windows))] // Only `sim` tells who waits.
fn another_clients_look_at_the_servers_mutex_is_no_server() {
    let names = names("two-looks");
    let security = Security::of(&Access::System).unwrap();
    let (memory, _) = Section::create(names.of(Object::Memory), 16, &security).unwrap();
    let exec = Event::create(names.of(Object::Exec), &security).unwrap();
    let done = Event::create(names.of(Object::Done), &security).unwrap();
    let owner = system::Mutex::create(names.of(Object::Owner), &security).unwrap();
    let free = system::Mutex::create(names.of(Object::Free), &security).unwrap();
    for mutex in [&free, &owner] {
        system::wait(&[Any::Mutex(mutex)], Duration::ZERO).unwrap();
    }
    thread::scope(|scope| {
        let call = scope.spawn(|| client(&names).call(&ask(1)));
        until(|| system::waiters(Any::Mutex(&free)) > 0);
        for mutex in [&owner, &free] {
            mutex.release().unwrap();
        }
        until(|| is_set(&exec) || call.is_finished());
        until(|| system::waiters(Any::Event(&done)) > 0 || call.is_finished());
        memory.write(answer(1).as_bytes());
        done.set().unwrap();
        assert_eq!(call.join().unwrap().unwrap(), answer(1));
    });
}

/// A server of another kind, which takes a request and dies: when the client lets go of the memory nobody has it.
#[test]
fn a_server_that_is_gone() {
    let names = names("gone");
    let client = Client::with(&names, impatient());
    let state = loop {
        let security = Security::of(&Access::System).unwrap();
        let memory = Section::create(names.of(Object::Memory), 16, &security).unwrap();
        let exec = Event::create(names.of(Object::Exec), &security).unwrap();
        let done = Event::create(names.of(Object::Done), &security).unwrap();
        let end = thread::scope(|scope| {
            let call = scope.spawn(|| client.call(&ask(1)));
            system::wait(&[Any::Event(&exec)], Duration::from_secs(5)).unwrap();
            drop((memory, exec, done));
            call.join().unwrap()
        });
        match end {
            Err(CallError::NoAnswer { started: Started::MayHaveRun, server, .. }) => break server,
            // A machine that is slow.
            Err(CallError::NoAnswer { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(state, ServerState::Gone);
    // Nothing is owed by a server that is gone: this would wait for it for ten minutes.
    let server = Server::serve(&names, add).unwrap();
    let options = ClientOptions { settle: Duration::from_secs(600), ..patient() };
    let patient = Client::with(&names, options);
    assert_eq!(patient.call(&ask(2)).unwrap(), answer(2));
    assert_eq!(patient.status().late, 0);
    drop((server, patient));
    assert!(matches!(client.call(&ask(3)), Err(CallError::NotRunning { .. })));
}
