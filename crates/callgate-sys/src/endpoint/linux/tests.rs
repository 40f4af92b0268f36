use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_to, listen, socket_with,
};

use super::*;
use crate::clock::deadline_ns;
use crate::endpoint::{BindError, ConnectError};
use crate::process::pid;
use crate::testing::{Child, hangs_up, readable_soon};

struct Place {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    lock: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let (socket, lock) = (dir.path().join("echo.sock"), dir.path().join("echo.lock"));
    Place { _dir: dir, socket, lock }
}

impl Place {
    fn bind(&self) -> Result<Listener, BindError> {
        Listener::bind(&self.socket, &self.lock, 0o600, None)
    }
}

fn not_running(path: &Path) -> bool {
    matches!(connect(path, None), Err(ConnectError::NotRunning { path: tried }) if tried == path)
}

#[test]
fn a_server_is_found_and_goes() {
    let place = place();
    assert!(not_running(&place.socket));
    assert!(not_running(&place.socket.join("x/y")));
    assert_eq!(holder(&place.lock).unwrap(), None);
    let listener = place.bind().unwrap();
    assert!(listener.accept().unwrap().is_none());
    let client = connect(&place.socket, None).unwrap();
    assert!(readable_soon(&listener));
    let server = listener.accept().unwrap().unwrap();
    server.send(b"hello", None).unwrap();
    assert_eq!(client.recv(&mut [0; 8]).unwrap().len, 5);
    assert_eq!(holder(&place.lock).unwrap(), Some(pid()));
    drop(listener);
    assert!(!place.socket.exists() && place.lock.exists());
    assert_eq!(holder(&place.lock).unwrap(), None);
    assert!(not_running(&place.socket));
    place.bind().unwrap();
}

#[test]
fn mode_and_group_are_set() {
    let place = place();
    let listener =
        Listener::bind(&place.socket, &place.lock, 0o620, Some(crate::process::gid())).unwrap();
    let meta = std::fs::symlink_metadata(&place.socket).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o620);
    assert_eq!(std::fs::metadata(&place.lock).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(place.socket.parent().unwrap()).unwrap().count(), 2);
    drop(listener);
}

#[test]
fn a_second_server_is_refused_by_name() {
    let place = place();
    let _listener = place.bind().unwrap();
    // Twice: a refused attempt must not free the lock.
    for _ in 0..2 {
        assert!(matches!(place.bind(), Err(BindError::InUse { pid: Some(it), .. }) if it == pid()));
        let ours = pid();
        // To bind allocates, which glibc and musl allow after a fork.
        let child = Child::fork(|_| {
            let sees_us = holder(&place.lock).is_ok_and(|it| it == Some(ours));
            sees_us
                && matches!(place.bind(), Err(BindError::InUse { pid: Some(it), .. }) if it == ours)
        });
        assert!(child.join());
    }
    let link = place.socket.with_file_name("other.lock");
    std::fs::hard_link(&place.lock, &link).unwrap();
    let other = place.socket.with_file_name("other.sock");
    assert!(matches!(Listener::bind(&other, &link, 0o600, None), Err(BindError::InUse { .. })));
    connect(&place.socket, None).unwrap();
}

#[test]
fn a_killed_server_is_succeeded() {
    let place = place();
    let child = Child::fork(|parent| {
        let listener = place.bind();
        parent.ready();
        parent.wait();
        listener.is_ok()
    });
    child.await_ready();
    assert!(
        matches!(place.bind(), Err(BindError::InUse { pid: Some(it), .. }) if it == child.pid())
    );
    assert_eq!(holder(&place.lock).unwrap(), Some(child.pid()));
    connect(&place.socket, None).unwrap();
    child.kill();
    assert!(place.socket.exists() && not_running(&place.socket));
    let _listener = place.bind().unwrap();
    connect(&place.socket, None).unwrap();
}

#[test]
fn a_child_that_drops_the_listener_removes_nothing() {
    let place = place();
    let mut slot = Some(place.bind().unwrap());
    let child = Child::fork(|_| {
        drop(slot.take());
        true
    });
    assert!(child.join());
    connect(&place.socket, None).unwrap();
    assert!(matches!(place.bind(), Err(BindError::InUse { .. })));
}

/// As a child has one that was forked in the moment in which the socket is closed.
#[test]
fn a_copy_of_its_socket_lets_nobody_in_and_keeps_nobody_waiting() {
    let place = place();
    let listener = place.bind().unwrap();
    let other_name = place.socket.with_file_name("other.sock");
    std::fs::hard_link(&place.socket, &other_name).unwrap();
    let waiting: Vec<_> = (0..3).map(|_| connect(&other_name, None).unwrap()).collect();
    let _copy = listener.as_fd().try_clone_to_owned().unwrap();
    drop(listener);
    assert!(waiting.iter().all(hangs_up));
    assert!(not_running(&other_name));
}

#[test]
fn what_a_dead_server_left_is_replaced() {
    let place = place();
    let temporary = place.socket.with_file_name(".echo.sock.tmp");
    for left in [&place.socket, &temporary] {
        drop(std::os::unix::net::UnixListener::bind(left).unwrap());
    }
    assert!(not_running(&place.socket));
    let _listener = place.bind().unwrap();
    connect(&place.socket, None).unwrap();
    assert!(!temporary.exists());
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let place = place();
    std::fs::write(&place.socket, "precious").unwrap();
    assert!(matches!(place.bind(), Err(BindError::NotASocket { path }) if path == place.socket));
    assert_eq!(std::fs::read_to_string(&place.socket).unwrap(), "precious");
    assert!(matches!(connect(&place.socket, None), Err(ConnectError::WrongKind { .. })));
    assert_eq!(holder(&place.lock).unwrap(), None, "the lock is free again");
    std::fs::remove_file(&place.socket).unwrap();
    let temporary = place.socket.with_file_name(".echo.sock.tmp");
    std::fs::write(&temporary, "precious").unwrap();
    assert!(matches!(place.bind(), Err(BindError::NotASocket { path }) if path == temporary));
    assert!(temporary.exists());
}

#[test]
fn a_strangers_file_is_not_unlinked() {
    let place = place();
    let listener = place.bind().unwrap();
    std::fs::remove_file(&place.socket).unwrap();
    std::fs::write(&place.socket, "precious").unwrap();
    drop(listener);
    assert!(place.socket.exists());
}

#[test]
fn paths_may_be_long_but_names_may_not() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let longest = deep.join("n".repeat(crate::endpoint::NAME_LEN_MAX));
    let listener = Listener::bind(&longest, &deep.join("lock"), 0o600, None).unwrap();
    connect(&longest, None).unwrap();
    assert!(listener.accept().unwrap().is_some());
    let too_long = deep.join("n".repeat(crate::endpoint::NAME_LEN_MAX + 1));
    let refused = Listener::bind(&too_long, &deep.join("lock2"), 0o600, None);
    assert!(matches!(refused, Err(BindError::NameTooLong { len: 81, .. })));
    assert!(matches!(connect(&too_long, None), Err(ConnectError::NameTooLong { len: 81, .. })));
}

#[test]
fn a_missing_folder_and_a_strange_lock_are_named() {
    let place = place();
    let nowhere = place.socket.join("none/echo.sock");
    let missing = Listener::bind(&nowhere, &place.lock, 0o600, None);
    assert!(
        matches!(missing, Err(BindError::NoDirectory { path }) if path == nowhere.parent().unwrap())
    );
    let missing = Listener::bind(&place.socket, &nowhere, 0o600, None);
    assert!(
        matches!(missing, Err(BindError::NoDirectory { path }) if path == nowhere.parent().unwrap())
    );
    symlink("/dev/null", &place.lock).unwrap();
    assert!(matches!(place.bind(), Err(BindError::Os { path, .. }) if path == place.lock));
}

#[test]
fn another_kind_of_socket_and_a_full_queue() {
    let place = place();
    let stream = std::os::unix::net::UnixListener::bind(&place.socket).unwrap();
    assert!(matches!(connect(&place.socket, None), Err(ConnectError::WrongKind { .. })));
    drop(stream);
    std::fs::remove_file(&place.socket).unwrap();
    let full = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .unwrap();
    bind_to(&full, &SocketAddrUnix::new(&place.socket).unwrap()).unwrap();
    listen(&full, 0).unwrap();
    let _queued = connect(&place.socket, None).unwrap();
    for deadline in [0, deadline_ns(Duration::from_millis(5))] {
        assert!(matches!(
            connect(&place.socket, Some(deadline)),
            Err(ConnectError::TimedOut { .. })
        ));
    }
}
