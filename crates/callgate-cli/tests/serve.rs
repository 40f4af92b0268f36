//! `serve`, `call`, `ping`, `ls` and `stat` together.
#![cfg(not(windows))]

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Ended, Home, hear};

#[test]
fn a_command_answers_calls() {
    let home = Home::new();
    let server = home.serve(&["upper", "--", "tr", "a-z", "A-Z"]);
    let ended = home.run_with(["call", "upper"], b"hello").expect(0);
    assert_eq!(ended.out(), "HELLO");
    assert_eq!(home.run(["call", "upper", "--data", "more"]).expect(0).out(), "MORE");
    assert_eq!(home.run(["call", "upper"]).expect(0).out(), "");

    let stat = home.run(["stat", "upper", "--json"]).expect(0).json();
    assert_eq!(stat["pid"], server.pid());
    assert_eq!(stat["endpoint"], "upper");
    assert!(stat["calls"].as_u64().unwrap() >= 3);
    assert!(home.run(["stat", "upper"]).expect(0).out().contains("uptime"));

    let list = home.run(["ls", "--json"]).expect(0).json();
    assert_eq!(list[0]["name"], "upper");
    assert_eq!(list[0]["state"], "running");
    assert_eq!(list[0]["pid"], server.pid());
    assert!(home.run(["ls"]).expect(0).out().contains("running"));
}

#[test]
fn large_messages_pass() {
    let home = Home::new();
    let _server = home.serve(&["cat", "--", "cat"]);
    let bytes: Vec<u8> = (0..9_000_001u32).map(|at| (at ^ (at >> 11)) as u8).collect();
    let ended = home.run_with(["call", "cat"], &bytes).expect(0);
    assert!(ended.0.stdout == bytes);
}

#[test]
fn statuses_and_surroundings_reach_the_caller() {
    let home = Home::new();
    let script = r#"case $CALLGATE_METHOD in
        1) exit 3;; 2) kill -9 $$;; 3) echo "$CALLGATE_PID $CALLGATE_UID";;
        4) exec cat /dev/zero;; 5) exec sleep 1000;; esac"#;
    let server = ["any", "--timeout", "200ms", "--max-reply", "1M", "--", "sh", "-c", script];
    let _server = home.serve(&server);
    let call = |args: &[&str]| home.run([&["call", "any", "--method"], args].concat());
    let ended = call(&["1"]).expect(1);
    assert!(ended.err().contains("status 3"), "{}", ended.err());
    call(&["1", "--pass-status"]).expect(3);
    call(&["2", "--pass-status"]).expect(137);
    let out = call(&["3"]).expect(0).out();
    let pid: u32 = out.split_whitespace().next().unwrap().parse().unwrap();
    assert!(pid > 0, "{out}");
    // With the codes that `serve --help` names.
    let told = |method: &str, words: &str| {
        let err = call(&[method]).expect(1).err();
        assert!(err.contains(words), "{err}");
    };
    told("4", "code 122: ");
    told("4", "more than 1048576 bytes");
    told("5", "code 124: ");
    told("5", "longer than");
}

#[test]
fn a_deadline_ends_the_call() {
    let home = Home::new();
    let _server = home.serve(&["slow", "--", "sleep", "1000"]);
    let ended = home.run(["call", "slow", "--timeout", "50ms"]).expect(4);
    assert!(ended.err().contains("--timeout"), "{}", ended.err());
}

#[test]
fn a_server_that_dies_is_noticed() {
    let home = Home::new();
    let started = home.fifo("started");
    let script = format!("exec 3> {}; echo >&3; exec sleep 1000", started.display());
    let server = home.serve(&["mortal", "--", "sh", "-c", &script]);
    let calling = home.callgate(["call", "mortal"]).spawn().unwrap();
    let mut heard = BufReader::new(File::open(&started).unwrap());
    heard.read_line(&mut String::new()).unwrap();
    server.signal("-KILL");
    let ended = Ended(calling.wait_with_output().unwrap()).expect(5);
    assert!(ended.err().contains("may have run"), "{}", ended.err());
    let _ = server.code();
    // The command, which holds the other end open, was killed too.
    assert_eq!(heard.read_to_end(&mut Vec::new()).unwrap(), 0);

    let list = home.run(["ls", "--json"]).expect(0).json();
    assert_eq!(list[0]["state"], "stale");
    home.run(["call", "mortal"]).expect(3);
    let _next = home.serve(&["mortal", "--", "echo", "back"]);
    assert_eq!(home.run(["call", "mortal"]).expect(0).out(), "back\n");
}

#[test]
fn a_signal_lets_running_calls_end() {
    let home = Home::new();
    let (started, end) = (home.fifo("started"), home.fifo("end"));
    let script = format!("echo > {}; read x < {}; echo $x", started.display(), end.display());
    let mut server = home.serve(&["drain", "--", "sh", "-c", &script]);
    let calling = home.callgate(["call", "drain"]).spawn().unwrap();
    hear(&started);
    server.signal("-TERM");
    assert!(server.err_line().contains("finishing"));
    std::fs::write(&end, "late\n").unwrap();
    let ended = Ended(calling.wait_with_output().unwrap()).expect(0);
    assert_eq!(ended.out(), "late\n");
    assert_eq!(server.code(), Some(0));
    home.run(["call", "drain"]).expect(3);
}

#[test]
fn a_second_signal_ends_everything() {
    let home = Home::new();
    let started = home.fifo("started");
    let script = format!("echo > {}; exec sleep 1000", started.display());
    let mut server = home.serve(&["stuck", "--", "sh", "-c", &script]);
    let calling = home.callgate(["call", "stuck"]).spawn().unwrap();
    hear(&started);
    server.signal("-INT");
    assert!(server.err_line().contains("finishing"));
    server.signal("-INT");
    Ended(calling.wait_with_output().unwrap()).expect(5);
    assert_eq!(server.code(), Some(0));
}

#[test]
fn a_name_is_served_once() {
    let home = Home::new();
    let server = home.serve(&["only", "--", "cat"]);
    let ended = home.run(["serve", "only", "--", "cat"]).expect(8);
    assert!(ended.err().contains(&server.pid().to_string()), "{}", ended.err());
}

#[test]
fn a_call_can_wait_for_its_server() {
    let home = Home::new();
    let calling = home.callgate(["call", "later", "--wait", "30s"]).spawn().unwrap();
    let _server = home.serve(&["later", "--", "echo", "here"]);
    let ended = Ended(calling.wait_with_output().unwrap()).expect(0);
    assert_eq!(ended.out(), "here\n");
}

#[test]
fn an_explicit_path_works() {
    let home = Home::new();
    let socket = home.path("some.socket");
    let socket = socket.to_str().unwrap();
    let _server = home.serve(&[socket, "--", "echo", "path"]);
    assert_eq!(home.run(["call", socket]).expect(0).out(), "path\n");
}

#[test]
fn a_server_of_one_call_at_a_time_is_called() {
    let home = Home::new();
    let socket = home.path("narrow.socket");
    let socket = socket.to_str().unwrap();
    let mut options = callgate::ServerOptions::default();
    options.limits.in_flight = 1;
    let handler = |call: callgate::Call<'_>| drop(call.reply(b"one"));
    let _server = callgate::Server::serve_with(socket, options, handler).unwrap();
    assert_eq!(home.run(["call", socket, "--data", "x"]).expect(0).out(), "one");
}

#[test]
fn a_call_waits_no_longer_than_its_timeout() {
    let home = Home::new();
    let began = Instant::now();
    home.run(["call", "never", "--data", "x", "--wait", "1h", "--timeout", "100ms"]).expect(4);
    assert!(began.elapsed() >= Duration::from_millis(100));
    // Without a timeout, waiting is all that ends.
    home.run(["call", "never", "--data", "x", "--wait", "10ms"]).expect(3);
    home.run(["call", "never", "--data", "x", "--wait", "10ms", "--timeout", "1h"]).expect(3);
}

#[test]
fn others_are_let_in_when_asked() {
    let home = Home::new();
    let gid = rustix::process::getegid().as_raw();
    let group = format!("group:{gid}");
    let cases = [("owner", 0o600), (group.as_str(), 0o660), ("everyone", 0o666)];
    for (number, (access, mode)) in cases.into_iter().enumerate() {
        let socket = home.path(&format!("socket-{number}"));
        let path = socket.to_str().unwrap();
        let _server = home.serve(&[path, "--access", access, "--", "cat"]);
        let data = std::fs::metadata(&socket).unwrap();
        assert_eq!(data.mode() & 0o777, mode, "{access}");
        assert_eq!(data.gid(), gid);
        assert_eq!(home.run(["call", path, "--data", "x"]).expect(0).out(), "x");
    }
    // A name's directory keeps others out.
    for access in [group.as_str(), "everyone"] {
        let ended = home.run(["serve", "name", "--access", access, "--", "cat"]).expect(2);
        assert!(ended.err().contains("path"), "{}", ended.err());
    }
    let _server = home.serve(&["name", "--access", "owner", "--", "cat"]);
    home.run(["serve", "/tmp/x", "--access", "group:nobody", "--", "cat"]).expect(2);
}

#[test]
fn ping_counts_round_trips() {
    let home = Home::new();
    let _server = home.serve(&["pong", "--", "cat"]);
    let out = home.run(["ping", "pong", "-c", "3", "-i", "1ms", "-s", "100"]).expect(0).out();
    assert!(out.contains("100 B from pong: seq=3 time="), "{out}");
    assert!(out.contains("3 calls, 3 replies, 0 lost"), "{out}");
    let out = home.run(["ping", "pong", "-c", "5", "-i", "0"]).expect(0).out();
    assert!(!out.contains("seq=") && out.contains("5 replies"), "{out}");
}

#[test]
fn ping_ends_with_statistics_when_interrupted() {
    let home = Home::new();
    let _server = home.serve(&["pong", "--", "false"]);
    let mut command = home.callgate(["ping", "pong", "-i", "1h"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert!(line.contains("seq=1"), "{line}");
    let pid = child.id().to_string();
    let sent = std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
    assert!(rest.contains("1 calls, 1 replies"), "{rest}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
