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

/// Clients that write all the time, and one that says something now and then.
#[cfg(windows)]
#[test]
fn a_flood_keeps_no_quiet_one_waiting() {
    const CLIENTS: u64 = 24;
    const QUIET: u64 = u64::MAX;
    let poller = Poller::new().unwrap();
    let pairs: Vec<_> = (0..CLIENTS).map(|_| Socket::pair().unwrap()).collect();
    let (quiet_server, quiet_client) = Socket::pair().unwrap();
    for (token, (server, _)) in (0..).zip(&pairs) {
        poller.add_for_good(server, token).unwrap();
    }
    poller.add_for_good(&quiet_server, QUIET).unwrap();
    let mut events = Vec::new();
    let mut pass = || {
        for (_, client) in &pairs {
            // As many as are read, and one.
            (0..17).for_each(|_| drop(client.send(&[0], None)));
        }
        poller.wait(&mut events, Some(deadline_ns(Duration::from_secs(30)))).unwrap();
        for event in events.iter().filter(|event| event.token != QUIET) {
            let server = &pairs[event.token as usize].0;
            // As a worker does.
            let _ = (0..16).try_for_each(|_| server.recv(&mut [0; 64]).map(drop));
        }
        events.iter().any(|event| event.token == QUIET)
    };
    for _ in 0..40 {
        pass();
    }
    quiet_client.send(&[0], None).unwrap();
    let passes = (1..).take_while(|_| !pass()).take(100).count();
    assert!(passes <= 1, "heard after {passes} passes");
}

#[cfg(windows)]
#[test]
fn more_than_fit_take_turns_and_show_once() {
    const MANY: usize = 2 * super::EVENTS_MAX + 50;
    let poller = Poller::new().unwrap();
    let wakers: Vec<_> = (0..MANY).map(|_| Waker::new().unwrap()).collect();
    for (token, waker) in (0..).zip(&wakers) {
        poller.add(waker, token, false).unwrap();
    }
    let mut events = Vec::new();
    for round in 0..10 {
        let mut seen = [0; MANY];
        for waker in &wakers {
            // Told again of what is known.
            waker.drain();
            waker.wake();
        }
        for _ in 0..3 {
            let count = poller.wait(&mut events, Some(0)).unwrap();
            assert_eq!(count, super::EVENTS_MAX, "round {round}");
            let mut tokens: Vec<_> = events.iter().map(|event| event.token).collect();
            tokens.sort_unstable();
            tokens.dedup();
            assert_eq!(tokens.len(), count, "round {round}: one shows twice");
            tokens.iter().for_each(|&token| seen[token as usize] += 1);
        }
        assert!(seen.iter().all(|&times| times == 1 || times == 2), "round {round}: {seen:?}");
    }
    wakers.iter().for_each(Waker::drain);
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
