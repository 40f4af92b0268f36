use std::time::Duration;

use super::*;
use crate::clock::deadline_ns;
use crate::process::{PidFd, pid, uid};
use crate::shm::{Control, PayloadReader, PayloadWriter, Rejected, page_size};

fn soon() -> Option<u64> {
    Some(deadline_ns(Duration::from_secs(30)))
}

fn recv(socket: &Socket, buf: &mut [u8]) -> Received {
    assert!(socket.wait_readable(soon()).unwrap());
    socket.recv(buf).unwrap()
}

#[test]
fn messages_keep_their_boundaries() {
    let (a, b) = Socket::pair().unwrap();
    let mut buf = [0; 8];
    assert!(matches!(b.recv(&mut buf), Err(RecvError::Empty)));
    a.send(b"one", None).unwrap();
    a.send(b"a long message", None).unwrap();
    let one = recv(&b, &mut buf);
    assert_eq!((&buf[..one.len], one.truncated, one.extra_fds), (&b"one"[..], false, 0));
    assert!(one.fd.is_none());
    let long = recv(&b, &mut buf);
    assert_eq!((long.len, long.truncated), (8, true));
    assert!(matches!(a.send(b"", None), Err(SendError::Os(_))));
    assert!(matches!(a.send(&[0; 65], None), Err(SendError::Os(_))));
}

#[test]
fn the_end_comes_after_what_was_sent() {
    for server_ends in [false, true] {
        let (server, client) = Socket::pair().unwrap();
        let (a, b) = if server_ends { (client, server) } else { (server, client) };
        let mut buf = [0; 8];
        a.send(b"unread", None).unwrap();
        b.send(b"goodbye", None).unwrap();
        assert!(!a.is_closed());
        drop(b);
        assert_eq!(recv(&a, &mut buf).len, 7);
        assert!(a.wait_readable(soon()).unwrap());
        assert!(matches!(a.recv(&mut buf), Err(RecvError::Closed)));
        assert!(a.is_closed());
        assert!(matches!(a.send(b"x", None), Err(SendError::Closed)));
        assert_eq!(a.ring(), Ring::Gone);
    }
}

#[test]
fn shutting_it_down_ends_both_sides() {
    let (a, b) = Socket::pair().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| a.wait_readable(soon()).unwrap());
        a.shutdown();
        assert!(waiting.join().unwrap());
    });
    a.shutdown();
    assert!(a.is_closed());
    assert!(matches!(a.recv(&mut [0; 8]), Err(RecvError::Closed)));
    assert!(b.wait_readable(soon()).unwrap());
    assert!(matches!(b.recv(&mut [0; 8]), Err(RecvError::Closed)));
}

#[test]
fn a_full_pipe_counts_as_rung() {
    for server_sends in [false, true] {
        let (server, client) = Socket::pair().unwrap();
        let (a, b) = if server_sends { (server, client) } else { (client, server) };
        let mut sent = 0;
        while a.send(&[7; 64], None).is_ok() {
            sent += 1;
            assert!(sent < 10_000, "it never fills");
        }
        assert!(sent >= 16, "as many as a burst of growing replies needs: {sent}");
        assert!(matches!(a.send(&[7; 64], None), Err(SendError::Full)));
        assert_eq!(a.ring(), Ring::Rung);
        assert!(!a.wait_writable(Some(0)).unwrap());
        let mut buf = [0; 64];
        for _ in 0..sent {
            assert_eq!((recv(&b, &mut buf).len, buf), (64, [7; 64]));
        }
        assert!(a.wait_writable(soon()).unwrap());
        assert_eq!(a.ring(), Ring::Rung);
        assert_eq!((recv(&b, &mut buf).len, buf[0]), (1, 0));
    }
}

#[test]
fn what_was_written_is_there_to_be_caught_up_with() {
    let (a, b) = Socket::pair().unwrap();
    let mut buf = [0; 64];
    for round in 0..500u32 {
        // A read is in flight.
        assert!(matches!(b.recv(&mut buf), Err(RecvError::Empty)));
        std::thread::scope(|scope| {
            scope.spawn(|| a.send(&round.to_le_bytes(), None).unwrap()).join().unwrap();
        });
        b.catch_up();
        assert_eq!(b.recv(&mut buf).unwrap().len, 4);
        assert_eq!(buf[..4], round.to_le_bytes());
    }
}

#[test]
fn the_peer_is_known() {
    let (a, b) = Socket::pair().unwrap();
    for socket in [&a, &b] {
        let peer = socket.peer().unwrap();
        assert_eq!((peer.pid, peer.uid), (pid(), uid()));
        assert!(!PidFd::peer_of(socket).unwrap().is_dead());
    }
    let (a, b) = Socket::pair().unwrap();
    drop(b);
    assert!(PidFd::says_dead(&PidFd::peer_of(&a).unwrap_err()));
}

#[test]
fn memory_comes_with_a_message() {
    let (server, client) = Socket::pair().unwrap();
    let len = 3 * page_size();
    let mut buf = [0; 8];
    for (from, to) in [(&server, &client), (&client, &server)] {
        let (writer, fd) = PayloadWriter::create(len).unwrap();
        from.send_memory(b"m", &fd).unwrap();
        // The sender needs it no more.
        drop(fd);
        let received = recv(to, &mut buf);
        assert!(!received.lost_fd);
        let reader = PayloadReader::accept(received.fd.unwrap(), len).unwrap();
        // SAFETY: both are mapped, and nobody else uses them.
        unsafe {
            writer.as_ptr().add(len - 1).write_volatile(77);
            assert_eq!(reader.as_ptr().add(len - 1).read_volatile(), 77);
        }
    }
    let (control, fd) = Control::create(page_size()).unwrap();
    client.send_memory(b"c", &fd).unwrap();
    drop(fd);
    let accepted = Control::accept(recv(&server, &mut buf).fd.unwrap(), page_size()).unwrap();
    // SAFETY: as above.
    unsafe {
        accepted.as_ptr().write_volatile(5);
        assert_eq!(control.as_ptr().read_volatile(), 5);
    }
    let word = std::sync::atomic::AtomicU32::new(0);
    accepted.wake(&word, 1);
    let waited = control.wait(&word, 0, soon().unwrap());
    assert_eq!(waited, crate::futex::Waited::Woken);
}

#[test]
fn numbers_that_name_nothing_are_rejected() {
    let (server, client) = Socket::pair().unwrap();
    let mut buf = [0; 8];
    let event = crate::win::Event::manual().unwrap();
    for (from, to) in [(&server, &client), (&client, &server)] {
        for number in [0x7fff_fff0, 1, crate::win::value(event.raw())] {
            let frame = Frame::message(b"m").unwrap().with_handles(number, 0);
            from.0.send(frame, None).unwrap();
            let received = recv(to, &mut buf);
            let rejected = PayloadReader::accept(received.fd.unwrap(), page_size());
            assert!(matches!(rejected, Err(Rejected::NotASection)), "{rejected:?}");
        }
    }
    // It was left alone: not taken for ours to close.
    event.set();
    assert!(event.wait(Some(0)));
}

#[test]
fn a_client_that_goes_is_not_blamed_for_what_it_had_lent() {
    for is_known in [true, false] {
        let (server, client) = Socket::pair().unwrap();
        if is_known {
            server.peer().unwrap();
        }
        let (writer, fd) = PayloadWriter::create(page_size()).unwrap();
        client.send_memory(b"m", &fd).unwrap();
        drop((client, fd, writer));
        assert!(server.wait_readable(soon()).unwrap());
        let received = server.recv(&mut [0; 8]);
        assert!(matches!(received, Err(RecvError::Closed)), "{received:?}");
    }
}

#[test]
fn a_server_that_never_says_taken_does_not_have_memory_kept_without_end() {
    let (server, client) = Socket::pair().unwrap();
    let mut buf = [0; 64];
    let mut lent = 0;
    loop {
        let (_writer, fd) = PayloadWriter::create(page_size()).unwrap();
        match client.send_memory(b"m", &fd) {
            Ok(()) => lent += 1,
            Err(SendError::Os(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
                break;
            }
            Err(error) => panic!("{error}"),
        }
        assert!(lent < 1_000, "it keeps them all");
        // It reads what came, and does not look for what it names.
        assert!(server.wait_readable(soon()).unwrap());
        server.0.take().unwrap();
    }
    client.send(b"goes on", None).unwrap();
    assert_eq!(recv(&server, &mut buf).len, 7);
}

/// How many handles there are to a section that was made here: its maker's, and what was put into a client.
fn handles(fd: &MemFd) -> u32 {
    crate::win::handle_count(std::ptr::without_provenance_mut(fd.numbers().0 as usize))
}

#[test]
fn what_a_server_has_put_in_is_closed_however_the_connection_ends() {
    for (is_shut, client_first) in [(true, true), (true, false), (false, true), (false, false)] {
        for until_full in [false, true] {
            let (server, client) = Socket::pair().unwrap();
            let mut sent = Vec::new();
            while sent.len() < if until_full { 10_000 } else { 5 } {
                let (_writer, fd) = PayloadWriter::create(page_size()).unwrap();
                if let Err(error) = server.send_memory(&[7; 64], &fd) {
                    assert!(until_full && matches!(error, SendError::Full), "{error}");
                    break;
                }
                assert_eq!(handles(&fd), 2);
                sent.push(fd);
            }
            if is_shut {
                client.shutdown();
            }
            if client_first {
                drop(client);
                drop(server);
            } else {
                drop(server);
                drop(client);
            }
            let left: Vec<_> = sent.iter().map(handles).filter(|&count| count != 1).collect();
            assert_eq!(left.len(), 0, "{is_shut} {client_first} {until_full}: of {}", sent.len());
        }
    }
}

#[test]
fn a_message_that_came_before_a_server_shut_it_is_still_received() {
    let (server, client) = Socket::pair().unwrap();
    client.send(b"came", None).unwrap();
    assert!(server.wait_readable(soon()).unwrap());
    server.shutdown();
    assert!(server.is_closed());
    assert_eq!(server.recv(&mut [0; 8]).unwrap().len, 4);
    assert!(matches!(server.recv(&mut [0; 8]), Err(RecvError::Closed)));
}

#[test]
fn a_handle_that_was_put_in_is_taken_once() {
    let (honest, client_a) = Socket::pair().unwrap();
    let (hostile, client_b) = Socket::pair().unwrap();
    let mut buf = [0; 8];
    let (_writer, fd) = PayloadWriter::create(page_size()).unwrap();
    let number = fd.give_to(&honest.peer_process().unwrap().process).unwrap();
    honest.0.send(Frame::message(b"m").unwrap().with_handles(number, 0), None).unwrap();
    let first = recv(&client_a, &mut buf).fd.unwrap();
    // By its number in the message, and by the one that it has now.
    for number in [number, first.numbers().0] {
        hostile.0.send(Frame::message(b"m").unwrap().with_handles(number, 0), None).unwrap();
        let second = recv(&client_b, &mut buf).fd.unwrap();
        let rejected = PayloadReader::accept(second, page_size());
        assert!(matches!(rejected, Err(Rejected::NotASection)), "{rejected:?}");
    }
    assert_eq!(handles(&fd), 2);
    PayloadReader::accept(first, page_size()).unwrap();
    assert_eq!(handles(&fd), 1);
}

#[test]
fn a_section_that_the_program_has_for_reading_is_left_alone() {
    use windows_sys::Win32::System::Memory::{SECTION_MAP_READ, SECTION_QUERY};
    let (server, client) = Socket::pair().unwrap();
    let (_writer, fd) = PayloadWriter::create(page_size()).unwrap();
    let process = server.peer_process().unwrap().process;
    // As OpenFileMapping gives it.
    let section = std::ptr::without_provenance_mut(fd.numbers().0 as usize);
    let own = crate::win::give(&process, section, SECTION_MAP_READ | SECTION_QUERY).unwrap();
    server.0.send(Frame::message(b"m").unwrap().with_handles(own, 0), None).unwrap();
    let received = recv(&client, &mut [0; 8]);
    let rejected = PayloadReader::accept(received.fd.unwrap(), page_size());
    assert!(matches!(rejected, Err(Rejected::NotASection)), "{rejected:?}");
    assert_eq!(handles(&fd), 2);
    crate::win::close_in(&process, own);
}

/// The number is given out again when its client has closed what it had lent.
#[test]
fn a_client_that_goes_is_not_blamed_for_what_has_the_number_now() {
    let (server, client) = Socket::pair().unwrap();
    server.peer().unwrap();
    let now = crate::win::Event::manual().unwrap();
    let frame = Frame::message(b"m").unwrap().with_handles(crate::win::value(now.raw()), 0);
    client.0.send(frame, None).unwrap();
    drop(client);
    assert!(server.wait_readable(soon()).unwrap());
    let received = server.recv(&mut [0; 8]);
    assert!(matches!(received, Err(RecvError::Closed)), "{received:?}");
}

#[test]
fn a_write_outlives_its_thread() {
    for is_bound in [false, true] {
        let poller = crate::poller::Poller::new().unwrap();
        let (server, client) = Socket::pair().unwrap();
        if is_bound {
            poller.add_for_good(&client, 1).unwrap();
        }
        let fill = || (0..10_000u32).take_while(|at| client.send(&at.to_le_bytes(), None).is_ok());
        let sent = std::thread::scope(|scope| scope.spawn(|| fill().count()).join().unwrap());
        assert!(sent < 10_000, "it never fills");
        let mut buf = [0; 4];
        for at in 0..sent as u32 {
            // Whoever writes next looks, too.
            client.wait_writable(Some(0)).unwrap();
            if at == 0 {
                assert!(matches!(client.send(b"full", None), Err(SendError::Full)), "{is_bound}");
            }
            assert_eq!((recv(&server, &mut buf).len, buf), (4, at.to_le_bytes()), "{is_bound}");
        }
        assert!(client.wait_writable(soon()).unwrap());
        assert!(matches!(server.recv(&mut buf), Err(RecvError::Empty)), "{is_bound}: twice");
        client.send(b"next", None).unwrap();
        assert_eq!((recv(&server, &mut buf).len, &buf), (4, b"next"));
    }
}
