use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::clock::deadline_ns;
use crate::endpoint::{BindError, ConnectError};
use crate::poller::Poller;
use crate::process::{fresh_number, pid};
use crate::socket::Socket;

fn place() -> PathBuf {
    format!(r"C:\callgate test {:x}\s", fresh_number()).into()
}

fn bind(path: &Path) -> Result<Listener, BindError> {
    Listener::bind(path, path, 0o600, None)
}

#[test]
fn there_is_one_server_for_a_name() {
    let path = place();
    assert!(
        matches!(connect(&path, None), Err(ConnectError::NotRunning { path: it }) if it == path)
    );
    assert_eq!(holder(&path.with_extension("lock")).unwrap(), None);
    let first = bind(&path).unwrap();
    let other_case = PathBuf::from(path.to_str().unwrap().to_uppercase());
    for same in [&path, &other_case] {
        let second = bind(same);
        let found = matches!(second, Err(BindError::InUse { pid: Some(it), .. }) if it == pid());
        assert!(found, "{second:?}");
    }
    let mut lock = path.clone().into_os_string();
    lock.push(".lock");
    assert_eq!(holder(Path::new(&lock)).unwrap(), Some(pid()));
    drop(first);
    assert_eq!(holder(Path::new(&lock)).unwrap(), None);
    drop(bind(&path).unwrap());
}

#[test]
fn the_name_is_free_while_connections_live_on() {
    let path = place();
    let first = bind(&path).unwrap();
    let client = connect(&path, None).unwrap();
    let old = first.accept().unwrap().unwrap();
    drop(first);
    assert!(matches!(connect(&path, None), Err(ConnectError::NotRunning { .. })));
    let second = bind(&path).unwrap();
    let other = connect(&path, None).unwrap();
    let new = second.accept().unwrap().unwrap();
    for (client, server) in [(&client, &old), (&other, &new)] {
        server.send(b"still here", None).unwrap();
        assert!(client.wait_readable(None).unwrap());
        assert_eq!(client.recv(&mut [0; 64]).unwrap().len, 10);
    }
}

#[test]
fn a_poller_is_told_of_each_of_many_clients() {
    const CLIENTS: usize = 40;
    let path = place();
    let listener = bind(&path).unwrap();
    let poller = Poller::new().unwrap();
    poller.add(&listener, 5, false).unwrap();
    let mut events = Vec::new();
    assert_eq!(poller.wait(&mut events, Some(0)).unwrap(), 0);
    let end = Some(deadline_ns(Duration::from_secs(60)));
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| connect(&path, end).unwrap())).collect();
        let mut accepted = Vec::new();
        while accepted.len() < CLIENTS {
            poller.wait(&mut events, end).unwrap();
            assert!(events.iter().all(|event| event.token == 5 && event.readable));
            while let Some(socket) = listener.accept().unwrap() {
                assert_eq!(socket.peer().unwrap().pid, pid());
                accepted.push(socket);
            }
        }
        for client in clients {
            client.join().unwrap();
        }
    });
    assert_eq!(poller.wait(&mut events, Some(0)).unwrap(), 0);
    poller.remove(&listener).unwrap();
}

#[test]
fn too_long_names_and_groups_are_told() {
    let long = PathBuf::from(format!(r"C:\{}", "x".repeat(300)));
    assert!(matches!(bind(&long), Err(BindError::NameTooLong { len, .. }) if len > 300));
    assert!(matches!(connect(&long, None), Err(ConnectError::NameTooLong { .. })));
    let grouped = Listener::bind(&place(), &place(), 0o660, Some(7));
    assert!(matches!(grouped, Err(BindError::NoGroups)), "{grouped:?}");
    let everyone = place();
    let listener = Listener::bind(&everyone, &everyone, 0o666, None).unwrap();
    assert!(connect(&everyone, None).is_ok());
    drop(listener);
}

/// Who only asks who serves connects for a moment, and leaves the next client its turn.
#[test]
fn questions_do_not_use_up_the_instances() {
    let path = place();
    let listener = bind(&path).unwrap();
    let names = name::Names::of(&path).unwrap();
    let poller = Poller::new().unwrap();
    poller.add(&listener, 5, false).unwrap();
    let mut events = Vec::new();
    let end = || Some(deadline_ns(Duration::from_secs(20)));
    for round in 0..20 {
        assert_eq!(lock::server(&names), Some(pid()), "round {round}");
        let asking = (round % 2 == 0).then(|| lock::ask(&names).unwrap());
        let mut sockets = Vec::new();
        while sockets.len() < 1 + usize::from(asking.is_some()) {
            assert!(poller.wait(&mut events, end()).unwrap() > 0, "round {round}");
            while let Some(socket) = listener.accept().unwrap() {
                poller.add(&socket, 6, false).unwrap();
                sockets.push(socket);
            }
        }
        // They go at once, or after they were looked at.
        poller.wait(&mut events, Some(0)).unwrap();
        drop(asking);
        for socket in sockets {
            assert!(socket.wait_readable(end()).unwrap());
            assert!(socket.recv(&mut [0; 64]).is_err());
            drop(socket);
        }
        assert!(listener.accept().unwrap().is_none());
    }
    for _ in 0..3 {
        let client = connect(&path, end()).unwrap();
        assert_eq!(poller.wait(&mut events, end()).unwrap(), 1);
        assert!(listener.accept().unwrap().is_some());
        drop(client);
    }
}

#[test]
fn who_has_waited_longer_is_let_in_first() {
    let path = place();
    let listener = bind(&path).unwrap();
    // As many as can wait.
    let mut clients: Vec<Socket> = (0..8).map(|_| connect(&path, None).unwrap()).collect();
    for turn in 0..20 {
        let accepted = listener.accept().unwrap().expect("clients wait");
        accepted.send(b"let in", None).unwrap();
        let lucky = clients.iter().position(|client| {
            client.catch_up();
            client.recv(&mut [0; 64]).is_ok()
        });
        let lucky = lucky.expect("the client of an accepted connection");
        assert_eq!(lucky, 0, "turn {turn}");
        clients.remove(0);
        // Its place is taken at once.
        clients.push(connect(&path, None).unwrap());
    }
}

#[test]
fn a_listener_outlives_the_thread_that_made_it() {
    let path = place();
    let listener = std::thread::scope(|scope| scope.spawn(|| bind(&path)).join().unwrap()).unwrap();
    let poller = Poller::new().unwrap();
    poller.add(&listener, 5, false).unwrap();
    let mut events = Vec::new();
    // Nobody comes, whatever became of what that thread had begun.
    let moment = Some(deadline_ns(Duration::from_millis(300)));
    assert_eq!(poller.wait(&mut events, moment).unwrap(), 0);
    assert!(listener.accept().unwrap().is_none());
    let client = connect(&path, None).unwrap();
    assert_eq!(poller.wait(&mut events, Some(deadline_ns(Duration::from_secs(30)))).unwrap(), 1);
    let server = listener.accept().unwrap().expect("a client");
    assert_eq!(server.peer().unwrap().pid, pid());
    assert!(listener.accept().unwrap().is_none());
    drop(client);
}

/// Makes an instance of the pipe by hand, with this list of rights.
fn squat(path: &Path, list: &str) -> std::os::windows::io::OwnedHandle {
    use windows_sys::Win32::Storage::FileSystem::{
        FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX,
    };
    use windows_sys::Win32::System::Pipes::{
        CreateNamedPipeW, PIPE_READMODE_MESSAGE, PIPE_TYPE_MESSAGE, PIPE_UNLIMITED_INSTANCES,
    };
    let names = name::Names::of(path).unwrap();
    let security = crate::win::Security::parse(list).unwrap();
    // SAFETY: the name ends with a zero; it and the attributes live for the call.
    crate::win::own(unsafe {
        CreateNamedPipeW(
            names.pipe.as_ptr(),
            PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | FILE_FLAG_FIRST_PIPE_INSTANCE,
            PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE,
            PIPE_UNLIMITED_INSTANCES,
            4096,
            4096,
            0,
            &security.attributes(),
        )
    })
    .unwrap()
}

#[test]
fn a_pipe_that_others_may_serve_is_not_joined() {
    let sid = own_sid_text().unwrap();
    // Everybody may make instances of it; and one that would be right, were it not somebody else's.
    for list in ["D:(A;;GA;;;WD)", &format!("O:BAD:P(D;;FA;;;NU)(A;;FA;;;{sid})(A;;FA;;;SY)")] {
        let path = place();
        let squatter = squat(&path, list);
        let refused = bind(&path);
        assert!(matches!(refused, Err(BindError::Denied { .. })), "{list}: {refused:?}");
        drop(squatter);
        drop(bind(&path).unwrap());
    }
}

/// A child that was left the pipe serves on; the number of its maker's process may be anybody's by then.
#[test]
fn who_serves_is_whose_the_pipe_is() {
    use crate::process::{overflow_uid, uid};
    let path = place();
    let listener = bind(&path).unwrap();
    let client = connect(&path, None).unwrap();
    assert_eq!(client.peer().unwrap().uid, uid());
    drop((listener, client));
    let _squatter = squat(&path, "O:BAD:(A;;GA;;;WD)");
    let client = connect(&path, None).unwrap();
    assert_eq!(client.peer().unwrap().uid, overflow_uid());
}
