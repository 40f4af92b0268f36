//! Descriptors that are not what they should be: every kind of thing that a peer could send in place of sealed memory.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

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

/// The seals of a region on which its maker has a hold, as servers have.
#[must_use]
pub fn held_seals() -> SealFlags {
    payload_seals() - SealFlags::SEAL
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
    all.extend(unusual(len, seals));
    if seals.contains(SealFlags::SEAL) {
        all.push(("without SEAL", memfd(len, true, seals - SealFlags::SEAL)));
    }
    if seals.contains(SealFlags::FUTURE_WRITE) {
        all.push(("without FUTURE_WRITE", memfd(len, true, seals - SealFlags::FUTURE_WRITE)));
    } else {
        all.push(("opened for reading only", reopened(len, seals, libc::O_RDONLY)));
        all.push(("sealed against writing", memfd(len, true, seals | SealFlags::WRITE)));
        all.push(("sealed for payload", memfd(len, true, payload_seals())));
    }
    all
}

/// Proper memory, by a descriptor that was opened anew with these flags.
fn reopened(len: u64, seals: SealFlags, flags: libc::c_int) -> OwnedFd {
    let fd = memfd(len, true, SealFlags::empty());
    let path = format!("/proc/self/fd/{}\0", fd.as_raw_fd());
    // SAFETY: the path is a C string, and the result, checked, is a new descriptor that nobody else owns.
    let again = unsafe {
        let again = libc::open(path.as_ptr().cast(), flags | libc::O_CLOEXEC);
        assert!(again >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(again)
    };
    fcntl_add_seals(&fd, seals).expect("seals");
    again
}

/// What there is only on some systems, or is made in some other way. What cannot be had is left out, aloud.
fn unusual(len: u64, seals: SealFlags) -> Vec<(&'static str, OwnedFd)> {
    let mut all = vec![
        ("opened for writing only", reopened(len, seals, libc::O_WRONLY)),
        ("memory by a path only", reopened(len, seals, libc::O_PATH)),
        ("an epoll", {
            rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).expect("epoll")
        }),
    ];
    let mut offer = |what, made: std::io::Result<OwnedFd>| match made {
        Ok(fd) => all.push((what, fd)),
        Err(error) => eprintln!("{what} is not tried: {error}"),
    };
    offer("huge pages", huge(seals));
    offer("a file of /dev/shm", in_shm(len));
    // SAFETY: the call takes flags only; its result is a new descriptor, or -1.
    let secret = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    offer(
        "secret memory",
        match secret {
            fd if fd < 0 => Err(std::io::Error::last_os_error()),
            // SAFETY: the kernel has just made it, for nobody else.
            fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
        },
    );
    offer("a file of a file system in user space", crate::fuse::file(len));
    all
}

fn huge(seals: SealFlags) -> std::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let fd = memfd_create("callgate-hostile", flags)?;
    ftruncate(&fd, 2 << 20)?;
    fcntl_add_seals(&fd, seals)?;
    Ok(fd)
}

/// Memory all the same, but no memfd: it takes no seals.
fn in_shm(len: u64) -> std::io::Result<OwnedFd> {
    let path = std::path::Path::new("/dev/shm");
    let mut file = tempfile::tempfile_in(path)?;
    file.write_all(&vec![0; usize::try_from(len).expect("small")])?;
    Ok(file.into())
}
