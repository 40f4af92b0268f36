//! The peers, one file each.

#[cfg(feature = "aeron")]
pub mod aeron;
pub mod callgate;
pub mod iceoryx2;
pub mod ipc_channel;
pub mod tarpc;
pub mod tonic;
pub mod unix;
#[cfg(feature = "zmq")]
pub mod zeromq;
