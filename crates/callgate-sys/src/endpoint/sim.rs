//! Names in a table: who listens at a path, and who holds its instance lock.

use std::io;
use std::path::{Path, PathBuf};

use super::{BindError, ConnectError, DirError};
use crate::clock;
use crate::poller::Pollable;
use crate::process::pid_of;
use crate::sim::kernel::Object;
use crate::sim::world::{Wait, inside};
use crate::sim::{Handle, fault};
use crate::socket::Socket;

/// The one folder of private endpoints.
const FOLDER: &str = "/sim/callgate";

/// How long a connection without a deadline waits for a server whose queue is full.
const QUEUE_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Gives the folder of private endpoints.
///
/// # Errors
///
/// None.
pub fn private_dir() -> Result<PathBuf, DirError> {
    Ok(FOLDER.into())
}

/// Gives the same path as [`private_dir`].
///
/// # Errors
///
/// None.
pub fn private_dir_if_exists() -> Result<PathBuf, DirError> {
    private_dir()
}

/// Gives the process that holds an instance lock.
///
/// # Errors
///
/// None.
pub fn holder(lock_path: &Path) -> io::Result<Option<u32>> {
    inside().operation("sys.endpoint.getlk", 500, |state| {
        Ok(state.kernel.holder(lock_path).map(pid_of))
    })
}

/// A server's listening socket, and its right to the name.
#[derive(Debug)]
pub struct Listener {
    // In this order they are dropped: the next server may come once the lock is free.
    socket: Handle,
    _lock: Handle,
}

impl Listener {
    /// Becomes the server at `socket_path`, or tells who is.
    ///
    /// # Errors
    ///
    /// [`BindError::InUse`]; [`BindError::Os`] by chance.
    pub fn bind(
        socket_path: &Path,
        lock_path: &Path,
        _mode: u32,
        _group: Option<u32>,
    ) -> Result<Listener, BindError> {
        let here = inside();
        let path = || socket_path.to_owned();
        let lock = here.operation("sys.endpoint.setlk", 1_000, |state| {
            fault(state, libc::EMFILE).map_err(|source| BindError::Os {
                call: "open",
                path: path(),
                source,
            })?;
            match state.kernel.holder(lock_path) {
                Some(process) => Err(BindError::InUse { path: path(), pid: Some(pid_of(process)) }),
                None => Ok(Handle::new(state, here.process, Object::Lock(lock_path.into()))),
            }
        })?;
        here.operation("sys.endpoint.rename", 3_000, |state| {
            let object = Object::Listener { path: path(), backlog: Default::default() };
            let socket = Handle::new(state, here.process, object);
            state.kernel.paths.insert(path(), Some(socket.0));
            Ok(Listener { socket, _lock: lock })
        })
    }

    /// Accepts a connection; `None` when none is waiting.
    ///
    /// # Errors
    ///
    /// `EMFILE` by chance; the connection goes on waiting.
    pub fn accept(&self) -> Result<Option<Socket>, io::Error> {
        let here = inside();
        here.operation("sys.endpoint.accept", 1_000, |state| {
            fault(state, libc::EMFILE)?;
            let Object::Listener { backlog, .. } = state.kernel.object(self.socket.0) else {
                unreachable!("a listener's number")
            };
            let Some(pair) = backlog.pop_front() else { return Ok(None) };
            state.kernel.changed = true;
            let object = Object::Socket { pair, side: 1 };
            Ok(Some(Socket::new(Handle::new(state, here.process, object))))
        })
    }
}

impl Pollable for Listener {
    fn number(&self) -> u64 {
        self.socket.0
    }
}

/// Connects to the server that listens at `socket_path`.
///
/// # Errors
///
/// [`ConnectError::NotRunning`], [`ConnectError::TimedOut`]; [`ConnectError::Os`] by chance.
pub fn connect(socket_path: &Path, deadline_ns: Option<u64>) -> Result<Socket, ConnectError> {
    let here = inside();
    let path = || socket_path.to_owned();
    let deadline_ns = deadline_ns.unwrap_or_else(|| clock::deadline_ns(QUEUE_WAIT));
    loop {
        here.point("sys.endpoint.connect", 1_500);
        let mut state = here.world.lock();
        let state_now = &mut *state;
        fault(state_now, libc::EMFILE).map_err(|source| ConnectError::Os {
            call: "socket",
            path: path(),
            source,
        })?;
        let Some(Some(listener)) = state_now.kernel.paths.get(socket_path).copied() else {
            return Err(ConnectError::NotRunning { path: path() });
        };
        if !state_now.kernel.takes_connections(listener) {
            if !here.block(state, Wait::Backlog(listener), Some(deadline_ns)) {
                return Err(ConnectError::TimedOut { path: path() });
            }
            continue;
        }
        let server = state_now.kernel.fds[&listener].process;
        let pair = state_now.kernel.pair([here.process, server]);
        let Object::Listener { backlog, .. } = state_now.kernel.object(listener) else {
            unreachable!("a listener's number")
        };
        backlog.push_back(pair);
        state_now.kernel.changed = true;
        let object = Object::Socket { pair, side: 0 };
        let socket = Socket::new(Handle::new(state_now, here.process, object));
        drop(state);
        here.point("after", 10);
        return Ok(socket);
    }
}
