use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;
use crate::clock::deadline_ns;
use crate::process::{gid, pid, uid};
use crate::testing::{await_open_count, hangs_up};

#[test]
fn messages_keep_their_boundaries() {
    let (a, b) = Socket::pair().unwrap();
    let mut buf = [0; 8];
    assert!(matches!(b.recv(&mut buf), Err(RecvError::Empty)));
    a.send(b"one", None).unwrap();
    a.send(b"a long message", None).unwrap();
    let one = b.recv(&mut buf).unwrap();
    assert_eq!((&buf[..one.len], one.truncated, one.extra_fds), (&b"one"[..], false, 0));
    assert!(one.fd.is_none());
    let long = b.recv(&mut buf).unwrap();
    assert_eq!((long.len, long.truncated), (8, true));
    assert!(matches!(a.send(b"", None), Err(SendError::Os(_))));
}

#[test]
fn the_end_comes_after_what_was_sent() {
    let (a, b) = Socket::pair().unwrap();
    let mut buf = [0; 8];
    // `b` leaves a message unread, so that the kernel tells `a` of a reset, and says goodbye first.
    a.send(b"unread", None).unwrap();
    b.send(b"goodbye", None).unwrap();
    assert!(!a.is_closed());
    drop(b);
    assert!(hangs_up(&a) && a.is_closed());
    assert_eq!(a.recv(&mut buf).unwrap().len, 7);
    assert!(matches!(a.recv(&mut buf), Err(RecvError::Closed)));
    assert!(matches!(a.send(b"x", None), Err(SendError::Closed)));
    assert_eq!(a.ring(), Ring::Gone);
    assert!(a.wait_readable(None).unwrap());
}

#[test]
fn an_empty_message_is_not_the_end() {
    let (a, b) = Socket::pair().unwrap();
    sendmsg(&a, &[IoSlice::new(b"")], &mut SendAncillaryBuffer::default(), SendFlags::DONTWAIT)
        .unwrap();
    let received = b.recv(&mut [0; 8]).unwrap();
    assert_eq!((received.len, received.truncated), (0, false));
}

#[test]
fn a_full_socket_counts_as_rung() {
    let (a, b) = Socket::pair().unwrap();
    assert_eq!(a.unread().unwrap(), 0);
    let mut sent = 0;
    while a.send(&[0; 1000], None).is_ok() {
        sent += 1;
    }
    assert!(matches!(a.send(&[0; 1000], None), Err(SendError::Full)));
    assert!(a.unread().unwrap() >= sent * 1000);
    while matches!(a.send(&[0], None), Ok(())) {}
    assert_eq!(a.ring(), Ring::Rung);
    let mut buf = [0; 1000];
    while b.recv(&mut buf).is_ok() {}
    assert_eq!(a.unread().unwrap(), 0);
    assert_eq!(a.ring(), Ring::Rung);
    let ring = b.recv(&mut buf).unwrap();
    assert_eq!((ring.len, buf[0]), (1, 0));
}

#[test]
fn surplus_descriptors_do_not_stay() {
    let (a, b) = Socket::pair().unwrap();
    let name = "callgate-test-surplus";
    let memory = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    for count in [1, 2, 3, 253] {
        let fds = vec![memory.as_fd(); count];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&a, &[IoSlice::new(b"m")], &mut control, SendFlags::DONTWAIT).unwrap();
        let received = b.recv(&mut [0; 8]).unwrap();
        assert_eq!(received.extra_fds, count - 1);
        assert!(received.fd.is_some());
        // One stays beside the original.
        await_open_count(name, 2);
        drop(received);
        await_open_count(name, 1);
    }
    a.send(b"m", Some(memory.as_fd())).unwrap();
    let received = b.recv(&mut []).unwrap();
    assert!(received.fd.is_some() && received.truncated);
}

#[test]
fn the_peer_is_known() {
    let (a, _b) = Socket::pair().unwrap();
    let peer = a.peer().unwrap();
    assert_eq!((peer.pid, peer.uid, peer.gid), (pid(), uid(), gid()));
}

#[test]
fn waiting_to_read() {
    let (a, b) = Socket::pair().unwrap();
    assert!(!a.wait_readable(Some(0)).unwrap());
    assert!(!a.wait_readable(Some(deadline_ns(Duration::from_millis(1)))).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| b.ring());
        assert!(a.wait_readable(None).unwrap());
    });
}
