//! Thousands of clients of one server. A program of its own, so that nothing else is in the figures.
//!
//! `CALLGATE_CLIENTS` says how many there are in the larger test: 2,000 by default.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use callgate_tests::{BOUND, Peer, Place, Usage, until, within};

const PEER: &str = env!("CARGO_BIN_EXE_testpeer");
const LONGEST: Duration = Duration::from_secs(300);
/// Memory that an idle connection may cost, on both sides together, the kernel's included.
const IDLE_BYTES_MAX: u64 = 32 << 10;

/// A memory cgroup: one of our own where we may make one, else the one we are in, else none.
struct Group {
    directory: PathBuf,
    usage: &'static str,
    own: bool,
}

impl Group {
    fn find() -> Option<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let find = |controller: &str| {
            groups.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (found, path) = (parts.next()?, parts.next()?);
                found.split(',').any(|found| found == controller).then(|| path.to_owned())
            })
        };
        let candidates = [
            find("memory")
                .map(|path| (format!("/sys/fs/cgroup/memory{path}"), "memory.usage_in_bytes")),
            find("").map(|path| (format!("/sys/fs/cgroup{path}"), "memory.current")),
        ];
        for (directory, usage) in candidates.into_iter().flatten() {
            let parent = PathBuf::from(directory);
            let child = parent.join(format!("callgate-crowd-{}", std::process::id()));
            if std::fs::create_dir(&child).is_ok() {
                let group = Self { directory: child, usage, own: true };
                if group.read().is_some() {
                    return Some(group);
                }
                continue;
            }
            let group = Self { directory: parent, usage, own: false };
            if group.read().is_some() {
                return Some(group);
            }
        }
        None
    }

    fn read(&self) -> Option<u64> {
        std::fs::read_to_string(self.directory.join(self.usage)).ok()?.trim().parse().ok()
    }

    fn add(&self, peer: &Peer) {
        if self.own {
            let moved = std::fs::write(self.directory.join("cgroup.procs"), peer.pid().to_string());
            moved.expect("a process can be moved into a group of our own");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.own {
            // Everybody in it was killed and reaped; the kernel may take a moment more.
            let began = Instant::now();
            while std::fs::remove_dir(&self.directory).is_err() && began.elapsed() < BOUND {
                std::thread::yield_now();
            }
        }
    }
}

struct Crowd {
    place: Place,
    server: Peer,
    members: Vec<Peer>,
}

impl Crowd {
    fn gather(processes: usize, group: Option<&Group>) -> Self {
        let place = Place::new();
        // It joins its group before it makes anything.
        let mut server = place.peer(PEER, "server", &["wait=1"]);
        server.expect("waiting");
        if let Some(group) = group {
            group.add(&server);
        }
        server.tell("go");
        server.expect("serving");
        let members: Vec<Peer> = (0..processes)
            .map(|_| {
                let mut member = place.peer(PEER, "crowd", &[]);
                member.expect("ready");
                if let Some(group) = group {
                    group.add(&member);
                }
                // What is made once is made now.
                member.tell("connect 1");
                member.expect("connect ok=1");
                member.tell("call");
                member.expect("call ok=1");
                member
            })
            .collect();
        Self { place, server, members }
    }

    /// All members do it at the same time.
    fn all(&mut self, command: &str) -> Duration {
        let began = Instant::now();
        for member in &mut self.members {
            member.tell(command);
        }
        let word = command.split(' ').next().expect("a word");
        for member in &self.members {
            member.expect(&format!("{word} ok=1"));
        }
        began.elapsed()
    }

    fn clients(&mut self) -> u64 {
        self.server.ask("status").number("clients")
    }

    fn wait_for_clients(&mut self, count: u64) {
        until("the server knows who is there", || (self.clients() == count).then_some(()));
    }
}

/// They connect, call, and vanish: in good order, and killed.
#[test]
fn two_hundred_clients_vanish() {
    within(LONGEST, || {
        let mut crowd = Crowd::gather(4, None);
        let base = crowd.server.usage_at_rest();
        for _ in 0..3 {
            crowd.all("connect 49");
            crowd.all("call");
            assert_eq!(crowd.clients(), 200);
            crowd.all("drop");
            crowd.wait_for_clients(0);
            crowd.all("connect 1");
            crowd.all("call");
            until("nothing is left", || crowd.server.usage().is_back_to(&base).then_some(()));
        }
        crowd.all("connect 49");
        crowd.all("call");
        for member in crowd.members.drain(..) {
            member.end();
        }
        crowd.wait_for_clients(0);
        until("nothing is left of the killed", || {
            let usage = crowd.server.usage();
            (usage.fds + 4 == base.fds && usage.shared == 0 && usage.threads == base.threads)
                .then_some(())
        });
        assert_eq!(crowd.place.files(), ["s", "s.lock"]);
    });
}

#[test]
fn thousands_of_idle_clients_cost_little() {
    within(LONGEST, || {
        let wanted: u64 = std::env::var("CALLGATE_CLIENTS")
            .ok()
            .map_or(2_000, |text| text.parse().expect("CALLGATE_CLIENTS is a number"));
        let group = Group::find();
        let processes = 4;
        let each = wanted / processes as u64;
        let more = each * processes as u64;
        let mut crowd = Crowd::gather(processes, group.as_ref());
        let base = crowd.server.usage_at_rest();
        let before = group.as_ref().and_then(Group::read);
        let connecting = crowd.all(&format!("connect {each}"));
        assert_eq!(crowd.clients(), more + processes as u64);
        let idle = crowd.server.usage();
        let after = group.as_ref().and_then(Group::read);
        let cost = |what: fn(&Usage) -> usize| (what(&idle) - what(&base)) as u64;
        eprintln!(
            "{more} clients connected in {connecting:?}; in the server: {} descriptors, {} mappings, {} KiB resident",
            cost(|u| u.fds),
            cost(|u| u.maps),
            cost(|u| u.rss_kib),
        );
        assert_eq!(cost(|u| u.fds), more, "one descriptor for each");
        assert!(cost(|u| u.maps) <= 3 * more, "three mappings for each at most");
        assert_eq!(idle.threads, base.threads);
        match (&group, before, after) {
            (Some(group), Some(before), Some(after)) => {
                let bytes = after.saturating_sub(before) / more;
                let whose = if group.own { "own" } else { "shared" };
                eprintln!(
                    "memory of both sides, kernel included ({whose} cgroup, {}): {bytes} bytes for each",
                    group.usage
                );
                assert!(bytes <= IDLE_BYTES_MAX, "{bytes} bytes for each idle connection");
            }
            _ => eprintln!("no memory cgroup can be read here: descriptors and mappings only"),
        }
        let calling = crowd.all("call");
        eprintln!("{} calls, one over each, in {calling:?}", more + processes as u64);
        let leaving = crowd.all("drop");
        crowd.wait_for_clients(0);
        eprintln!("all gone after {leaving:?}");
        crowd.all("connect 1");
        crowd.all("call");
        until("nothing is left in the server", || {
            crowd.server.usage().is_back_to(&base).then_some(())
        });
        let status = crowd.server.ask("status");
        assert_eq!((status.number("refused"), status.number("violations")), (0, 0));
        drop(crowd);
    });
}
