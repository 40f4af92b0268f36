//! Server and client of the classic Win32 way of calls over shared memory.
//!
//! Many programs, mostly in C and C++, share one struct in a named file mapping. A client that owns the mutex *Free*
//! fills in its part and sets the event *Exec*; the server answers in the same place and sets the event *Done*. This
//! crate is either side of such a pair, so that each can be replaced by Rust without touching the other.
//!
//! **On other systems than Windows this crate is empty.** On Windows it has `Server`, `Client`, `Names`, their options
//! and errors; `callgate` has all of it as `callgate::classic`.
//!
//! ```
//! # #[cfg(windows)]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use callgate_classic::{Client, Names, Server};
//! use zerocopy::{FromBytes, Immutable, IntoBytes};
//!
//! // The same bytes as the C side's struct: fixed widths, and padding spelt out.
//! #[derive(FromBytes, IntoBytes, Immutable)]
//! #[repr(C)]
//! struct Sum {
//!     a: i32,
//!     b: i32,
//!     sum: i64,
//! }
//!
//! let names = Names::new("SumMemory", "SumExec", "SumDone", "SumFree")?;
//! let server = Server::serve(&names, |data: &mut Sum| {
//!     data.sum = i64::from(data.a) + i64::from(data.b);
//! })?;
//!
//! let client = Client::new(&names);
//! let answer = client.call(&Sum { a: 2, b: 3, sum: 0 })?;
//! assert_eq!(answer.sum, 5);
//! # drop(server);
//! # Ok(())
//! # }
//! # #[cfg(not(windows))]
//! # fn main() {}
//! ```
//!
//! # What holds, and what cannot
//!
//! The protocol has no version, no lengths, no numbers on its requests, and cannot tell who is at the other end. Where
//! both sides are of this crate it is still the protocol, with its limits; `callgate` itself has none of them. What was
//! open in it, and how it is settled here:
//!
//! | open | settled |
//! | --- | --- |
//! | a slow server sets Done after its client gave up | see below |
//! | Exec is still set when a server starts | it is drained, and Done with it, before the memory appears; a request that a live client sets just then is lost, and that client runs out of time |
//! | Free on every way out | released by a guard, also for errors and panics |
//! | a client dies with Free | the next one owns it, takes back Exec if it is set, waits up to `settle` for the dead one's answer, and writes all of the memory anew |
//! | several endpoints have one Free | their clients take turns. What is owed is kept for each memory and each Done by itself, so a call to one says nothing of another's late answer. That a client died is told once, to whoever owns Free next, and only the endpoint that this one calls is settled |
//! | one thread takes Free twice | a lock of this process stands before Free; a thread that is inside gets `WouldDeadlock`. Calls block, and are bound to their thread |
//! | the memory exists when a server starts | a server of this crate owns a mutex of its own while it serves (`Names::with_owner`). Owned: `AlreadyServed`. Free or abandoned, and the size fits: adopted, or refused if asked (`Existing`), since a C server has no such mutex |
//! | two sizes | the real size is asked for, which is in whole pages; fewer than the struct needs, or more, is `Size`; `accept_larger` allows more. Within one page differences cannot be seen: keep the two sides' structs alike, with fixed widths, for 32- and 64-bit programs |
//! | memory that is not the page file's | `NotPageFile`: who may write a file could cut it off under a touch, and a share could keep one waiting |
//! | an event that exists with manual reset | `ManualReset` |
//! | a name that another kind of object has | `WrongKind` |
//! | no rights | `Denied`, which is not `NotRunning`. `Access::Sddl` gives the objects that this side makes another descriptor: memory and events of a server, Free of the client that comes first |
//! | is the server there? | `NotRunning` where an object is missing. A server of this crate is watched during the wait, by its mutex: its end is told at once. A client looks at that mutex only while it owns Free, so two looks are not taken for a server; a server whose start is refused owns it for a moment, and a client that looks just then is told of an end that was none. After a time-out the client lets go of the memory, and sees whether its name is gone with that |
//! | a time-out says nothing of the request | it does where Exec is still set: then it is taken back, and certainly did not run (`NotStarted`) |
//! | names | as given: of the session, or `Local\`, or `Global\`. No two of them alike |
//! | a start while clients are attached | an attached client keeps the memory's name. `stay_attached = false` lets go after each call |
//! | the kill event | `Server::stop`, by an event without a name; it is looked at before each request |
//! | the idle tick | `Handler::idle`, after each `idle_interval` (1 s) without a request |
//! | time limits | `ClientOptions`: for Free, for the answer, for a late one; 250 ms each, as in the original. Always finite |
//! | attaching and letting go | at the first call, and at the next one after letting go, which is done after a time-out, after the end of a server, and by `detach` |
//! | the answer of a handler that panicked | none: its client runs out of time, the server goes on |
//!
//! ## Late answers
//!
//! A server that is slower than its client's limit writes its answer into the memory and sets Done, whoever waits there
//! by then. What is certain, with any peer:
//!
//! - A `NotStarted` request never ran, and no answer to it comes.
//! - An answer that came between two exchanges is drained, and is taken for nobody's.
//! - After a time-out of its own, a client writes no further request into that memory until that answer has come, or
//!   `settle` has passed as well, whatever its process calls elsewhere meanwhile: then the call fails with `Unsettled`
//!   and has sent nothing. (With a server of this crate, which holds back late answers and works on a copy, it goes
//!   on.) So a server that takes less than `answer` and `settle` together confuses no client of this crate that is
//!   alone.
//!
//! What is not certain, with a server or clients that do not know of all this:
//!
//! - A client of another process that gave up leaves a late answer as well, and nothing tells of it. If its server is
//!   still at that request when this client sets Exec, the late answer comes over this request, and its Done is taken
//!   for this one's. `Client::call_checked` finds it out where an answer says whose it is: by a field into which the
//!   server copies, last of all, the number of the request that it took. (A number that it only leaves alone is no such
//!   thing: in the memory is this request's.) What the server then ran may have been a mixture. A server of this crate
//!   holds such an answer back.
//! - A server that is slower than `answer` and `settle` together may run a request over the one that it works on.
//! - C clients that do not drain Done take the answer before for theirs, and go on so. A server of this crate keeps
//!   them from that: it holds back an answer when another request has come meanwhile (`watch_memory`), when it took
//!   longer than its clients wait (`patience`), and, if asked, when no client owns Free (`watch_free`). The first two
//!   leave a client that died; the last leaves the moment between the look and the answer.
//!
//! The right cure is a limit for the answer that is longer than the server ever takes.
//!
//! # Trust
//!
//! Whoever can open the memory can write it at any time. Both sides work on copies, so that a handler sees a value that
//! does not change under it; each bit pattern is a value of the struct (`zerocopy`), and what it means is the program's
//! to check. A peer that leaves Free out, or sets events at will, spoils everybody's exchanges: the protocol has no
//! protection. `callgate` has.

#[cfg(any(windows, test))]
mod answer;
#[cfg(any(windows, test))]
mod client;
#[cfg(any(windows, test))]
mod error;
#[cfg(any(windows, test))]
mod exchange;
#[cfg(any(windows, test))]
mod gate;
#[cfg(any(windows, test))]
mod names;
#[cfg(any(windows, test))]
mod options;
#[cfg(any(windows, test))]
mod server;
#[cfg(any(windows, test))]
mod system;

#[cfg(any(windows, test))]
pub use client::{Client, ClientStatus};
#[cfg(any(windows, test))]
pub use error::{CallError, Holder, ObjectError, ServeError, ServerState, Started};
#[cfg(any(windows, test))]
pub use names::{NameError, Names, Object};
#[cfg(any(windows, test))]
pub use options::{Access, ClientOptions, Existing, ServerOptions};
#[cfg(any(windows, test))]
pub use server::{Answer, Handler, Server, ServerStatus};

/// What may lie in the memory: a struct of fixed layout for which every bit pattern is a value, without padding and
/// without places that change behind a shared reference. Derive `FromBytes`, `IntoBytes` and `Immutable` of `zerocopy`
/// for it.
#[cfg(any(windows, test))]
pub trait Plain: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + 'static {}

#[cfg(any(windows, test))]
impl<T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + ?Sized + 'static> Plain
    for T
{
}

#[cfg(test)]
mod tests;
