//! The four kinds of objects, as the protocol needs them: memory, events, mutexes, and waits for them.
//!
//! `windows` has the real ones, and is the only place with `unsafe`. `sim` has the same in this process's memory, for
//! unit tests on other systems; it follows what Win32 documents, and the tests under Wine and Windows use the real
//! ones.

#[cfg(not(windows))]
mod sim;
#[cfg(windows)]
mod windows;

use std::io;

#[cfg(not(windows))]
pub(crate) use sim::{Event, Mutex, Section, Security, die, page_bytes, wait, waiters};
#[cfg(windows)]
pub(crate) use windows::{Event, Mutex, Section, Security, page_bytes, wait};

use crate::error::ObjectError;
use crate::names::{Names, Object};

/// Why an object cannot be had.
#[derive(Debug)]
pub(crate) enum Fault {
    /// There is none of that name.
    NotFound,
    /// Its security descriptor does not let us.
    Denied,
    /// The name belongs to another kind.
    WrongKind,
    /// It is memory that is not backed by the page file, with these attributes.
    NotPageFile(u32),
    /// This call failed for another reason.
    Os(&'static str, io::Error),
}

impl Fault {
    /// Names the object it is about.
    pub(crate) fn of(self, object: Object, names: &Names) -> ObjectError {
        let name = names.of(object).to_owned();
        match self {
            Self::Denied => ObjectError::Denied { object, name },
            Self::WrongKind => ObjectError::WrongKind { object, name },
            Self::NotPageFile(attributes) => ObjectError::NotPageFile { name, attributes },
            Self::NotFound => {
                let source = io::ErrorKind::NotFound.into();
                ObjectError::Os { object, name, call: "open", source }
            }
            Self::Os(call, source) => ObjectError::Os { object, name, call, source },
        }
    }
}

/// What can be waited for.
#[derive(Clone, Copy)]
pub(crate) enum Any<'a> {
    Event(&'a Event),
    Mutex(&'a Mutex),
}

/// How a wait ended; the number is a place in its list, the first one that was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The event was set, and has reset itself; or this thread owns the mutex.
    Object(usize),
    /// This thread owns the mutex; the thread that owned it ended without a release.
    Abandoned(usize),
    TimedOut,
}
