//! Objects that are there already, or are something else than they should be.

use super::*;

#[test]
fn memory_that_a_dead_server_left() {
    let names = names("left");
    let security = Security::of(&Access::System).unwrap();
    let (_memory, _) = Section::create(names.of(Object::Memory), 16, &security).unwrap();
    let exec = Event::create(names.of(Object::Exec), &security).unwrap();
    let done = Event::create(names.of(Object::Done), &security).unwrap();
    exec.set().unwrap();
    let refuse = ServerOptions { existing: Existing::Refuse, ..ServerOptions::default() };
    match Server::serve_with(&names, refuse, add) {
        Err(ServeError::Exists { name }) => assert_eq!(name, names.of(Object::Memory)),
        other => panic!("{other:?}"),
    }
    assert!(is_set(&exec), "who refuses takes nothing");
    exec.set().unwrap();
    done.set().unwrap();
    let server = Server::serve(&names, add).unwrap();
    assert!(server.status().adopted);
    assert!(!is_set(&exec) && !is_set(&done));
    assert_eq!(client(&names).call(&ask(1)).unwrap(), answer(1));
    until(|| server.status().answered == 1);
}

#[test]
fn sizes() {
    let names = names("sizes");
    let server = Server::serve(&names, |_: &mut [u8; 100]| {}).unwrap();
    match Client::<[u8; 5_000]>::with(&names, patient()).call(&[0; 5_000]) {
        Err(CallError::Object(ObjectError::Size {
            name,
            have: 4_096,
            want: 5_000,
            want_pages: 8_192,
        })) => assert_eq!(name, names.of(Object::Memory)),
        other => panic!("{other:?}"),
    }
    // Within a page nobody can tell.
    Client::<[u8; 4_096]>::with(&names, patient()).call(&[0; 4_096]).unwrap();
    drop(server);
    let _server = Server::serve(&names, |data: &mut [u8; 5_000]| data[99] = 1).unwrap();
    match Client::<[u8; 100]>::with(&names, patient()).call(&[0; 100]) {
        Err(CallError::Object(ObjectError::Size { have: 8_192, want: 100, .. })) => {}
        other => panic!("{other:?}"),
    }
    let options = ClientOptions { accept_larger: true, ..patient() };
    assert_eq!(Client::<[u8; 100]>::with(&names, options).call(&[0; 100]).unwrap()[99], 1);
}

#[test]
fn objects_that_are_something_else() {
    let names = names("else");
    let security = Security::of(&Access::System).unwrap();
    let of = |object| names.of(object).to_owned();
    let memory = Event::create(&of(Object::Memory), &security).unwrap();
    match client(&names).call(&ask(1)) {
        Err(CallError::Object(ObjectError::WrongKind { object: Object::Memory, .. })) => {}
        other => panic!("{other:?}"),
    }
    match Server::serve(&names, add) {
        Err(ServeError::Object(ObjectError::WrongKind { object: Object::Memory, .. })) => {}
        other => panic!("{other:?}"),
    }
    drop(memory);
    // Memory without events: a server that has not made all of its objects yet.
    let memory = Section::create(&of(Object::Memory), 16, &security).unwrap();
    match client(&names).call(&ask(1)) {
        Err(CallError::NotRunning { object: Object::Exec, .. }) => {}
        other => panic!("{other:?}"),
    }
    let exec = Event::create(&of(Object::Exec), &security).unwrap();
    let done = Event::with_manual_reset(&of(Object::Done)).unwrap();
    match client(&names).call(&ask(1)) {
        Err(CallError::Object(ObjectError::ManualReset { object: Object::Done, .. })) => {}
        other => panic!("{other:?}"),
    }
    match Server::serve(&names, add) {
        Err(ServeError::Object(ObjectError::ManualReset { object: Object::Done, .. })) => {}
        other => panic!("{other:?}"),
    }
    drop((memory, exec, done));
    let _free = Event::create(&of(Object::Free), &security).unwrap();
    let _server = Server::serve(&names, add).unwrap();
    match client(&names).call(&ask(1)) {
        Err(CallError::Object(ObjectError::WrongKind { object: Object::Free, .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn objects_that_others_may_not_use() {
    let names = names("denied");
    let nobody = Access::Sddl("D:P".to_owned());
    let options = ServerOptions { access: nobody.clone(), ..ServerOptions::default() };
    let server = Server::serve_with(&names, options.clone(), add).unwrap();
    match client(&names).call(&ask(1)) {
        Err(CallError::Object(ObjectError::Denied { object: Object::Memory, name })) => {
            assert_eq!(name, names.of(Object::Memory));
        }
        other => panic!("{other:?}"),
    }
    // Not even another server finds out more.
    match Server::serve(&names, add) {
        Err(ServeError::Object(ObjectError::Denied { object: Object::Owner, .. })) => {}
        other => panic!("{other:?}"),
    }
    drop(server);
    // Free, made by a client for itself alone.
    let server = Server::serve(&names, add).unwrap();
    let options = ClientOptions { access: nobody, ..patient() };
    let first = Client::<Sum>::with(&names, options);
    assert_eq!(first.call(&ask(1)).unwrap(), answer(1));
    match client(&names).call(&ask(1)) {
        Err(CallError::Object(ObjectError::Denied { object: Object::Free, .. })) => {}
        other => panic!("{other:?}"),
    }
    drop((first, server));
    for sddl in ["no descriptor", "D:P\0"] {
        let access = Access::Sddl(sddl.to_owned());
        let options = ServerOptions { access: access.clone(), ..ServerOptions::default() };
        match Server::serve_with(&names, options, add) {
            Err(ServeError::Object(ObjectError::Sddl { sddl: told, .. })) => assert_eq!(told, sddl),
            other => panic!("{other:?}"),
        }
        let client = Client::<Sum>::with(&names, ClientOptions { access, ..patient() });
        match client.call(&ask(1)) {
            Err(CallError::Object(ObjectError::Sddl { sddl: told, .. })) => assert_eq!(told, sddl),
            other => panic!("{other:?}"),
        }
    }
}

/// Whoever may write the file can cut it off under the feet of those who touch the memory.
#[test]
fn memory_that_is_a_files() {
    let names = names("file");
    let security = Security::of(&Access::System).unwrap();
    let _memory = Section::of_a_file(names.of(Object::Memory), 4_096);
    let _exec = Event::create(names.of(Object::Exec), &security).unwrap();
    let _done = Event::create(names.of(Object::Done), &security).unwrap();
    match Client::with(&names, impatient()).call(&ask(1)) {
        Err(CallError::Object(ObjectError::NotPageFile { name, attributes })) => {
            assert_eq!(name, names.of(Object::Memory));
            assert_ne!(attributes, 0);
        }
        other => panic!("{other:?}"),
    }
    match Server::serve(&names, add) {
        Err(ServeError::Object(ObjectError::NotPageFile { .. })) => {}
        other => panic!("{other:?}"),
    }
}

/// A client that lets go after each call leaves no name behind, so even a server that insists on new memory can start.
#[test]
fn a_client_that_does_not_stay() {
    let names = names("lets-go");
    let options = ClientOptions { stay_attached: false, ..patient() };
    let client = Client::<Sum>::with(&names, options);
    let refuse = ServerOptions { existing: Existing::Refuse, ..ServerOptions::default() };
    for number in 0..3 {
        let server = Server::serve_with(&names, refuse.clone(), add).unwrap();
        assert_eq!(client.call(&ask(number)).unwrap(), answer(number));
        assert!(!server.status().adopted);
    }
    let stays = self::client(&names);
    let server = Server::serve_with(&names, refuse.clone(), add).unwrap();
    stays.call(&ask(1)).unwrap();
    drop(server);
    let error = Server::serve_with(&names, refuse.clone(), add).unwrap_err();
    assert!(matches!(error, ServeError::Exists { .. }), "{error}");
    stays.detach();
    drop(Server::serve_with(&names, refuse, add).unwrap());
}

#[test]
fn names_of_the_session_and_of_all() {
    let own = names("session");
    let local = |object| format!(r"Local\{}", own.of(object));
    let names = Names::new(
        local(Object::Memory),
        local(Object::Exec),
        local(Object::Done),
        local(Object::Free),
    );
    let _server = Server::serve(&own, add).unwrap();
    assert_eq!(client(&names.unwrap()).call(&ask(1)).unwrap(), answer(1));
    // Of all sessions: other objects, which not everybody may make.
    let global = |object| format!(r"Global\{}", own.of(object));
    let names = Names::new(
        global(Object::Memory),
        global(Object::Exec),
        global(Object::Done),
        global(Object::Free),
    );
    let names = names.unwrap();
    let error = client(&names).call(&ask(2)).unwrap_err();
    assert!(matches!(error, CallError::NotRunning { .. }), "{error}");
    match Server::serve(&names, add) {
        Ok(_server) => assert_eq!(client(&names).call(&ask(2)).unwrap(), answer(2)),
        Err(ServeError::Object(ObjectError::Denied { object: Object::Memory, .. })) => {}
        Err(error) => panic!("{error}"),
    }
}
