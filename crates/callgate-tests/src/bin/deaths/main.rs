//! Death, false and real: who is stopped, traced or starved is not declared dead, and who is dead is found out soon.
//!
//! `deaths short`, `deaths long [SECONDS]`, `deaths detect` (of the long one, the kills only; for a machine that does nothing
//! else): rows of JSON on standard output. It starts itself in the roles `server`, `caller`,
//! `client` and `spin`, which die with it.

mod alive;
mod detect;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use callgate::{Client, ClientOptions, Retry};
use callgate_tests::peer::Words;
use callgate_tests::roles::{self, command, say};
use callgate_tests::row::Row;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (role, rest) = arguments.split_first().expect("a role");
    let words = Words::parse(&rest.join(" "));
    match role.as_str() {
        "short" => return campaign(true, None),
        "detect" => return campaign(false, Some(u64::MAX)),
        "long" => {
            let seconds = rest.first().map_or(u64::MAX, |text| text.parse().expect("seconds"));
            return campaign(true, Some(seconds));
        }
        _ => {}
    }
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    match role.as_str() {
        "server" => {
            prepare(&words);
            roles::server::run(&words);
        }
        "client" => {
            prepare(&words);
            be_connected(&words);
        }
        "caller" => roles::caller::run(&words),
        "spin" => spin(),
        other => panic!("no role {other}"),
    }
    ExitCode::SUCCESS
}

fn campaign(with_pauses: bool, seconds: Option<u64>) -> ExitCode {
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds.min(1 << 30)));
    let mut failed = false;
    let mut show = |row: Row| failed |= row.print();
    if with_pauses {
        alive::rows(until.is_some(), &mut show);
    }
    detect::rows(until, &mut show);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Touches `mib` mebibytes, which are kept, and allows a core dump into `cores` if that is given.
fn prepare(words: &Words) {
    let bytes = words.number("mib") as usize * (1 << 20);
    if bytes > 0 {
        let mut memory = vec![0u8; bytes];
        for page in memory.chunks_mut(4096) {
            page[0] = 1;
        }
        std::mem::forget(std::hint::black_box(memory));
    }
    if let Some(folder) = words.find::<String>("cores") {
        std::env::set_current_dir(folder).expect("a folder for cores");
        let all = rustix::process::Rlimit { current: None, maximum: None };
        rustix::process::setrlimit(rustix::process::Resource::Core, all)
            .expect("cores are allowed");
    }
}

fn strict() -> ClientOptions {
    let mut options = ClientOptions::default();
    options.retry = Retry::Never;
    options
}

/// Connects, calls once, and waits.
fn be_connected(words: &Words) {
    let path: String = words.find("path").expect("path");
    let client = Client::connect_with(path.as_str(), strict()).expect("connect");
    client.call(b"hello").expect("a reply");
    say("connected");
    while command().is_some() {}
}

fn spin() {
    say("spinning");
    loop {
        std::hint::spin_loop();
    }
}
