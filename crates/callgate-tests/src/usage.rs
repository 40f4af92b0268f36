//! What a process uses, as `/proc` tells.

use std::fs;

/// Descriptors, threads and mappings of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Open descriptors.
    pub fds: usize,
    /// Threads.
    pub threads: usize,
    /// Mappings of callgate's shared memory.
    pub shared: usize,
    /// All mappings. The allocator makes and keeps some of its own.
    pub maps: usize,
    /// Resident memory in KiB.
    pub rss_kib: usize,
}

impl Usage {
    /// Counts.
    ///
    /// # Panics
    /// When there is no such process.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let count = |what: &str| {
            fs::read_dir(format!("/proc/{pid}/{what}")).expect("a living process").count()
        };
        let read = |what: &str| {
            fs::read_to_string(format!("/proc/{pid}/{what}")).expect("a living process")
        };
        let maps = read("maps");
        let statm = read("statm");
        let pages = statm.split(' ').nth(1).and_then(|text| text.parse::<usize>().ok());
        Self {
            fds: count("fd"),
            threads: count("task"),
            shared: maps.lines().filter(|line| line.contains("/memfd:callgate")).count(),
            maps: maps.lines().count(),
            rss_kib: pages.expect("statm") * callgate_sys::shm::page_size() / 1024,
        }
    }

    /// Whether nothing is left over against `before`: no descriptor, thread or shared mapping more. Of all mappings a few
    /// more are allowed, which are the allocator's.
    #[must_use]
    pub fn is_back_to(&self, before: &Self) -> bool {
        self.fds <= before.fds
            && self.threads <= before.threads
            && self.shared <= before.shared
            && self.maps <= before.maps + 16
    }
}

/// User and system time of a process, in clock ticks.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    let rest = stat.rsplit(')').next().expect("stat");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    [11, 12].iter().map(|at| fields[*at].parse::<u64>().expect("ticks")).sum()
}
