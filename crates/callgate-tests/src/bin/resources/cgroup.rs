//! Processes in a memory cgroup of 96 MiB.

use std::path::PathBuf;

use callgate::{CallError, CallOptions, Client, codes};
use callgate_tests::data::method;
use callgate_tests::row::Row;
use callgate_tests::{Peer, Place};

use super::{Witness, program, strict};

const MIB: u64 = 1 << 20;
const MOST: u64 = 96 * MIB;
/// What is asked for.
pub const GREED: u64 = 2 * MOST;

/// A cgroup of our own, of version 1 or 2.
struct Group(PathBuf);

impl Group {
    fn make() -> Result<Group, String> {
        let mut why = String::new();
        for (parent, file) in
            [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")]
        {
            // Not every directory of that name is a group: version 1 mounts its controllers below a tmpfs.
            if !PathBuf::from(parent).join("cgroup.procs").exists() {
                why = format!("{parent} is no cgroup");
                continue;
            }
            let folder = PathBuf::from(parent).join(format!("callgate-{}", std::process::id()));
            if let Err(error) = std::fs::create_dir(&folder) {
                why = format!("{parent}: {error}");
                continue;
            }
            let group = Group(folder);
            match std::fs::write(group.0.join(file), MOST.to_string()) {
                Ok(()) => return Ok(group),
                Err(error) => why = format!("{parent}: {error}"),
            }
        }
        Err(format!("not tried: no memory cgroup can be made ({why})"))
    }

    fn take(&self, peer: &Peer) {
        std::fs::write(self.0.join("cgroup.procs"), peer.pid().to_string()).expect("moved");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..200 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// A client that wants more than its group has: the kernel kills it. Others notice nothing, and nothing of it is left.
pub fn client() -> Row {
    let mut row = Row::new("resources: memory cgroup of a client");
    let group = match Group::make() {
        Ok(group) => group,
        Err(why) => {
            row.note = why;
            return row;
        }
    };
    let place = Place::new();
    let mut server = place.server(&program(), &[]);
    let witness = Witness::of(&place);
    let mut client = place.peer(&program(), "greedy", &[]);
    client.expect("ready");
    group.take(&client);
    client.tell("go");
    let ended = client.reap();
    row.note = format!("a request of {} MiB: {ended}", GREED / MIB);
    row.tried(if ended.success() { Err("the limit was not met".into()) } else { Ok(()) });
    callgate_tests::until("it is gone", || {
        (server.ask("status").number("clients") == 1).then_some(())
    });
    row.tried(Ok(()));
    witness.testifies(&mut row);
    row
}

/// A server whose limits fit its group: who wants more than they allow is refused, and nobody else is.
///
/// With limits that do not fit, the kernel kills it as it would any process (SECURITY.md): it leaves no choice.
pub fn server() -> Row {
    let mut row = Row::new("resources: memory cgroup of a server, limits that fit");
    let group = match Group::make() {
        Ok(group) => group,
        Err(why) => {
            row.note = why;
            return row;
        }
    };
    let place = Place::new();
    let most = format!("bytes_per_uid={}", MOST / 2);
    let mut server = place.peer(&program(), "server", &["wait=1", &most]);
    server.expect("waiting");
    group.take(&server);
    server.tell("go");
    server.expect("serving");
    let witness = Witness::of(&place);
    let len = MOST / 8;
    let (mut kept, mut refused) = (Vec::new(), 0);
    for _ in 0..10 {
        let client = Client::connect_with(place.name(), strict()).expect("connect");
        let ended = client.call_with(CallOptions::new().method(method::ZEROS), &len.to_le_bytes());
        match ended {
            Ok(reply) => {
                row.tried(Ok(()));
                kept.push((client, reply));
            }
            Err(CallError::Handler { code: codes::NO_MEMORY, .. }) => {
                row.tried(client.call(b"short").map(drop).map_err(|error| error.to_string()));
                refused += 1;
            }
            Err(error) => row.tried(Err(format!("refused with: {error}"))),
        }
    }
    row.note = format!("replies of {} MiB: {} kept, {refused} refused", len / MIB, kept.len());
    row.tried(if refused > 0 && !kept.is_empty() { Ok(()) } else { Err(row.note.clone()) });
    row.tried(if server.is_alive() { Ok(()) } else { Err("the server was killed".into()) });
    witness.testifies(&mut row);
    row
}
