//! What the kernel says that a process uses: CPU time, switches, descriptors, mappings, memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// What all threads of a process have used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Time on a CPU, in nanoseconds.
    pub cpu_ns: u64,
    /// Times that a thread was given a CPU.
    pub runs: u64,
    /// Context switches, voluntary or not.
    pub switches: u64,
    /// Threads.
    pub threads: u64,
}

/// What a process holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// Open file descriptors.
    pub descriptors: u64,
    /// Mappings.
    pub mappings: u64,
}

impl Usage {
    /// Reads the counters of every thread.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: u32) -> io::Result<Usage> {
        let mut usage = Usage::default();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // A thread may end between the list and the look.
            let schedstat = fs::read_to_string(task.join("schedstat"));
            let status = fs::read_to_string(task.join("status"));
            if let (Ok(schedstat), Ok(status)) = (schedstat, status) {
                usage.threads += 1;
                usage.add_schedstat(&schedstat);
                usage.add_switches(&status);
            }
        }
        Ok(usage)
    }

    /// `schedstat`: time on CPU, time waiting for one, number of runs.
    fn add_schedstat(&mut self, text: &str) {
        let mut fields = text.split_whitespace().map(|field| field.parse().unwrap_or(0));
        self.cpu_ns += fields.next().unwrap_or(0);
        self.runs += fields.nth(1).unwrap_or(0);
    }

    fn add_switches(&mut self, text: &str) {
        let switches = text.lines().filter(|line| line.contains("voluntary_ctxt_switches:"));
        let counts =
            switches.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok());
        self.switches += counts.sum::<u64>();
    }

    /// What was used since `before`.
    pub fn since(self, before: Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            runs: self.runs.saturating_sub(before.runs),
            switches: self.switches.saturating_sub(before.switches),
            threads: self.threads,
        }
    }
}

impl Holding {
    /// Counts descriptors and mappings.
    ///
    /// # Errors
    /// When the process is gone, or is another user's.
    pub fn of(pid: u32) -> io::Result<Holding> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        Ok(Holding {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
            mappings: maps.lines().count() as u64,
        })
    }
}

/// A memory cgroup of our own for some processes; dropping it takes it away if they have left it.
pub struct MemoryGroup {
    path: PathBuf,
    usage: &'static str,
}

impl MemoryGroup {
    /// Makes a group below this process's own. None where the system doesn't let us, which takes
    /// a delegated cgroup or root.
    pub fn new(name: &str) -> Option<MemoryGroup> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        parents(&own).into_iter().find_map(|(parent, usage)| {
            let path = parent.join(name);
            fs::create_dir(&path).ok()?;
            let group = MemoryGroup { path, usage };
            // Where the controller isn't switched on for it, the file is absent.
            group.bytes().ok().map(|_| group)
        })
    }

    /// Moves a process into the group; what it uses from then on counts here.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn adopt(&self, pid: u32) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
    }

    /// Memory in use, the kernel's for these processes included.
    ///
    /// # Errors
    /// When the group has no memory controller.
    pub fn bytes(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.path.join(self.usage))?;
        text.trim().parse().map_err(io::Error::other)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// Where a memory group could be made, by what `/proc/self/cgroup` says, and the name of the file
/// that tells its usage.
fn parents(own: &str) -> Vec<(PathBuf, &'static str)> {
    let mut parents = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|controller| controller == "memory") {
            let root = Path::new("/sys/fs/cgroup/memory");
            parents.push((root.join(path), "memory.usage_in_bytes"));
            // In a container the path is the host's; its own groups begin at the root.
            parents.push((root.to_owned(), "memory.usage_in_bytes"));
        } else if controllers.is_empty() {
            let root = Path::new("/sys/fs/cgroup");
            parents.push((root.join(path), "memory.current"));
            // A group with processes can't have groups with controllers; one beside it can.
            if let Some(beside) = root.join(path).parent() {
                parents.push((beside.to_owned(), "memory.current"));
            }
        }
    }
    parents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read() {
        let mut usage = Usage::default();
        usage.add_schedstat("1500 20 7\n");
        usage.add_schedstat("500 1 2\n");
        usage.add_switches(
            "Name:\tx\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t2\n",
        );
        assert_eq!(usage, Usage { cpu_ns: 2000, runs: 9, switches: 7, threads: 0 });
        let after = Usage { cpu_ns: 2500, ..usage };
        assert_eq!(after.since(usage), Usage { cpu_ns: 500, ..Usage::default() });
    }

    #[test]
    fn our_own_counters_are_there() {
        let own = std::process::id();
        assert!(Usage::of(own).unwrap().threads > 0);
        assert!(Holding::of(own).unwrap().mappings > 3);
    }

    #[test]
    fn groups_of_both_kinds_are_found() {
        let one = parents("4:memory:/a\n3:cpu,cpuacct:/\n");
        assert_eq!(one[0].0, Path::new("/sys/fs/cgroup/memory/a"));
        let two = parents("0::/user.slice/b\n");
        assert_eq!(two[0], (PathBuf::from("/sys/fs/cgroup/user.slice/b"), "memory.current"));
    }
}
