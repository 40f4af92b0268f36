//! `callgate demo` as people run it, on small trees.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::Home;

/// Makes a tree with files of all kinds; 14 of them are regular.
fn tree(home: &Home) -> PathBuf {
    let root = home.path("tree");
    fs::create_dir_all(root.join("deep/er")).unwrap();
    let bytes = |len: usize| (0..len).map(|at| (at * 7 + (at >> 9)) as u8).collect::<Vec<_>>();
    let chunk = 256 << 10;
    let sizes = [0, 1, 17, 4096, 100_000, chunk - 1, chunk, chunk + 1, 2 * chunk, 1_700_000];
    for (number, size) in sizes.into_iter().enumerate() {
        fs::write(root.join(format!("deep/{number}")), bytes(size)).unwrap();
    }
    fs::write(root.join("deep/er/one"), "one").unwrap();
    odd_files(&root);
    root
}

/// Three more, with names that are odd, among what is none.
#[cfg(not(windows))]
fn odd_files(root: &Path) {
    use std::os::unix::ffi::OsStrExt;

    fs::write(root.join("new\nline"), "two").unwrap();
    fs::write(root.join("quote\" and space"), "three").unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"not\xfftext")), "four").unwrap();
    std::os::unix::fs::symlink("deep", root.join("link")).unwrap();
    std::os::unix::fs::symlink("absent", root.join("dangling")).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(root.join("fifo")).status().unwrap();
    assert!(fifo.success());
}

#[cfg(windows)]
fn odd_files(root: &Path) {
    fs::write(root.join("two words"), "two").unwrap();
    fs::write(root.join("ümläut"), "three").unwrap();
    fs::write(root.join("100%!"), "four").unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_digest_of_a_tree_is_right() {
    let home = Home::new();
    let root = tree(&home);
    let ended = home.run(["demo", "--json", text(&root)]).expect(0);
    let report = ended.json();
    assert_eq!(report["right"], true);
    assert_eq!(report["files"], 14);
    assert_eq!(report["total"]["files"], 14);
    assert_eq!(report["clients"].as_array().unwrap().len(), 4);
    assert!(report["total"]["p50_ns"].as_u64().unwrap() > 0);
    assert_eq!(report["repeated"].as_object().unwrap().len(), 0);
    assert_eq!(home.endpoint_files(), [""; 0]);
}

#[test]
fn the_table_is_plain_in_a_pipe() {
    let home = Home::new();
    let root = tree(&home);
    let ended = home.run(["demo", "--clients", "2", text(&root)]).expect(0);
    let out = ended.out();
    assert!(out.contains("client 2") && !out.contains("client 3"), "{out}");
    assert!(out.contains("all 14 digests right"), "{out}");
    assert!(!out.contains('\x1b') && !ended.err().contains('\x1b'));
    assert!(ended.err().contains("100 %"));
}

/// Runs the chaos and checks what it says of it.
fn chaos(home: &Home, root: &Path, args: &[&str]) {
    let ended = home.run([&["demo", "--chaos", "--json", text(root)], args].concat()).expect(0);
    let report = ended.json();
    assert_eq!(report["right"], true);
    let kills = report["kills"].as_array().unwrap();
    assert_eq!(kills.len(), 2, "{report}");
    assert_eq!(kills[1]["victim"], "server");
    for kill in kills {
        assert!(kill["jobs_held"].as_u64().unwrap() > 0);
        assert!(kill["replaced_ns"].as_u64().unwrap() > 0);
    }
    let files = report["files"].as_u64().unwrap() * report["rounds"].as_u64().unwrap();
    assert_eq!(report["total"]["files"].as_u64().unwrap(), files);
    assert_eq!(home.endpoint_files(), [""; 0]);
}

#[test]
fn chaos_ends_right() {
    let home = Home::new();
    let root = tree(&home);
    chaos(&home, &root, &[]);
    chaos(&home, &root, &["--clients", "1"]);
}

#[test]
fn chaos_ends_right_on_a_single_file() {
    let home = Home::new();
    let root = home.path("tree");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("one"), "just this").unwrap();
    chaos(&home, &root, &[]);
    chaos(&home, &root.join("one"), &[]);
}

#[test]
fn clients_without_calls_have_no_times() {
    let home = Home::new();
    fs::write(home.path("one"), "just this").unwrap();
    let path = home.path("one");
    let report = home.run(["demo", "--json", text(&path)]).expect(0).json();
    let clients = report["clients"].as_array().unwrap();
    for figures in clients {
        let called = figures["calls"].as_u64().unwrap() > 0;
        assert_eq!(figures["p50_ns"].is_u64(), called, "{report}");
        assert_eq!(figures["max_ns"].is_null(), !called, "{report}");
    }
    assert!(clients.iter().any(|figures| figures["max_ns"].is_null()), "{report}");
    let out = home.run(["demo", text(&path)]).expect(0).out();
    assert!(!out.contains("0 ns  "), "{out}");
    let idle = |line: &str| line.starts_with("client") && line.ends_with('-');
    assert!(out.lines().any(idle), "{out}");
}

#[test]
fn nothing_to_do_is_wrong_use() {
    let home = Home::new();
    fs::create_dir(home.path("empty")).unwrap();
    let ended = home.run(["demo", text(&home.path("empty"))]).expect(2);
    assert!(ended.err().contains("no files"), "{}", ended.err());
    home.run(["demo", text(&home.path("absent"))]).expect(2);
}

#[test]
fn the_limit_leaves_files_out() {
    let home = Home::new();
    let root = tree(&home);
    let report = home.run(["demo", "--json", "--max-bytes", "1M", text(&root)]).expect(0).json();
    assert!(report["skipped"]["over_the_limit"].as_u64().unwrap() > 0);
    assert!(report["total"]["bytes"].as_u64().unwrap() <= 1 << 20);
}
