//! `serve`, `call`, `ping` and `stat` together, on Windows.
#![cfg(windows)]

mod common;

use std::io::Write;
use std::time::{Duration, Instant};

use common::{Ended, Home, Serving, start};

/// A name that no other test uses: they are this user's, wherever the test is.
fn name(what: &str) -> String {
    format!("{what}-{}", std::process::id())
}

/// What the server runs is this very program, with this test: as what it is under `serve`, it copies its input to its
/// output, ends with a status, says who calls, writes for ever, or starts another and ends. (Wine has no program that
/// copies.)
#[test]
fn command() {
    let Ok(method) = std::env::var("CALLGATE_METHOD") else { return };
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    match method.as_str() {
        "1" => std::process::exit(3),
        "2" => output.write_all(std::env::var("CALLGATE_PID").unwrap().as_bytes()).unwrap(),
        "3" => while output.write_all(&[b'x'; 4096]).is_ok() {},
        "4" => {
            let mut other = std::process::Command::new(std::env::current_exe().unwrap());
            let other = other.args(std::env::args().skip(1)).env("CALLGATE_METHOD", "5");
            // It goes on by itself, beyond the end of this one.
            std::mem::forget(other.stdin(std::process::Stdio::null()).spawn().unwrap());
        }
        // Should nobody kill it, it ends all the same.
        "5" => std::thread::sleep(Duration::from_secs(60)),
        _ => drop(std::io::copy(&mut input, &mut output).unwrap()),
    }
    output.flush().unwrap();
    // Before the test's own result comes.
    std::process::exit(0);
}

/// `serve` with that command.
fn serve(home: &Home, options: &[&str]) -> Serving {
    let program = std::env::current_exe().unwrap();
    let command =
        ["--", program.to_str().unwrap(), "--exact", "command", "--nocapture", "--test-threads=1"];
    home.serve(&[options, &command].concat())
}

/// What comes before its output.
const FIRST: &str = "\nrunning 1 test\ntest command ... ";

#[test]
fn a_command_answers_calls() {
    let (home, name) = (Home::new(), name("copy"));
    let server = serve(&home, &[&name]);
    let ended = home.run_with(["call", &name], b"hello").expect(0);
    assert_eq!(ended.out(), format!("{FIRST}hello"));
    let stat = home.run(["stat", &name, "--json"]).expect(0).json();
    assert_eq!(stat["pid"], server.pid());
    assert_eq!(stat["endpoint"], name);
    assert_eq!(stat["calls"], 1);
    let second = home.run(["serve", &name, "--", "cmd"]).expect(8);
    assert!(second.err().contains(&server.pid().to_string()), "{}", second.err());
}

#[test]
fn large_messages_pass() {
    let (home, name) = (Home::new(), name("large"));
    let _server = serve(&home, &[&name]);
    let bytes: Vec<u8> = (0..5_000_001u32).map(|at| (at ^ (at >> 11)) as u8).collect();
    let ended = home.run_with(["call", &name], &bytes).expect(0);
    assert!(ended.0.stdout == [FIRST.as_bytes(), &bytes].concat());
}

#[test]
fn statuses_and_limits_reach_the_caller() {
    let (home, name) = (Home::new(), name("any"));
    let _server = serve(&home, &[&name, "--max-reply", "1M"]);
    let call = |args: &[&str]| home.run([&["call", &name, "--method"], args].concat());
    assert!(call(&["1"]).expect(1).err().contains("status 3"));
    call(&["1", "--pass-status"]).expect(3);
    let out = call(&["2"]).expect(0).out();
    let pid: u32 = out.strip_prefix(FIRST).unwrap().parse().unwrap();
    assert!(pid > 0);
    let ended = call(&["3"]).expect(1);
    assert!(ended.err().contains("more than 1048576 bytes"), "{}", ended.err());
}

#[test]
fn a_command_that_runs_too_long_is_killed() {
    let (home, name) = (Home::new(), name("long"));
    let endless = "for /l %i in (1,0,2) do @rem";
    let _server = home.serve(&[&name, "--timeout", "300ms", "--", "cmd", "/c", endless]);
    let ended = home.run(["call", &name]).expect(1);
    assert!(ended.err().contains("longer than 300 ms"), "{}", ended.err());
}

/// Also where it has ended itself by then: what it has started holds the end of its pipe.
#[test]
fn what_a_command_has_started_is_killed_with_it() {
    let (home, name) = (Home::new(), name("started"));
    let _server = serve(&home, &[&name, "--timeout", "3s"]);
    let ended = home.run(["call", &name, "--method", "4", "--timeout", "20s"]).expect(1);
    assert!(ended.err().contains("longer than 3.00 s"), "{}", ended.err());
}

#[test]
fn a_call_can_wait_for_its_server_and_no_longer_than_its_timeout() {
    let (home, name) = (Home::new(), name("later"));
    let calling = start(&mut home.callgate(["call", &name, "--wait", "60s"])).unwrap();
    let _server = home.serve(&[&name, "--", "cmd", "/c", "echo here"]);
    let ended = Ended(calling.wait_with_output().unwrap()).expect(0);
    assert_eq!(ended.out(), "here\r\n");
    let began = Instant::now();
    let never = format!("{name}-never");
    home.run(["call", &never, "--data", "x", "--wait", "1h", "--timeout", "100ms"]).expect(4);
    assert!(began.elapsed() >= Duration::from_millis(100));
    home.run(["call", &never, "--data", "x", "--wait", "10ms"]).expect(3);
}

#[test]
fn explicit_paths_and_everyone() {
    let home = Home::new();
    let path = home.path("some.socket");
    let path = path.to_str().unwrap();
    let _server = home.serve(&[path, "--access", "everyone", "--", "cmd", "/c", "echo path"]);
    assert_eq!(home.run(["call", path]).expect(0).out(), "path\r\n");
    home.run(["serve", "name", "--access", "everyone", "--", "cmd"]).expect(2);
    let group = home.run(["serve", &format!("{path}2"), "--access", "group:1", "--", "cmd"]);
    let group = group.expect(2).err();
    assert!(group.contains("groups are not supported on Windows"), "{group}");
}

#[test]
fn ping_counts_round_trips() {
    let (home, name) = (Home::new(), name("pong"));
    let _server = home.serve(&[&name, "--", "cmd", "/c", "echo x"]);
    let out = home.run(["ping", &name, "-c", "3", "-i", "1ms", "-s", "100"]).expect(0).out();
    assert!(out.contains(&format!("3 B from {name}: seq=3 time=")), "{out}");
    assert!(out.contains("3 calls, 3 replies, 0 lost"), "{out}");
}
