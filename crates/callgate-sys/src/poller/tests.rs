use std::time::Duration;

use super::*;
use crate::clock::{deadline_ns, now_ns};
use crate::socket::Socket;

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
