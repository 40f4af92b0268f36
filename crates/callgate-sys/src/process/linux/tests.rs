use super::*;
use crate::process::{generation, is_current};
use crate::socket::{Ring, Socket};
use crate::testing::{Child, hangs_up};

#[test]
fn a_forked_child_is_another_generation() {
    let token = generation();
    assert_ne!(token, 0);
    assert!(is_current(token) && !is_current(0) && token == generation());
    let child = Child::fork(|_| {
        let stale = !is_current(token);
        let own = generation();
        // A grandchild differs from both, although its process id may be that of any dead ancestor.
        // SAFETY: the grandchild only compares and exits.
        let grandchild = unsafe { libc::fork() };
        if grandchild == 0 {
            let differs = !is_current(own) && !is_current(token) && generation() > own;
            // SAFETY: _exit has no conditions.
            unsafe { libc::_exit(if differs { 0 } else { 1 }) }
        }
        let mut status = -1;
        // SAFETY: status is a live local.
        unsafe { libc::waitpid(grandchild, &raw mut status, 0) };
        stale && own > token && is_current(own) && !is_current(token) && status == 0
    });
    assert!(child.join());
    assert!(is_current(token));
}

#[test]
fn a_forked_child_keeps_no_connection() {
    let (ours, theirs) = Socket::pair().unwrap();
    let child = Child::fork(|parent| {
        parent.ready();
        parent.wait();
        true
    });
    child.await_ready();
    assert!(!ours.is_closed());
    drop(theirs);
    assert!(hangs_up(&ours), "the child, which lives, still holds the other end");
    assert!(ours.is_closed());
    child.release();
    assert!(child.join());
}

#[test]
fn a_handle_in_a_forked_child_fails_and_harms_nothing() {
    let (ours, theirs) = Socket::pair().unwrap();
    let mut slot = Some(theirs);
    let child = Child::fork(|_| {
        let theirs = slot.take();
        let refused =
            theirs.as_ref().is_some_and(|socket| socket.ring() == Ring::Gone && socket.is_closed());
        drop(theirs);
        refused
    });
    assert!(child.join());
    assert!(!ours.is_closed());
    assert_eq!(slot.unwrap().ring(), Ring::Rung);
}

#[test]
fn a_peer_process_dies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener =
        crate::endpoint::Listener::bind(&path, &dir.path().join("l"), 0o600, None).unwrap();
    let child = Child::fork(|parent| {
        // To connect allocates, which glibc and musl allow after a fork.
        let connected = crate::endpoint::connect(&path, None);
        parent.ready();
        parent.wait();
        connected.is_ok()
    });
    child.await_ready();
    let socket = listener.accept().unwrap().expect("a connection");
    let identity = socket.peer().unwrap();
    assert_eq!((identity.pid, identity.uid, identity.gid), (child.pid(), uid(), gid()));
    let peer = PidFd::peer_of(&socket).unwrap();
    let by_id = PidFd::by_id(&socket).unwrap();
    assert!(!peer.is_dead() && !by_id.is_dead() && !socket.is_closed());
    child.kill();
    assert!(peer.is_dead() && by_id.is_dead() && socket.is_closed());
    assert_eq!(PidFd::by_id(&socket).unwrap_err().raw_os_error(), Some(libc::ESRCH));
}

#[test]
fn what_the_machine_gives() {
    assert!(cpus_usable() >= 1);
    assert!(!is_realtime());
    assert!((current_cpu() as usize) < 1 << 20);
    yield_now();
    assert!(overflow_uid() > 0);
    assert_eq!(pid(), std::process::id());
    let (soft, hard) = raise_nofile().unwrap();
    assert_eq!(soft, hard);
    assert!(soft >= 64);
}
