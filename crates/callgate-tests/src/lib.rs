//! Test kit for calls between real processes. Not published.
//!
//! The tests (in `tests/`) start copies of the program `testpeer` in the roles of [`roles`], talk to them line by line
//! over their standard input and output, kill them, and look at them through `/proc`.
//!
//! | module | owns |
//! | --- | --- |
//! | [`peer`] | processes: starting, talking, killing, reaping |
//! | [`usage`] | descriptors, mappings, threads, memory of a process |
//! | [`data`] | requests and replies whose every byte can be checked |
//! | [`rng`] | seeded random numbers |
//! | [`bounded`] | time limits: nothing in a test waits for ever, and nothing waits a fixed time |
//! | [`hostile`] | a client that speaks the protocol by hand, and badly |
//! | [`memory`] | descriptors that are not what they should be |
//! | [`fuse`] | a file whose file system is this process |
//! | [`stuck`] | a write that holds the lock of a file's inode |
//! | [`roles`] | what `testpeer` can be |
//! | [`liars`] | the campaign of liars |
//! | [`start`] | starting a process, again where Wine fails |
//! | [`row`] | a row of a campaign's table |

pub mod bounded;
pub mod data;
#[cfg(not(windows))]
pub mod fuse;
#[cfg(not(windows))]
pub mod hostile;
#[cfg(not(windows))]
pub mod liars;
#[cfg(not(windows))]
pub mod memory;
pub mod peer;
pub mod rng;
pub mod roles;
#[cfg(not(windows))]
pub mod row;
pub mod start;
#[cfg(not(windows))]
pub mod stuck;
pub mod usage;

pub use bounded::{BOUND, until, within};
pub use peer::{Peer, Place};
pub use rng::Rng;
pub use usage::Usage;
