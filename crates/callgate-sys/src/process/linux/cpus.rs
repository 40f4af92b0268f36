//! How many CPUs this process may really use: the affinity mask and the cgroup's quota together.

use std::path::{Path, PathBuf};

/// Gives the number of CPUs that this process may use at once: those of its affinity mask, or fewer
/// if its cgroup (version 1 or 2, itself or an ancestor) has a CPU quota, which is rounded up. At
/// least 1.
///
/// Reads files of `/proc` and `/sys`: ask once, not for each call.
pub fn cpus_usable() -> usize {
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let quota = quota(&cgroup, &mounts, |path| std::fs::read_to_string(path).ok());
    cpus_allowed().min(quota).max(1)
}

/// Gives the number of CPUs in this thread's affinity mask, quotas left aside. At least 1. One
/// system call.
pub fn cpus_allowed() -> usize {
    match rustix::thread::sched_getaffinity(None).map_or(0, |set| set.count() as usize) {
        // A machine with more CPUs than the mask type holds makes the call fail.
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        count => count,
    }
}

/// The least quota of the process's cgroups in whole CPUs, `usize::MAX` for none.
fn quota(cgroup: &str, mounts: &str, read: impl Fn(&Path) -> Option<String>) -> usize {
    let mut least = usize::MAX;
    for line in cgroup.lines() {
        // hierarchy-ID:controller-list:cgroup-path; version 2 has ID 0 and no controllers.
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version_2 = controllers.is_empty();
        if !version_2 && !controllers.split(',').any(|controller| controller == "cpu") {
            continue;
        }
        let Some((mount, root)) = find_mount(mounts, version_2) else {
            continue;
        };
        let below = Path::new(group).strip_prefix(&root).unwrap_or(Path::new(""));
        for folder in mount.join(below).ancestors() {
            let cpus = if version_2 { quota_v2(folder, &read) } else { quota_v1(folder, &read) };
            least = least.min(cpus.unwrap_or(usize::MAX));
            if folder == mount {
                break;
            }
        }
    }
    least
}

/// Where the hierarchy is mounted, and which of its folders the mount shows as its root.
fn find_mount(mounts: &str, version_2: bool) -> Option<(PathBuf, String)> {
    mounts.lines().find_map(|line| {
        // ID PARENT MAJ:MIN ROOT MOUNT OPTIONS [TAG...] - TYPE SOURCE SUPER-OPTIONS
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, mount) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1).unwrap_or(""));
        let fits = match kind {
            "cgroup2" => version_2,
            "cgroup" => !version_2 && options.split(',').any(|option| option == "cpu"),
            _ => false,
        };
        fits.then(|| (PathBuf::from(mount), root.to_owned()))
    })
}

fn quota_v2(folder: &Path, read: impl Fn(&Path) -> Option<String>) -> Option<usize> {
    let text = read(&folder.join("cpu.max"))?;
    let mut numbers = text.split_whitespace();
    whole_cpus(numbers.next()?, numbers.next()?)
}

fn quota_v1(folder: &Path, read: impl Fn(&Path) -> Option<String>) -> Option<usize> {
    let quota = read(&folder.join("cpu.cfs_quota_us"))?;
    let period = read(&folder.join("cpu.cfs_period_us"))?;
    whole_cpus(quota.trim(), period.trim())
}

/// `quota / period`, rounded up; `None` where there is no quota (`max` or -1) or no sense in the
/// numbers.
fn whole_cpus(quota: &str, period: &str) -> Option<usize> {
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    (period > 0).then(|| quota.div_ceil(period).max(1) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_rounded_up() {
        assert_eq!(whole_cpus("150000", "100000"), Some(2));
        assert_eq!(whole_cpus("1000", "100000"), Some(1));
        assert_eq!(whole_cpus("max", "100000"), None);
        assert_eq!(whole_cpus("-1", "100000"), None);
        assert_eq!(whole_cpus("5", "0"), None);
    }

    #[test]
    fn version_2_takes_the_least_of_all_ancestors() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        let read = |path: &Path| match path.to_str().unwrap() {
            "/sys/fs/cgroup/a/cpu.max" => Some("250000 100000\n".to_owned()),
            "/sys/fs/cgroup/a/b/cpu.max" => Some("max 100000\n".to_owned()),
            _ => None,
        };
        assert_eq!(quota("0::/a/b\n", mounts, read), 3);
        assert_eq!(quota("0::/\n", mounts, read), usize::MAX);
        assert_eq!(quota("", "", read), usize::MAX);
    }

    #[test]
    fn version_1_is_found_below_the_root_of_its_mount() {
        let mounts =
            "33 24 0:29 /docker/x /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n";
        let read = |path: &Path| match path.to_str().unwrap() {
            "/sys/fs/cgroup/cpu,cpuacct/y/cpu.cfs_quota_us" => Some("400000\n".to_owned()),
            "/sys/fs/cgroup/cpu,cpuacct/y/cpu.cfs_period_us" => Some("100000\n".to_owned()),
            _ => None,
        };
        assert_eq!(quota("4:memory:/q\n3:cpu,cpuacct:/docker/x/y\n", mounts, read), 4);
    }
}
