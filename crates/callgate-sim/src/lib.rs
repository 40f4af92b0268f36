//! The library's client and server, to the line as in production, in a simulated operating system.
//!
//! `RUSTFLAGS="--cfg callgate_sim" cargo test --release -p callgate-sim` runs some hundred seeds;
//! `CALLGATE_SEEDS=N` more of them, from `CALLGATE_FIRST` on; `CALLGATE_SEED=n` one, which it then
//! prints step by step with `CALLGATE_TRACE=1`. `CALLGATE_MAP_FAULTS=1` lets the mapping of received memory fail, too.
//! Without that flag there is nothing here.
//!
//! | file | owns |
//! | --- | --- |
//! | `message` | requests that say how they want to be answered, and their right answers |
//! | `oracle` | what is known of each call: whether it ran, and what its caller was told |
//! | `server` | the handler, and the threads that answer late |
//! | `client` | what a calling thread does |
//! | `hostile` | two scenarios of their own: a caller that is moved to another word, a server that stops |
//! | `scenario` | who lives, who is killed, and the checks at the end |

#[cfg(callgate_sim)]
mod client;
#[cfg(callgate_sim)]
mod hostile;
#[cfg(callgate_sim)]
mod message;
#[cfg(callgate_sim)]
mod oracle;
#[cfg(callgate_sim)]
mod scenario;
#[cfg(callgate_sim)]
mod server;

#[cfg(callgate_sim)]
pub use hostile::{run_moved, run_stopped};
#[cfg(callgate_sim)]
pub use oracle::{endings, longest_ns};
#[cfg(callgate_sim)]
pub use scenario::{Chaos, run};
