//! Descriptors that are not what they should be: every kind of thing that a peer could send in place of sealed memory.

use std::io::Write;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create,
};

/// The seals of a control region.
#[must_use]
pub fn control_seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
}

/// The seals of a payload region.
#[must_use]
pub fn payload_seals() -> SealFlags {
    control_seals() | SealFlags::FUTURE_WRITE
}

/// A memfd of `len` bytes, allocated or not, with these seals.
///
/// # Panics
/// When the kernel refuses.
#[must_use]
pub fn memfd(len: u64, allocated: bool, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("callgate-hostile", flags).expect("memfd");
    ftruncate(&fd, len).expect("ftruncate");
    if allocated && len > 0 {
        fallocate(&fd, FallocateFlags::empty(), 0, len).expect("fallocate");
        touch(&fd, len);
    }
    fcntl_add_seals(&fd, seals).expect("seals");
    fd
}

fn touch(fd: &OwnedFd, len: u64) {
    let mut file = std::fs::File::from(fd.try_clone().expect("dup"));
    file.write_all(&vec![0; usize::try_from(len).expect("small")]).expect("written");
}

/// Gives back the pages of a range, which reads as zeros from then on.
///
/// # Panics
/// When the kernel refuses.
pub fn punch(fd: impl AsFd, offset: u64, len: u64) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(fd, flags, offset, len).expect("punched");
}

/// Everything that is not `len` bytes of memory with all of `seals`, by name.
///
/// # Panics
/// When the kernel refuses.
#[must_use]
pub fn impostors(len: u64, seals: SealFlags) -> Vec<(&'static str, OwnedFd)> {
    let page = callgate_sys::shm::page_size() as u64;
    let unsealed = SealFlags::empty();
    let mut all = vec![
        ("unsealed", memfd(len, true, unsealed)),
        ("only SEAL", memfd(len, true, SealFlags::SEAL)),
        ("without SEAL", memfd(len, true, seals - SealFlags::SEAL)),
        ("without SHRINK", memfd(len, true, seals - SealFlags::SHRINK)),
        ("without GROW", memfd(len, true, seals - SealFlags::GROW)),
        ("a byte short", memfd(len - 1, true, seals)),
        ("a page short", memfd(len - page, true, seals)),
        ("a page long", memfd(len + page, true, seals)),
        ("empty", memfd(0, true, seals)),
        ("sparse", memfd(len, false, seals)),
        ("sparse, blocks forged beyond its end", {
            let fd = memfd(len, false, unsealed);
            fallocate(&fd, FallocateFlags::KEEP_SIZE, len, len).expect("fallocate");
            fcntl_add_seals(&fd, seals).expect("seals");
            fd
        }),
        ("allocated, never touched", {
            let fd = memfd(len, false, unsealed);
            fallocate(&fd, FallocateFlags::empty(), 0, len).expect("fallocate");
            punch(&fd, 0, page);
            fcntl_add_seals(&fd, seals).expect("seals");
            fd
        }),
        ("punched at its end", {
            let fd = memfd(len, true, unsealed);
            punch(&fd, len - page, page);
            fcntl_add_seals(&fd, seals).expect("seals");
            fd
        }),
        ("a regular file", {
            let file = tempfile::tempfile().expect("a file");
            file.set_len(len).expect("sized");
            file.into()
        }),
        ("a directory", std::fs::File::open("/").expect("the root").into()),
        ("/dev/zero", std::fs::File::open("/dev/zero").expect("zeros").into()),
        ("/dev/null", std::fs::File::open("/dev/null").expect("nothing").into()),
        ("/proc/self/mem", std::fs::File::open("/proc/self/mem").expect("own memory").into()),
        ("a pipe's end", rustix::pipe::pipe().expect("a pipe").0),
        ("a pipe's other end", rustix::pipe::pipe().expect("a pipe").1),
        ("an eventfd", {
            rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("an eventfd")
        }),
        ("a socket", std::os::unix::net::UnixStream::pair().expect("sockets").0.into()),
        ("a path only", {
            // SAFETY: the path is a C string, and the result, checked, is a new descriptor that nobody else owns.
            unsafe {
                let fd = libc::open(c"/tmp".as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
                assert!(fd >= 0);
                OwnedFd::from_raw_fd(fd)
            }
        }),
    ];
    if seals.contains(SealFlags::FUTURE_WRITE) {
        all.push(("without FUTURE_WRITE", memfd(len, true, seals - SealFlags::FUTURE_WRITE)));
    } else {
        all.push(("sealed against writing", memfd(len, true, seals | SealFlags::WRITE)));
        all.push(("sealed for payload", memfd(len, true, payload_seals())));
    }
    all
}
