//! What a process uses, as `/proc` tells; on Windows, what other processes are told of it.

#[cfg(not(windows))]
use std::fs;

/// Descriptors, threads and mappings of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Open descriptors.
    pub fds: usize,
    /// Threads.
    pub threads: usize,
    /// Mappings of callgate's shared memory; on Windows, of all that has no file behind it.
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
    #[cfg(windows)]
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let handles = handles_of_all();
        let fds = handles.iter().filter(|owner| **owner == pid as usize).count();
        assert!(fds > 0, "a living process");
        // What the others are is not told.
        Self { fds, threads: 0, shared: sections_mapped(pid), maps: 0, rss_kib: 0 }
    }

    /// Counts.
    ///
    /// # Panics
    /// When there is no such process.
    #[cfg(not(windows))]
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
        // Threads of the system's own that wait for us come and go, with a few handles.
        let systems = if cfg!(windows) { 8 } else { 0 };
        self.fds <= before.fds + systems
            && self.threads <= before.threads
            && self.shared <= before.shared
            && self.maps <= before.maps + 16
    }
}

/// The owner of each handle on this machine. (`GetProcessHandleCount` gives 0 under Wine.)
#[cfg(windows)]
fn handles_of_all() -> Vec<usize> {
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Entry {
        object: usize,
        owner: usize,
        handle: usize,
        rest: [u32; 4],
    }
    #[link(name = "ntdll", kind = "raw-dylib")]
    unsafe extern "system" {
        fn NtQuerySystemInformation(class: i32, to: *mut Entry, len: u32, needed: *mut u32) -> i32;
    }
    const EXTENDED_HANDLE_INFORMATION: i32 = 64;
    let none = Entry { object: 0, owner: 0, handle: 0, rest: [0; 4] };
    let mut room = vec![none; 4_096];
    loop {
        let len = u32::try_from(size_of_val(&room[..])).expect("less than 4 GiB");
        let mut needed = 0;
        // SAFETY: at most the size given is written to a live vector of integers.
        let status = unsafe {
            NtQuerySystemInformation(
                EXTENDED_HANDLE_INFORMATION,
                room.as_mut_ptr(),
                len,
                &raw mut needed,
            )
        };
        if status >= 0 {
            break;
        }
        assert!(room.len() < 1 << 24, "status {status:#x}");
        room = vec![none; room.len() * 2];
    }
    // Two words, the count first, stand before the entries.
    let count = room[0].object;
    // SAFETY: the call has written so many entries behind the first 16 bytes of the vector.
    let entries = unsafe {
        let first = room.as_ptr().byte_add(16);
        std::slice::from_raw_parts(first, count)
    };
    entries.iter().map(|entry| entry.owner).collect()
}

/// Counts the mappings of a process that have no file behind them.
#[cfg(windows)]
fn sections_mapped(pid: u32) -> usize {
    use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
    use windows_sys::Win32::System::Memory::{
        MEM_MAPPED, MEMORY_BASIC_INFORMATION, VirtualQueryEx,
    };
    use windows_sys::Win32::System::ProcessStatus::GetMappedFileNameW;
    use windows_sys::Win32::System::Threading::{
        OpenProcess, PROCESS_QUERY_INFORMATION, PROCESS_VM_READ,
    };
    // SAFETY: no memory is passed.
    let process = unsafe { OpenProcess(PROCESS_QUERY_INFORMATION | PROCESS_VM_READ, 0, pid) };
    assert!(!process.is_null(), "a living process");
    // SAFETY: made just now by a call that has succeeded.
    let process = unsafe { OwnedHandle::from_raw_handle(process) };
    let mut mapped = std::collections::BTreeSet::new();
    let mut at = std::ptr::null();
    loop {
        let mut region = MEMORY_BASIC_INFORMATION::default();
        // SAFETY: the process is open; at most the size given is written to a live local.
        let len = unsafe {
            let size = size_of::<MEMORY_BASIC_INFORMATION>();
            VirtualQueryEx(process.as_raw_handle(), at, &raw mut region, size)
        };
        if len == 0 {
            return mapped.len();
        }
        let mut name = [0; 64];
        // SAFETY: the process is open; the name is written to a live local of that length.
        let mut has_file = || unsafe {
            let len = name.len() as u32;
            GetMappedFileNameW(process.as_raw_handle(), at, name.as_mut_ptr(), len) != 0
        };
        if region.Type == MEM_MAPPED && !has_file() {
            mapped.insert(region.AllocationBase.addr());
        }
        at = region.BaseAddress.wrapping_byte_add(region.RegionSize).cast_const();
    }
}

#[cfg(not(windows))]
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
