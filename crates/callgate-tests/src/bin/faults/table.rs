//! Which system calls are made to fail, and with what: the errors that the kernel's own documentation gives for such a call,
//! as far as this library makes it.
//!
//! Left out, since no error applies to calls that this library makes: `close` and `munmap` (the kernel has let go, whatever
//! it says), `futex` wakes, `sched_yield`, `lseek(SEEK_HOLE)` on a checked memfd, and spurious `EAGAIN` of `recvmsg`.
//! Left out, since Rust ends a process that has no memory for its heap: `brk` and the mappings of the allocator.

/// A system call's name, with what it is asked for.
pub type Name = &'static str;

/// An error number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Errno(pub i32);

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = KNOWN.iter().find(|(number, _)| *number == self.0);
        f.write_str(known.map_or("E?", |(_, name)| name))
    }
}

use libc::{
    EACCES, EAGAIN, EBUSY, ECONNABORTED, EFAULT, EHWPOISON, EINTR, EINVAL, EMFILE, ENFILE, ENOBUFS,
    ENOLCK, ENOMEM, ENOPROTOOPT, ENOSPC, ENOSYS, EPERM, ETOOMANYREFS,
};

const KNOWN: [(i32, &str); 18] = [
    (EACCES, "EACCES"),
    (EAGAIN, "EAGAIN"),
    (EBUSY, "EBUSY"),
    (ECONNABORTED, "ECONNABORTED"),
    (EFAULT, "EFAULT"),
    (EHWPOISON, "EHWPOISON"),
    (EINTR, "EINTR"),
    (EINVAL, "EINVAL"),
    (EMFILE, "EMFILE"),
    (ENFILE, "ENFILE"),
    (ENOBUFS, "ENOBUFS"),
    (ENOLCK, "ENOLCK"),
    (ENOMEM, "ENOMEM"),
    (ENOPROTOOPT, "ENOPROTOOPT"),
    (ENOSPC, "ENOSPC"),
    (ENOSYS, "ENOSYS"),
    (EPERM, "EPERM"),
    (ETOOMANYREFS, "ETOOMANYREFS"),
];

const NEW_FD: &[i32] = &[EMFILE, ENFILE, ENOMEM];
const OPEN: &[i32] = &[EMFILE, ENFILE, ENOMEM, EINTR, EACCES];

/// Every call that is made to fail.
pub const TABLE: &[(Name, &[i32])] = &[
    ("futex wait", &[EINTR, EAGAIN]),
    ("futex_waitv", &[EINTR, EAGAIN, ENOMEM, ENOSYS, EPERM]),
    ("clock_nanosleep", &[EINTR]),
    ("epoll_create1", NEW_FD),
    ("epoll_ctl add", &[ENOMEM, ENOSPC]),
    ("epoll_wait", &[EINTR]),
    ("epoll_pwait2", &[EINTR, ENOSYS, EPERM]),
    ("eventfd2", NEW_FD),
    ("read", &[EINTR]),
    ("write", &[EINTR]),
    ("poll", &[EINTR, ENOMEM]),
    ("socket", &[EMFILE, ENFILE, ENOMEM, ENOBUFS, EACCES]),
    ("connect", &[EINTR, EAGAIN, ENOMEM, EACCES]),
    ("bind", &[ENOMEM, ENOSPC, EACCES]),
    ("listen", &[ENOMEM, EACCES]),
    ("accept4", &[EMFILE, ENFILE, ENOMEM, ENOBUFS, EINTR, EAGAIN, ECONNABORTED, EPERM]),
    ("sendmsg", &[EINTR, EAGAIN, ENOMEM, ENOBUFS, EACCES]),
    // No EAGAIN: the kernel gives it only while something unread lies there, which wakes as well.
    ("sendmsg bell", &[EINTR, ENOMEM, ENOBUFS, EACCES]),
    ("sendmsg fd", &[EINTR, EAGAIN, ENOMEM, ENOBUFS, EACCES, ETOOMANYREFS]),
    ("recvmsg", &[EINTR, ENOMEM, EACCES]),
    ("getsockopt peer", &[ENOMEM, EACCES]),
    ("getsockopt pidfd", &[EMFILE, ENFILE, ENOMEM, ENOPROTOOPT]),
    ("setsockopt", &[ENOMEM]),
    ("pidfd_open", &[EMFILE, ENFILE, ENOMEM]),
    ("memfd_create", &[EMFILE, ENFILE, ENOMEM, EINVAL, EACCES]),
    ("memfd_create old", &[EMFILE, ENFILE, ENOMEM, EACCES]),
    ("ftruncate", &[EINTR, ENOSPC, ENOMEM]),
    ("fallocate", &[EINTR, ENOSPC, ENOMEM]),
    ("mmap shared", &[ENOMEM, EAGAIN]),
    ("mmap stack", &[ENOMEM, EAGAIN]),
    ("mmap page", &[ENOMEM]),
    ("madvise dontfork", &[ENOMEM, EAGAIN]),
    ("madvise populate", &[EAGAIN, EINTR, ENOMEM, EINVAL, EFAULT, EHWPOISON]),
    ("madvise wipe", &[EINVAL, ENOMEM]),
    ("fcntl add seals", &[EBUSY, EPERM]),
    ("fcntl get seals", &[EACCES]),
    // No EAGAIN: the kernel says so to each that is made, and that is what is wanted.
    ("fcntl set lease", &[EINVAL, ENOMEM, EACCES]),
    ("fcntl set signal", &[EINVAL, ENOMEM]),
    ("fcntl set lock", &[EAGAIN, EINTR, ENOLCK, ENOMEM]),
    ("fcntl get lock", &[EINTR, ENOMEM]),
    ("fstatfs", &[EINTR, ENOMEM]),
    ("cachestat", &[ENOSYS, EPERM]),
    // No EACCES: a directory that may not be looked at is passed over.
    ("stat", &[ENOMEM]),
    ("inotify_init1", &[EMFILE, ENFILE, ENOMEM, ENOSYS]),
    ("inotify_add_watch", &[ENOSPC, ENOMEM, EACCES]),
    ("openat", OPEN),
    ("openat again", OPEN),
    ("openat create", &[EMFILE, ENFILE, ENOMEM, EINTR, EACCES, ENOSPC]),
    ("mkdirat", &[ENOMEM, EACCES, ENOSPC]),
    ("unlinkat", &[ENOMEM, EACCES, EBUSY]),
    ("chmod", &[ENOMEM, EPERM]),
    ("fchmod", &[ENOMEM, EPERM]),
    ("chown", &[ENOMEM, EPERM]),
    ("renameat", &[ENOMEM, EACCES, ENOSPC]),
    ("renameat2", &[ENOMEM, EACCES, ENOSPC, EINVAL]),
    ("membarrier", &[ENOMEM, ENOSYS, EPERM]),
    ("clone", &[EAGAIN, ENOMEM, EPERM]),
    ("sched_getaffinity", &[EINVAL, EPERM]),
    ("sched_getscheduler", &[EPERM]),
    ("setrlimit", &[EPERM]),
];

/// Calls that a kernel may lack, or a filter forbid, and how it says so.
pub const OPTIONAL: &[(Name, i32)] = &[
    ("futex_waitv", ENOSYS),
    ("futex_waitv", EPERM),
    ("epoll_pwait2", ENOSYS),
    ("epoll_pwait2", EPERM),
    ("getsockopt pidfd", ENOPROTOOPT),
    ("memfd_create", EINVAL),
    ("madvise populate", EINVAL),
    ("madvise wipe", EINVAL),
    ("fcntl set lease", EINVAL),
    ("fcntl set lease", EACCES),
    ("fcntl set signal", EINVAL),
    ("openat again", EACCES),
    ("fchmod", EPERM),
    ("inotify_init1", ENOSYS),
    ("inotify_init1", EMFILE),
    ("renameat2", EINVAL),
    ("membarrier", ENOSYS),
    ("membarrier", EPERM),
    ("sched_getaffinity", EINVAL),
    ("sched_getscheduler", EPERM),
    ("setrlimit", EPERM),
];

/// What Linux 5.10 lacks, and a file system can.
pub const OLD: &[(Name, i32)] = &[
    ("futex_waitv", ENOSYS),
    ("epoll_pwait2", ENOSYS),
    ("getsockopt pidfd", ENOPROTOOPT),
    ("memfd_create", EINVAL),
    ("madvise populate", EINVAL),
    ("renameat2", EINVAL),
    ("membarrier", ENOSYS),
    ("cachestat", ENOSYS),
];

/// `libc` has no name for it on each architecture.
const CACHESTAT: libc::c_long = 451;
const STACK: u64 = libc::MAP_STACK as u64;
const MFD_NOEXEC_SEAL: u64 = 8;
const SO_PEERPIDFD: u64 = 77;
const F_SETSIG: i32 = 10;
/// `FUTEX_CMD_MASK` takes flags off.
const FUTEX_FLAGS: u64 = (libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u64;

/// The name of a call with these arguments, if it is one that is made to fail.
pub fn name_of(number: libc::c_long, args: &[u64; 6]) -> Option<Name> {
    Some(match number {
        libc::SYS_futex => match (args[1] & !FUTEX_FLAGS) as i32 {
            libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => "futex wait",
            _ => return None,
        },
        libc::SYS_futex_waitv => "futex_waitv",
        libc::SYS_clock_nanosleep => "clock_nanosleep",
        libc::SYS_epoll_create1 => "epoll_create1",
        libc::SYS_epoll_ctl if args[1] as i32 == libc::EPOLL_CTL_ADD => "epoll_ctl add",
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => "epoll_wait",
        libc::SYS_epoll_pwait2 => "epoll_pwait2",
        libc::SYS_eventfd2 => "eventfd2",
        libc::SYS_read => "read",
        libc::SYS_write => "write",
        libc::SYS_poll | libc::SYS_ppoll => "poll",
        libc::SYS_socket => "socket",
        libc::SYS_connect => "connect",
        libc::SYS_bind => "bind",
        libc::SYS_listen => "listen",
        libc::SYS_accept4 => "accept4",
        libc::SYS_sendmsg => "sendmsg",
        libc::SYS_recvmsg => "recvmsg",
        libc::SYS_getsockopt if args[2] == SO_PEERPIDFD => "getsockopt pidfd",
        libc::SYS_getsockopt => "getsockopt peer",
        libc::SYS_setsockopt => "setsockopt",
        libc::SYS_pidfd_open => "pidfd_open",
        libc::SYS_memfd_create if args[1] & MFD_NOEXEC_SEAL != 0 => "memfd_create",
        libc::SYS_memfd_create => "memfd_create old",
        libc::SYS_ftruncate => "ftruncate",
        libc::SYS_fallocate => "fallocate",
        libc::SYS_mmap if args[3] & libc::MAP_SHARED as u64 != 0 => "mmap shared",
        // A thread's stack. Rust's own for signal handlers looks alike, but can be used at once; without it Rust aborts.
        libc::SYS_mmap if args[3] & STACK != 0 && args[2] as i32 == libc::PROT_NONE => "mmap stack",
        // The page of the process's token; the allocator asks for more.
        libc::SYS_mmap if args[4] as i32 == -1 && args[1] == 4096 => "mmap page",
        libc::SYS_madvise => match args[2] as i32 {
            libc::MADV_DONTFORK => "madvise dontfork",
            libc::MADV_POPULATE_WRITE => "madvise populate",
            libc::MADV_WIPEONFORK => "madvise wipe",
            _ => return None,
        },
        libc::SYS_fcntl => match args[1] as i32 {
            libc::F_ADD_SEALS => "fcntl add seals",
            libc::F_GET_SEALS => "fcntl get seals",
            libc::F_SETLEASE if args[2] as i32 == libc::F_WRLCK => "fcntl set lease",
            F_SETSIG => "fcntl set signal",
            libc::F_SETLK => "fcntl set lock",
            libc::F_GETLK => "fcntl get lock",
            _ => return None,
        },
        libc::SYS_fstatfs => "fstatfs",
        CACHESTAT => "cachestat",
        libc::SYS_fstat | libc::SYS_newfstatat | libc::SYS_statx => "stat",
        libc::SYS_inotify_init1 => "inotify_init1",
        libc::SYS_inotify_add_watch => "inotify_add_watch",
        libc::SYS_openat if args[2] as i32 & libc::O_CREAT != 0 => "openat create",
        // Memory that is handed out; nothing else is opened for both and not made.
        libc::SYS_openat if args[2] as i32 & libc::O_RDWR != 0 => "openat again",
        libc::SYS_openat => "openat",
        libc::SYS_mkdirat => "mkdirat",
        libc::SYS_unlinkat => "unlinkat",
        libc::SYS_fchmodat => "chmod",
        libc::SYS_fchmod => "fchmod",
        libc::SYS_fchownat => "chown",
        libc::SYS_renameat => "renameat",
        libc::SYS_renameat2 if args[4] == 0 => "renameat",
        libc::SYS_renameat2 => "renameat2",
        libc::SYS_membarrier => "membarrier",
        libc::SYS_clone3 | libc::SYS_clone => "clone",
        libc::SYS_sched_getaffinity => "sched_getaffinity",
        libc::SYS_sched_getscheduler => "sched_getscheduler",
        libc::SYS_prlimit64 if args[2] != 0 => "setrlimit",
        _ => return None,
    })
}

/// The errors that a call is made to fail with.
pub fn errors_of(name: Name) -> impl Iterator<Item = Errno> {
    let row = TABLE.iter().find(|(known, _)| *known == name);
    row.map_or(&[][..], |(_, errors)| errors).iter().map(|number| Errno(*number))
}

/// The table's rows as pairs.
pub fn pairs(rows: &[(Name, i32)]) -> Vec<(Name, Errno)> {
    rows.iter().map(|(name, number)| (*name, Errno(*number))).collect()
}
