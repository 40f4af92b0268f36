//! Lies in the control region.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use callgate_proto::layout::{CELLS_OFFSET, DETOUR_OFFSET};

use super::{Expect, Lie};
use crate::data::method;
use crate::hostile::{control_size, state};
use crate::liars::host::REQUEST_BYTES;
use crate::liars::speaker::{CELLS, Forged, REGION, Speaker};
use crate::memory::punch;
use crate::rng::Rng;

const FAR: u64 = 1 << 22;

/// All of them.
pub const LIES: &[Lie] = &[
    Lie("turn ahead", Expect::Noticed(&["cell.state"]), |s| {
        let ahead = 1 + s.rng.below(1 << 25) as u32;
        s.forge(false, |_, call| call.turn += ahead);
    }),
    Lie("turn behind", Expect::Noticed(&["cell.state"]), |s| {
        s.call_as(false);
        let behind = 1 + s.rng.below(1 << 25) as u32;
        s.forge(false, |_, call| call.turn = call.turn.wrapping_sub(behind));
    }),
    Lie("turn replayed", Expect::Harmless, replay),
    Lie("other phases", Expect::Harmless, other_phases),
    Lie("next beyond", Expect::Noticed(&["head.next"]), |s| {
        let alone = s.rng.chance(50);
        s.forge(alone, |rng, call| {
            let beyond = [CELLS as u16, CELLS as u16 + 1, 1_023, 1_024, u16::MAX];
            call.next = *rng.one_of(&beyond);
        });
    }),
    Lie("next unanswered", Expect::Noticed(&["head.next_(unanswered)"]), |s| {
        let held = s.hold();
        s.forge(false, |_, call| call.next = held.cell);
    }),
    Lie("over an unanswered call", Expect::Noticed(&["cell.state_(unanswered)"]), |s| {
        s.call_as(false);
        let hold = u64::from(method::HOLD) << 32;
        let ticket = s.forge(true, |_, call| call.head = hold);
        let turn = state::number(ticket.turn);
        s.wait_taken(turn);
        s.write(ticket.cell, &request(turn + 1, ticket.cell, hold));
    }),
    Lie("length beyond", Expect::Noticed(&["head.length"]), |s| {
        s.forge(true, |rng, call| call.head |= (49 + rng.below(15) as u64) << 16);
    }),
    Lie("far with a length", Expect::Noticed(&["head.length"]), |s| {
        s.forge(true, |rng, call| call.head |= FAR | (1 + rng.below(63) as u64) << 16);
    }),
    Lie("zero bits", Expect::Noticed(&["head.zero"]), |s| {
        s.forge(true, |rng, call| call.head |= (1 + rng.below(31) as u64) << 23);
    }),
    Lie("all bits", Expect::Noticed(&["head.zero"]), |s| {
        s.forge(true, |_, call| (call.head, call.body) = (u64::MAX, [u64::MAX; 3]));
    }),
    Lie("unknown region", Expect::Noticed(&["place.region"]), |s| {
        place(s, |rng| [1 + rng.next() % u64::from(u32::MAX), 0, 1]);
    }),
    Lie("wide region", Expect::Noticed(&["place.region"]), |s| {
        place(s, |rng| [1 << (32 + rng.below(32)), 0, 1]);
    }),
    Lie("offset beyond", Expect::Noticed(&["place.offset"]), |s| {
        place(s, |rng| [0, *rng.one_of(&[REGION as u64 + 1, 1 << 32, 1 << 63, u64::MAX]), 1]);
    }),
    Lie("length past the end", Expect::Noticed(&["place.len"]), |s| {
        place(s, |rng| {
            let len = 1 + rng.below(5_000) as u64;
            [0, REGION as u64 - len + 1, len]
        });
    }),
    Lie("longer than allowed", Expect::Noticed(&["place.len"]), |s| {
        place(s, |rng| [0, 0, *rng.one_of(&[REQUEST_BYTES + 1, 1 << 32, 1 << 63, u64::MAX])]);
    }),
    Lie("a sum that wraps", Expect::Noticed(&["place.offset", "place.len"]), |s| {
        place(s, |rng| {
            let len = 2 + rng.below(1 << 20) as u64;
            [0, u64::MAX - len / 2, len]
        });
    }),
    Lie("detour beyond", Expect::Noticed(&["detour.cell"]), |s| {
        let beyond = *s.rng.one_of(&[CELLS as u16, 1_024, u16::MAX]);
        detour(s, beyond);
    }),
    Lie("detour to itself", Expect::Noticed(&["detour.cell"]), |s| detour(s, 0)),
    Lie("detour to an unanswered call", Expect::Noticed(&["detour.cell_(unanswered)"]), |s| {
        let held = s.hold();
        let ticket = s.raw.submitter.draw(false).expect("a free cell");
        let turn = state::number(ticket.turn);
        s.write(ticket.cell, &request(turn, ticket.cell, 0));
        s.wait_taken(turn);
        lead(s, turn + 1, held.cell);
    }),
    Lie("detours of other calls", Expect::Harmless, |s| {
        for _ in 0..50 {
            s.call_as(true);
            let number = s.rng.next() >> s.rng.below(16) | 1 << 40;
            let word = number << 16 | s.rng.next() & 0xffff;
            lead64(s, word);
        }
    }),
    Lie("hints and deadlines", Expect::Harmless, |s| {
        for _ in 0..20 {
            let ticket = s.forge(true, |rng, call| {
                call.word = rng.next() as u32;
                call.head = (rng.next() & 0xff) << 56 | (rng.next() & 0xf) << 28;
            });
            if s.reply(ticket).is_some() {
                s.raw.words.cells()[usize::from(ticket.cell)].release();
                s.raw.put_back(ticket);
            }
        }
    }),
    Lie("cancelled at once", Expect::Harmless, |s| {
        let ticket = s.forge(true, |_, call| call.flags = 2);
        let reply = s.reply(ticket).expect("an answer");
        assert!(reply.head.failure, "a call given up before it began has run");
        s.raw.put_back(ticket);
    }),
    Lie("the server's line", Expect::Harmless, |s| {
        for _ in 0..30 {
            for at in 0..16 {
                s.raw.words.words32()[at].store(s.rng.next() as u32, Ordering::Relaxed);
            }
            s.call();
        }
    }),
    Lie("released again and again", Expect::Harmless, |s| {
        for _ in 0..30 {
            s.call();
            for cell in s.raw.words.cells() {
                cell.release();
            }
        }
    }),
    Lie("flags that flicker", Expect::Harmless, flicker),
    Lie("a word that never stands still", Expect::Any, hammer),
    Lie("scribbles: anything anywhere", Expect::Any, |s| scribble(s, 0)),
    Lie("scribbles: states", Expect::Any, |s| scribble(s, 1)),
    Lie("scribbles: heads", Expect::Any, |s| scribble(s, 2)),
    Lie("scribbles: places", Expect::Any, |s| scribble(s, 3)),
    Lie("scribbles: flipped bits", Expect::Any, |s| scribble(s, 4)),
    Lie("scribbles: detours", Expect::Any, |s| scribble(s, 5)),
    Lie("pages taken away", Expect::Any, |s| {
        for _ in 0..10 {
            publish(s);
            punch(&s.raw.fd, 0, control_size(CELLS) as u64);
        }
    }),
    Lie("calls held, then gone", Expect::Quiet, |s| {
        for _ in 0..s.rng.below(20) {
            s.hold();
        }
    }),
];

fn request(turn: u32, next: u16, head: u64) -> Forged {
    Forged { turn, phase: 1, flags: 0, word: 0, next, head, body: [0; 3] }
}

fn place(s: &mut Speaker, body: impl FnOnce(&mut Rng) -> [u64; 3]) {
    let alone = s.rng.chance(50);
    s.forge(alone, |rng, call| {
        call.head |= FAR;
        call.body = body(rng);
    });
}

/// The last call's request once more, where the server waits for the next: it must not run twice.
fn replay(s: &mut Speaker) {
    s.call_as(true);
    let ticket = s.forge(true, |_, _| {});
    let turn = state::number(ticket.turn);
    let _ = s.reply(ticket);
    for _ in 0..20 {
        let word = state::word(turn, 1);
        s.raw.words.state(ticket.cell).store(word, Ordering::SeqCst);
        let _ = s.raw.socket.ring();
        std::thread::yield_now();
        let now = s.raw.words.state(ticket.cell).load(Ordering::SeqCst);
        assert_eq!(now & !0xf, word, "a call that was answered ran again");
    }
    s.raw.put_back(ticket);
}

fn other_phases(s: &mut Speaker) {
    let ticket = s.raw.submitter.draw(false).expect("a free cell");
    for _ in 0..100 {
        let phase = *s.rng.one_of(&[0, 2, 3]);
        let word = state::word(s.rng.next() as u32 & 0x03ff_ffff, phase) | s.rng.below(16) as u32;
        s.raw.words.state(ticket.cell).store(word, Ordering::SeqCst);
        let _ = s.raw.socket.ring();
    }
    s.write(ticket.cell, &request(state::number(ticket.turn), ticket.next, 0));
    assert!(s.reply(ticket).is_some(), "the true call was not answered");
    s.raw.put_back(ticket);
}

/// Writes a detour from the cell of a lone call.
fn detour(s: &mut Speaker, to: u16) {
    s.call_as(false);
    let ticket = s.forge(true, |_, _| {});
    let _ = s.reply(ticket);
    let to = if to == 0 { ticket.cell } else { to };
    lead(s, state::number(ticket.turn) + 1, to);
}

fn lead(s: &Speaker, number: u32, cell: u16) {
    lead64(s, u64::from(number) << 16 | u64::from(cell));
}

fn lead64(s: &Speaker, word: u64) {
    s.raw.words.words64()[DETOUR_OFFSET / 8].store(word, Ordering::SeqCst);
    let _ = s.raw.socket.ring();
}

/// Runs `write` on state words in another thread, while calls are made here.
fn beside(
    s: &mut Speaker,
    write: impl Fn(&mut Rng, &AtomicU32) + Sync,
    calls: impl FnOnce(&mut Speaker),
) {
    let stop = AtomicBool::new(false);
    let mut rng = s.rng.fork();
    let control = s.raw.words.words32().as_ptr() as usize;
    std::thread::scope(|scope| {
        let (stop, write) = (&stop, &write);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let cell = [0, 2, 4, 1][rng.below(4)];
                // SAFETY: a word of the control region, which the speaker keeps mapped beyond this scope; it is an atomic
                // for everybody.
                let word =
                    unsafe { &*(control as *const AtomicU32).add(CELLS_OFFSET / 4 + 16 * cell) };
                write(&mut rng, word);
            }
        });
        calls(s);
        stop.store(true, Ordering::Relaxed);
    });
}

fn flicker(s: &mut Speaker) {
    beside(
        s,
        |rng, word| {
            word.fetch_xor(rng.next() as u32 & 0xf, Ordering::Relaxed);
        },
        |s| {
            for _ in 0..60 {
                let alone = s.rng.chance(50);
                let ticket = s.forge(alone, |_, _| {});
                let word = s.raw.words.state(ticket.cell);
                let wanted = state::word(state::number(ticket.turn), 2);
                crate::until("an answer", || {
                    (word.load(Ordering::Acquire) & !0xf == wanted).then_some(())
                });
                s.raw.put_back(ticket);
            }
        },
    );
}

fn hammer(s: &mut Speaker) {
    beside(
        s,
        |rng, word| {
            let old = word.load(Ordering::Relaxed);
            word.store(old ^ (rng.next() as u32 & 0x3f), Ordering::Relaxed);
        },
        |s| {
            for _ in 0..200 {
                publish(s);
            }
        },
    );
}

/// Publishes an honest call, and does not wait for its end.
fn publish(s: &mut Speaker) {
    let alone = s.rng.chance(50);
    if let Some(ticket) = s.raw.submitter.draw(alone) {
        let bytes = s.rng.bytes(20);
        let inline = callgate_proto::body::Inline::new(&bytes).expect("short");
        s.raw.publish_as(ticket, method::ECHO, callgate_proto::body::Body::Inline(inline));
        s.raw.put_back(ticket);
    }
}

/// Values that are worth a try.
const VALUES: [u64; 12] = [0, 1, 47, 48, 49, 63, 65, 65_535, 65_536, 1 << 32, 1 << 63, u64::MAX];

/// Writes random and chosen values into everything, while honest calls go on.
pub fn scribble(s: &mut Speaker, style: usize) {
    let began = Instant::now();
    for _ in 0..3_000 {
        if s.raw.socket.is_closed() || began.elapsed() > Duration::from_millis(100) {
            return;
        }
        if s.rng.chance(20) {
            publish(s);
        }
        write_something(s, style);
        if s.rng.chance(10) {
            let _ = s.raw.socket.ring();
        }
    }
}

/// One value somewhere.
pub fn write_something(s: &mut Speaker, style: usize) {
    let (rng, words) = (&mut s.rng, &s.raw.words);
    let cell = if rng.chance(80) { 2 * rng.below(4) as u16 } else { rng.below(65) as u16 };
    match style {
        0 => {
            let all = words.words64();
            all[rng.below(all.len())].store(rng.next(), Ordering::Relaxed);
        }
        1 => {
            let (turn, phase) = (rng.below(64) as u32, rng.below(4) as u32);
            let word = state::word(turn, phase) | rng.below(16) as u32;
            words.state(cell).store(word, Ordering::Relaxed);
        }
        2 => {
            let (next, far) = (rng.below(70) as u64, u64::from(rng.chance(50)) << 22);
            let head = next | (rng.below(64) as u64) << 16 | far;
            words.head(cell).store(head, Ordering::Relaxed);
        }
        3 => words.body(cell, rng.below(6)).store(*rng.one_of(&VALUES), Ordering::Relaxed),
        4 => {
            let word = &words.words64()[CELLS_OFFSET / 8 + rng.below(64)];
            word.fetch_xor(1 << rng.below(64), Ordering::Relaxed);
        }
        _ => {
            let word = (rng.below(200) as u64) << 16 | rng.below(70) as u64;
            words.words64()[DETOUR_OFFSET / 8].store(word, Ordering::Relaxed);
        }
    }
}
