//! System calls that fail, one at a time: those whose failure once ended otherwise than with a clear error. All of them in
//! turn are in `scripts/campaign.d/nth-failure`.
#![cfg(target_arch = "x86_64")]

use std::ops::RangeInclusive;
use std::process::Command;
use std::time::Duration;

use callgate_tests::within;

/// Makes one call of a name fail, in turn the first to the last in `which`, and judges what follows. Not all of them need come.
fn fails_well(
    role: &'static str,
    world: &'static str,
    call: &'static str,
    which: RangeInclusive<u32>,
    errno: &'static str,
) {
    within(Duration::from_secs(200), move || {
        let mut injected = 0;
        for at in which {
            let mut command = Command::new(env!("CARGO_BIN_EXE_faults"));
            let output = command.args(["one", role, world, call, &at.to_string(), errno]).output();
            let output = output.expect("it runs");
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{role}, {world}: {call} {at} {errno}\n{text}");
            injected += usize::from(text.contains("injected: true"));
        }
        assert!(injected > 0, "{call} was not made to fail");
    });
}

const NOW: &str = "this kernel";
const OLD: &str = "an old kernel";

#[test]
fn no_page_for_the_process_token() {
    fails_well("client", NOW, "mmap page", 1..=1, "ENOMEM");
    fails_well("server", NOW, "mmap page", 1..=1, "ENOMEM");
}

#[test]
fn an_answer_that_cannot_be_received() {
    fails_well("client", NOW, "recvmsg", 1..=1, "ENOMEM");
}

/// Which once was blamed on the server.
#[test]
fn a_look_for_the_end_that_a_signal_interrupts() {
    fails_well("client", OLD, "poll", 1..=8, "EINTR");
}

#[test]
fn a_hello_that_cannot_be_received() {
    fails_well("server", NOW, "recvmsg", 1..=1, "ENOMEM");
}

/// A server must not serve where nobody looks for it.
#[test]
fn a_directory_of_which_nothing_is_known() {
    fails_well("server", NOW, "stat", 4..=7, "ENOMEM");
}

#[test]
fn interrupted_calls_are_made_again() {
    for call in ["openat create", "fcntl get lock", "ftruncate", "fstatfs"] {
        fails_well("server", NOW, call, 1..=1, "EINTR");
    }
}

#[test]
fn a_client_whose_user_cannot_be_told() {
    fails_well("server", NOW, "getsockopt peer", 1..=1, "ENOMEM");
}

#[test]
fn an_answer_that_cannot_be_sent() {
    fails_well("server", NOW, "sendmsg", 1..=2, "ENOBUFS");
}
