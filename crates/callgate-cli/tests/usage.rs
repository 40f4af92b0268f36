//! Exit codes, help and completions.

mod common;

use std::process::Stdio;

use common::{Home, start};

#[test]
fn wrong_use_is_told() {
    let home = Home::new();
    for args in [
        &["no-such-thing"][..],
        &["call"],
        &["call", "bad name", "--data", "x"],
        &["call", "x", "--timeout", "soon"],
        &["call", "x", "--method", "-1"],
        &["ping", "x", "--count", "0"],
        &["serve", "x"],
        &["serve", "x", "--", "/no/such/program"],
        &["serve", "x", "--jobs", "0", "--", "cat"],
        &["serve", "x", "--timeout", "0", "--", "cat"],
        &["serve", "x", "--max-reply", "0", "--", "cat"],
        &["demo", "--clients", "0"],
        &["completions", "basic"],
        &[],
    ] {
        let ended = home.run(args).expect(2);
        assert!(!ended.err().is_empty(), "{args:?}");
    }
}

#[test]
fn an_absent_server_is_told_with_its_path() {
    let home = Home::new();
    for args in [&["call", "absent", "--data", "x"][..], &["stat", "absent"], &["ping", "absent"]] {
        let ended = home.run(args).expect(3);
        let err = ended.err();
        assert!(err.starts_with("callgate: ") && err.contains("absent"), "{err}");
        assert!(err.lines().count() <= 2, "{err}");
        assert_eq!(ended.out(), "");
    }
    // Wine has no way to list pipes (ERROR_BAD_DEV_TYPE).
    if cfg!(windows) {
        return;
    }
    home.run(["ls"]).expect(0);
    assert_eq!(home.run(["ls", "--json"]).expect(0).json(), serde_json::json!([]));
}

#[cfg(not(windows))]
#[test]
fn an_unsafe_directory_is_told_with_the_way_out() {
    let home = Home::new();
    let directory = home.path("callgate");
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .unwrap();
    for args in [&["call", "x", "--data", "x"][..], &["serve", "x", "--", "cat"], &["ls"]] {
        let ended = home.run(args).expect(70);
        let err = ended.err();
        assert!(err.contains("XDG_RUNTIME_DIR"), "{err}");
        assert_eq!(err.lines().count(), 2, "{err}");
    }
}

#[test]
fn help_lists_the_exit_codes() {
    let home = Home::new();
    for args in [&["--help"][..], &["call", "--help"], &["serve", "--help"]] {
        let out = home.run(args).expect(0).out();
        assert!(out.contains("Exit codes:") && out.contains("no server runs"), "{out}");
    }
    assert!(home.run(["--version"]).expect(0).out().starts_with("callgate "));
}

#[test]
fn completions_for_each_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let out = home.run(["completions", shell]).expect(0).out();
        assert!(out.contains("callgate") && out.contains("ping"), "{shell}");
        assert!(!out.contains("demo-server"), "{shell}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let home = Home::new();
    for args in [&["completions", "bash"][..], &["ls", "--json"], &["ls"]] {
        if cfg!(windows) && args[0] == "ls" {
            continue; // as above
        }
        let mut child = start(home.callgate(args).stdout(Stdio::piped())).unwrap();
        drop(child.stdout.take());
        let ended = common::Ended(child.wait_with_output().unwrap()).expect(0);
        assert_eq!(ended.err(), "", "{args:?}");
    }
}
