//! A write into a file from a page that does not come: the kernel sleeps in it, with the lock of the file's inode.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bounded::BOUND;

/// Such a write. It ends when this is dropped.
pub struct StuckWrite {
    /// Keeps the page from coming (`userfaultfd(2)`), until it is closed.
    keeper: Option<OwnedFd>,
    writer: Option<JoinHandle<()>>,
}

/// `UFFDIO_API`, `UFFDIO_REGISTER`.
const API: libc::c_ulong = 0xc018_aa3f;
const REGISTER: libc::c_ulong = 0xc020_aa00;
/// A page, of any size.
const PAGE: usize = 65_536;

impl StuckWrite {
    /// Begins one, and waits until it is stuck. `None` where the kernel lets nobody keep pages from coming, aloud.
    ///
    /// # Panics
    /// When the kernel has no memory, or writes without the page.
    pub fn begin(file: impl AsFd) -> Option<Self> {
        let Some((keeper, page)) = page_that_does_not_come() else {
            eprintln!("not tried: no userfaultfd here, {}", std::io::Error::last_os_error());
            return None;
        };
        let file = file.as_fd().try_clone_to_owned().expect("a descriptor");
        let writer = std::thread::spawn(move || {
            // SAFETY: the range is mapped; if it could not be read the call would say so.
            unsafe { libc::pwrite(file.as_raw_fd(), page as *const libc::c_void, 64, 0) };
        });
        // It is told of the page that is waited for.
        let told = {
            let mut fds = [PollFd::new(&keeper, PollFlags::IN)];
            let end = Timespec::try_from(BOUND).expect("short");
            poll(&mut fds, Some(&end)).expect("poll") > 0 && fds[0].revents() == PollFlags::IN
        };
        let stuck = Self { keeper: Some(keeper), writer: Some(writer) };
        assert!(told, "the write does not wait for its page");
        Some(stuck)
    }
}

impl Drop for StuckWrite {
    fn drop(&mut self) {
        self.keeper = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// A page of zeros, and what keeps it from coming; the page is never unmapped.
fn page_that_does_not_come() -> Option<(OwnedFd, usize)> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: it takes flags; its result is a new descriptor, or -1.
    let keeper = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    if keeper < 0 {
        return None;
    }
    // SAFETY: the kernel has just made it, for nobody else.
    let keeper = unsafe { OwnedFd::from_raw_fd(keeper as i32) };
    let mut api = [0xaa_u64, 0, 0];
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping overlaps nothing; the other calls write to live locals of the kernel's layout and size.
    unsafe {
        if libc::ioctl(keeper.as_raw_fd(), API, &raw mut api) != 0 {
            return None;
        }
        let page = libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ, flags, -1, 0);
        let mut register = [page as u64, PAGE as u64, 1, 0];
        if page == libc::MAP_FAILED
            || libc::ioctl(keeper.as_raw_fd(), REGISTER, &raw mut register) != 0
        {
            return None;
        }
        Some((keeper, page as usize))
    }
}
