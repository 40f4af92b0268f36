//! Answers that come late or never, and what becomes of the exchanges after them.

use super::*;

/// What a client of another kind uses.
fn opened(names: &Names) -> (Section, Event, Event) {
    let event = |object| Event::open(names.of(object)).unwrap();
    let memory = Section::open(names.of(Object::Memory)).unwrap();
    (memory, event(Object::Exec), event(Object::Done))
}

#[test]
fn an_answer_that_comes_late_is_nobodys() {
    let names = names("late");
    let (handler, told, go) = held();
    let server = Server::serve(&names, handler).unwrap();
    let client = Client::with(&names, impatient());
    assert_eq!(call_in_vain(&client, 1), ServerState::Alive);
    assert_eq!(told.recv(), Ok(1));
    // The next one is another client of this process: what is owed is owed to all of them.
    drop(client);
    let next = super::client(&names);
    thread::scope(|scope| {
        let call = scope.spawn(|| next.call(&ask(2)));
        go.send(()).unwrap();
        go.send(()).unwrap();
        assert_eq!(call.join().unwrap().unwrap(), answer(2));
    });
    assert_eq!(next.status().late, 1);
    until(|| server.status().answered == 2);
}

/// A server of another kind: it has no mutex, and here it takes one request and never answers.
#[test]
fn an_answer_that_does_not_come_fails_one_call_only() {
    let names = names("unsettled");
    let security = Security::of(&Access::System).unwrap();
    let memory = Section::create(names.of(Object::Memory), 16, &security).unwrap();
    let exec = Event::create(names.of(Object::Exec), &security).unwrap();
    let done = Event::create(names.of(Object::Done), &security).unwrap();
    let options = ClientOptions { settle: Duration::from_millis(20), ..impatient() };
    let client = Client::with(&names, options);
    thread::scope(|scope| {
        scope.spawn(|| system::wait(&[Any::Event(&exec)], Duration::from_secs(120)).unwrap());
        assert_eq!(call_in_vain(&client, 1), ServerState::Unknown);
    });
    match client.call(&ask(2)) {
        Err(CallError::Unsettled { name, waited }) => {
            assert_eq!(name, names.of(Object::Memory));
            assert!(waited >= Duration::from_millis(20));
        }
        other => panic!("{other:?}"),
    }
    match client.call(&ask(3)) {
        Err(CallError::NoAnswer { started: Started::NotStarted, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(!is_set(&exec) && !is_set(&done));
    // Nobody else has it now.
    drop((memory, exec, done));
    let _server = Server::serve(&names, add).unwrap();
    assert_eq!(super::client(&names).call(&ask(4)).unwrap(), answer(4));
}

/// Of two endpoints whose clients take turns by one Free, the one whose server owes nothing says nothing of the other.
#[test]
fn an_answer_is_owed_by_one_endpoint_and_not_by_its_neighbour() {
    let names = names("neighbour");
    let beside = self::names("neighbour-beside");
    let of = |object| beside.of(object);
    let beside =
        Names::new(of(Object::Memory), of(Object::Exec), of(Object::Done), names.of(Object::Free))
            .unwrap();
    let security = Security::of(&Access::System).unwrap();
    let _memory = Section::create(names.of(Object::Memory), 16, &security).unwrap();
    let exec = Event::create(names.of(Object::Exec), &security).unwrap();
    let _done = Event::create(names.of(Object::Done), &security).unwrap();
    let client = Client::with(&names, impatient());
    thread::scope(|scope| {
        scope.spawn(|| system::wait(&[Any::Event(&exec)], Duration::from_secs(120)).unwrap());
        assert_eq!(call_in_vain(&client, 1), ServerState::Unknown);
    });
    // Neither an exchange there, nor one that finds no memory.
    assert!(matches!(super::client(&beside).call(&ask(2)), Err(CallError::NotRunning { .. })));
    let _server = Server::serve(&beside, add).unwrap();
    assert_eq!(super::client(&beside).call(&ask(2)).unwrap(), answer(2));
    let options = ClientOptions { settle: Duration::from_millis(20), ..impatient() };
    match Client::with(&names, options).call(&ask(3)) {
        Err(CallError::Unsettled { .. }) => assert!(!is_set(&exec)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_that_is_at_an_old_request_does_the_new_one() {
    let names = names("old");
    let (handler, told, go) = held();
    let server = Server::serve(&names, handler).unwrap();
    let options = ClientOptions { settle: Duration::from_millis(20), ..impatient() };
    let client = Client::with(&names, options);
    assert_eq!(call_in_vain(&client, 1), ServerState::Alive);
    assert_eq!(told.recv(), Ok(1));
    // Taken back: the server is still at the first, and never sees this one.
    match client.call(&ask(2)) {
        Err(CallError::NoAnswer { started: Started::NotStarted, .. }) => {}
        other => panic!("{other:?}"),
    }
    drop(go);
    // The second wrote over the first, whose answer is held back for that.
    until(|| server.status().dropped == 1);
    assert_eq!(super::client(&names).call(&ask(3)).unwrap(), answer(3));
    assert_eq!(told.recv(), Ok(3));
}

#[test]
fn a_request_that_comes_meanwhile_goes_before_an_old_answer() {
    let names = names("meanwhile");
    let (handler, told, go) = held();
    let server = Server::serve(&names, handler).unwrap();
    // A client of another kind.
    let (memory, exec, done) = opened(&names);
    for number in 1..3 {
        memory.write(ask(number).as_bytes());
        exec.set().unwrap();
        if number == 1 {
            assert_eq!(told.recv(), Ok(1));
        }
    }
    drop(go);
    assert_eq!(told.recv(), Ok(2));
    let limit = Duration::from_secs(120);
    assert_eq!(system::wait(&[Any::Event(&done)], limit).unwrap(), Woken::Object(0));
    assert!(memory.holds(answer(2).as_bytes()));
    assert!(!is_set(&done));
    until(|| server.status().answered == 1);
    assert_eq!(server.status().dropped, 1);
}

#[test]
fn answers_that_nobody_waits_for() {
    let names = names("nobody");
    let (handler, told, go) = held();
    let options = ServerOptions {
        patience: Some(Duration::from_millis(20)),
        watch_free: true,
        ..ServerOptions::default()
    };
    let server = Server::serve_with(&names, options, handler).unwrap();
    let done = Event::open(names.of(Object::Done)).unwrap();
    // Set without Free: the request of a client that is gone.
    Event::open(names.of(Object::Exec)).unwrap().set().unwrap();
    until(|| server.status().skipped == 1);
    // A client that gave up, and one that is too late.
    // The server may find that one gone before it runs its request.
    let client = Client::with(&names, impatient());
    call_in_vain(&client, 1);
    while told.recv_timeout(Duration::from_millis(100)).is_err() {
        call_in_vain(&client, 1);
    }
    go.send(()).unwrap();
    until(|| server.status().dropped == 1);
    assert!(!is_set(&done));
    let security = Security::of(&Access::System).unwrap();
    // Free is owned, but the answer took longer than the clients' patience.
    let free = system::Mutex::create(names.of(Object::Free), &security).unwrap();
    system::wait(&[Any::Mutex(&free)], Duration::from_secs(120)).unwrap();
    Event::open(names.of(Object::Exec)).unwrap().set().unwrap();
    told.recv().unwrap();
    // So long is its patience: only time ends it.
    thread::sleep(Duration::from_millis(20));
    go.send(()).unwrap();
    until(|| server.status().dropped == 2);
    assert!(!is_set(&done));
    free.release().unwrap();
    assert_eq!(server.status().answered, 0);
}

/// A request that came while the server was at another for too long may be as old: its client has given up as well.
#[test]
fn an_answer_to_a_request_that_waited_behind_a_late_one_is_nobodys() {
    for watch_memory in [true, false] {
        let names = names(&format!("behind-{watch_memory}"));
        let (handler, told, go) = held();
        let patience = Duration::from_millis(20);
        let mut options = ServerOptions { patience: Some(patience), ..ServerOptions::default() };
        options.watch_memory = watch_memory;
        let server = Server::serve_with(&names, options, handler).unwrap();
        // Clients of another kind, which leave it at that.
        let (memory, exec, done) = opened(&names);
        for number in 1..3 {
            memory.write(ask(number).as_bytes());
            exec.set().unwrap();
            if number == 1 {
                assert_eq!(told.recv(), Ok(1));
            }
            // So long they wait, each: only time ends it.
            thread::sleep(patience);
        }
        drop(go);
        assert_eq!(told.recv(), Ok(2));
        until(|| server.status().dropped + server.status().answered == 2);
        assert!(!is_set(&done), "{watch_memory}");
        assert_eq!(server.status().dropped, 2, "{watch_memory}");
        // Nothing of it clings to what comes after.
        let settle = Duration::from_millis(20);
        let client = Client::with(&names, ClientOptions { settle, ..impatient() });
        until(|| client.call(&ask(3)).is_ok_and(|data| data == answer(3)));
    }
}

/// Ticks for as long as it is made to.
struct Ticking(mpsc::Sender<()>, mpsc::Receiver<()>);

impl Handler<Sum> for Ticking {
    fn handle(&mut self, data: &mut Sum) -> Answer {
        add(data);
        Answer::Ready
    }

    fn idle(&mut self) {
        let _ = self.0.send(());
        let _ = self.1.recv_timeout(Duration::from_secs(60));
    }
}

#[test]
fn an_answer_to_a_request_that_waited_behind_a_tick_is_nobodys() {
    let names = names("behind-a-tick");
    let (tell, told) = mpsc::channel();
    let (go, gone) = mpsc::channel();
    let patience = Duration::from_millis(20);
    let mut options = ServerOptions { patience: Some(patience), ..ServerOptions::default() };
    options.idle_interval = Duration::from_millis(1);
    let server = Server::serve_with(&names, options, Ticking(tell, gone)).unwrap();
    let (_memory, exec, done) = opened(&names);
    told.recv().unwrap();
    exec.set().unwrap();
    // So long its client waits: only time ends it.
    thread::sleep(patience);
    drop(go);
    until(|| server.status().dropped + server.status().answered == 1);
    assert_eq!(server.status().dropped, 1);
    assert!(!is_set(&done));
}

/// The check does not come back from an answer of another, whose server is at this one's request by then.
#[test]
fn what_a_check_that_panics_has_left_is_settled() {
    let names = names("check-panics");
    let security = Security::of(&Access::System).unwrap();
    let (memory, _) = Section::create(names.of(Object::Memory), 16, &security).unwrap();
    let exec = Event::create(names.of(Object::Exec), &security).unwrap();
    let done = Event::create(names.of(Object::Done), &security).unwrap();
    let wait =
        |event: &Event| system::wait(&[Any::Event(event)], Duration::from_secs(120)).unwrap();
    let client = client(&names);
    thread::scope(|scope| {
        let (go, gone) = mpsc::channel::<()>();
        // A server of another kind: the answer to a request before, then those to these two.
        let (memory, exec, done) = (&memory, &exec, &done);
        let server = scope.spawn(move || {
            wait(exec);
            done.set().unwrap();
            assert!(gone.recv().is_err());
            // The client waits, or its request is there already.
            let before = memory.holds(ask(2).as_bytes());
            memory.write(answer(1).as_bytes());
            done.set().unwrap();
            wait(exec);
            memory.write(answer(2).as_bytes());
            done.set().unwrap();
            before
        });
        let check = |_: &Sum| panic!("as it is meant to");
        let call = std::panic::AssertUnwindSafe(|| client.call_checked(&ask(1), check));
        assert!(std::panic::catch_unwind(call).is_err());
        #[cfg(not(windows))]
        let waits = || system::waiters(Any::Event(done)) == 1;
        let second = scope.spawn(|| client.call(&ask(2)));
        #[cfg(not(windows))]
        until(waits);
        drop(go);
        assert_eq!(second.join().unwrap().unwrap(), answer(2));
        assert!(!server.join().unwrap(), "it was written over a request that was being served");
    });
    assert_eq!(client.status().late, 1);
}
