//! Starting a process in a test. Other crates' tests take this file by its path.

use std::io;
use std::process::{Child, Command};

/// `ERROR_INTERNAL_ERROR`.
const INTERNAL_ERROR: i32 = 1359;

/// Starts a process; under Wine again, aloud, where Wine fails.
///
/// Its `CreateProcess` ends with this error when what it has forked dies before it has begun: one of 6,000 did that a C
/// program without callgate made, four at a time, on a busy machine.
///
/// # Errors
/// What the system says.
pub fn start(command: &mut Command) -> io::Result<Child> {
    for _ in 0..3 {
        match command.spawn() {
            Err(error) if cfg!(windows) && error.raw_os_error() == Some(INTERNAL_ERROR) => {
                eprintln!("Wine could not begin {command:?}: tried again");
            }
            started => return started,
        }
    }
    command.spawn()
}
