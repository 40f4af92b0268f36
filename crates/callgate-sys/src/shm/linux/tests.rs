use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{
    FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate,
    memfd_create,
};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect, munmap};

use super::*;
use crate::shm::{Rejected, Told, copy_from_shared};
use crate::testing::{Child, await_open_count, open_count, readable_soon, untracked};

const PAYLOAD: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

/// A memfd of `pages`, every byte written, not sealed.
fn memfd(pages: usize) -> OwnedFd {
    let fd =
        memfd_create("callgate-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::io::write(&fd, &vec![1; pages * page_size()]).unwrap();
    fd
}

fn accept(fd: OwnedFd, len: usize) -> Result<PayloadReader, Rejected> {
    PayloadReader::accept(fd.into(), len)
}

#[test]
fn what_is_written_is_read_and_nobody_else_can_write() {
    let len = 3 * page_size();
    let (writer, fd) = PayloadWriter::create(len).unwrap();
    let peer = untracked(&fd);
    let reader = PayloadReader::accept(fd, len).unwrap();
    assert_eq!((writer.len(), reader.len()), (len, len));
    let mut copy = vec![1; len];
    // SAFETY: both mappings have `len` bytes, and this thread alone uses them.
    unsafe {
        copy_from_shared(reader.as_ptr(), copy.as_mut_ptr(), len);
        assert!(copy.iter().all(|&byte| byte == 0));
        writer.as_ptr().write_bytes(7, len);
        copy_from_shared(reader.as_ptr(), copy.as_mut_ptr(), len);
        assert!(copy.iter().all(|&byte| byte == 7));
        let all = reader.as_ptr().cast_mut().cast();
        assert_eq!(
            mprotect(all, len, MprotectFlags::READ | MprotectFlags::WRITE),
            Err(Errno::ACCESS)
        );
        let both = ProtFlags::READ | ProtFlags::WRITE;
        assert_eq!(
            mmap(std::ptr::null_mut(), len, both, MapFlags::SHARED, &peer, 0),
            Err(Errno::PERM)
        );
    }
    assert_eq!(rustix::io::pwrite(&peer, b"x", 0), Err(Errno::PERM));
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(fallocate(&peer, punch, 0, page_size() as u64), Err(Errno::PERM));
    assert_eq!(ftruncate(&peer, 0), Err(Errno::PERM));
    assert_eq!(fcntl_add_seals(&peer, SealFlags::WRITE), Err(Errno::PERM));
}

#[test]
fn odd_lengths_and_none() {
    for len in [1, page_size() - 1, page_size() + 1] {
        let (_writer, fd) = PayloadWriter::create(len).unwrap();
        assert_eq!(PayloadReader::accept(fd, len).unwrap().len(), len);
    }
    assert!(PayloadWriter::create(0).is_err());
    assert!(PayloadWriter::create(usize::MAX).is_err());
}

#[test]
fn each_missing_seal_is_noticed() {
    for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::FUTURE_WRITE, SealFlags::SEAL] {
        let fd = memfd(1);
        fcntl_add_seals(&fd, PAYLOAD - missing).unwrap();
        match accept(fd, page_size()) {
            Err(Rejected::MissingSeals { have, want }) => {
                assert_eq!(want, PAYLOAD.bits());
                assert_eq!(have & want, (PAYLOAD - missing).bits());
            }
            other => panic!("{other:?}"),
        }
    }
    // Its maker may have a hold on it: all but SEAL are asked for.
    for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::FUTURE_WRITE, SealFlags::SEAL] {
        let fd = memfd(1);
        fcntl_add_seals(&fd, PAYLOAD - missing).unwrap();
        let accepted = PayloadReader::accept_held(fd.into(), page_size());
        assert_eq!(accepted.is_ok(), missing == SealFlags::SEAL, "{missing:?}: {accepted:?}");
    }
    let more = memfd(1);
    fcntl_add_seals(&more, PAYLOAD | SealFlags::WRITE).unwrap();
    assert!(accept(more, page_size()).is_ok(), "more seals than needed are no fault");
}

#[test]
fn size_is_exact() {
    for (pages, len) in [(1, 2 * page_size()), (2, page_size()), (1, page_size() - 1), (1, 0)] {
        let fd = memfd(pages);
        fcntl_add_seals(&fd, PAYLOAD).unwrap();
        match accept(fd, len) {
            Err(Rejected::Size { have, want }) => {
                assert_eq!((have, want), ((pages * page_size()) as u64, len as u64));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Memory of so many pages, of which some from `first` on are not there, and others are beyond its
/// end.
fn spoilt(pages: u64, first: u64, missing: u64, beyond: u64) -> OwnedFd {
    let page = page_size() as u64;
    let fd = memfd(pages as usize);
    if missing > 0 {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&fd, flags, first * page, missing * page).unwrap();
    }
    if beyond > 0 {
        fallocate(&fd, FallocateFlags::KEEP_SIZE, pages * page, beyond * page).unwrap();
    }
    fcntl_add_seals(&fd, PAYLOAD).unwrap();
    fd
}

/// In each of the pieces that are counted at a time, and however many pages are beyond the end.
#[test]
fn holes_are_found_however_hidden() {
    let page = page_size() as u64;
    for pages in [4, 512, 513, 1_100] {
        let size = pages * page;
        for (missing, beyond) in [(1, 0), (1, 1), (2, 1), (3, 600)] {
            for first in [0, (pages - missing) / 2, pages - missing] {
                match accept(spoilt(pages, first, missing, beyond), size as usize) {
                    Err(Rejected::Holes { at, missing: found, size: of }) => {
                        assert_eq!(of, size);
                        // The rest may be in the next piece.
                        assert!((1..=missing * page).contains(&found));
                        assert!(at <= first * page && first * page < at + (2 << 20));
                    }
                    other => panic!("{other:?}: {missing} of {pages} from {first} on missing"),
                }
            }
        }
        drop(accept(spoilt(pages, 0, 0, 3), size as usize).expect("all there"));
    }
}

#[test]
fn other_kinds_of_descriptors_are_refused() {
    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    let (pipe, _writing) = rustix::pipe::pipe().unwrap();
    for fd in [file, pipe] {
        assert!(matches!(
            accept(fd, page_size()),
            Err(Rejected::MissingSeals { .. } | Rejected::Os { .. })
        ));
    }
    let flags = MemfdFlags::CLOEXEC
        | MemfdFlags::ALLOW_SEALING
        | MemfdFlags::HUGETLB
        | MemfdFlags::HUGE_2MB;
    if let Ok(huge) = memfd_create("callgate-test", flags)
        && ftruncate(&huge, 2 << 20).is_ok()
        && fcntl_add_seals(&huge, PAYLOAD).is_ok()
    {
        assert!(matches!(accept(huge, 2 << 20), Err(Rejected::NotTmpfs { .. })));
    }
}

#[test]
fn control_memory_is_written_by_both_and_survives_a_punch() {
    let len = page_size();
    let (ours, fd) = Control::create(len).unwrap();
    let peer = untracked(&fd);
    let theirs = Control::accept(fd, len).unwrap();
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    // SAFETY: the first word of mappings that outlive the references; only atomics touch it.
    let (a, b) =
        unsafe { (&*ours.as_ptr().cast::<AtomicU32>(), &*theirs.as_ptr().cast::<AtomicU32>()) };
    a.store(5, Relaxed);
    assert_eq!(b.fetch_add(1, Relaxed), 5);
    assert_eq!(a.load(Relaxed), 6);
    fallocate(&peer, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, len as u64)
        .unwrap();
    assert_eq!(a.load(Relaxed), 0);
    assert_eq!(ftruncate(&peer, 0), Err(Errno::PERM));
    assert!(matches!(Control::accept(memfd(1).into(), len), Err(Rejected::MissingSeals { .. })));
    let payload = memfd(1);
    fcntl_add_seals(&payload, PAYLOAD).unwrap();
    assert!(matches!(Control::accept(payload.into(), len), Err(Rejected::NotWritable)));
}

#[test]
fn a_refused_descriptor_is_closed() {
    let name = "callgate-test-refused";
    let fd = memfd_create(name, MemfdFlags::CLOEXEC).unwrap();
    assert_eq!(open_count(name), 1);
    assert!(accept(fd, page_size()).is_err());
    await_open_count(name, 0);
}

/// Asks `watch` again and again until something has gone.
fn gone(watch: &ReleaseWatch) -> Vec<ReleaseId> {
    assert!(readable_soon(watch), "never released");
    let mut ids = Vec::new();
    watch.drain(|told| ids.extend(gone_id(told)));
    ids
}

fn gone_id(told: Told) -> Option<ReleaseId> {
    match told {
        Told::Gone(id) => Some(id),
        Told::Closed(_) => None,
    }
}

fn nothing_gone(watch: &ReleaseWatch) {
    watch.drain(|told| assert_eq!(gone_id(told), None, "it is still in use"));
}

#[test]
fn release_is_told_when_the_last_mapping_or_descriptor_goes() {
    let watch = ReleaseWatch::new().unwrap();
    let len = page_size();
    for keeps_mapping in [true, false] {
        let (writer, fd) = PayloadWriter::create(len).unwrap();
        let id = watch.watch(&fd).unwrap();
        assert_eq!(watch.watch(&fd).unwrap(), id);
        let theirs = untracked(&fd);
        let child = Child::fork(|parent| {
            let mut mapped = true;
            if keeps_mapping {
                // SAFETY: a new mapping at an address of the kernel's choice; the descriptor is the
                // child's own.
                unsafe {
                    mapped = mmap(
                        std::ptr::null_mut(),
                        len,
                        ProtFlags::READ,
                        MapFlags::SHARED,
                        &theirs,
                        0,
                    )
                    .is_ok();
                    libc::close(theirs.as_raw_fd());
                }
            }
            parent.ready();
            parent.wait();
            mapped
        });
        child.await_ready();
        drop((writer, fd, theirs));
        nothing_gone(&watch);
        if keeps_mapping {
            child.kill();
        } else {
            child.release();
            assert!(child.join());
        }
        assert_eq!(gone(&watch), [id]);
        nothing_gone(&watch);
    }
}

#[test]
fn a_forked_child_holds_no_memory() {
    let watch = ReleaseWatch::new().unwrap();
    let (writer, fd) = PayloadWriter::create(page_size()).unwrap();
    let id = watch.watch(&fd).unwrap();
    let child = Child::fork(|parent| {
        parent.ready();
        parent.wait();
        true
    });
    child.await_ready();
    drop((writer, fd));
    assert_eq!(gone(&watch), [id]);
    child.release();
    assert!(child.join());
}

#[test]
fn after_an_overflow_the_kernel_is_asked() {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    if limit > 20_000 {
        return; // it would take too long here
    }
    let name = "callgate-test-overflow";
    let watch = ReleaseWatch::new().unwrap();
    let kept = MemFd::create(1).unwrap();
    let kept_id = watch.watch(&kept).unwrap();
    let mut expected = std::collections::HashSet::new();
    // Each region queues two events, its deletion and the end of its watch.
    for _ in 0..limit / 2 + 100 {
        let fd: MemFd = memfd_create(name, MemfdFlags::CLOEXEC).unwrap().into();
        expected.insert(watch.watch(&fd).unwrap());
    }
    // They are closed by a thread.
    await_open_count(name, 0);
    let mut perhaps_closed = false;
    watch.drain(|told| match told {
        Told::Gone(id) => assert!(expected.remove(&id) && id != kept_id),
        Told::Closed(id) => perhaps_closed |= id == kept_id,
    });
    assert!(perhaps_closed, "it may have been closed, and the event lost");
    assert!(expected.is_empty(), "{} of them were lost", expected.len());
    drop(kept);
    assert_eq!(gone(&watch), [kept_id]);
}

#[test]
fn a_mapping_dropped_in_a_child_unmaps_nothing() {
    let len = page_size();
    let (writer, fd) = PayloadWriter::create(len).unwrap();
    let mut slot = Some(writer);
    let _ = fd.as_fd();
    let child = Child::fork(|_| {
        let writer = slot.take().map(std::mem::ManuallyDrop::new);
        let Some(mut writer) = writer else {
            return false;
        };
        let place = writer.as_ptr();
        // SAFETY: nothing is mapped there in a child, and a new private mapping is put there; then
        // the value is dropped once.
        unsafe {
            let fixed = MapFlags::PRIVATE | MapFlags::FIXED;
            let both = ProtFlags::READ | ProtFlags::WRITE;
            if rustix::mm::mmap_anonymous(place.cast(), len, both, fixed).is_err() {
                return false;
            }
            std::mem::ManuallyDrop::drop(&mut writer);
            place.write_volatile(3);
            let kept = place.read_volatile() == 3;
            munmap(place.cast(), len).is_ok() && kept
        }
    });
    assert!(child.join());
}

#[test]
fn memory_opened_for_one_way_only_is_the_peers_fault() {
    let len = page_size();
    for flags in [OFlags::RDONLY, OFlags::WRONLY] {
        for payload in [true, false] {
            let fd = MemFd::create(len).unwrap();
            fd.allocate(len).unwrap();
            rustix::io::write(&fd, &vec![0; len]).unwrap();
            let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
            let again = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap();
            let future = if payload { SealFlags::FUTURE_WRITE } else { SealFlags::empty() };
            fd.seal(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL | future).unwrap();
            if !payload {
                let refused = Control::accept(again.into(), len);
                assert!(matches!(refused, Err(Rejected::NotWritable)), "{refused:?}");
            } else if flags == OFlags::WRONLY {
                let refused = accept(again, len);
                assert!(matches!(refused, Err(Rejected::NotReadable)), "{refused:?}");
            } else {
                assert!(accept(again, len).is_ok(), "reading is all that is needed");
            }
        }
    }
}

#[test]
fn a_limit_of_file_sizes_is_an_error_and_no_signal() {
    let child = Child::fork(|_| {
        let limit = rustix::process::Rlimit { current: Some(8_192), maximum: None };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).is_ok()
            && PayloadWriter::create(8_192).is_ok()
            && PayloadWriter::create(8_193).is_err()
    });
    assert!(child.join());
}
