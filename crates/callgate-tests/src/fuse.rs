//! A file of a file system in user space (FUSE): every look at it could ask a process, and wait for the answer.
//!
//! That process is one of its own, which nobody kills: who is killed with such a file open waits in the kernel until an
//! answer comes, so it must not be the one who answers. It ends when the file has been closed everywhere.
//!
//! As much of the kernel's protocol (`linux/fuse.h`, 7.31) as opening and closing one file takes. Only root can mount it.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const BATCH_FORGET: u32 = 42;

/// The number of the file; 1 is the root.
const FILE: u64 = 2;

/// Whatever happens, the process is gone after so many seconds.
const LIFE_S: u32 = 600;

/// Opens a file of `len` bytes, as it says. It can be closed like any other; nothing else is served.
///
/// # Errors
/// When there is no FUSE, or no right to mount it.
pub fn file(len: u64) -> io::Result<OwnedFd> {
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse")?;
    let folder = tempfile::tempdir()?;
    let mount = Mount::new(folder.path(), device.as_raw_fd())?;
    start(device, len)?;
    let file = std::fs::File::options().read(true).write(true).open(folder.path().join("file"))?;
    // The file system stays for as long as the file is open.
    drop(mount);
    Ok(file.into())
}

/// Starts the process that serves: a grandchild, so that nobody has to wait for it. It keeps nothing of ours.
fn start(device: std::fs::File, len: u64) -> io::Result<()> {
    // SAFETY: the children use system calls, and the allocator, which the C library keeps usable in a forked child. They
    // end without running anything of this process's.
    unsafe {
        match libc::fork() {
            -1 => return Err(io::Error::last_os_error()),
            0 => {
                if libc::fork() == 0 {
                    libc::alarm(LIFE_S);
                    libc::dup2(device.as_raw_fd(), 0);
                    libc::close_range(1, u32::MAX, 0);
                    serve(std::fs::File::from_raw_fd(0), len);
                }
                libc::_exit(0);
            }
            child => {
                libc::waitpid(child, std::ptr::null_mut(), 0);
            }
        }
    }
    Ok(())
}

struct Mount(std::ffi::CString);

impl Mount {
    fn new(at: &Path, device: i32) -> io::Result<Mount> {
        let path = std::ffi::CString::new(at.as_os_str().as_encoded_bytes())?;
        let options = format!("fd={device},rootmode=40000,user_id=0,group_id=0\0");
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        // SAFETY: all strings end with zero and live.
        let mounted = unsafe {
            let (what, kind) = (c"callgate-test".as_ptr(), c"fuse".as_ptr());
            libc::mount(what, path.as_ptr(), kind, flags, options.as_ptr().cast())
        };
        if mounted == 0 { Ok(Mount(path)) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // SAFETY: the path ends with zero and lives.
        unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
    }
}

fn serve(mut device: std::fs::File, len: u64) {
    let mut request = vec![0; 1 << 17];
    while let Ok(size) = device.read(&mut request) {
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().expect("a word"));
        if size < 40 {
            return;
        }
        let node = u64::from_le_bytes(request[16..24].try_into().expect("a word"));
        let (error, body) = match word(4) {
            INIT => (0, init()),
            LOOKUP => (0, entry(len)),
            GETATTR => (0, [vec![0; 16], attributes(node, len)].concat()),
            OPEN => (0, vec![0; 16]),
            FLUSH | RELEASE => (0, Vec::new()),
            FORGET | BATCH_FORGET => continue,
            _ => (-libc::ENOSYS, Vec::new()),
        };
        let mut answer = Vec::with_capacity(16 + body.len());
        answer.extend_from_slice(&(16 + body.len() as u32).to_le_bytes());
        answer.extend_from_slice(&i32::to_le_bytes(error));
        answer.extend_from_slice(&request[8..16]);
        answer.extend_from_slice(&body);
        if device.write_all(&answer).is_err() {
            return;
        }
    }
}

/// Version 7.31, no features, writes of a page.
fn init() -> Vec<u8> {
    let mut body = vec![0; 64];
    body[0] = 7;
    body[4] = 31;
    body[20..24].copy_from_slice(&4096u32.to_le_bytes());
    body
}

fn entry(len: u64) -> Vec<u8> {
    let mut body = vec![0; 40];
    body[..8].copy_from_slice(&FILE.to_le_bytes());
    body.extend(attributes(FILE, len));
    body
}

fn attributes(node: u64, len: u64) -> Vec<u8> {
    let mode = if node == FILE { libc::S_IFREG | 0o600 } else { libc::S_IFDIR | 0o700 };
    let mut body = vec![0; 88];
    body[..8].copy_from_slice(&node.to_le_bytes());
    body[8..16].copy_from_slice(&len.to_le_bytes());
    body[60..64].copy_from_slice(&mode.to_le_bytes());
    body[64..68].copy_from_slice(&1u32.to_le_bytes());
    body[80..84].copy_from_slice(&4096u32.to_le_bytes());
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_looked_at_and_closed() {
        match file(8192) {
            Ok(file) => assert_eq!(std::fs::File::from(file).metadata().unwrap().len(), 8192),
            Err(error) => eprintln!("left out: {error}"),
        }
    }
}
