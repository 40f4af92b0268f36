//! A client whose process has no descriptors, no threads, or no file size left.

use callgate::{CallError, CallOptions, Client};
use callgate_tests::data::method;
use callgate_tests::peer::Words;
use callgate_tests::roles::say;
use callgate_tests::row::Row;
use callgate_tests::{Peer, Place, Usage};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::{Witness, program, strict};

/// A user that has no other process, one hopes.
const NOBODY: u32 = 61_234;

/// Tries with 0, 1, 2 and so on descriptors more than are open, until all goes well.
pub fn descriptors() -> Row {
    let row = Row::new("resources: RLIMIT_NOFILE of a client");
    cramped(row, "limit=nofile", &["wait=1"], false)
}

/// No thread can be started: there is nobody to watch the server.
pub fn processes() -> Row {
    let mut row = Row::new("resources: RLIMIT_NPROC of a client");
    if !rustix::process::geteuid().is_root() {
        row.note = "not tried: only root can become a user without processes".into();
        return row;
    }
    cramped(row, "limit=nproc", &["wait=1", "access=everyone"], true)
}

/// Files, and so memory, may not be large: an error, where the kernel would send a signal.
pub fn file_sizes() -> Row {
    let row = Row::new("resources: RLIMIT_FSIZE of a client");
    cramped(row, "limit=fsize", &["wait=1"], false)
}

fn cramped(mut row: Row, what: &str, server_words: &[&str], other_user: bool) -> Row {
    let place = Place::new();
    if other_user {
        use std::os::unix::fs::PermissionsExt;
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(place.directory(), open).expect("its own directory");
    }
    let mut server = place.peer(&program(), "server", server_words);
    server.expect("waiting");
    server.tell("go");
    server.expect("serving");
    let witness = Witness::of(&place);
    let mut words = vec![what.to_owned()];
    if other_user {
        words.push(format!("uid={NOBODY}"));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let client: Peer = place.peer(&program(), "cramped", &words);
    let mut errors = Vec::new();
    loop {
        let line = client.line();
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("ok", _) => row.tried(Ok(())),
            ("error", text) => {
                row.tried(Ok(()));
                let text = text.replace(place.name().as_str(), "PATH").replace(['"', '\\'], "'");
                if !errors.contains(&text) {
                    errors.push(text);
                }
            }
            ("wrong", text) => row.tried(Err(text.into())),
            ("end", _) => break,
            _ => row.tried(Err(line)),
        }
    }
    row.tried(if errors.is_empty() { Err("the limit was never met".into()) } else { Ok(()) });
    row.note = errors.join(", ");
    witness.testifies(&mut row);
    row
}

/// The client itself.
pub fn be_cramped(words: &Words) {
    let path: String = words.find("path").expect("path");
    let attempt = || -> Result<(), CallError> {
        let client = Client::connect_with(path.as_str(), strict())?;
        client.call(b"short")?;
        let len = 1_000_000u64;
        let reply =
            client.call_with(CallOptions::new().method(method::ZEROS), &len.to_le_bytes())?;
        assert_eq!(reply.len() as u64, len);
        client.call(&vec![1; 1_000_000]).map(drop)
    };
    match words.find::<String>("limit").as_deref() {
        Some("nofile") => {
            for more in 0..12 {
                // The look itself takes one.
                let open = Usage::of(std::process::id()).fds as u64 - 1;
                try_with(Resource::Nofile, open + more, &attempt, "Too many open files");
            }
        }
        Some("nproc") => {
            let (uid, none) = (words.number("uid") as u32, std::ptr::null());
            // SAFETY: plain system calls; no memory is passed but an empty list.
            let changed = unsafe {
                libc::setgroups(0, none) == 0 && libc::setgid(uid) == 0 && libc::setuid(uid) == 0
            };
            assert!(changed, "cannot become user {uid}");
            let mut anyone = strict();
            anyone.server = callgate::ServerIdentity::Anyone;
            let attempt = || {
                let client = Client::connect_with(path.as_str(), anyone.clone())?;
                client.call(b"short").map(drop)
            };
            try_with(Resource::Nproc, 1, &attempt, "temporarily unavailable");
            try_with(Resource::Nproc, 100, &attempt, "temporarily unavailable");
        }
        Some("fsize") => {
            for most in [0, 4_096, 65_536, 500_000, 4 << 20] {
                try_with(Resource::Fsize, most, &attempt, "File too large");
            }
        }
        _ => panic!("no limit"),
    }
    say("end");
}

/// Tries below a limit, and says how that ended; then without it, which must go well.
fn try_with(what: Resource, most: u64, attempt: &dyn Fn() -> Result<(), CallError>, reason: &str) {
    let before = rustix::process::getrlimit(what);
    setrlimit(what, Rlimit { current: Some(most), maximum: before.maximum }).expect("lowered");
    let ended = attempt();
    setrlimit(what, before).expect("raised again");
    match ended {
        Ok(()) => say("ok"),
        Err(error) => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            // Memory of the server's that came where no descriptor is left ends the connection; see PROTOCOL.md 6.1.
            let clear = text.contains(reason) || matches!(error, CallError::Disconnected { .. });
            say(&format!("{} {text}", if clear { "error" } else { "wrong" }));
        }
    }
    match attempt() {
        Ok(()) => say("ok"),
        Err(error) => say(&format!("wrong without the limit: {error}")),
    }
}
