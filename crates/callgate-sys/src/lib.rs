//! The operating system as `callgate` needs it: shared memory, doorbells, endpoints, peers and
//! their death.
//!
//! One folder holds one operation: `mod.rs` states the contract and the types that every system
//! shares, `linux.rs` and `windows.rs` do the work. Everything that crosses the trust boundary is checked here
//! once, when it arrives; what comes out is a type whose possession proves the check. The crate
//! knows nothing of what the bytes mean: no ring, no message, no handshake is known here.
//!
//! Linux from 5.10 on. Newer system calls are used where the kernel has them, with a checked
//! fallback. Windows from 10 on.

#[cfg(not(any(target_os = "linux", windows)))]
compile_error!("callgate-sys has no backend for this target; Linux and Windows are supported");

#[cfg(all(windows, callgate_sim))]
compile_error!("the simulated system runs on Linux");

pub mod clock;
pub mod collections;
pub mod endpoint;
pub mod futex;
pub mod poller;
pub mod process;
pub mod shm;
#[cfg(callgate_sim)]
pub mod sim;
pub mod socket;
pub mod sync;
pub mod thread;
#[cfg(windows)]
mod win;

#[cfg(all(test, target_os = "linux", not(callgate_sim)))]
mod testing;
