//! Users: the system names them by security identifiers (SIDs), which have up to 68 bytes; the rest of the library by
//! numbers.
//!
//! A SID gets a number when it is first met, and keeps it for the life of the process. So two numbers are the same where
//! two SIDs are; what the number is says nothing, but for 0, which is the system's own account. (The last part of a SID is
//! a number, too, but two domains have a user 1001 each.)

use std::io;
use std::sync::OnceLock;

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::ConvertSidToStringSidW;
use windows_sys::Win32::Security::PSID;

use super::token::Who;
use crate::sync::Mutex;
use crate::win::{current_process, ok};

/// S-1-5-18, the system's own account.
const SYSTEM: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
/// Numbers of users begin here, as they do elsewhere.
const FIRST: u32 = 1_000;

/// SIDs in the order in which they were met. No more than there are users of the machine who come here.
static MET: Mutex<Vec<Sid>> = Mutex::new(Vec::new());

/// A security identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sid(Vec<u8>);

impl Sid {
    /// Takes over the bytes of one.
    pub(crate) fn new(bytes: Vec<u8>) -> Sid {
        Sid(bytes)
    }

    /// Its number in this process.
    pub(super) fn number(self) -> u32 {
        if self.0 == SYSTEM {
            return 0;
        }
        let mut met = MET.lock();
        let at = met.iter().position(|sid| *sid == self).unwrap_or_else(|| {
            met.push(self);
            met.len() - 1
        });
        u32::try_from(at).map_or(overflow_uid(), |at| FIRST.saturating_add(at))
    }

    fn text(&self) -> io::Result<String> {
        let mut text = std::ptr::null_mut();
        // SAFETY: the bytes are a SID, and live; the result is a live local.
        ok(unsafe { ConvertSidToStringSidW(self.0.as_ptr() as PSID, &raw mut text) })?;
        let mut units = Vec::new();
        // SAFETY: the text ends with a zero, and is ours to free.
        unsafe {
            let mut at = text;
            while *at != 0 {
                units.push(*at);
                at = at.add(1);
            }
            LocalFree(text.cast());
        }
        Ok(String::from_utf16_lossy(&units))
    }
}

fn own_sid() -> Option<&'static Sid> {
    static OWN: OnceLock<Option<Sid>> = OnceLock::new();
    OWN.get_or_init(|| Who::of_process(current_process()).ok().map(|who| who.user)).as_ref()
}

/// Gives this process's user in the system's own notation, `S-1-5-21-…`.
pub(crate) fn own_sid_text() -> io::Result<String> {
    own_sid().ok_or(io::ErrorKind::PermissionDenied)?.text()
}

/// Gives the number of this process's user.
pub fn uid() -> u32 {
    own_sid().map_or(overflow_uid(), |sid| sid.clone().number())
}

/// Gives the number that stands for every group: nothing is decided by groups on this system.
pub fn gid() -> u32 {
    u32::MAX
}

/// Gives the number that stands for every user who could not be told. It must authorise nothing.
pub fn overflow_uid() -> u32 {
    u32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_where_users_are() {
        let other = Sid(vec![1, 1, 0, 0, 0, 0, 0, 5, 20, 0, 0, 0]);
        assert_eq!(Sid(SYSTEM.to_vec()).number(), 0);
        assert_eq!(uid(), uid());
        assert_ne!(uid(), overflow_uid());
        assert_ne!(other.clone().number(), uid());
        assert_eq!(other.clone().number(), other.clone().number());
        assert_eq!(other.text().unwrap(), "S-1-5-20");
        assert!(own_sid_text().unwrap().starts_with("S-1-5-"));
    }
}
