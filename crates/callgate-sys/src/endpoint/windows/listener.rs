//! The server's end: being the only one, and listening.

use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use callgate_points::at;
use windows_sys::Win32::Foundation::ERROR_ACCESS_DENIED;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX,
};
use windows_sys::Win32::System::Pipes::{
    CreateNamedPipeW, DisconnectNamedPipe, PIPE_READMODE_MESSAGE, PIPE_REJECT_REMOTE_CLIENTS,
    PIPE_TYPE_MESSAGE, PIPE_UNLIMITED_INSTANCES,
};

use super::lock::{InstanceLock, LockError, server};
use super::name::{LEN_MAX, Names};
use crate::clock;
use crate::endpoint::BindError;
use crate::poller::{Pollable, Port, Readiness, RegisteredWait, Slot, Source};
use crate::process::{fresh_number, own_sid_text};
use crate::socket::{Side, Socket};
use crate::sync::Mutex;
use crate::win::{Operation, Progress, Security, own, was_aborted, wide};

/// How long another server may have the name without listening.
const UNKNOWN_MAX: Duration = Duration::from_secs(2);
/// Instances of the pipe that wait for a client at a time. Further clients wait for the next one.
const WAITING: usize = 8;
/// What a peer may write and not have read, in bytes: some tens of messages.
const BUFFER: u32 = 4096;
/// What a client of another user may do with the pipe: read and write, but not make instances of its own.
const CLIENT_RIGHTS: u32 = super::connect::RIGHTS;

/// A server's listening pipe, and its right to the name.
///
/// Dropping it gives both up. Any thread may use it.
#[derive(Debug)]
pub struct Listener {
    pipe: Arc<Listening>,
    // After `pipe`: fields are dropped in order, and the next server may come once the lock is free.
    _lock: InstanceLock,
}

struct Listening {
    slot: Slot,
    path: PathBuf,
    names: Names,
    security: Security,
    state: Mutex<State>,
}

// SAFETY: a security descriptor is only read once it is made.
unsafe impl Send for Listening {}
// SAFETY: as above; all else is behind a lock.
unsafe impl Sync for Listening {}

#[derive(Default)]
struct State {
    waiting: Vec<Instance>,
    port: Option<Arc<Port>>,
}

/// An instance of the pipe that waits for a client.
struct Instance {
    // In this order they are dropped: the wait for the event of the operation goes before it.
    wait: Option<RegisteredWait>,
    connect: Operation<0>,
    handle: OwnedHandle,
    is_connected: bool,
}

impl std::fmt::Debug for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listening").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Listener {
    /// Becomes the server at `socket_path`, or tells who is.
    ///
    /// The instance lock decides: a mutex with a name made from the path, which the kernel frees at its owner's death.
    /// `mode` says who may connect: 0o600 this user and the system's own account, 0o666 every user of this machine. Clients
    /// of other machines are rejected. `_lock_path` is not used.
    ///
    /// # Errors
    ///
    /// [`BindError`]; the instance lock is free again then. Blocks for up to 2 s for another server that is about to listen,
    /// or to end. `NoGroups` for a group. `Denied` also where connections of a server with another `mode` are open still.
    pub fn bind(
        socket_path: &Path,
        _lock_path: &Path,
        mode: u32,
        group: Option<u32>,
    ) -> Result<Listener, BindError> {
        let path = || socket_path.to_owned();
        let os = |call| move |source| BindError::Os { call, path: socket_path.to_owned(), source };
        let names =
            Names::of(socket_path).map_err(|len| BindError::NameTooLong { path: path(), len })?;
        if group.is_some() {
            return Err(BindError::NoGroups);
        }
        let lock = acquire(&names).map_err(|error| match error {
            Taken::By(pid) => BindError::InUse { path: path(), pid },
            Taken::Os(call, error) => os(call)(error),
        })?;
        let sid = own_sid_text().map_err(os("GetTokenInformation"))?;
        let others = match mode & 0o006 {
            0 => String::new(),
            _ => format!("(A;;{CLIENT_RIGHTS:#x};;;AU)"),
        };
        // Who comes over the network is rejected by the pipe, too.
        let list = format!("O:{sid}D:P(D;;FA;;;NU)(A;;FA;;;{sid})(A;;FA;;;SY){others}");
        let security = Security::parse(&list).map_err(os("security descriptor"))?;
        let (slot, state) = (Slot::new(), Mutex::default());
        let listening = Listening { slot, path: path(), names, security, state };
        let first = match listening.instance(FILE_FLAG_FIRST_PIPE_INSTANCE) {
            // Connections of the last server that are not closed yet; we have the lock, so it serves no more.
            Err(error) if error.raw_os_error() == Some(ERROR_ACCESS_DENIED as i32) => {
                listening.instance(0)
            }
            result => result,
        };
        let mut first = first.map_err(|error| match error.raw_os_error() {
            // Somebody else's pipe.
            Some(code) if code == ERROR_ACCESS_DENIED as i32 => BindError::Denied { path: path() },
            _ => os("CreateNamedPipe")(error),
        })?;
        // Also one that was the first, as it seems: Wine 8 makes no difference.
        let is_ours = listening.is_ours(&first);
        if !matches!(is_ours, Ok(true)) {
            first.connect.cancel(&first.handle);
            is_ours.map_err(os("GetSecurityInfo"))?;
            return Err(BindError::Denied { path: path() });
        }
        let mut state = listening.state.lock();
        state.waiting.push(first);
        for _ in 1..WAITING {
            state.waiting.push(listening.instance(0).map_err(os("CreateNamedPipe"))?);
        }
        drop(state);
        Ok(Listener { pipe: Arc::new(listening), _lock: lock })
    }

    /// Accepts a connection; `None` when none is waiting. Never blocks.
    ///
    /// # Errors
    ///
    /// What the system says when it has no room for another instance of the pipe. The connection goes on waiting.
    pub fn accept(&self) -> Result<Option<Socket>, io::Error> {
        let state = &mut *self.pipe.state.lock();
        let Some(at) = state.waiting.iter_mut().position(Instance::look) else {
            return Ok(None);
        };
        // Made first: there is always one that waits, so that a client never takes a full server for none.
        let mut fresh = self.pipe.instance(0)?;
        if let Some(port) = &state.port {
            fresh.arrange(port, self.pipe.slot.key());
        }
        // Behind the others: in its place, clients that come again at once would be before those who wait in later ones.
        let taken = state.waiting.remove(at);
        state.waiting.push(fresh);
        Ok(Some(taken.into_socket()?))
    }
}

/// Why a name was not had.
enum Taken {
    /// Another serves it: its process, where that can be told.
    By(Option<u32>),
    /// A system call failed.
    Os(&'static str, io::Error),
}

/// Acquires the instance lock. Who has it and cannot be asked who it is has no pipe yet, or none any more: it is asked again
/// in a moment, and then may be found to have let go.
fn acquire(names: &Names) -> Result<InstanceLock, Taken> {
    let until_ns = clock::deadline_ns(UNKNOWN_MAX);
    loop {
        match InstanceLock::acquire(names) {
            Ok(lock) => return Ok(lock),
            Err(LockError::Os(call, error)) => return Err(Taken::Os(call, error)),
            Err(LockError::Held) => {}
        }
        let pid = server(names);
        if pid.is_some() || clock::now_ns() >= until_ns {
            return Err(Taken::By(pid));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Listening {
    /// Makes an instance that waits for a client.
    fn instance(&self, flags: u32) -> io::Result<Instance> {
        let handle = self.pipe(&self.names.pipe, flags)?;
        let connect = Operation::new()?;
        let mut instance = Instance { wait: None, connect, handle, is_connected: false };
        instance.begin()?;
        Ok(instance)
    }

    /// Makes an instance of a pipe whose name ends with a zero.
    fn pipe(&self, name: &[u16], flags: u32) -> io::Result<OwnedHandle> {
        let attributes = self.security.attributes();
        // SAFETY: the name ends with a zero; it and the attributes live for the call.
        own(at!("sys.endpoint.create_pipe", unsafe {
            CreateNamedPipeW(
                name.as_ptr(),
                PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | flags,
                PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE | PIPE_REJECT_REMOTE_CLIENTS,
                PIPE_UNLIMITED_INSTANCES,
                BUFFER,
                BUFFER,
                0,
                &raw const attributes,
            )
        }))
    }

    /// Whether the pipe that an instance belongs to is one of ours. Who makes the first instance says who may connect, and who
    /// may make others, of which some clients would come to them.
    ///
    /// It is compared with a pipe that is made so for a moment, since what the system makes of a list is its own affair.
    fn is_ours(&self, instance: &Instance) -> io::Result<bool> {
        let name = wide(format!(r"\\.\pipe\callgate-like={:x}", fresh_number()).as_ref());
        let like = self.pipe(&name, FILE_FLAG_FIRST_PIPE_INSTANCE)?;
        let of = |pipe: &OwnedHandle| Security::of(pipe.as_raw_handle());
        Ok(of(&instance.handle)?.is_as(&of(&like)?))
    }
}

impl Instance {
    fn begin(&mut self) -> io::Result<()> {
        match self.connect.connect(&self.handle) {
            Progress::Pending => Ok(()),
            Progress::Done { .. } => {
                self.is_connected = true;
                Ok(())
            }
            Progress::Failed(error) if crate::win::is_pipe_gone(&error) => {
                // A client that came and went in between: the next look finds it at its end.
                self.is_connected = true;
                Ok(())
            }
            Progress::Failed(error) => Err(error),
        }
    }

    /// Whether a client has connected.
    fn look(&mut self) -> bool {
        while self.connect.is_under_way() {
            match self.connect.look(&self.handle) {
                Progress::Pending => break,
                // The thread that began it has ended: another one begins it again.
                Progress::Failed(error) if was_aborted(&error) => {
                    self.wait = None;
                    self.is_connected = self.begin().is_err() || self.is_connected;
                }
                // However it ended: what is wrong with it shows when it is used.
                _ => self.is_connected = true,
            }
        }
        self.is_connected
    }

    /// Has a port told when a client connects.
    fn arrange(&mut self, port: &Arc<Port>, key: u64) {
        if self.is_connected {
            return port.post(key);
        }
        // SAFETY: the event is the operation's, which is dropped after the wait.
        match unsafe { RegisteredWait::new(self.connect.event().raw(), port, key) } {
            Ok(wait) => self.wait = Some(wait),
            // It is looked at again and again, until it can be waited for: see `readiness`.
            Err(_) => port.post(key),
        }
    }

    fn into_socket(self) -> io::Result<Socket> {
        drop(self.wait);
        Socket::new(self.handle, Side::Server)
    }
}

impl Source for Listening {
    fn slot(&self) -> &Slot {
        &self.slot
    }

    fn begin(&self, port: &Arc<Port>, _for_good: bool) -> io::Result<()> {
        let state = &mut *self.state.lock();
        state.port = Some(port.clone());
        for instance in &mut state.waiting {
            instance.arrange(port, self.slot.key());
        }
        Ok(())
    }

    fn end(&self) {
        let state = &mut *self.state.lock();
        state.port = None;
        for instance in &mut state.waiting {
            instance.wait = None;
        }
    }

    fn readiness(&self) -> Readiness {
        let State { waiting, port } = &mut *self.state.lock();
        let readable = waiting.iter_mut().any(Instance::look);
        if let Some(port) = port {
            let key = self.slot.key();
            let unarranged = waiting.iter_mut().filter(|it| it.wait.is_none() && !it.is_connected);
            unarranged.for_each(|instance| instance.arrange(port, key));
        }
        Readiness { readable, closed: false }
    }
}

impl Pollable for Listener {
    fn source(&self) -> Option<Arc<dyn Source>> {
        Some(self.pipe.clone())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.pipe.slot.leave();
        let waiting = std::mem::take(&mut self.pipe.state.lock().waiting);
        for mut instance in waiting {
            instance.wait = None;
            instance.connect.cancel(&instance.handle);
            // A client that came just now sees the end.
            // SAFETY: the handle is open.
            at!("sys.endpoint.disconnect", unsafe {
                DisconnectNamedPipe(instance.handle.as_raw_handle())
            });
        }
    }
}

/// The longest name, for messages.
const _: () = assert!(LEN_MAX > crate::endpoint::NAME_LEN_MAX);
