//! What a user can choose. Every option has a default: the original's where it has one.

use std::time::Duration;

/// Who may use the objects that this side makes. Objects that exist keep what their maker gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Access {
    /// What Windows gives: mostly this user, the system, and administrators. The original programs have this.
    ///
    /// A program that runs elevated makes objects of the administrators; the same user's plain programs then get
    /// [`ObjectError::Denied`](crate::ObjectError::Denied).
    #[default]
    System,
    /// A security descriptor in SDDL, for memory, events and mutexes alike.
    ///
    /// `D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;IU)` lets in whoever is logged on at this machine, elevated or not;
    /// `S:(ML;;NW;;;LW)` behind it lets in programs of low integrity, such as sandboxed ones.
    Sddl(String),
}

/// What a server does with memory that exists under its name while no server of this library owns it.
///
/// It is left by a server that was killed while a client was attached, or it belongs to a live server that was written
/// in C: nobody can tell the two apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Existing {
    /// Goes on with it. With a C server that lives, each request is answered by the one or the other.
    #[default]
    Adopt,
    /// Fails with [`ServeError::Exists`](crate::ServeError::Exists).
    Refuse,
}

/// Options of a server. Start from `ServerOptions::default()` and set fields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// After how long without a request [`Handler::idle`](crate::Handler::idle) is called, and again after as long.
    /// Default 1 s.
    pub idle_interval: Duration,
    /// What becomes of memory that exists already. Default [`Existing::Adopt`].
    pub existing: Existing,
    /// Whether existing memory may have more pages than the struct needs. Default no: the layouts differ.
    pub accept_larger: bool,
    /// Who may use the objects. Default [`Access::System`].
    pub access: Access,
    /// How long clients wait for an answer. One that is not ready by then is not published: nobody waits for it, and
    /// the next client would take it for its own. Default none; the original's clients wait for 250 ms.
    ///
    /// The time is counted from when the server takes the request. One that was there by the end of another, or of
    /// [`Handler::idle`](crate::Handler::idle), that took too long may have waited behind it, and is counted from when its
    /// client can have set Exec at the earliest.
    pub patience: Option<Duration>,
    /// Whether an answer is published only while a client owns Free, and a request is run only while one does. Default
    /// no: the original's server never touches Free.
    ///
    /// Nobody then finds an answer that was meant for a client that died or gave up. It needs clients that keep Free
    /// during the whole exchange, as the protocol demands; ones that leave Free out would never be answered.
    pub watch_free: bool,
    /// Whether an answer is held back where another request has come since: Exec is set again, or the memory has
    /// changed. Default yes: the client it was meant for has given up. Turn it off for clients that write to the memory
    /// while they wait.
    pub watch_memory: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            idle_interval: Duration::from_secs(1),
            existing: Existing::Adopt,
            accept_larger: false,
            access: Access::System,
            patience: None,
            watch_free: false,
            watch_memory: true,
        }
    }
}

/// Options of a client. Start from `ClientOptions::default()` and set fields.
///
/// A call takes no longer than `busy`, `settle` and `answer` together, and what the system needs. Limits are rounded up
/// to a millisecond.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// How long to wait for Free, and before it for other threads of this process. Default 250 ms.
    pub busy: Duration,
    /// How long to wait for the answer. Longer than the server ever takes is right: an exchange that ends sooner leaves
    /// a server that still works in the memory. Default 250 ms.
    pub answer: Duration,
    /// How long to wait, with Free, for the late answer to an earlier exchange, so that it is not taken for this one's.
    /// Default 250 ms. Only waited where such an answer may come.
    pub settle: Duration,
    /// Whether to stay attached between calls. Default yes, as in the original. A client that does keeps the memory's
    /// name alive after its server is gone, and a C server that insists on new memory then cannot start.
    pub stay_attached: bool,
    /// Whether the memory may have more pages than the struct needs. Default no: the layouts differ.
    pub accept_larger: bool,
    /// Who may use Free, where this client makes it. Default [`Access::System`].
    pub access: Access,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            busy: Duration::from_millis(250),
            answer: Duration::from_millis(250),
            settle: Duration::from_millis(250),
            stay_attached: true,
            accept_larger: false,
            access: Access::System,
        }
    }
}
