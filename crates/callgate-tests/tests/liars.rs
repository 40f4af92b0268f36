//! Each lie that the campaign of liars knows, once: what must be noticed is, and nobody else is hurt.

use std::process::Command;

#[test]
fn each_lie_once() {
    let program = env!("CARGO_BIN_EXE_liars");
    let ended = Command::new(program).arg("once").output().expect("the program runs");
    let (rows, told) =
        (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{rows}\n{told}");
    for row in ["lying clients", "lying servers", "shared descriptors"] {
        assert!(rows.contains(row), "no row of {row}:\n{rows}");
    }
}
