//! What `demo --chaos` breaks, and when: a client, then the server, each in the middle of work.
//!
//! The moments hang on progress, never on time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::crew::Victim;
use super::message::CallFailed;

/// How far the breaking is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Waiting until a quarter is done.
    Working,
    /// The server was told to watch for the client's end.
    Watching,
    /// A client was killed; its end is awaited, and a report of its successor.
    ClientKilled,
    /// The successor works; waiting until half is done.
    Replaced,
    /// The server was killed; the next one is awaited.
    ServerKilled,
    /// All that was to be broken is broken and mended.
    Over,
}

/// One kill and what followed.
#[derive(Clone, Debug, Serialize)]
pub struct Kill {
    /// `client 4` or `server`.
    pub victim: String,
    /// The process.
    pub pid: u32,
    /// Jobs that it held, or that were held by all clients of the server.
    pub jobs_held: usize,
    /// By survivor: nanoseconds from the kill to the moment when it saw an error, or the server
    /// that the client was gone. None: it was in no call, and met only the new server.
    pub noticed_ns: BTreeMap<String, Option<u64>>,
    /// Nanoseconds from the kill to the moment when the successor was ready.
    pub replaced_ns: Option<u64>,
    #[serde(skip)]
    at_ns: u64,
}

/// The plan's state and its record.
pub struct Chaos {
    step: Step,
    kills: Vec<Kill>,
}

/// What the chaos looks at.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// Files done, and files in one round.
    pub files: (u64, u64),
    /// Bytes done, and bytes in one round.
    pub bytes: (u64, u64),
    /// Whether the client to be killed has work.
    pub victim_busy: bool,
    /// Whether every client has work.
    pub all_busy: bool,
}

impl Sight {
    /// Whether this part of a round is done, by files or by bytes.
    fn has_done(&self, quarters: u64) -> bool {
        let reached = |(done, all): (u64, u64)| done * 4 >= all * quarters && done > 0;
        reached(self.files) || reached(self.bytes)
    }
}

impl Chaos {
    /// Nothing is broken yet; nothing ever is unless `wanted`.
    pub fn new(wanted: bool) -> Chaos {
        Chaos { step: if wanted { Step::Working } else { Step::Over }, kills: Vec::new() }
    }

    /// Where we are.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Whether all is broken and mended, so that the work may end.
    pub fn is_over(&self) -> bool {
        self.step == Step::Over
    }

    /// The record.
    pub fn kills(&self) -> &[Kill] {
        &self.kills
    }

    /// Whether it is time to have the server watch for a client's end.
    pub fn wants_watch(&mut self, sight: Sight) -> bool {
        let now = self.step == Step::Working && sight.has_done(1) && sight.victim_busy;
        if now {
            self.step = Step::Watching;
        }
        now
    }

    /// Whether it is time to kill the server.
    pub fn wants_server_dead(&self, sight: Sight) -> bool {
        self.step == Step::Replaced && sight.has_done(2) && sight.all_busy
    }

    /// Notes a kill and who survives it.
    pub fn killed(
        &mut self,
        victim: Victim,
        (at_ns, pid): (u64, u32),
        jobs_held: usize,
        survivors: impl IntoIterator<Item = String>,
    ) {
        let noticed_ns = survivors.into_iter().map(|survivor| (survivor, None)).collect();
        let (victim, step) = match victim {
            Victim::Client(number) => (client_name(number), Step::ClientKilled),
            Victim::Server => ("server".to_owned(), Step::ServerKilled),
        };
        self.step = step;
        self.kills.push(Kill { victim, pid, jobs_held, noticed_ns, replaced_ns: None, at_ns });
    }

    /// Notes that the server saw a client's end.
    pub fn client_gone(&mut self, at_ns: u64) {
        self.notice("client", "server", at_ns);
    }

    /// Notes a client's failed call, if it is the first that ended after the server's death.
    pub fn call_failed(&mut self, client: usize, failed: &CallFailed) {
        self.notice("server", &client_name(client), failed.ended_ns);
    }

    fn notice(&mut self, victim: &str, survivor: &str, at_ns: u64) {
        let kill = self.kills.iter_mut().find(|kill| kill.victim.starts_with(victim));
        let Some(kill) = kill.filter(|kill| kill.at_ns <= at_ns) else {
            return;
        };
        if let Some(noticed @ None) = kill.noticed_ns.get_mut(survivor) {
            *noticed = Some(at_ns - kill.at_ns);
        }
    }

    /// Notes that the successor of what was killed last is at work.
    pub fn replaced(&mut self, now_ns: u64) {
        self.step = match self.step {
            Step::ClientKilled => Step::Replaced,
            Step::ServerKilled => Step::Over,
            other => other,
        };
        if let Some(kill) = self.kills.last_mut() {
            kill.replaced_ns.get_or_insert(now_ns.saturating_sub(kill.at_ns));
        }
    }
}

/// How a client is called, from 1.
pub fn client_name(number: usize) -> String {
    format!("client {}", number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(done: u64) -> Sight {
        Sight { files: (done, 100), bytes: (0, 100), victim_busy: true, all_busy: true }
    }

    #[test]
    fn client_first_then_server() {
        let mut chaos = Chaos::new(true);
        assert!(!chaos.wants_watch(sight(24)));
        assert!(chaos.wants_watch(sight(25)) && !chaos.wants_watch(sight(26)));
        assert!(!chaos.wants_server_dead(sight(99)));
        chaos.killed(Victim::Client(3), (1_000, 7), 5, ["server".to_owned()]);
        chaos.client_gone(1_300);
        chaos.client_gone(1_900);
        chaos.replaced(5_000);
        assert!(!chaos.wants_server_dead(sight(49)) && chaos.wants_server_dead(sight(50)));
        assert!(!chaos.wants_server_dead(Sight { all_busy: false, ..sight(50) }));
        chaos.killed(Victim::Server, (9_000, 8), 5, [client_name(0), client_name(1)]);
        let failed = |ended_ns| CallFailed { error: String::new(), began_ns: 0, ended_ns };
        chaos.call_failed(0, &failed(8_999));
        chaos.call_failed(0, &failed(9_200));
        assert!(!chaos.is_over());
        chaos.replaced(20_000);
        assert!(chaos.is_over());
        let noticed = |kill: usize, who: &str| chaos.kills()[kill].noticed_ns[who];
        assert_eq!(noticed(0, "server"), Some(300));
        assert_eq!(noticed(1, "client 1"), Some(200));
        assert_eq!(noticed(1, "client 2"), None);
        assert_eq!(chaos.kills()[1].replaced_ns, Some(11_000));
    }

    #[test]
    fn no_chaos_is_over_at_once() {
        let mut chaos = Chaos::new(false);
        assert!(chaos.is_over() && !chaos.wants_watch(sight(100)));
    }
}
