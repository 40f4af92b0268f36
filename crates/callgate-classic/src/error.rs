//! How things end when they do not end well: one enum for each verb, with names and numbers, and what the caller can
//! do.

use std::io;
use std::time::Duration;

use crate::names::Object;

/// What is wrong with an object that exists, or could not be made. Nothing was sent, or nothing is served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The name is taken by an object of another kind: choose other names, or end the program that has it.
    #[error("{name:?} is not a {object}: the name belongs to an object of another kind")]
    WrongKind {
        /// What it was to be.
        object: Object,
        /// Its name.
        name: String,
    },
    /// The object is there, and its security descriptor lets this process not use it. Often its maker runs elevated and
    /// this program does not, or as another user: have the maker give it another one ([`Access`](crate::Access)). To
    /// make memory under `Global\` needs a privilege, too.
    #[error("access to the {object} {name:?} is denied to this process")]
    Denied {
        /// Which object.
        object: Object,
        /// Its name.
        name: String,
    },
    /// The event is one with manual reset, since whoever made it first asked for that: the protocol needs auto-reset.
    /// End the program that made it, or mend it.
    #[error(
        "the {object} {name:?} was made by another program with manual reset; it has to reset itself"
    )]
    ManualReset {
        /// Which event.
        object: Object,
        /// Its name.
        name: String,
    },
    /// The memory is smaller than the struct, or has pages more than the struct needs: the two sides' layouts differ,
    /// as those of 32- and 64-bit programs do, or another program has the name. Where a larger one is meant,
    /// `accept_larger` allows it.
    #[error(
        "the memory {name:?} has {have} bytes (in whole pages); {want} are needed, in {want_pages}"
    )]
    Size {
        /// Its name.
        name: String,
        /// Its size in bytes, in whole pages: the system tells it no finer.
        have: usize,
        /// Bytes of the struct.
        want: usize,
        /// Bytes of the pages that the struct needs.
        want_pages: usize,
    },
    /// The memory is a file's: whoever may write the file could cut it off, and a touch of the bytes that are gone ends
    /// a program; a share could keep it waiting for as long as it likes. The protocol's memory is backed by the page
    /// file: end the program that made this one, or mend it.
    #[error(
        "the memory {name:?} is not backed by the page file but by a file or a device (attributes {attributes:#x})"
    )]
    NotPageFile {
        /// Its name.
        name: String,
        /// What the system says of it: its `SEC_` bits.
        attributes: u32,
    },
    /// The text of [`Access::Sddl`](crate::Access::Sddl) is not SDDL.
    #[error("no security descriptor: {sddl:?}")]
    Sddl {
        /// The text.
        sddl: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system refused for another reason.
    #[error("{call} failed for the {object} {name:?}")]
    Os {
        /// Which object.
        object: Object,
        /// Its name.
        name: String,
        /// The call.
        call: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why a server could not begin to serve. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A live server of this library has this endpoint; stop it, or choose other names.
    #[error("the memory {memory:?} is served already: {owner:?} has an owner")]
    AlreadyServed {
        /// Name of the memory.
        memory: String,
        /// Name of the mutex that the other server owns.
        owner: String,
    },
    /// The memory exists, and [`Existing::Refuse`](crate::Existing::Refuse) was asked for: a server that is not of this
    /// library may live, or clients of a dead one are still attached. End them, or adopt the memory.
    #[error(
        "the memory {name:?} exists already, by another server or by clients that are still attached"
    )]
    Exists {
        /// Name of the memory.
        name: String,
    },
    /// One of the objects cannot be used.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An option is out of its range.
    #[error("option {option} is {given}; allowed: {allowed}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Its value.
        given: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// No thread could be made.
    #[error("no thread for the server")]
    Thread(#[source] io::Error),
    /// No memory for this process's own copies of the struct.
    #[error("no memory for two copies of {bytes} bytes")]
    NoMemory {
        /// Bytes of one copy.
        bytes: usize,
    },
}

/// What is known of a call that got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// The request was taken back before any server took it: repeating the call is safe.
    NotStarted,
    /// A server took the request, and may have run it.
    MayHaveRun,
}

impl std::fmt::Display for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "not started, safe to repeat",
            Self::MayHaveRun => "may have run",
        })
    }
}

/// Who keeps a caller from its exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Other threads of this process.
    ThisProcess,
    /// A client in another process owns Free.
    AnotherProcess,
}

/// Whether there is a server, as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// The memory's name went when this client let go of it: no server, and no other client, had it.
    Gone,
    /// A server of this library was there, and ended during the call.
    Ended,
    /// A server of this library is there, and still works or hangs.
    Alive,
    /// The memory is still there: a server lives and is slow, or it is dead and another client is attached.
    Unknown,
}

impl std::fmt::Display for ServerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gone => "the server is gone",
            Self::Ended => "the server ended during the call",
            Self::Alive => "the server is alive",
            Self::Unknown => "the server is slow, or dead with other clients still attached",
        })
    }
}

/// Why a call ended without an answer. Free is released in all cases.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is no such memory or event: no server runs, or it has not made all of its objects yet. Nothing was sent.
    /// The next call tries again.
    #[error("no server is running: there is no {object} {name:?}")]
    NotRunning {
        /// What is missing.
        object: Object,
        /// Its name.
        name: String,
    },
    /// Others were in their exchanges all the time. Nothing was sent.
    #[error("busy: {} had {name:?} for {waited:?}", match holder { Holder::ThisProcess => "other threads of this
  process", Holder::AnotherProcess => "another client" })]
    Busy {
        /// Name of Free.
        name: String,
        /// Who has it.
        holder: Holder,
        /// How long this call waited for it.
        waited: Duration,
    },
    /// The server, which is not one of this crate, has not answered an earlier request, and may still be at it: this
    /// one would be written over that. Nothing was sent. The next call does not wait for that answer any more.
    #[error(
        "the answer to an earlier request has not come to {name:?} within {waited:?} more; the server may still work on
  it"
    )]
    Unsettled {
        /// Name of the memory.
        name: String,
        /// How long this call waited for the late answer.
        waited: Duration,
    },
    /// The time for the answer passed, or the server ended. This client has let go of the memory; the next call
    /// attaches anew.
    #[error("no answer in {name:?} within {waited:?}; the call {}; {server}{}", .started, foreign_words(*.foreign))]
    NoAnswer {
        /// Name of the memory.
        name: String,
        /// How long this call waited for the answer.
        waited: Duration,
        /// Whether it may have run. Where answers of others came, it may have run on damaged data.
        started: Started,
        /// What is known of the server.
        server: ServerState,
        /// Answers that came and, by the caller's own check, belonged to other requests.
        foreign: u32,
    },
    /// One of the objects cannot be used.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// This thread is in an exchange already, or serves this very endpoint: it would wait for itself. Nothing was sent.
    #[error("this thread would wait for itself: it is in an exchange of {name:?}, or serves it")]
    WouldDeadlock {
        /// Name of Free, or of the memory.
        name: String,
    },
    /// No memory for a copy of the answer. Nothing was sent.
    #[error("no memory for a copy of {bytes} bytes")]
    NoMemory {
        /// Bytes of the copy.
        bytes: usize,
    },
}

fn foreign_words(foreign: u32) -> String {
    if foreign == 0 { String::new() } else { format!("; {foreign} answers of others came") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_and_how_much() {
        let error = CallError::NoAnswer {
            name: "Orders".into(),
            waited: Duration::from_millis(250),
            started: Started::NotStarted,
            server: ServerState::Gone,
            foreign: 2,
        };
        assert_eq!(
            error.to_string(),
            "no answer in \"Orders\" within 250ms; the call not started, safe to repeat; the server is gone; \
             2 answers of others came"
        );
        let error = ObjectError::Size { name: "m".into(), have: 8192, want: 100, want_pages: 4096 };
        let words = error.to_string();
        assert!(
            words.contains("8192") && words.contains("100") && words.contains("4096"),
            "{words}"
        );
        let error = CallError::Busy {
            name: "f".into(),
            holder: Holder::AnotherProcess,
            waited: Duration::from_millis(7),
        };
        assert_eq!(error.to_string(), "busy: another client had \"f\" for 7ms");
    }
}
