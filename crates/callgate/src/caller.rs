//! Who is on the other side, as the kernel tells.

use callgate_sys::process::Identity;

/// A process's identity, from the kernel and never from a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caller {
    /// Process id; `None` when the process lives in a pid namespace that this one cannot see.
    pub pid: Option<u32>,
    /// Effective user id when it connected. The overflow id (usually 65534) stands for users that this user namespace
    /// does not know: never grant it anything.
    ///
    /// On Windows a number that this process has given to the user when it first met one of its processes: two are the
    /// same where the users are. 0 is the system's own account (`LocalSystem`), `u32::MAX` stands for those unknown.
    pub uid: u32,
    /// Effective group id when it connected. On Windows `u32::MAX`, always.
    pub gid: u32,
}

impl Caller {
    pub(crate) fn new(identity: Identity) -> Self {
        let pid = Some(identity.pid).filter(|pid| *pid != 0);
        Self { pid, uid: identity.uid, gid: identity.gid }
    }
}
