//! Makes every system call of the protocol fail in turn, in a client and in a server.
//!
//! `faults short`, `faults long [SECONDS]`; `faults one ROLE WORLD NAME AT ERRNO` repeats one run. Rows of JSON on standard
//! output, progress and failures on standard error.

#[cfg(target_arch = "x86_64")]
mod campaign;
#[cfg(target_arch = "x86_64")]
mod drive;
#[cfg(target_arch = "x86_64")]
mod mark;
#[cfg(target_arch = "x86_64")]
mod steps;
#[cfg(target_arch = "x86_64")]
mod subject;
#[cfg(target_arch = "x86_64")]
mod table;
#[cfg(target_arch = "x86_64")]
mod tracer;

#[cfg(target_arch = "x86_64")]
fn main() -> std::process::ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["client", name] => subject::client(name),
        ["server", name, taken] => subject::server(name, taken),
        ["short"] => return campaign::run(None),
        ["long"] => return campaign::run(Some(u64::MAX)),
        ["long", seconds] => return campaign::run(Some(seconds.parse().expect("seconds"))),
        ["one", role, world, name, at, errno] => {
            return campaign::one(role, world, name, at, errno);
        }
        _ => panic!("faults short | long [SECONDS] | one ROLE WORLD NAME AT ERRNO"),
    }
    std::process::ExitCode::SUCCESS
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!(
        r#"{{"kind": "nth failure", "tried": 0, "failed": 0, "longest_stall_ms": null, "seed": null, "seconds": 0, "note": "not tried: the tracer knows x86-64 only"}}"#
    );
}
