//! One exchange of a client: what is done in which order, and on which outcome of a wait. Knows neither the system nor
//! how bytes are kept.
//!
//! # Late answers
//!
//! A server cannot be told that a client gave up, and an answer does not say whose it is. An exchange that ran out of
//! time may therefore leave three things behind, and each is dealt with where it can be:
//!
//! - *Exec, still set:* no server took the request. It is taken back, by a wait of no length: either this client gets
//!   the signal or a server does, never both. The call certainly did not run, and nothing comes late.
//! - *Done, set:* the late answer is there. It is drained just before Exec is set.
//! - *Nothing, as the server is still at it:* an answer is **owed**. It would be written over the next request, and its
//!   Done would be taken for the next request's. So this process's next exchange in that memory, or with that Done,
//!   waits for it first (`settle`), with Free, so that no other client is met by it. If it does not come the exchange
//!   ends with [`End::Unsettled`], and the answer counts as owed no more: its server may be dead.
//!
//! A server of this crate holds late answers back itself, as far as it can tell, and then none comes: with such a one
//! the exchange goes on after the wait.
//!
//! What else may be left behind is less certain, so it is waited for in the same way but nothing fails: Free was
//! abandoned; Exec was found set; a server ended during an exchange, and its successor may have taken the request; the
//! caller's check panicked.

use std::time::Duration;

/// How Free was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Free {
    Taken,
    /// Its owner died: it is this thread's now all the same.
    Abandoned,
    TimedOut,
}

/// How a wait for Done ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    Done,
    TimedOut,
    /// The server is known to have ended, and Done was not set.
    Ended,
}

/// What an exchange acts on. All calls but `take_free` need Free.
pub(crate) trait Table {
    type Error;

    fn take_free(&mut self, limit: Duration) -> Result<Free, Self::Error>;
    fn release_free(&mut self);
    /// Looks whether a server is there that can be seen to live, and attaches anew where the one before has ended.
    /// Tells whether one was met for the first time: it has drained both events since anything was left.
    ///
    /// With Free, since a look takes the mutex of a server that has ended for a moment: to another client that looked
    /// just then it would be owned, as by a server, whose end would then be told in the midst of an exchange.
    fn meet(&mut self) -> Result<bool, Self::Error>;
    /// Takes Exec back, if it is set.
    fn withdraw(&mut self) -> Result<bool, Self::Error>;
    /// Waits for Done, and takes it.
    fn await_done(&mut self, limit: Duration) -> Result<Awaited, Self::Error>;
    fn write_request(&mut self);
    /// Whether the memory still holds the request.
    fn holds_request(&mut self) -> bool;
    fn set_exec(&mut self) -> Result<(), Self::Error>;
    /// Copies the answer out, and tells whether it belongs to the request, as far as the caller knows.
    fn read_answer(&mut self) -> bool;
    /// Whether the server that an answer is owed by is known to hold back answers that are late.
    fn holds_back(&self) -> bool;
    /// Time since some instant.
    fn now(&self) -> Duration;
}

/// Limits of one exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) busy: Duration,
    pub(crate) settle: Duration,
    pub(crate) answer: Duration,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Answered,
    Busy,
    Unsettled,
    NoAnswer { taken: bool, ended: bool, foreign: u32 },
}

/// What a client remembers from exchange to exchange, and counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// A server has a request of this client, and has not answered.
    pub(crate) owed: bool,
    /// A server that had a request of this client has ended; another may have it.
    pub(crate) suspect: bool,
    /// Times that Free was abandoned by its owner.
    pub(crate) abandoned: u64,
    /// Answers that came too late and were not taken for another's.
    pub(crate) late: u64,
    /// Requests that were taken back before a server took them, this client's and others'.
    pub(crate) withdrawn: u64,
}

/// Releases Free on every way out, panics included.
struct Owned<'a, T: Table>(&'a mut T);

impl<T: Table> Drop for Owned<'_, T> {
    fn drop(&mut self) {
        self.0.release_free();
    }
}

/// How often a request is written anew where a late answer came over it.
const WRITES_MAX: u32 = 4;

/// Makes one exchange. Free is released when it returns, however it does.
pub(crate) fn exchange<T: Table>(
    table: &mut T,
    memory: &mut Memory,
    limits: Limits,
) -> Result<End, T::Error> {
    let free = table.take_free(limits.busy)?;
    if free == Free::TimedOut {
        return Ok(End::Busy);
    }
    let owned = Owned(table);
    let abandoned = free == Free::Abandoned;
    memory.abandoned += u64::from(abandoned);
    memory.suspect |= abandoned;
    if owned.0.meet()? {
        memory.suspect = abandoned;
    }
    let settle_until = owned.0.now().saturating_add(limits.settle);
    if let Some(end) = settle(owned.0, memory, settle_until)? {
        return Ok(end);
    }
    ask(owned.0, memory, settle_until, limits.answer)
}

/// Waits for what earlier exchanges may have left behind. Some is the end of this one.
fn settle<T: Table>(
    table: &mut T,
    memory: &mut Memory,
    until: Duration,
) -> Result<Option<End>, T::Error> {
    let mut suspect = std::mem::take(&mut memory.suspect);
    if table.withdraw()? {
        // Of a client that gave up or died. The server did not come for it: it is dead, or at the request before.
        memory.withdrawn += 1;
        suspect = true;
    }
    if !memory.owed && !suspect {
        return Ok(None);
    }
    let owed = std::mem::take(&mut memory.owed);
    match table.await_done(left(table, until))? {
        Awaited::Done => memory.late += 1,
        Awaited::TimedOut if owed && !table.holds_back() => return Ok(Some(End::Unsettled)),
        Awaited::TimedOut => {}
        Awaited::Ended => {
            return Ok(Some(End::NoAnswer { taken: false, ended: true, foreign: 0 }));
        }
    }
    Ok(None)
}

/// Puts the request into the memory and waits for its answer.
fn ask<T: Table>(
    table: &mut T,
    memory: &mut Memory,
    settle_until: Duration,
    limit: Duration,
) -> Result<End, T::Error> {
    let mut foreign = 0;
    let mut until = None;
    'send: for _ in 0..WRITES_MAX {
        table.write_request();
        memory.late += u64::from(table.await_done(Duration::ZERO)? == Awaited::Done);
        if !table.holds_request() {
            // Somebody's late answer is being written this very moment; its Done follows.
            let limit = left(table, settle_until);
            memory.late += u64::from(table.await_done(limit)? == Awaited::Done);
            continue;
        }
        table.set_exec()?;
        let until = *until.get_or_insert(table.now().saturating_add(limit));
        loop {
            let ended = match table.await_done(left(table, until))? {
                Awaited::Done if is_answered(table, memory) => return Ok(End::Answered),
                Awaited::Done => {
                    foreign += 1;
                    memory.late += 1;
                    if table.withdraw()? {
                        // Not even begun: nothing but the answer of another was in the way.
                        memory.withdrawn += 1;
                        continue 'send;
                    }
                    // However often Done is set, and by whomever.
                    if !left(table, until).is_zero() {
                        continue;
                    }
                    false
                }
                Awaited::TimedOut => false,
                Awaited::Ended => true,
            };
            if table.withdraw()? {
                memory.withdrawn += 1;
                return Ok(End::NoAnswer { taken: false, ended, foreign });
            }
            // The last look: a server that answered in this very moment owes nothing.
            if table.await_done(Duration::ZERO)? == Awaited::Done {
                if is_answered(table, memory) {
                    return Ok(End::Answered);
                }
                foreign += 1;
                memory.late += 1;
            }
            (memory.owed, memory.suspect) = (!ended, ended);
            return Ok(End::NoAnswer { taken: true, ended, foreign });
        }
    }
    if foreign > 0 {
        return Ok(End::NoAnswer { taken: false, ended: false, foreign });
    }
    Ok(End::Unsettled)
}

/// Takes what is in the memory, if it belongs to the request. Where the caller's check panics nobody knows whose it was: a
/// server may be at the request still.
fn is_answered<T: Table>(table: &mut T, memory: &mut Memory) -> bool {
    memory.suspect = true;
    let is_mine = table.read_answer();
    memory.suspect = false;
    is_mine
}

fn left<T: Table>(table: &T, until: Duration) -> Duration {
    until.saturating_sub(table.now())
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
