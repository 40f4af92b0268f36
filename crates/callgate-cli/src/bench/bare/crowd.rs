//! Many clients of one server, all asleep on futexes when they have nothing to do.
//!
//! Each client has a cache line of its own: a futex word and a message. The server looks through all
//! lines and answers what is there; after a look that found nothing it says that it sleeps, looks
//! once more, and sleeps on the bell. A client rings only a server that sleeps, and sleeps on its own
//! word. The server wakes only a client that sleeps.
//!
//! There are two servers, of which now one and now the other is better: one gives each answer as soon
//! as it has it; the other gives all answers of a look together at its end, so that it looks on before
//! the clients take its CPU.

use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use rustix::thread::futex;

use super::{Actor, Limit, verify};
use crate::bench::bytes::{answer, words};
use crate::bench::process::{FUTEX_SHARED, Partner, Shared};
use crate::bench::sample::Trip;

type Message = [u64; 4];

/// The client has the line: it holds nothing, or an answer.
const MINE: u32 = 0;
/// A request is in the line.
const ASKED: u32 = 1;
/// A request is in the line, and the client sleeps, or is about to.
const ASLEEP: u32 = 2;

/// Where the lines begin, one behind the other; the bell is at 0.
const LINES: usize = 4096;
const LINE: usize = 64;
/// Where the message lies in a line, behind the word.
const MESSAGE: usize = 8;

/// When a server gives its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Giving {
    /// Each as soon as it is there.
    AtOnce,
    /// All of a look at its end.
    Together,
}

impl Giving {
    /// Both ways.
    pub const ALL: [Giving; 2] = [Giving::AtOnce, Giving::Together];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Giving::AtOnce => "futex",
            Giving::Together => "futex, answers together",
        }
    }
}

/// Makes the limit with that many clients.
///
/// # Errors
/// When the system has no memory or no processes.
pub fn limit(clients: usize, giving: Giving) -> io::Result<Limit> {
    let crowd = Rc::new(Crowd { shared: Shared::new(LINES + clients * LINE)?, clients });
    let serving = crowd.clone();
    let server = Partner::fork(&[], move || serving.serve(giving))?;
    let trip =
        |line| CrowdTrip { crowd: crowd.clone(), line, number: 0, message: [0; 4], back: [0; 4] };
    let clients =
        (0..clients).map(|line| Actor::repeating(trip(line))).collect::<Result<_, _>>()?;
    Ok(Limit { clients, server })
}

struct Crowd {
    shared: Shared,
    clients: usize,
}

impl Crowd {
    /// 1 while the server sleeps, or is about to.
    fn bell(&self) -> &AtomicU32 {
        self.shared.word(0)
    }

    fn state(&self, line: usize) -> &AtomicU32 {
        self.shared.word(LINES + line * LINE)
    }

    fn word(&self, line: usize, index: usize) -> &AtomicU64 {
        assert!(line < self.clients && index < 4);
        let offset = LINES + line * LINE + MESSAGE + 8 * index;
        // SAFETY: inside the mapping by the assertion, and aligned; the mapping lives as long as
        // `self`, and all processes reach these words as atomics only.
        unsafe { AtomicU64::from_ptr(self.shared.start().add(offset).cast()) }
    }

    fn put(&self, line: usize, message: Message) {
        for (index, word) in message.into_iter().enumerate() {
            self.word(line, index).store(word, Ordering::Relaxed);
        }
    }

    fn get(&self, line: usize) -> Message {
        std::array::from_fn(|index| self.word(line, index).load(Ordering::Relaxed))
    }

    fn serve(&self, giving: Giving) {
        let mut answered = Vec::with_capacity(self.clients);
        loop {
            if self.answer_all(giving, &mut answered) {
                continue;
            }
            self.bell().store(1, Ordering::Relaxed);
            // Either we see the request of a client, or it sees that we sleep.
            fence(Ordering::SeqCst);
            if self.answer_all(giving, &mut answered) {
                self.bell().store(0, Ordering::Relaxed);
                continue;
            }
            while self.bell().load(Ordering::Acquire) == 1 {
                let _ = futex::wait(self.bell(), FUTEX_SHARED, 1, None);
            }
        }
    }

    /// Answers what is there; tells whether anything was. `answered` is empty between calls.
    fn answer_all(&self, giving: Giving, answered: &mut Vec<usize>) -> bool {
        let mut any = false;
        for line in 0..self.clients {
            if self.state(line).load(Ordering::Acquire) == MINE {
                continue;
            }
            any = true;
            self.put(line, answer(self.get(line)));
            match giving {
                Giving::AtOnce => self.give(line),
                Giving::Together => answered.push(line),
            }
        }
        for line in answered.drain(..) {
            self.give(line);
        }
        any
    }

    fn give(&self, line: usize) {
        let state = self.state(line);
        if state.swap(MINE, Ordering::AcqRel) == ASLEEP {
            let _ = futex::wake(state, FUTEX_SHARED, 1);
        }
    }
}

struct CrowdTrip {
    crowd: Rc<Crowd>,
    line: usize,
    number: u64,
    message: Message,
    back: Message,
}

impl Trip for CrowdTrip {
    fn prepare(&mut self) {
        self.number += 1;
        self.message = words(self.number);
    }

    fn go(&mut self) -> io::Result<()> {
        let crowd = &self.crowd;
        let state = crowd.state(self.line);
        crowd.put(self.line, self.message);
        state.store(ASKED, Ordering::Release);
        // The other half of the server's fence.
        fence(Ordering::SeqCst);
        let bell = crowd.bell();
        if bell.load(Ordering::Relaxed) == 1 && bell.swap(0, Ordering::AcqRel) == 1 {
            futex::wake(bell, FUTEX_SHARED, 1)?;
        }
        let asleep =
            state.compare_exchange(ASKED, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok();
        while asleep && state.load(Ordering::Acquire) == ASLEEP {
            let _ = futex::wait(state, FUTEX_SHARED, ASLEEP, None);
        }
        self.back = crowd.get(self.line);
        Ok(())
    }

    fn check(&mut self) -> io::Result<()> {
        verify(self.back == answer(self.message))
    }
}
