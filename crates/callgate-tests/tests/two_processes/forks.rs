//! fork in a client and in a server, and the death of the parent while the child lives.

use std::time::{Duration, Instant};

use callgate::{CallError, CallOptions, Client, Started};
use callgate_tests::data::{is_reply, method as m, request};
use callgate_tests::{Peer, Place, until, within};

use crate::{LONGEST, PEER, method, strict};

/// What "promptly" means on a machine that has other things to do.
const SOON: Duration = Duration::from_secs(5);

/// A forked child of a peer; it is killed when this is dropped.
struct Child(i32);

impl Child {
    fn of(peer: &mut Peer, command: &str) -> Self {
        Self(i32::try_from(peer.ask(command).number("pid")).expect("a process id"))
    }

    fn is_alive(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
        state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: no memory is passed. The child waits for the end of its input, which its test still holds, or has ended
        // a moment ago.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }
}

/// Says `fork pid=` and `child ...` in either order; gives the child, and what it says.
fn fork_client(forker: &mut Peer) -> (Child, String) {
    forker.tell("fork");
    let lines = [forker.line(), forker.line()];
    let pid = lines.iter().find_map(|line| line.strip_prefix("fork pid=")).expect("a child");
    let said = lines.iter().find_map(|line| line.strip_prefix("child ")).expect("its report");
    (Child(pid.parse().expect("a process id")), said.to_owned())
}

#[test]
fn in_a_client() {
    within(LONGEST, || {
        for kill_parent in [true, false] {
            let place = Place::new();
            let mut server = place.server(PEER, &[]);
            let mut forker = place.peer(PEER, "forker", &[]);
            forker.expect("ready");
            server.expect("held");
            server.expect("held");
            let clients = |server: &mut Peer| server.ask("status").number("clients");
            assert_eq!(clients(&mut server), 1);
            let (child, said) = fork_client(&mut forker);
            assert_eq!(said, "ok");
            assert_eq!(clients(&mut server), 2, "the child has a connection of its own");
            assert_eq!(server.ask("cancelled").number("cancelled"), 0, "the parent still waits");
            if kill_parent {
                forker.kill();
                forker.reap();
                assert!(child.is_alive());
                until("the server drops the parent's connection, though the child lives", || {
                    (clients(&mut server) == 1).then_some(())
                });
                assert!(child.is_alive());
                assert_eq!(server.ask("cancelled").number("cancelled"), 2);
                drop(child);
                until("and the child's", || (clients(&mut server) == 0).then_some(()));
                // The handler lets go of the calls that it held, for which nobody waits.
                assert_eq!(server.ask("release").number("sent"), 0);
            } else {
                // The child dies, and the parent notices nothing.
                drop(child);
                until("the server drops the child's connection", || {
                    (clients(&mut server) == 1).then_some(())
                });
                assert_eq!(server.ask("release").number("sent"), 2);
                assert_eq!(forker.ask("wait").number("ok"), 1);
            }
            until("its memory comes back", || {
                let status = server.ask("status");
                (!kill_parent || status.number("reply_bytes") == 0).then_some(())
            });
        }
    });
}

/// Threads call while another forks: none of them notices.
#[test]
fn in_a_client_under_load() {
    within(LONGEST, || {
        let place = Place::new();
        let mut server = place.server(PEER, &[]);
        let mut forker = place.peer(PEER, "forker", &[]);
        forker.expect("ready");
        server.expect("held");
        server.expect("held");
        let storm = forker.ask("storm");
        assert_eq!(storm.number("wrong"), 0, "{}", storm.text());
        assert!(storm.number("calls") > 0);
        assert_eq!(server.ask("status").number("violations"), 0);
    });
}

#[test]
fn in_a_server() {
    within(LONGEST, || {
        for command in ["fork", "fork-drop"] {
            let place = Place::new();
            let mut server = place.server(PEER, &[]);
            let client = Client::connect_with(place.name(), strict()).expect("connect");
            let far = client.call(&[4; 2_000]).expect("a reply");
            let held = CallOptions::new().method(m::HOLD);
            let held = client.submit(held, b"x").expect("sent");
            server.expect("held");
            let child = if command == "fork" {
                Child::of(&mut server, command)
            } else {
                server.tell(command);
                let lines = [server.line(), server.line()];
                let dropped = lines.iter().any(|line| line == "child-dropped");
                assert!(dropped, "the child drops the server: {lines:?}");
                let pid = lines.iter().find_map(|line| line.strip_prefix("fork-drop pid="));
                Child(pid.expect("a child").parse().expect("a process id"))
            };
            // The child's life, and its dropping of everything, changes nothing.
            for id in 0..100 {
                let reply = client.call_with(method(m::CHECKED), &request(id, 900, 900));
                assert!(is_reply(&reply.expect("a reply").to_vec(), id, 900));
            }
            let more = Client::connect(place.name()).expect("new clients get in");
            more.call(b"x").expect("a reply");
            assert_eq!(far.to_vec(), [4; 2_000]);
            assert_eq!(place.files(), ["s", "s.lock"]);
            let second = place.peer(PEER, "server", &[]);
            assert!(second.expect("refused").contains(&format!("pid={}", server.pid())));

            server.kill();
            let began = Instant::now();
            match held.wait() {
                Err(CallError::Disconnected { started: Started::MayHaveRun }) => {}
                other => panic!("{other:?}"),
            }
            assert!(began.elapsed() < SOON, "promptly: {:?}", began.elapsed());
            assert!(child.is_alive(), "while the child lives");
            assert!(matches!(client.call(b"x"), Err(CallError::NotRunning { .. })));
            server.reap();
            let _next = place.server(PEER, &[]);
            assert!(child.is_alive());
            let reply = client.call_with(method(m::CHECKED), &request(1, 900, 900));
            assert!(is_reply(&reply.expect("a reply").to_vec(), 1, 900));
            assert_eq!(far.to_vec(), [4; 2_000], "a reply outlives its server");
        }
    });
}
