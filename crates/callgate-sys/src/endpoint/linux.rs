//! Linux: record locks, `AF_UNIX` sockets, and paths through `/proc/self/fd` where they are too
//! long for an address.

mod address;
mod connect;
mod dir;
mod listener;
mod lock;

pub use connect::connect;
pub use dir::{private_dir, private_dir_if_exists};
pub use listener::Listener;
pub use lock::holder;

#[cfg(test)]
mod tests;
