//! Whether peers share an open file: what one could make block, fill or drain for the other.

use super::{Outcome, spawn};
use crate::peer::Place;

/// Compares all descriptors of a server and of its client, by `kcmp`.
pub fn run() -> Outcome {
    let place = Place::new();
    let path = format!("path={}", place.name());
    let host = spawn("host", &[&path]);
    host.expect("serving");
    let mut client = spawn("client", &[&path]);
    client.expect("ready");
    assert_eq!(client.ask("hold").number("right"), 1, "the call failed");
    let mut outcome = Outcome::default();
    let driver = std::process::id();
    for ours in descriptors(host.pid()) {
        // What all inherited from whoever started the driver is nobody's here.
        let inherited = descriptors(driver);
        if inherited.iter().any(|fd| same_file((host.pid(), ours), (driver, *fd)) == Some(true)) {
            continue;
        }
        for theirs in descriptors(client.pid()) {
            match same_file((host.pid(), ours), (client.pid(), theirs)) {
                Some(same) => {
                    outcome.tried += 1;
                    if same {
                        outcome.failed += 1;
                        outcome.note += &format!("the server's {ours} is the client's {theirs}; ");
                    }
                }
                None => outcome.note = "not tried: no kcmp here".into(),
            }
        }
    }
    if outcome.failed == 0 && outcome.tried > 0 {
        outcome.note = "pairs of descriptors of a server and its connected client: no open file is shared, so there is no \
                        flag to clear, and no wake object to fill or drain"
            .into();
    }
    outcome
}

/// A process's descriptors, but for its standard ones.
fn descriptors(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a living process");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    names.filter(|fd| *fd > 2).collect()
}

fn same_file(a: (u32, u32), b: (u32, u32)) -> Option<bool> {
    const KCMP_FILE: i32 = 0;
    // SAFETY: kcmp compares kernel objects; no memory is passed.
    let order = unsafe {
        libc::syscall(libc::SYS_kcmp, a.0, b.0, KCMP_FILE, u64::from(a.1), u64::from(b.1))
    };
    (order >= 0).then_some(order == 0)
}
