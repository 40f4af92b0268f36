//! The callgate protocol, pure: what lies where in shared memory, who may write it when, and what each value means.
//!
//! There is no operating system in here, no clock and no allocation after construction. The same code runs over a
//! mapped file in production, over ordinary memory in tests, and over loom's atomics in its model checks.
//!
//! | module | owns |
//! | --- | --- |
//! | [`layout`] | the bytes of the control region, with a picture |
//! | [`cell`] | the life of one call: the state word and all accesses to a cell |
//! | [`chain`] | the order of calls: which cell comes next, on both sides |
//! | [`body`] | what a cell carries: up to 48 bytes, or the place of a payload |
//! | [`wire`] | the messages of the control socket |
//! | [`arena`] | where a sender puts payloads: private bookkeeping of its own regions |
//! | [`life`] | how sleeping callers learn of a death |
//! | [`lock`] | a lock of one word, for private state |
//! | [`sleepers`] | several threads that sleep where a peer can wake one |
//! | [`pace`] | the decisions of waiting: spin, yield or sleep |
//!
//! Whatever a peer wrote is an allegation: it is loaded once, checked, and turned into a type whose possession proves
//! the check, or into a [`Violation`].

#![forbid(unsafe_code)]

pub mod arena;
pub mod body;
pub mod cell;
pub mod chain;
pub mod layout;
pub mod life;
pub mod lock;
pub mod pace;
pub mod sleepers;
#[cfg(all(feature = "snapshot", not(loom)))]
pub mod snapshot;
mod sync;
mod violation;
pub mod wire;

pub use violation::Violation;

#[cfg(all(test, loom))]
mod loom_tests;
