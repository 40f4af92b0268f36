//! What a hold tells of memory that others have, in all the ways that they can.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::pipe::{IoSliceRaw, PipeFlags, SpliceFlags, pipe_with, splice, vmsplice};

use super::*;
use crate::shm::Told;
use crate::shm::{PayloadReader, PayloadWriter, ReleaseWatch};
use crate::socket::Socket;
use crate::testing::untracked;

const LEN: usize = 1 << 20;

/// Memory that its maker has unmapped, with a client's descriptor.
fn handed_out() -> (Hold, OwnedFd) {
    let (writer, fd, hold) = PayloadWriter::create_held(LEN).unwrap();
    drop(writer);
    (hold.expect("this kernel grants leases"), untracked(&fd))
}

/// Maps the whole of it, and unmaps it behind `with`.
fn mapped<T>(fd: &OwnedFd, with: impl FnOnce(&'static [u8]) -> T) -> T {
    // SAFETY: a new mapping at an address of the kernel's choice; nobody writes to it, and no test keeps the slice.
    unsafe {
        let start =
            mmap(std::ptr::null_mut(), LEN, ProtFlags::READ, MapFlags::SHARED, fd, 0).unwrap();
        let result = with(std::slice::from_raw_parts(start.cast::<u8>(), LEN));
        munmap(start, LEN).unwrap();
        result
    }
}

fn read_all(from: impl AsFd, mut len: usize) {
    let mut buffer = [0; 4096];
    while len > 0 {
        len -= rustix::io::read(&from, &mut buffer).unwrap();
    }
}

#[test]
fn an_open_file_is_told_however_it_is_held() {
    let (hold, fd) = handed_out();
    assert_eq!(hold.ask(), Left::Open, "a descriptor");
    let again = fd.try_clone().unwrap();
    drop(fd);
    assert_eq!(hold.ask(), Left::Open, "a copy of it");
    let path = format!("/proc/self/fd/{}", again.as_raw_fd());
    let reopened = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    drop(again);
    assert_eq!(hold.ask(), Left::Open, "opened once more");
    mapped(&reopened, |_| {
        let number = reopened.as_raw_fd();
        // SAFETY: the descriptor is this test's, and another is put in its place.
        unsafe { assert!(libc::dup2(libc::STDERR_FILENO, number) == number) };
        assert_eq!(hold.ask(), Left::Open, "a mapping");
    });
    assert_eq!(hold.ask(), Left::Nothing);
}

#[test]
fn memory_under_way_is_told() {
    let (hold, fd) = handed_out();
    let (ours, theirs) = Socket::pair().unwrap();
    ours.send(b"x", Some(fd.as_fd())).unwrap();
    drop((fd, ours));
    assert_eq!(hold.ask(), Left::Open, "a message");
    drop(theirs);
    // The socket is closed by a thread.
    let until_ns = crate::clock::deadline_ns(std::time::Duration::from_secs(20));
    while hold.ask() != Left::Nothing {
        assert!(crate::clock::now_ns() < until_ns, "it is told for good");
        std::thread::yield_now();
    }
}

#[test]
fn pages_are_told_however_they_are_held() {
    type Take = fn(&OwnedFd, &OwnedFd) -> usize;
    let spliced: Take = |fd, into| {
        let mut offset = 4096;
        splice(fd, Some(&mut offset), into, None, 8192, SpliceFlags::empty()).unwrap()
    };
    let vmspliced: Take = |fd, into| {
        mapped(fd, |bytes| {
            // SAFETY: nobody writes to these bytes.
            unsafe {
                vmsplice(into, &[IoSliceRaw::from_slice(&bytes[..8192])], SpliceFlags::empty())
            }
            .unwrap()
        })
    };
    for (what, take) in [("splice", spliced), ("vmsplice", vmspliced)] {
        let (hold, fd) = handed_out();
        let (out, into) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let taken = take(&fd, &into);
        assert_eq!(taken, 8192);
        drop(fd);
        assert_eq!(hold.ask(), Left::Pages, "{what}, in a pipe");
        let (ours, theirs) = UnixStream::pair().unwrap();
        let moved = splice(&out, None, &ours, None, 8192, SpliceFlags::empty()).unwrap();
        assert_eq!(moved, 8192);
        drop((out, into));
        assert_eq!(hold.ask(), Left::Pages, "{what}, in a socket");
        read_all(&theirs, moved);
        assert_eq!(hold.ask(), Left::Nothing, "{what}, read");
    }
}

#[test]
fn this_process_keeps_it_too() {
    let (writer, fd, hold) = PayloadWriter::create_held(LEN).unwrap();
    let hold = hold.expect("this kernel grants leases");
    assert!(PayloadReader::accept_held(fd, LEN).is_ok());
    assert_eq!(hold.ask(), Left::Pages, "it is mapped for writing");
    drop(writer);
    assert_eq!(hold.ask(), Left::Nothing);
}

#[test]
fn who_is_handed_it_can_only_read() {
    let (hold, fd) = handed_out();
    for seals in [SealFlags::SEAL, SealFlags::WRITE] {
        assert_eq!(fcntl_add_seals(&fd, seals), Err(Errno::PERM));
    }
    assert_eq!(rustix::fs::fstat(&fd).unwrap().st_mode & 0o777, 0o400, "for its owner only");
    assert_eq!(rustix::io::pwrite(&fd, b"x", 0), Err(Errno::BADF));
    drop(fd);
    assert_eq!(hold.ask(), Left::Nothing);
}

#[test]
fn a_close_is_told_before_it_is_gone() {
    let watch = ReleaseWatch::new().unwrap();
    let (writer, fd, hold) = PayloadWriter::create_held(LEN).unwrap();
    let id = watch.watch(&fd).unwrap();
    let told = || {
        let mut all = Vec::new();
        watch.drain(|told| all.push(told));
        all
    };
    drop(writer);
    assert_eq!(told(), []);
    drop(fd);
    assert_eq!(told(), [Told::Closed(id)]);
    drop(hold);
    assert_eq!(told(), [Told::Gone(id)]);
}

/// Who opens memory that is leased just then sends its maker a signal. It ends nobody.
#[test]
fn who_opens_it_meanwhile_does_no_harm() {
    let (hold, fd) = handed_out();
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let last = open_again(&path);
    drop(fd);
    let path = format!("/proc/self/fd/{}", last.as_raw_fd());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let held = format!("/proc/self/fd/{}", hold.as_fd().as_raw_fd());
        let stop = &stop;
        scope.spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                drop(open_again(&held));
            }
        });
        drop(open_again(&path));
        drop(last);
        let granted = (0..20_000).filter(|_| hold.lease().is_ok()).count();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(granted > 0, "there was nothing to break");
    });
    assert_eq!(hold.ask(), Left::Nothing);
}

fn open_again(path: &str) -> OwnedFd {
    openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}
