use std::time::Duration;

use super::*;
use crate::clock::{deadline_ns, now_ns};
use crate::socket::Socket;

/// What a bound pipe and one that is waited for tell, and when they tell no more.
#[cfg(windows)]
#[test]
fn what_is_there_is_told_until_it_is_read() {
    let poller = Poller::new().unwrap();
    let (kept, kept_peer) = Socket::pair().unwrap();
    let (moved, moved_peer) = Socket::pair().unwrap();
    poller.add_for_good(&kept, 7).unwrap();
    poller.add(&moved, 8, false).unwrap();
    assert!(poller.add(&moved, 9, false).is_err(), "it is watched");
    let mut events = Vec::new();
    let mut buf = [0; 64];
    assert_eq!(poller.wait(&mut events, Some(0)).unwrap(), 0);
    for _ in 0..50 {
        for (socket, peer, token) in [(&kept, &kept_peer, 7), (&moved, &moved_peer, 8)] {
            assert_eq!(peer.ring(), crate::socket::Ring::Rung);
            for _ in 0..2 {
                assert_eq!(poller.wait(&mut events, None).unwrap(), 1);
                assert_eq!(events[0], Event { token, readable: true, closed: false });
            }
            assert_eq!(socket.recv(&mut buf).unwrap().len, 1);
            assert_eq!(poller.wait(&mut events, Some(0)).unwrap(), 0);
        }
    }
    // What was ready at the last look, and is not now, is told when it is again, while somebody waits.
    kept_peer.ring();
    assert_eq!(poller.wait(&mut events, None).unwrap(), 1);
    assert_eq!(kept.recv(&mut buf).unwrap().len, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // So that the wait has most likely begun; it ends the same if not.
            std::thread::sleep(Duration::from_millis(50));
            kept_peer.ring();
        });
        let end = Some(deadline_ns(Duration::from_secs(30)));
        assert_eq!(poller.wait(&mut events, end).unwrap(), 1);
    });
    assert_eq!(kept.recv(&mut buf).unwrap().len, 1);
    // As admission hands a connection over to a worker.
    let other = Poller::new().unwrap();
    poller.remove(&moved).unwrap();
    assert!(poller.remove(&moved).is_err());
    other.add_for_good(&moved, 10).unwrap();
    moved_peer.ring();
    assert_eq!(other.wait(&mut events, None).unwrap(), 1);
    assert_eq!(poller.wait(&mut events, Some(0)).unwrap(), 0);
    drop(kept_peer);
    assert_eq!(poller.wait(&mut events, None).unwrap(), 1);
    assert!(events[0].closed && events[0].token == 7);
    // Who is gone is not watched any more.
    drop(kept);
    assert_eq!(poller.wait(&mut events, Some(0)).unwrap(), 0);
}

#[cfg(not(windows))]
#[test]
fn levels_and_edges() {
    let poller = Poller::new().unwrap();
    let (level, level_peer) = Socket::pair().unwrap();
    let (edge, edge_peer) = Socket::pair().unwrap();
    poller.add(&level, 7, false).unwrap();
    poller.add(&edge, u64::MAX, true).unwrap();
    let mut events = Vec::new();
    assert_eq!(poller.wait(&mut events, Some(0)).unwrap(), 0);
    level_peer.ring();
    edge_peer.ring();
    assert_eq!(poller.wait(&mut events, None).unwrap(), 2);
    events.sort_by_key(|event| event.token);
    assert_eq!(events[0], Event { token: 7, readable: true, closed: false });
    assert_eq!(events[1].token, u64::MAX);
    assert_eq!(poller.wait(&mut events, Some(0)).unwrap(), 1);
    assert_eq!(events[0].token, 7);
    edge_peer.ring();
    assert_eq!(poller.wait(&mut events, Some(0)).unwrap(), 2);
    poller.remove(&level).unwrap();
    drop(edge_peer);
    assert_eq!(poller.wait(&mut events, None).unwrap(), 1);
    assert!(events[0].closed && events[0].readable && events[0].token == u64::MAX);
    assert!(poller.remove(&level).is_err());
}

#[test]
fn a_deadline_is_not_cut_short() {
    let poller = Poller::new().unwrap();
    let end = deadline_ns(Duration::from_micros(300));
    let mut events = vec![Event { token: 0, readable: false, closed: false }];
    assert_eq!(poller.wait(&mut events, Some(end)).unwrap(), 0);
    assert!(now_ns() >= end && events.is_empty());
}

#[test]
fn a_waker_wakes() {
    let poller = Poller::new().unwrap();
    let waker = Waker::new().unwrap();
    poller.add(&waker, 1, false).unwrap();
    let mut events = Vec::new();
    waker.drain();
    assert_eq!(poller.wait(&mut events, Some(0)).unwrap(), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| waker.wake());
        assert_eq!(
            poller.wait(&mut events, Some(deadline_ns(Duration::from_secs(10)))).unwrap(),
            1
        );
    });
    waker.wake();
    waker.drain();
    assert_eq!(poller.wait(&mut events, Some(0)).unwrap(), 0);
}
