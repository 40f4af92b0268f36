//! Servers on Windows that speak by hand and lie: what they say, name and write spoils their own clients' calls, and
//! nothing else.
//!
//! The server is this process; the client under test is another one, and goes on: after each lie it is answered.

mod server;

use callgate_proto::body::{Body, Inline, Place};
use callgate_proto::wire::{Answer, Message, Reason, Versions, Welcome};
use callgate_sys::shm::page_size;
use callgate_tests::data::method as m;
use callgate_tests::peer::Words;
use callgate_tests::{Peer, Rng, until, within};
use windows_sys::Win32::System::Memory::{
    PAGE_READONLY, PAGE_READWRITE, SEC_RESERVE, SECTION_MAP_EXECUTE, SECTION_MAP_READ,
    SECTION_MAP_WRITE, SECTION_QUERY,
};

use crate::{LONGEST, PEER};
use server::{Liar, Link, MARK, READER, event, section};

/// A client in a process of its own, and the liar that it calls.
struct Stage {
    client: Peer,
    liar: Liar,
}

impl Stage {
    /// A client that gives each call so long.
    fn new(timeout_ms: u32) -> Self {
        let path = server::fresh_path();
        let liar = Liar::new(&path);
        let (path, timeout) = (format!("path={path}"), format!("timeout_ms={timeout_ms}"));
        let client = Peer::spawn(PEER, "load", &[&path, &timeout, "retry=never"]);
        client.expect("ready");
        let mut stage = Self { client, liar };
        stage.is_served("at first");
        stage
    }

    /// The client calls, and is treated in some way; what it says of it.
    ///
    /// The connection that is given back lasts until then.
    fn treat(&mut self, what: &str, treatment: impl FnOnce(&mut Liar) -> Option<Link>) -> Words {
        self.client.ask("parted");
        self.client.tell("try");
        let kept = treatment(&mut self.liar);
        let said = Words::parse(&self.client.expect("try"));
        assert!(self.client.is_alive(), "{what}: {}", self.client.errors());
        kept.into_iter().for_each(Link::end);
        said
    }

    /// The same, with a connection that stands, and what is done at its first call.
    fn at_a_call(&mut self, what: &str, treatment: impl FnOnce(&mut Link, u16)) -> Words {
        self.treat(what, |liar| {
            let mut link = liar.welcome();
            let cell = link.next().cell;
            treatment(&mut link, cell);
            link.wait_until_gone();
            None
        })
    }

    /// The client finds the server guilty, and calls again as if nothing had been.
    fn is_blamed(&mut self, what: &str, said: &Words, field: &str) {
        assert_eq!(kind(said), "violation", "{what}: {}", said.text());
        let text = said.text();
        assert!(text.contains("server") && text.contains(field), "{what}: {text}");
        self.is_served(what);
    }

    fn is_served(&mut self, what: &str) {
        let said = self.treat(what, |liar| {
            let mut link = liar.welcome();
            let taken = link.next();
            assert_eq!(taken.request.head.method, m::CALLER);
            link.reply(&taken, &Body::Inline(Inline::new(b"well").expect("short")));
            Some(link)
        });
        assert_eq!(kind(&said), "ok", "after {what}: {}", said.text());
    }
}

fn kind(said: &Words) -> String {
    said.find("kind").expect("a kind")
}

#[test]
fn it_closes_at_every_step() {
    within(LONGEST, || {
        let mut stage = Stage::new(20_000);
        for _ in 0..5 {
            let said = stage.treat("at once", |liar| {
                drop(liar.accept());
                None
            });
            assert_eq!(kind(&said), "not-running", "{}", said.text());
            let said = stage.treat("after the hello", |liar| {
                let mut link = liar.accept();
                link.hello();
                None
            });
            assert_eq!(kind(&said), "not-running", "{}", said.text());
            let said = stage.treat("after the welcome", |liar| {
                drop(liar.welcome());
                None
            });
            assert_eq!(kind(&said), "not-started", "{}", said.text());
            let said = stage.treat("at a request", |liar| {
                liar.welcome().next();
                None
            });
            assert_eq!(kind(&said), "not-started", "{}", said.text());
        }
        stage.is_served("all that");
    });
}

#[test]
fn what_is_no_answer() {
    within(LONGEST, || {
        let mut stage = Stage::new(20_000);
        let mut rng = Rng::printed("what_is_no_answer");
        let welcome = Welcome { epoch: 1, request_max: 9, reply_max: 9, quota: 9, in_flight: 64 };
        let good = Answer::Welcome(welcome).encode(Versions::OURS).as_bytes().to_vec();
        let mut answers = vec![
            ("nothing of a frame", vec![7]),
            ("half a header", vec![0; 11]),
            ("a header and nothing", vec![0; 12]),
            ("a frame of no kind", server::frame(9, 0, &good)),
            ("taken, and more", server::frame(1, 1, &good)),
            ("too much", server::frame(0, 0, &[0xa5; 3_000])),
            ("half an answer", server::frame(0, 0, &good[..31])),
            ("memory with the answer", server::frame(0, 0x7fff_fff0, &good)),
            ("a bell", server::frame(0, 0, &[0])),
        ];
        answers.extend((0..30).map(|_| ("noise", server::frame(0, 0, &rng.bytes(64)))));
        for (what, bytes) in answers {
            let said = stage.treat(what, |liar| {
                let mut link = liar.accept();
                link.hello();
                link.say(&bytes);
                link.wait_until_gone();
                None
            });
            stage.is_blamed(what, &said, "");
        }
        let refusal = Answer::Refusal { reason: Some(Reason::Exhausted), limit: u64::MAX };
        let said = stage.treat("a refusal", |liar| {
            let mut link = liar.accept();
            link.hello();
            link.say(&server::frame(0, 0, refusal.encode(Versions::OURS).as_bytes()));
            link.wait_until_gone();
            None
        });
        assert_eq!(kind(&said), "refused", "{}", said.text());
    });
}

/// What it says it had taken out of the client's table is a count, and may be any.
#[test]
fn handles_that_it_says_it_took() {
    within(LONGEST, || {
        let mut stage = Stage::new(20_000);
        let said = stage.treat("counts", |liar| {
            let mut link = liar.accept();
            // Had it said so before, it would not find what the hello names.
            link.hello();
            for count in [0, 1, 7, u32::MAX, u32::MAX] {
                link.say(&server::frame(1, count, &[]));
            }
            link.welcomes();
            link.say(&server::frame(1, u32::MAX, &[]));
            let taken = link.next();
            link.reply(&taken, &Body::Inline(Inline::default()));
            Some(link)
        });
        assert_eq!(kind(&said), "ok", "{}", said.text());
        stage.is_served("counts");
    });
}

/// Memory that a reply refers to: everything but what a server gives.
#[test]
fn impostors_as_reply_memory() {
    within(LONGEST, || {
        let mut stage = Stage::new(20_000);
        let len = 2 * page_size();
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 20).expect("its length");
        let more = [SECTION_MAP_WRITE, SECTION_MAP_EXECUTE, 0x2_0000].map(|right| READER | right);
        let plain = || section(None, PAGE_READWRITE, len);
        let impostors = [
            ("without the mark", plain(), READER & !MARK),
            ("that can be written", plain(), more[0]),
            ("that can be run", plain(), more[1]),
            ("whose rights can be read", plain(), more[2]),
            ("that cannot be asked", plain(), SECTION_MAP_READ),
            ("that cannot be mapped", plain(), SECTION_QUERY),
            ("smaller", section(None, PAGE_READWRITE, page_size()), READER),
            ("larger", section(None, PAGE_READWRITE, 3 * page_size()), READER),
            ("reserved", section(None, PAGE_READWRITE | SEC_RESERVE, len), READER),
            ("of a file", section(Some(&file), PAGE_READONLY, len), READER),
            ("an event", event(), 2),
        ];
        for (what, object, rights) in &impostors {
            let mut left = None;
            let said = stage.at_a_call(what, |link, cell| {
                let number = link.give(object, *rights);
                link.announce(number, len);
                link.refer(cell, Place { region: 0, offset: 0, len: 100 });
                left = Some((link.table(), number));
            });
            // Before the client makes others, one of which may get the number.
            let (table, number) = left.expect("given");
            if *rights == READER {
                until("it is closed", || (!table.has(number)).then_some(()));
            } else {
                // It may be anything of the client's, and is left alone.
                assert!(table.has(number), "{what}");
                table.close(number);
            }
            stage.is_blamed(what, &said, "region.memory");
        }
    });
}

/// Numbers of handles that the client has for itself, or has not.
#[test]
fn handles_of_the_clients_own() {
    within(LONGEST, || {
        let mut stage = Stage::new(20_000);
        for (what, number, field) in [
            ("nothing", 0, "region.descriptors"),
            ("no handle", 0x7fff_fff0, "region.memory"),
            ("its process", u32::MAX, "region.memory"),
            ("its thread", u32::MAX - 1, "region.memory"),
        ] {
            let said = stage.at_a_call(what, |link, cell| {
                link.announce(number, page_size());
                link.refer(cell, Place { region: 0, offset: 0, len: 100 });
            });
            stage.is_blamed(what, &said, field);
        }
        // One that it has named itself, and has still.
        let said = stage.at_a_call("its event", |link, cell| {
            let (_, event) = link.named();
            assert!(link.table().has(event));
            link.announce(event, page_size());
            link.refer(cell, Place { region: 0, offset: 0, len: 100 });
        });
        stage.is_blamed("its event", &said, "region.memory");
    });
}

#[test]
fn nonsense_in_the_cells() {
    const FAR: u64 = 1 << 22;
    within(LONGEST, || {
        let mut stage = Stage::new(20_000);
        let max = u64::MAX;
        let size = page_size() as u64;
        for (what, phase, turn, head, body, field) in [
            ("blank", 0, 0, 0, [0; 3], "cell.state"),
            ("the reply to the call before", 2, u32::MAX, 0, [0; 3], "cell.state"),
            ("the reply to the next call", 2, 1, 0, [0; 3], "cell.state"),
            ("49 bytes inline", 2, 0, 49 << 16, [0; 3], "head.length"),
            ("bit 24", 2, 0, 1 << 24, [0; 3], "head.zero"),
            ("an unknown region", 2, 0, FAR, [1, 0, 1], "place.region"),
            ("an offset past the end", 2, 0, FAR, [0, size + 1, 0], "place.offset"),
            ("a byte past the end", 2, 0, FAR, [0, size, 1], "place.len"),
            ("a sum that wraps", 2, 0, FAR, [0, max - 5, 10], "place.offset"),
            ("a length of 64 bits", 2, 0, FAR, [0, 0, max], "place.len"),
        ] {
            let said = stage.at_a_call(what, |link, cell| {
                let number = link.give(&section(None, PAGE_READWRITE, page_size()), READER);
                link.announce(number, page_size());
                link.write(cell, phase, turn, head, body);
            });
            stage.is_blamed(what, &said, field);
        }
    });
}

#[test]
fn it_never_answers() {
    within(LONGEST, || {
        let mut stage = Stage::new(300);
        for round in 0..3 {
            let said = stage.treat("no answer to the hello", |liar| {
                let mut link = liar.accept();
                link.hello();
                link.wait_until_gone();
                None
            });
            assert_eq!(kind(&said), "deadline", "{round}: {}", said.text());
            let said = stage.treat("no answer to a call", |liar| Some(liar.welcome()));
            assert_eq!(kind(&said), "deadline", "{round}: {}", said.text());
        }
    });
}

/// Anything anywhere in the control region, with bells, while the client calls.
#[test]
fn it_scribbles_over_the_control_region() {
    within(LONGEST, || {
        let mut rng = Rng::printed("it_scribbles_over_the_control_region");
        let mut stage = Stage::new(300);
        for _ in 0..40 {
            let said = stage.treat("scribbles", |liar| {
                let mut link = liar.welcome();
                link.next();
                link.scribble(&mut rng);
                Some(link)
            });
            let kinds = ["ok", "violation", "deadline", "handler", "not-started", "may-have-run"];
            assert!(kinds.contains(&kind(&said).as_str()), "{}", said.text());
        }
    });
}

/// Announcements without end keep no call from its deadline, and leave nothing once the server is gone.
#[test]
fn a_flood_of_announcements() {
    within(LONGEST, || {
        let mut stage = Stage::new(1_000);
        let before = stage.client.usage();
        for _ in 0..3 {
            let said = stage.treat("a flood", |liar| {
                let mut link = liar.welcome();
                link.next();
                let memory = section(None, PAGE_READWRITE, page_size());
                let mut id = 0;
                while !link.is_gone() && id < 400 {
                    let number = link.give(&memory, READER);
                    link.announce_as(id, number, page_size());
                    let retire = Message::Retire { id }.encode();
                    link.say(&server::frame(0, 0, retire.as_bytes()));
                    id += 1;
                }
                Some(link)
            });
            let kinds = ["deadline", "violation", "not-started", "may-have-run"];
            assert!(kinds.contains(&kind(&said).as_str()), "{}", said.text());
        }
        until("the client is as it was", || {
            let usage = stage.client.usage();
            if !usage.is_back_to(&before) {
                eprintln!("{usage:?} against {before:?}");
            }
            usage.is_back_to(&before).then_some(())
        });
    });
}
