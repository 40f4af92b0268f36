//! What the kernel says of a process, or of a pipe's client, in a token: its user, and how far it is trusted.

use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};

use callgate_points::at;
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::Security::{
    GetLengthSid, GetSidSubAuthority, GetSidSubAuthorityCount, GetTokenInformation, PSID,
    RevertToSelf, TOKEN_INFORMATION_CLASS, TOKEN_MANDATORY_LABEL, TOKEN_QUERY, TOKEN_USER,
    TokenIntegrityLevel, TokenUser,
};
use windows_sys::Win32::System::Pipes::ImpersonateNamedPipeClient;
use windows_sys::Win32::System::Threading::{GetCurrentThread, OpenProcessToken, OpenThreadToken};

use super::user::Sid;
use crate::win::{ok, own};

/// The level of integrity of a user's programs (SECURITY_MANDATORY_MEDIUM_RID). Sandboxes are below.
const MEDIUM: u32 = 0x2000;

/// Whom a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    pub(super) user: Sid,
    /// Its level of integrity.
    level: u32,
}

impl Who {
    /// Gives whose process this is. The handle needs the right to ask (PROCESS_QUERY_LIMITED_INFORMATION).
    pub(crate) fn of_process(process: HANDLE) -> io::Result<Who> {
        let mut token = std::ptr::null_mut();
        // SAFETY: the process handle is open; the result is a live local.
        ok(unsafe { OpenProcessToken(process, TOKEN_QUERY, &raw mut token) })?;
        Who::of_token(&own(token)?)
    }

    /// Gives who opened the other end of a pipe, as it was in that moment. `pipe` is open, and a server's end.
    pub(crate) fn of_client(pipe: HANDLE) -> io::Result<Who> {
        // SAFETY: the handle is open, as the caller promises.
        ok(at!("sys.process.impersonate", unsafe { ImpersonateNamedPipeClient(pipe) }))?;
        let mut token = std::ptr::null_mut();
        // SAFETY: the thread is this one; the result is a live local. This process asks, not whom the thread stands for now.
        let opened =
            ok(unsafe { OpenThreadToken(GetCurrentThread(), TOKEN_QUERY, 1, &raw mut token) });
        // SAFETY: it has no conditions.
        if at!("sys.process.revert", unsafe { RevertToSelf() }) == 0 {
            // All that this thread did from here on it would do in the client's name.
            std::process::abort();
        }
        opened?;
        Who::of_token(&own(token)?)
    }

    fn of_token(token: &OwnedHandle) -> io::Result<Who> {
        let user = ask(token, TokenUser, |room| {
            // SAFETY: the room begins with a TOKEN_USER, whose SID lies in the same room.
            unsafe { bytes_of(room.cast::<TOKEN_USER>().read().User.Sid) }
        })?;
        let level = ask(token, TokenIntegrityLevel, |room| {
            // SAFETY: the room begins with a TOKEN_MANDATORY_LABEL, whose SID lies in the same room; its last part is the
            // level.
            unsafe {
                let sid = room.cast::<TOKEN_MANDATORY_LABEL>().read().Label.Sid;
                let parts = u32::from(*GetSidSubAuthorityCount(sid));
                if parts == 0 { 0 } else { *GetSidSubAuthority(sid, parts - 1) }
            }
        })?;
        Ok(Who { user: Sid::new(user), level })
    }

    /// Whether it is in no sandbox that `other` is not in: not below it, and not below what a user's programs have.
    pub(super) fn is_as_free_as(&self, other: &Who) -> bool {
        self.level >= other.level.min(MEDIUM)
    }
}

/// Asks a token, and makes something of the answer.
fn ask<T>(
    token: &OwnedHandle,
    class: TOKEN_INFORMATION_CLASS,
    of: impl FnOnce(*const u8) -> T,
) -> io::Result<T> {
    // A structure with its SID behind it has at most 88 bytes.
    let mut room = [0u64; 32];
    let mut len = 0;
    // SAFETY: at most the size given is written to a live local of integers.
    ok(unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            class,
            room.as_mut_ptr().cast(),
            size_of_val(&room) as u32,
            &raw mut len,
        )
    })?;
    Ok(of(room.as_ptr().cast()))
}

/// # Safety
///
/// * `sid` is a SID, and lives for the call.
unsafe fn bytes_of(sid: PSID) -> Vec<u8> {
    // SAFETY: as the caller promises.
    unsafe { std::slice::from_raw_parts(sid.cast::<u8>(), GetLengthSid(sid) as usize).to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandboxed_server_of_the_same_user_is_not_that_user() {
        let of = |level| Who { user: Sid::new(vec![1]), level };
        let [low, medium, high] = [of(0x1000), of(MEDIUM), of(0x3000)];
        for (server, client, is_fine) in [
            (&low, &low, true),
            (&low, &medium, false),
            (&low, &high, false),
            (&medium, &low, true),
            (&medium, &high, true),
            (&high, &medium, true),
        ] {
            assert_eq!(server.is_as_free_as(client), is_fine, "{server:?} for {client:?}");
        }
        assert_ne!(low, medium);
    }
}
