//! The instance lock: one server for a name, known to all, freed by the kernel.
//!
//! A mutex belongs to a thread, and is *abandoned* when that ends, for whatever reason: the next one takes it over. So a
//! thread is made for each lock, which does nothing but to have it.

use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use callgate_points::at;
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_FILE_NOT_FOUND, WAIT_ABANDONED, WAIT_OBJECT_0, WAIT_TIMEOUT,
};
use windows_sys::Win32::Storage::FileSystem::{CreateFileW, FILE_READ_ATTRIBUTES, OPEN_EXISTING};
use windows_sys::Win32::Storage::FileSystem::{SECURITY_IDENTIFICATION, SECURITY_SQOS_PRESENT};
use windows_sys::Win32::System::Pipes::GetNamedPipeServerProcessId;
use windows_sys::Win32::System::Threading::{
    CreateMutexW, MUTEX_MODIFY_STATE, OpenMutexW, ReleaseMutex, WaitForSingleObject,
};

use super::name::Names;
use crate::process::own_sid_text;
use crate::win::{Event, Security, ok, own};

/// Proof that this process is the server of a name. Dropping it frees the name.
#[derive(Debug)]
pub(super) struct InstanceLock {
    release: Arc<Event>,
    owner: Option<JoinHandle<()>>,
}

/// Why the lock wasn't had.
pub(super) enum LockError {
    /// Another has it.
    Held,
    /// A system call failed.
    Os(&'static str, io::Error),
}

impl InstanceLock {
    /// Takes the lock, of which there may be one already. Never blocks.
    pub(super) fn acquire(names: &Names) -> Result<InstanceLock, LockError> {
        let os = |call| move |error| LockError::Os(call, error);
        let mutex = open(&names.mutex)?;
        let release = Arc::new(Event::manual().map_err(os("CreateEvent"))?);
        let (sender, receiver) = sync_channel(1);
        let until = release.clone();
        let body = move || own_it(&mutex, |taken| sender.send(taken).is_ok(), &until);
        let owner = std::thread::Builder::new().name("callgate-name".into()).spawn(body);
        let owner = Some(owner.map_err(os("CreateThread"))?);
        let lock = InstanceLock { release, owner };
        receiver.recv().unwrap_or(Err(LockError::Held)).map(|()| lock)
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        self.release.set();
        if let Some(owner) = self.owner.take() {
            let _ = owner.join();
        }
    }
}

/// The life of the thread that has the lock.
fn own_it(mutex: &OwnedHandle, tell: impl FnOnce(Result<(), LockError>) -> bool, release: &Event) {
    let mutex = mutex.as_raw_handle();
    // SAFETY: the handle is open.
    let waited = at!("sys.endpoint.take_mutex", unsafe { WaitForSingleObject(mutex, 0) });
    let taken = match waited {
        // Abandoned: the last server died.
        WAIT_OBJECT_0 | WAIT_ABANDONED => Ok(()),
        WAIT_TIMEOUT => Err(LockError::Held),
        _ => Err(LockError::Os("WaitForSingleObject", io::Error::last_os_error())),
    };
    let is_taken = taken.is_ok();
    if tell(taken) && is_taken {
        release.wait(None);
    }
    if is_taken {
        // SAFETY: this thread owns it.
        at!("sys.endpoint.release_mutex", unsafe { ReleaseMutex(mutex) });
    }
}

fn open(name: &[u16]) -> Result<OwnedHandle, LockError> {
    let os = |call| move |error| LockError::Os(call, error);
    let sid = own_sid_text().map_err(os("GetTokenInformation"))?;
    let security = Security::parse(&format!("D:P(A;;GA;;;{sid})(A;;GA;;;SY)"));
    let security = security.map_err(os("security descriptor"))?;
    let attributes = security.attributes();
    // SAFETY: the attributes and the name, which ends with a zero, live for the call.
    let mutex = at!("sys.endpoint.create_mutex", unsafe {
        CreateMutexW(&raw const attributes, 0, name.as_ptr())
    });
    own(mutex).map_err(|error| match error.raw_os_error() {
        // Somebody else's, who serves that name or would keep us from it.
        Some(code) if code == ERROR_ACCESS_DENIED as i32 => LockError::Held,
        _ => LockError::Os("CreateMutex", error),
    })
}

/// Whether a process has the mutex of a name open: then it serves it, or is about to.
pub(super) fn is_served(names: &Names) -> bool {
    // SAFETY: the name ends with a zero, and lives for the call.
    let mutex = at!("sys.endpoint.open_mutex", unsafe {
        OpenMutexW(MUTEX_MODIFY_STATE, 0, names.mutex.as_ptr())
    });
    match own(mutex) {
        Ok(_) => true,
        Err(error) => error.raw_os_error() != Some(ERROR_FILE_NOT_FOUND as i32),
    }
}

/// Tells which process serves: its id, our own if this process does; `None` if nobody does, 0 where it cannot be told.
///
/// It connects for a moment. `lock_path` is the path of the socket with `.lock` in the place of `.sock`, or behind it.
/// Never blocks.
///
/// # Errors
///
/// None on this system.
pub fn holder(lock_path: &Path) -> io::Result<Option<u32>> {
    let text = lock_path.to_string_lossy();
    let base = text.strip_suffix(".lock").unwrap_or(&text);
    for socket in [format!("{base}.sock"), base.to_owned()] {
        if let Ok(names) = Names::of(Path::new(&socket))
            && is_served(&names)
        {
            return Ok(Some(server(&names).unwrap_or(0)));
        }
    }
    Ok(None)
}

/// Asks who serves a pipe.
pub(super) fn server(names: &Names) -> Option<u32> {
    let pipe = ask(names)?;
    let mut pid = 0;
    // SAFETY: the handle is open; the result is a live local.
    ok(unsafe { GetNamedPipeServerProcessId(pipe.as_raw_handle(), &raw mut pid) }).ok()?;
    Some(pid)
}

/// Connects without the right to say anything.
pub(super) fn ask(names: &Names) -> Option<OwnedHandle> {
    // SAFETY: the name ends with a zero, and lives for the call.
    own(at!("sys.endpoint.open_to_ask", unsafe {
        CreateFileW(
            names.pipe.as_ptr(),
            FILE_READ_ATTRIBUTES,
            0,
            std::ptr::null(),
            OPEN_EXISTING,
            SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION,
            std::ptr::null_mut(),
        )
    }))
    .ok()
}
