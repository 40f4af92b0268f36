//! A peer process held by a handle: it names that process for ever, even when the id is given out again.

use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::sync::Arc;

use callgate_points::at;
use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_INVALID_PARAMETER, STILL_ACTIVE};
use windows_sys::Win32::System::Threading::{
    GetExitCodeProcess, OpenProcess, PROCESS_DUP_HANDLE, PROCESS_QUERY_LIMITED_INFORMATION,
    PROCESS_SYNCHRONIZE,
};

use super::token::Who;
use super::user::Sid;
use super::{gid, overflow_uid};
use crate::poller::{Pollable, Port, Readiness, RegisteredWait, Slot, Source};
use crate::process::Identity;
use crate::socket::Socket;
use crate::sync::Mutex;
use crate::win::{current_process, ok, own, wait};

/// What the kernel says of who is at the other end of a pipe.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) identity: Identity,
    pub(crate) process: Arc<OwnedHandle>,
}

/// What a pipe itself says of its other end.
pub(crate) enum Word {
    /// Who opened it; `None` where the kernel does not say so before something was read.
    OfClient(Option<Who>),
    /// Whose the pipe is.
    OfServer(Sid),
}

impl Peer {
    /// Opens a process by its id, which the kernel gives for the other end of a pipe.
    ///
    /// That end may have been left to a child, its process have ended, and the id be another process's by now. So the pipe
    /// itself has a word in it: who opened it, or whose it is. Where the process is another user's it is refused, as a
    /// client; as a server it is nobody's, which authorises nothing.
    ///
    /// Handles can be passed to a client and taken from it, where we have the right.
    pub(crate) fn open(pid: u32, word: &Word) -> io::Result<Peer> {
        let least = PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE;
        let open = |rights| {
            // SAFETY: it has no conditions.
            own(at!("sys.process.open", unsafe { OpenProcess(rights, 0, pid) }))
        };
        let process = if matches!(word, Word::OfClient(_)) {
            open(least | PROCESS_DUP_HANDLE).or_else(|error| {
                match error.raw_os_error() == Some(ERROR_ACCESS_DENIED as i32) {
                    true => open(least),
                    false => Err(error),
                }
            })
        } else {
            open(least)
        }?;
        let who = Who::of_process(process.as_raw_handle());
        let uid = match (word, who) {
            (Word::OfClient(client), Ok(who)) => match client {
                Some(client) if *client != who => {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                _ => who.user.number(),
            },
            (Word::OfServer(owner), Ok(who)) => match Who::of_process(current_process()) {
                Ok(own) if who.user == *owner && who.is_as_free_as(&own) => who.user.number(),
                _ => overflow_uid(),
            },
            (Word::OfClient(Some(_)), Err(error)) => return Err(error),
            (_, Err(_)) => overflow_uid(),
        };
        let identity = Identity { pid, uid, gid: gid() };
        Ok(Peer { identity, process: Arc::new(process) })
    }

    /// Whether its end has begun. Its handles are closed after that, one by one, and before it is dead.
    pub(crate) fn is_ending(&self) -> bool {
        let mut code = 0;
        // SAFETY: the handle is open; the result is a live local.
        let known = ok(at!("sys.process.exit_code", unsafe {
            GetExitCodeProcess(self.process.as_raw_handle(), &raw mut code)
        }));
        known.is_ok() && code != STILL_ACTIVE.cast_unsigned()
    }
}

/// A peer process; readable for a poller once it is dead.
#[derive(Debug)]
pub struct PidFd(Arc<Watched>);

#[derive(Debug)]
struct Watched {
    slot: Slot,
    // Before the process: fields are dropped in order, and a wait ends before its handle.
    wait: Mutex<Option<RegisteredWait>>,
    process: Arc<OwnedHandle>,
}

impl PidFd {
    /// Opens the process that connected (or, seen from a client, that listens) at the other end of `socket`. Never blocks.
    ///
    /// # Errors
    ///
    /// One that [`PidFd::says_dead`] when the peer is dead already. Else what the system says.
    pub fn peer_of(socket: &Socket) -> io::Result<PidFd> {
        let process = socket.peer_process()?.process;
        Ok(PidFd(Arc::new(Watched { slot: Slot::new(), wait: Mutex::new(None), process })))
    }

    /// Whether an error of [`PidFd::peer_of`] means that the peer is dead: no process has that id, or the pipe is closed.
    pub fn says_dead(error: &io::Error) -> bool {
        error.raw_os_error() == Some(ERROR_INVALID_PARAMETER as i32)
            || crate::win::is_pipe_gone(error)
    }

    /// Tells whether the process has ended. Never blocks; once true, it stays true.
    ///
    /// A suspended or starved process is not dead.
    pub fn is_dead(&self) -> bool {
        self.0.is_dead()
    }
}

impl Watched {
    fn is_dead(&self) -> bool {
        wait(self.process.as_raw_handle(), Some(0))
    }
}

impl Source for Watched {
    fn slot(&self) -> &Slot {
        &self.slot
    }

    fn begin(&self, port: &Arc<Port>, _for_good: bool) -> io::Result<()> {
        // SAFETY: the handle is open while `self` lives, and the wait goes before it.
        let wait =
            unsafe { RegisteredWait::new(self.process.as_raw_handle(), port, self.slot.key()) }?;
        *self.wait.lock() = Some(wait);
        Ok(())
    }

    fn end(&self) {
        let wait = self.wait.lock().take();
        drop(wait);
    }

    fn readiness(&self) -> Readiness {
        Readiness { readable: self.is_dead(), closed: false }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.slot.leave();
    }
}

impl Pollable for PidFd {
    fn source(&self) -> Option<Arc<dyn Source>> {
        Some(self.0.clone())
    }
}
