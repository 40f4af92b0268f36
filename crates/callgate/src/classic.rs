//! The classic Win32 protocol (one struct in a named file mapping, two events, a mutex), for programs that speak it,
//! and a bridge from there to callgate. Windows only.
//!
//! [`Server`] and [`Client`] stand in for either side of an old pair; the crate `callgate-classic` has their
//! documentation. [`Bridge`] answers old clients by calls to a callgate server: so a pair is moved over one side at a
//! time.

mod bridge;

pub use bridge::{Bridge, BridgeError};
pub use callgate_classic::*;
