//! `classic-bridge` between clients in C and callgate servers. Windows only.
//!
//! The client is `callgate-classic/tests/classic/client.c`; `scripts/classic build` builds it.
#![cfg(windows)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::windows::io::{FromRawHandle, OwnedHandle};
use std::process::{Child, ChildStdout, Command, Stdio};

use callgate::{Call, Server};
use common::{Home, Serving, start};
use windows_sys::Win32::System::Threading::CreateEventW;

/// The client's struct: number, seed, server, number answered, sum (8 bytes), words.
const SIZE: &str = "4032";
const WORDS_AT: usize = 24;

/// A limit of clients, in milliseconds, that no machine is too slow for, and the original's.
const LONG: &str = "120000";
const SHORT: &str = "250";

/// Names that nothing else on the machine has.
fn base(test: &str) -> String {
    format!("callgate-bridge-{}-{test}", std::process::id())
}

/// The command line of a bridge; `more` may have options of its own in place of these.
fn arguments(base: &str, more: &[&str]) -> Vec<String> {
    let mut args = vec!["classic-bridge".to_owned(), base.to_owned()];
    args.extend(more.iter().map(|&text| text.to_owned()));
    let ours = [
        ("--memory", format!("{base}Memory")),
        ("--exec", format!("{base}Exec")),
        ("--done", format!("{base}Done")),
        ("--free", format!("{base}Free")),
        ("--size", SIZE.to_owned()),
    ];
    for (option, value) in ours.into_iter().filter(|(option, _)| !more.contains(option)) {
        args.extend([option.to_owned(), value]);
    }
    args
}

fn bridge(home: &Home, base: &str, more: &[&str]) -> Serving {
    Serving::start(home.callgate(arguments(base, more)))
}

/// A process that speaks in lines. Dropping it kills it.
struct Peer(Child, BufReader<ChildStdout>);

impl Peer {
    fn start(command: &mut Command) -> Peer {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = start(command).unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Peer(child, out)
    }

    /// An old client.
    fn client(base: &str, limit_ms: &str) -> Peer {
        // target/windows/TARGET/PROFILE/deps/test.exe; the programs are in target/windows/classic.
        let here = std::env::current_exe().unwrap();
        let program = here.ancestors().nth(4).unwrap().join("classic").join("client.exe");
        assert!(program.exists(), "no {}: run scripts/classic build", program.display());
        let mut client = Peer::start(Command::new(program).args([base, limit_ms]));
        assert!(client.line().starts_with("ready"));
        client
    }

    /// A callgate server in a process of its own: this very program, with the test `server`.
    fn server(endpoint: &str) -> Peer {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "server", "--nocapture", "--test-threads=1"]);
        let mut server = Peer::start(command.env(ENDPOINT, endpoint));
        // The harness says something, too.
        while !server.line().ends_with("serving") {}
        server
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.1.read_line(&mut line).unwrap(), 0, "it says nothing more");
        line.trim_end().to_owned()
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.line()
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const ENDPOINT: &str = "CALLGATE_TEST_ENDPOINT";

/// No test, but what [`Peer::server`] starts.
#[test]
fn server() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let _server = Server::serve(&*endpoint, answer).unwrap();
    println!("serving");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// What servers of the test's struct do. Method 7 answers, too, with a server of 7.
fn answer(call: Call<'_>) {
    let mut data = call.request().to_vec();
    let word = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
    let sum: u64 = (WORDS_AT..data.len()).step_by(4).map(|at| u64::from(word(at))).sum();
    let (number, sum) = (word(0), sum.wrapping_mul(word(4).into()));
    let server = if call.method() == 7 { 7 } else { std::process::id() };
    data[8..12].copy_from_slice(&server.to_le_bytes());
    data[12..16].copy_from_slice(&number.to_le_bytes());
    data[16..24].copy_from_slice(&sum.to_le_bytes());
    let _ = call.reply(&data);
}

#[test]
fn old_clients_are_answered_and_counted() {
    let (home, base) = (Home::new(), base("counted"));
    let _server = Server::serve(&*base, answer).unwrap();
    let options = ["--method", "7", "--timeout", "100s", "--watch-free", "--until-eof"];
    let mut command = home.callgate(arguments(&base, &options));
    let (input, end) = std::io::pipe().unwrap();
    command.stdin(input);
    let mut bridge = Serving::start(command);
    let mut clients = [1, 2].map(|seed| (seed, Peer::client(&base, LONG)));
    for (seed, client) in &mut clients {
        client.tell(&format!("calls 50 {seed}"));
    }
    for (_, client) in &mut clients {
        assert_eq!(client.line(), "calls 50 0 0 0");
        assert_eq!(client.ask("call 3 4"), "ok 7");
    }
    drop(end);
    let out = bridge.out_rest();
    assert!(out.contains(&format!("--- {base}Memory bridge statistics ---")), "{out}");
    let counts = "102 requests, 102 answered, 0 unanswered, 0 answered too late, 0 not run, time";
    assert!(out.contains(counts), "{out}");
    assert_eq!(bridge.code(), Some(0));
}

#[test]
fn the_server_may_be_killed_and_started_anew() {
    let (home, base) = (Home::new(), base("anew"));
    let first = Peer::server(&base);
    let mut bridge = bridge(&home, &base, &["--timeout", "100s"]);
    let mut client = Peer::client(&base, LONG);
    assert_eq!(client.ask("call 1 2"), format!("ok {}", first.pid()));
    drop(first);
    // As with an old server that is dead.
    client.ask(&format!("limit {SHORT}"));
    assert_eq!(client.ask("call 2 3"), "timeout");
    let line = bridge.err_line();
    assert!(line.contains("got no answer: "), "{line}");
    let second = Peer::server(&base);
    client.ask(&format!("limit {LONG}"));
    assert_eq!(client.ask("call 3 4"), format!("ok {}", second.pid()));
    let line = bridge.err_line();
    assert!(line.contains("answered again"), "{line}");
    assert_eq!(client.ask("calls 20 5"), "calls 20 0 0 0");
}

#[test]
fn requests_can_wait_for_a_server() {
    let (home, base) = (Home::new(), base("wait"));
    let _bridge = bridge(&home, &base, &["--wait", "100s", "--timeout", "100s"]);
    let mut client = Peer::client(&base, LONG);
    client.tell("call 1 2");
    let server = Peer::server(&base);
    assert_eq!(client.line(), format!("ok {}", server.pid()));
}

#[test]
fn what_cannot_be_an_answer_is_told() {
    for (command, told) in [("exit 3", "status 0x3"), ("echo x", "reply of 3 bytes")] {
        let (home, base) = (Home::new(), base("unanswered"));
        let _server = home.serve(&[&base, "--", "cmd", "/c", command]);
        let mut bridge = bridge(&home, &base, &["--timeout", "100s"]);
        let mut client = Peer::client(&base, SHORT);
        assert_eq!(client.ask("call 1 2"), "timeout");
        let line = bridge.err_line();
        assert!(line.contains(told), "{line}");
    }
}

#[test]
fn wrong_arguments_are_told() {
    let (home, base) = (Home::new(), base("wrong"));
    let memory = format!("{base}Memory");
    for (more, told) in [
        (&["--size", "0"][..], "1 byte to 256 MiB"),
        (&["--size", "257M"], "1 byte to 256 MiB"),
        (&["--size", "many"], "number of bytes"),
        (&["--timeout", "0"], "more than zero"),
        (&["--timeout", "soon"], "--timeout"),
        (&["--method", "x"], "--method"),
        (&["--memory", ""], "memory: it is empty"),
        (&["--exec", r"a\b"], "event Exec: it has a backslash"),
        (&["--done", &memory], "event Done: another object has it"),
        (&["--free", &"f".repeat(260)], "mutex Free: it is too long"),
        (&["--sddl", "nobody"], "no security descriptor"),
    ] {
        let err = home.run(arguments(&base, more)).expect(2).err();
        assert!(err.contains(told), "{more:?}: {err}");
    }
    let bad = home.run(["classic-bridge", "bad name", "--size", "4"]).expect(2).err();
    assert!(bad.contains("bad name"), "{bad}");
    let missing = home.run(["classic-bridge", &base, "--memory", "m"]).expect(2).err();
    for option in ["--exec", "--done", "--free", "--size"] {
        assert!(missing.contains(option), "{missing}");
    }
    let help = home.run(["classic-bridge", "--help"]).expect(0).out();
    assert!(help.contains("Exit codes:") && help.contains("Stop the old server first"), "{help}");
}

#[test]
fn objects_of_others_are_told() {
    let (home, base) = (Home::new(), base("others"));
    let _server = Server::serve(&*base, answer).unwrap();
    let first = bridge(&home, &base, &["--timeout", "100s"]);
    let second = home.run(arguments(&base, &[])).expect(8).err();
    assert!(second.contains("served already"), "{second}");
    let (memory, other) = (format!("{base}Memory"), format!("{base}OtherMemory"));
    let taken = home.run(arguments(&base, &["--memory", &other, "--done", &memory])).expect(2);
    assert!(taken.err().contains("object of another kind"), "{}", taken.err());
    let mut client = Peer::client(&base, LONG);
    assert!(client.ask("call 1 2").starts_with("ok "));
    // It is killed, and the client keeps the memory.
    drop(first);
    let exists = home.run(arguments(&base, &["--refuse-existing"])).expect(8).err();
    assert!(exists.contains("exists already") && exists.contains("--refuse-existing"), "{exists}");
    let size = home.run(arguments(&base, &["--size", "5000"])).expect(2).err();
    assert!(size.contains("4096 bytes") && size.contains("5000"), "{size}");
    let mut next = bridge(&home, &base, &["--timeout", "100s"]);
    let line = next.err_line();
    assert!(line.contains("existed already"), "{line}");
    assert!(client.ask("call 2 3").starts_with("ok "));
}

#[test]
fn objects_that_deny_and_break_the_protocol_are_told() {
    let (home, base) = (Home::new(), base("denied"));
    let for_nobody = bridge(&home, &base, &["--sddl", "D:P"]);
    let denied = home.run(arguments(&base, &[])).expect(6).err();
    assert!(denied.contains("denied to this process"), "{denied}");
    drop(for_nobody);
    let _done = manual_reset(&format!("{base}Done"));
    let manual = home.run(arguments(&base, &[])).expect(7).err();
    assert!(manual.contains("manual reset"), "{manual}");
}

/// An event as another program may have made it, which the protocol does not allow.
fn manual_reset(name: &str) -> OwnedHandle {
    let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
    // SAFETY: the name ends with a NUL and outlives the call; the handle that comes back is checked, and nobody else's.
    unsafe {
        let event = CreateEventW(std::ptr::null(), 1, 0, name.as_ptr());
        assert!(!event.is_null(), "{}", std::io::Error::last_os_error());
        OwnedHandle::from_raw_handle(event)
    }
}
