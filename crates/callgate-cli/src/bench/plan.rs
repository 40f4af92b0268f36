//! Which situations `bench` measures, and their names.

use std::time::Duration;

/// One situation: a line of the table of goals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Situation {
    /// A closed loop with a small message.
    Busy {
        /// 32 or 48.
        size: usize,
        /// Client and server on a CPU each.
        pinned: bool,
    },
    /// A closed loop with a large message, pinned.
    Size {
        /// Bytes there, and back.
        size: usize,
        /// From and into private buffers.
        copied: bool,
    },
    /// A call now and then.
    Gap(Duration),
    /// Both processes on one CPU.
    OneCpu,
    /// Many clients of one server, each in a closed loop.
    Crowd {
        /// How many.
        clients: usize,
        /// With two other processes that never stop.
        loaded: bool,
    },
    /// One client in a closed loop beside that many that do nothing.
    Beside(u32),
    /// The first call of a client that was quiet, beside one in a closed loop.
    Quiet,
    /// That many calls in flight from one thread.
    Flight(usize),
    /// That many threads of one client.
    Threads(usize),
    /// That many clients that do nothing.
    Idle(u32),
    /// A process that has connected before connects.
    Connect,
    /// A process that was just started connects.
    Fresh,
    /// A handler that works for that many nanoseconds.
    Handler(u32),
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Every situation, in the order of the table.
pub fn situations(quick: bool) -> Vec<Situation> {
    let mut all = Vec::new();
    for size in [32, 48] {
        all.extend([true, false].map(|pinned| Situation::Busy { size, pinned }));
    }
    for size in [256, 4 * KIB, 64 * KIB, MIB, 16 * MIB] {
        all.extend([false, true].map(|copied| Situation::Size { size, copied }));
    }
    let gaps = [100, 1_000, 10_000, 100_000].map(Duration::from_micros);
    all.extend(gaps.map(Situation::Gap));
    all.push(Situation::OneCpu);
    all.extend([2, 4, 16, 64].map(|clients| Situation::Crowd { clients, loaded: false }));
    all.extend([1, 4, 16].map(|clients| Situation::Crowd { clients, loaded: true }));
    all.push(Situation::Beside(1_000));
    if !quick {
        all.push(Situation::Beside(10_000));
    }
    all.extend([Situation::Quiet, Situation::Flight(64), Situation::Threads(8)]);
    all.push(Situation::Idle(if quick { 1_000 } else { 10_000 }));
    all.extend([Situation::Connect, Situation::Fresh]);
    all.extend([1_000, 10_000, 100_000, 1_000_000].map(Situation::Handler));
    all
}

impl Situation {
    /// The stable name.
    pub fn name(self) -> String {
        match self {
            Situation::Busy { size, pinned: true } => format!("busy/{size}/pinned"),
            Situation::Busy { size, pinned: false } => format!("busy/{size}/free"),
            Situation::Size { size, copied } => {
                let way = if copied { "copied" } else { "in-place" };
                format!("size/{}/{way}", short_bytes(size))
            }
            Situation::Gap(gap) => format!("gap/{}", short_time(gap.as_nanos() as u64)),
            Situation::OneCpu => "onecpu/32".to_owned(),
            Situation::Crowd { clients, loaded: false } => format!("crowd/{clients}"),
            Situation::Crowd { clients, loaded: true } => format!("loaded/{clients}"),
            Situation::Beside(idle) => format!("beside/{idle}"),
            Situation::Quiet => "quiet/first".to_owned(),
            Situation::Flight(window) => format!("flight/{window}"),
            Situation::Threads(threads) => format!("threads/{threads}"),
            Situation::Idle(clients) => format!("idle/{clients}"),
            Situation::Connect => "connect/echo".to_owned(),
            Situation::Fresh => "connect/fresh".to_owned(),
            Situation::Handler(ns) => format!("handler/{}", short_time(ns.into())),
        }
    }

    /// CPUs without which it says nothing.
    pub fn cpus_needed(self) -> usize {
        match self {
            Situation::Busy { .. } | Situation::Size { .. } | Situation::Flight(_) => 2,
            // Their limit is a line that both sides poll.
            Situation::Handler(..=10_000) => 2,
            _ => 1,
        }
    }
}

/// `256`, `4k`, `16m`.
fn short_bytes(bytes: usize) -> String {
    match bytes {
        ..KIB => bytes.to_string(),
        KIB..MIB => format!("{}k", bytes / KIB),
        _ => format!("{}m", bytes / MIB),
    }
}

/// `1us`, `100ms`.
fn short_time(ns: u64) -> String {
    match ns {
        ..1_000_000 => format!("{}us", ns / 1_000),
        _ => format!("{}ms", ns / 1_000_000),
    }
}

/// Whether a pattern names a situation: the whole name or the parts before a slash, or, with `*` in
/// it, any text in place of each star.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        let rest = name.strip_prefix(pattern.trim_end_matches('/'));
        return rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    };
    let Some(mut rest) = name.strip_prefix(head) else { return false };
    let parts: Vec<&str> = tail.split('*').collect();
    let Some((last, middle)) = parts.split_last() else { return true };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_differ() {
        let names: Vec<String> = situations(false).into_iter().map(Situation::name).collect();
        for name in [
            "busy/32/pinned",
            "busy/48/free",
            "size/256/in-place",
            "size/16m/copied",
            "gap/100us",
            "gap/1ms",
            "gap/100ms",
            "onecpu/32",
            "crowd/64",
            "loaded/1",
            "beside/10000",
            "quiet/first",
            "flight/64",
            "threads/8",
            "idle/10000",
            "connect/echo",
            "connect/fresh",
            "handler/1us",
            "handler/1ms",
        ] {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        assert!(names.iter().all(|name| !name.contains(' ')));
    }

    #[test]
    fn patterns() {
        assert!(matches("busy", "busy/32/pinned"));
        assert!(matches("busy/32", "busy/32/pinned") && matches("busy/32/", "busy/32/pinned"));
        assert!(!matches("busy/3", "busy/32/pinned"));
        assert!(!matches("crowd/1", "crowd/16") && matches("crowd/1*", "crowd/16"));
        assert!(matches("size/*/copied", "size/4k/copied"));
        assert!(!matches("size/*/copied", "size/4k/in-place"));
        assert!(matches("*", "gap/1ms") && matches("*/*/free", "busy/32/free"));
        assert!(!matches("x*", "gap/1ms"));
    }
}
