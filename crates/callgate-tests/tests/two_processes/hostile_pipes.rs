//! Clients on Windows that speak by hand: what they name is not what it should be, they scribble, flood, and say nothing.
//!
//! They write to the pipe as to a file, each write a message with the header that PROTOCOL.md 9.2 gives it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use callgate::{Client, Server};
use callgate_proto::layout::control_bytes;
use callgate_proto::wire::{Answer, Ask, Hello, Message, Reason, Versions};
use callgate_sys::process::fresh_number;
use callgate_sys::shm::page_size;
use callgate_tests::peer::Words;
use callgate_tests::{BOUND, Peer, Rng, until, within};
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, FILE_MAP_WRITE, MapViewOfFile, PAGE_READONLY, PAGE_READWRITE, SEC_RESERVE,
};
use windows_sys::Win32::System::Threading::CreateEventW;

use crate::endings::check;
use crate::{LONGEST, PEER, strict};

const CELLS: u32 = 4;

/// A server in a process of its own, an honest client of it, and what its status says.
struct Stage {
    server: Peer,
    honest: Client,
    path: String,
    violations: u64,
    calls: u64,
}

impl Stage {
    fn new(arguments: &[&str]) -> Self {
        let path = format!(r"\\.\pipe\callgate-hostile-{:x}", fresh_number());
        let word = format!("path={path}");
        let arguments: Vec<&str> =
            [word.as_str()].into_iter().chain(arguments.iter().copied()).collect();
        let server = Peer::spawn(PEER, "server", &arguments);
        server.expect("serving");
        let honest = Client::connect_with(path.as_str(), strict()).expect("connect");
        let stage = Self { server, honest, path, violations: 0, calls: 0 };
        check(&stage.honest, 0, 100, 100);
        stage
    }

    fn status(&mut self) -> Words {
        self.server.ask("status")
    }

    /// One violation more has been counted, and the honest client is served on.
    fn blames(&mut self, what: &str) {
        let violations = self.violations + 1;
        until(what, || (self.status().number("violations") >= violations).then_some(()));
        assert_eq!(self.status().number("violations"), violations, "{what}");
        self.violations = violations;
        self.is_served();
    }

    fn is_served(&mut self) {
        self.calls += 1;
        check(&self.honest, self.calls, 200, 5_000);
        check(&self.honest, self.calls, 5_000, 20);
    }
}

/// A client by hand.
struct Raw {
    pipe: File,
    /// The control region's words, where there is one.
    words: Option<&'static [AtomicU64]>,
    _handles: Vec<OwnedHandle>,
}

fn frame(kind: u32, memory: u32, event: u32, bytes: &[u8]) -> Vec<u8> {
    [kind, memory, event]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .chain(bytes.iter().copied())
        .collect()
}

fn size() -> usize {
    control_bytes(CELLS).next_multiple_of(page_size())
}

fn hello(control: u64) -> Vec<u8> {
    let ask = Some(Ask::Connect { cells: CELLS, control, quota: 1 << 20 });
    Hello { versions: Versions::OURS, ask }.encode().as_bytes().to_vec()
}

fn number(handle: &impl AsRawHandle) -> u32 {
    handle.as_raw_handle().addr() as u32
}

fn owned(handle: HANDLE) -> OwnedHandle {
    assert!(!handle.is_null(), "{}", std::io::Error::last_os_error());
    // SAFETY: made just now by a call that has succeeded.
    unsafe { OwnedHandle::from_raw_handle(handle) }
}

fn section(file: HANDLE, protection: u32, len: usize) -> OwnedHandle {
    // SAFETY: the file is open or none; there is no name.
    owned(unsafe {
        CreateFileMappingW(file, std::ptr::null(), protection, 0, len as u32, std::ptr::null())
    })
}

fn event() -> OwnedHandle {
    // SAFETY: there are no attributes, and there is no name.
    owned(unsafe { CreateEventW(std::ptr::null(), 0, 0, std::ptr::null()) })
}

impl Raw {
    fn reach(path: &str) -> Self {
        // All instances may be taken for a moment.
        let pipe =
            until("the pipe opens", || OpenOptions::new().read(true).write(true).open(path).ok());
        Self { pipe, words: None, _handles: Vec::new() }
    }

    fn say(&mut self, message: &[u8]) {
        // A server that has hung up already was quicker.
        let _ = self.pipe.write(message);
    }

    /// The answer, after whatever the server says of handles; `None` when it hung up.
    fn answer(&mut self) -> Option<Answer> {
        loop {
            let mut header = [0; 12];
            self.pipe.read_exact(&mut header).ok()?;
            if header[0] == 1 {
                continue;
            }
            let mut answer = [0; 64];
            self.pipe.read_exact(&mut answer).ok()?;
            return Some(Answer::decode(&answer).expect("an answer").0);
        }
    }

    fn is_turned_away(&mut self, reason: Reason, what: &str) {
        match self.answer() {
            Some(Answer::Refusal { reason: Some(found), .. }) => {
                assert_eq!(found, reason, "{what}")
            }
            other => panic!("{what}: {other:?}"),
        }
    }

    fn waits_for_the_end(&mut self) {
        while self.pipe.read(&mut [0; 64]).is_ok_and(|len| len > 0) {}
    }

    fn connect(path: &str) -> Self {
        let mut raw = Self::reach(path);
        let (memory, event) = (section(INVALID_HANDLE_VALUE, PAGE_READWRITE, size()), event());
        // SAFETY: a new mapping of the whole section; it stays for as long as this program.
        let words = unsafe {
            let view = MapViewOfFile(memory.as_raw_handle(), FILE_MAP_WRITE, 0, 0, size()).Value;
            assert!(!view.is_null());
            std::slice::from_raw_parts(view.cast::<AtomicU64>(), size() / 8)
        };
        raw.say(&frame(0, number(&memory), number(&event), &hello(size() as u64)));
        raw.words = Some(words);
        raw._handles = vec![memory, event];
        assert!(matches!(raw.answer(), Some(Answer::Welcome(_))));
        raw
    }

    fn ring(&mut self) {
        self.say(&frame(0, 0, 0, &[0]));
    }
}

#[test]
fn what_is_no_hello() {
    within(LONGEST, || {
        let mut stage = Stage::new(&[]);
        let messages: [(&str, Vec<u8>); 7] = [
            ("nothing of a frame", vec![7]),
            ("half a header", vec![0; 11]),
            ("a header and nothing", vec![0; 12]),
            ("what only a server says", frame(1, 9, 0, &[])),
            ("a frame of no kind", frame(9, 0, 0, &hello(size() as u64))),
            ("nonsense", frame(0, 0, 0, &[0xa5; 40])),
            ("too much", frame(0, 0, 0, &[0xa5; 3_000])),
        ];
        for (what, message) in messages {
            let mut raw = Raw::reach(&stage.path);
            raw.say(&message);
            raw.is_turned_away(Reason::Malformed, what);
            raw.waits_for_the_end();
            stage.blames(what);
        }
    });
}

#[test]
fn impostors_as_control_memory() {
    within(LONGEST, || {
        let mut stage = Stage::new(&[]);
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 20).expect("its length");
        let none = INVALID_HANDLE_VALUE;
        let (plain, bell) = (section(none, PAGE_READWRITE, size()), event());
        let impostors = [
            ("larger", section(none, PAGE_READWRITE, size() + page_size())),
            ("reserved", section(none, PAGE_READWRITE | SEC_RESERVE, size())),
            ("of a file", section(file.as_raw_handle(), PAGE_READWRITE, size())),
            ("read-only", section(none, PAGE_READONLY, size())),
            ("an event", event()),
        ];
        let named = impostors.iter().map(|(what, memory)| (*what, number(memory), number(&bell)));
        let others = [
            ("no memory", 0, number(&bell)),
            ("no such handle", 0x7fff_fff0, number(&bell)),
            ("the pseudo handle of this process", u32::MAX, number(&bell)),
            ("no event", number(&plain), 0),
            ("no such event", number(&plain), 0x7fff_fff0),
            ("a section as event", number(&plain), number(&plain)),
            ("a file as event", number(&plain), number(&file)),
        ];
        for (what, memory, event) in named.chain(others) {
            let mut raw = Raw::reach(&stage.path);
            raw.say(&frame(0, memory, event, &hello(size() as u64)));
            raw.is_turned_away(Reason::Malformed, what);
            stage.blames(what);
        }
        assert_eq!(stage.status().number("clients"), 1);
    });
}

#[test]
fn impostors_as_payload_memory() {
    within(LONGEST, || {
        let mut stage = Stage::new(&[]);
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 20).expect("its length");
        let (none, len) = (INVALID_HANDLE_VALUE, 2 * page_size());
        let impostors = [
            ("smaller", section(none, PAGE_READWRITE, page_size())),
            ("reserved", section(none, PAGE_READWRITE | SEC_RESERVE, len)),
            ("of a file", section(file.as_raw_handle(), PAGE_READWRITE, len)),
            ("an event", event()),
        ];
        let named = impostors.iter().map(|(what, memory)| (*what, number(memory)));
        for (what, memory) in named.chain([("none", 0), ("no such handle", 0x7fff_fff0)]) {
            let mut raw = Raw::connect(&stage.path);
            raw.say(&frame(
                0,
                memory,
                0,
                Message::Region { id: 0, size: len as u64 }.encode().as_bytes(),
            ));
            raw.waits_for_the_end();
            stage.blames(what);
        }
    });
}

#[test]
fn scribbles_over_the_control_region() {
    within(LONGEST, || {
        let mut rng = Rng::printed("scribbles_over_the_control_region");
        let mut stage = Stage::new(&[]);
        for _ in 0..60 {
            let mut raw = Raw::connect(&stage.path);
            let words = raw.words.expect("connected");
            for _ in 0..200 {
                words[rng.below(words.len())].store(rng.next(), Relaxed);
                if rng.chance(5) {
                    raw.ring();
                }
            }
            raw.ring();
            stage.is_served();
        }
        until("they are forgotten", || (stage.status().number("clients") == 1).then_some(()));
        assert!(stage.server.is_alive());
    });
}

#[test]
fn a_flood_of_bells_and_messages() {
    within(LONGEST, || {
        let mut stage = Stage::new(&[]);
        let stop = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut raw = Raw::connect(&stage.path);
                    while stop.load(Relaxed) == 0 {
                        raw.ring();
                    }
                });
            }
            for call in 0..200 {
                check(&stage.honest, call, 300, 300);
            }
            stop.store(1, Relaxed);
        });
        assert_eq!(stage.status().number("violations"), 0);
        stage.is_served();
    });
}

/// Who connects and says nothing delays nobody, and is dropped after its time.
#[test]
fn half_handshakes() {
    within(LONGEST, || {
        let mut stage = Stage::new(&["handshake_ms=1500"]);
        let mut silent: Vec<Raw> = (0..60).map(|_| Raw::reach(&stage.path)).collect();
        for _ in 0..5 {
            let client = Client::connect_with(stage.path.as_str(), strict()).expect("connect");
            check(&client, 1, 100, 100);
        }
        stage.is_served();
        for raw in &mut silent {
            raw.is_turned_away(Reason::TooSlow, "it said nothing");
        }
        stage.is_served();
    });
}

/// A client that dies with handles on their way leaves nothing with the server.
#[test]
fn clients_that_vanish() {
    within(LONGEST, || {
        let mut stage = Stage::new(&[]);
        let before = stage.server.usage_at_rest();
        for _ in 0..200 {
            let mut raw = Raw::connect(&stage.path);
            let memory = section(INVALID_HANDLE_VALUE, PAGE_READWRITE, page_size());
            let size = page_size() as u64;
            raw.say(&frame(
                0,
                number(&memory),
                0,
                Message::Region { id: 0, size }.encode().as_bytes(),
            ));
        }
        stage.is_served();
        until("they are forgotten", || {
            let gone = stage.status().number("clients") == 1;
            let usage = stage.server.usage();
            if gone && !usage.is_back_to(&before) {
                eprintln!("{usage:?} against {before:?}");
            }
            (gone && usage.is_back_to(&before)).then_some(())
        });
    });
}

/// As many clients as the issue asks for, in this process, of a server in another.
#[test]
fn two_hundred_clients() {
    within(LONGEST, || {
        let mut stage = Stage::new(&["workers=2"]);
        let clients: Vec<Client> = (0..200)
            .map(|_| {
                let mut options = strict();
                options.timeout = Some(BOUND);
                Client::connect_with(stage.path.as_str(), options).expect("connect")
            })
            .collect();
        for round in 0..3 {
            for (at, client) in clients.iter().enumerate() {
                check(client, at as u64, 20 + 300 * round, 20);
            }
        }
        assert_eq!(stage.status().number("clients"), 201);
        drop(clients);
        until("they are gone", || (stage.status().number("clients") == 1).then_some(()));
    });
}

/// A pipe of somebody who is no server of ours gives an error, not a hang.
#[test]
fn a_second_listener_on_the_name() {
    within(LONGEST, || {
        let stage = Stage::new(&[]);
        let second = Server::serve(stage.path.as_str(), |call: callgate::Call<'_>| drop(call));
        let error = second.expect_err("the name is taken");
        let found = matches!(error, callgate::ServeError::AddressInUse { pid: Some(pid), .. } if pid == stage.server.pid());
        assert!(found, "{error:?}");
    });
}

/// Numbers of users go by who is met first: nobody is trusted by one.
#[test]
fn no_server_is_trusted_by_a_number() {
    within(LONGEST, || {
        let stage = Stage::new(&[]);
        let own = callgate_sys::process::uid();
        for (uid, is_refused) in [(own, true), (own + 1, true), (0, false)] {
            let mut options = strict();
            options.server = callgate::ServerIdentity::Uid(uid);
            match Client::connect_with(stage.path.as_str(), options) {
                Err(callgate::CallError::Refused { .. }) if is_refused => {}
                Err(callgate::CallError::UntrustedServer { .. }) if !is_refused && own != 0 => {}
                Ok(_) if !is_refused && own == 0 => {}
                other => panic!("{uid}: {other:?}"),
            }
        }
    });
}
