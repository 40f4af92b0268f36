//! What the threads of a client do, one step of shared memory or of the kernel at a time.

mod memory;

use callgate_proto::body::{Body, Content, Place, RequestHead, Think};
use callgate_proto::cell::{Deadline, Ring, TakenReply, Turn};
use callgate_proto::chain::{Era, Lone, may_have_run};

use crate::config::{Config, Mutant};
use crate::state::{At, Conn, Drawn, End, Message, Outcome, Phase, Rings, Sent, State};

/// Bits of the state word that the worker sets.
pub(crate) const ARMED_AND_BELL: u32 = 0b1100;

/// Codes of failures.
pub(crate) const CANCELLED: u32 = 1_001;
pub(crate) const NO_MEMORY: u32 = 1_002;

/// Length of a far payload.
pub(crate) const FAR: u64 = 64;

fn place_in(region: u8) -> Place {
    Place { region: region.into(), offset: 0, len: FAR }
}

impl Config {
    pub(crate) fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

impl State {
    fn conn(&mut self, conn: u8) -> &mut Conn {
        &mut self.conns[usize::from(conn)]
    }

    /// A step of a caller; `choice` where there are several.
    pub(crate) fn step_caller(&mut self, config: &Config, who: usize, choice: u8) -> Option<()> {
        if self.client_dead {
            return None;
        }
        let at = self.callers[who].at;
        // Most states have one way on.
        let several = matches!(
            at,
            At::Idle | At::Room(..) | At::Wait(..) | At::Asleep(..) | At::Finish(..) | At::Read(..)
        );
        if choice > 0 && !several {
            return None;
        }
        let next = match at {
            At::Idle => return self.begin(config, who, choice),
            At::Place(conn) => return self.place_request(config, who, (conn, None), choice),
            At::Room(conn, waited) => {
                return self.place_request(config, who, (conn, Some(waited)), choice);
            }
            At::Draw(conn, block) => return self.draw(config, who, conn, block),
            At::Publish(conn, drawn) => self.publish(config, conn, drawn),
            At::Lead(conn, drawn, ring) => {
                let (_, word) = drawn.detour?;
                self.conn(conn).detour = word;
                At::Disarm(conn, drawn, ring)
            }
            At::Disarm(conn, drawn, mut ring) => {
                let (waits_at, _) = drawn.detour?;
                let duty = self.conn(conn).on_cell(waits_at, callgate_proto::layout::Cell::disarm);
                if let Some(duty) = duty
                    && !config.has(Mutant::DetourForgetsToRing)
                {
                    ring = duty.of(waits_at).into();
                }
                At::Unlock(conn, drawn.sent, ring)
            }
            At::Unlock(conn, sent, ring) => self.unlock(config, conn, sent, ring),
            At::Begin(conn, block) => {
                match self.conn(conn).on_lease(callgate_proto::chain::Lease::begin) {
                    Some(lone) => At::Lone(conn, lone.word(), Some(block)),
                    None => At::Draw(conn, Some(block)),
                }
            }
            At::Lone(conn, word, spare) => {
                let (call, _) = self.call(config, who)?;
                let lone = Lone::from_word(word);
                let cell = lone.cell();
                let head = RequestHead { method: call.into(), next: cell, think: Think::UNKNOWN };
                let short = [call];
                let content = match spare {
                    Some(spare) => Content::Far(place_in(spare)),
                    None => Content::Short(&short),
                };
                let bell = self.conn(conn).on_cell(cell, |real| {
                    real.publish_request(lone.turn(), head, Deadline::NONE, content)
                });
                let bell = bell.filter(|_| !config.has(Mutant::NoRing));
                let ring = bell.map_or(Rings::No, |bell| bell.of(cell).into());
                let turn = lone.turn().value();
                let on_spare = spare.is_some();
                let sent = Sent { call, turn, cell, next: cell, block: None, on_spare };
                self.published(config, conn, sent, ring)
            }
            At::Ring(conn, sent, ring) => {
                match ring {
                    Rings::No => {}
                    Rings::Word(cell) => self.wake_word(conn, cell),
                    Rings::Socket if self.conn(conn).shut => self.end(conn, End::Closed),
                    // A poller tells of what lies there, however much.
                    Rings::Socket if !self.conn(conn).to_server.is_empty() => {}
                    Rings::Socket => self.conn(conn).to_server.push(Message::Bell),
                }
                At::Wait(conn, sent)
            }
            At::Wait(conn, sent) if choice == 0 => {
                let turn = Turn::from_value(sent.turn);
                match self.conn(conn).on_cell(sent.cell, |cell| cell.has_reply(turn)) {
                    Ok(true) => At::Read(conn, sent),
                    Ok(false) => {
                        if self.conn(conn).end.is_some() {
                            At::Gone(conn, sent)
                        } else {
                            At::Arming(conn, sent)
                        }
                    }
                    Err(_) => {
                        self.flaw("an honest server is called a liar: the state word");
                        return Some(());
                    }
                }
            }
            At::Wait(conn, sent) | At::Asleep(conn, sent) if choice == 1 => {
                if !self.call(config, who)?.1.impatient {
                    return None;
                }
                let turn = Turn::from_value(sent.turn);
                self.conn(conn).on_cell(sent.cell, |cell| cell.cancel(turn));
                At::GaveUp(conn, sent)
            }
            At::Wait(..) | At::Asleep(..) => return None,
            At::Arming(conn, sent) => {
                let turn = Turn::from_value(sent.turn);
                match self.conn(conn).on_cell(sent.cell, |cell| cell.arm_reply(turn)) {
                    Some(value) => At::Falling(conn, sent, value),
                    None => At::Wait(conn, sent),
                }
            }
            At::Falling(conn, sent, value) => {
                let same = self.conn(conn).cells[usize::from(sent.cell)].state == value;
                if same { At::Asleep(conn, sent) } else { At::Wait(conn, sent) }
            }
            At::Gone(conn, sent) => return self.look_once_more(config, who, conn, sent),
            At::GaveUp(conn, mut sent) => {
                if self.conn(conn).locked {
                    return None;
                }
                self.conn(conn).recall(config);
                if std::mem::take(&mut sent.on_spare) {
                    let it = self.conn(conn);
                    it.on_spare = None;
                    if !config.has(Mutant::SpareLeftAtCancel) {
                        sent.block = sent.block.or(it.spare.take());
                    }
                }
                if config.has(Mutant::CellFreedAtCancel) {
                    self.conn(conn).on_submitter(|submitter, _| submitter.put_back(sent.cell));
                } else {
                    self.conn(conn).given_up.push(sent);
                }
                if let Some(block) = sent.block
                    && config.has(Mutant::MemoryFreedAtCancel)
                {
                    self.conn(conn).mine[usize::from(block)].live = false;
                }
                self.collect_late_replies(conn);
                self.ended(config, who, conn, Outcome::GivenUp);
                return Some(());
            }
            At::Read(conn, sent) => return self.read(config, who, conn, sent, choice),
            At::Hold(conn, sent, _) => {
                // Dropped. What was read is checked in every state.
                if sent.next != sent.cell {
                    self.release(conn, sent.cell);
                }
                At::Finish(conn, sent, true, Outcome::Reply)
            }
            At::Finish(conn, sent, far, outcome) => {
                return self.finish(config, who, (conn, sent, far, outcome), choice);
            }
        };
        self.callers[who].at = next;
        Some(())
    }

    fn begin(&mut self, config: &Config, who: usize, choice: u8) -> Option<()> {
        let (_, kind) = self.call(config, who)?;
        let usable = self.current.filter(|conn| self.conns[usize::from(*conn)].end.is_none());
        let Some(conn) = usable else { return self.connect(config, who, choice) };
        self.callers[who].at = match choice {
            0 if kind.alone && kind.far_request => {
                let on_spare = &mut self.conn(conn).on_spare;
                if on_spare.is_none() {
                    *on_spare = Some(who as u8);
                }
                At::Place(conn)
            }
            0 if kind.alone && !kind.impatient => {
                let lone = self.conn(conn).on_lease(callgate_proto::chain::Lease::begin)?;
                At::Lone(conn, lone.word(), None)
            }
            1 if kind.far_request && !kind.alone => At::Place(conn),
            1 if !kind.far_request => At::Draw(conn, None),
            _ => return None,
        };
        Some(())
    }

    fn connect(&mut self, config: &Config, who: usize, choice: u8) -> Option<()> {
        if choice != 2 {
            return None;
        }
        if self.server.phase != Phase::Serving {
            self.ended(config, who, u8::MAX, Outcome::NotRunning);
            return Some(());
        }
        // A worker with two connections is not modelled: it hangs up the old one first.
        if self.served().is_some() {
            return None;
        }
        self.conns.push(Conn::new(config, self.server.life));
        self.current = Some(self.conns.len() as u8 - 1);
        Some(())
    }

    fn draw(&mut self, config: &Config, who: usize, conn: u8, block: Option<u8>) -> Option<()> {
        let (call, kind) = self.call(config, who)?;
        if self.conn(conn).locked {
            return None;
        }
        let recalls = !config.has(Mutant::LeaseNotRecalled);
        if recalls {
            self.conn(conn).recall(config);
        }
        let on_spare = self.conn(conn).on_spare == Some(who as u8);
        // Who has a far request and no right to the spare region is not alone.
        let alone = kind.alone && (block.is_none() || on_spare);
        let mut ticket = self.conn(conn).on_submitter(|submitter, _| submitter.draw(alone));
        if ticket.is_none() {
            self.collect_late_replies(conn);
            ticket = self.conn(conn).on_submitter(|submitter, _| submitter.draw(false));
        }
        let Some(ticket) = ticket else {
            if let Some(block) = block {
                let it = self.conn(conn);
                it.mine[usize::from(block)].live = false;
                if on_spare {
                    it.spare = None;
                }
            }
            let ended = self.conn(conn).end.is_some();
            let outcome = if ended { Outcome::NotStarted } else { Outcome::TooMany };
            self.ended(config, who, conn, outcome);
            return Some(());
        };
        let it = self.conn(conn);
        it.unreleased = None;
        it.locked = true;
        let (turn, cell, next) = (ticket.turn.value(), ticket.cell, ticket.next);
        let sent = Sent { call, turn, cell, next, block, on_spare };
        let drawn = Drawn { sent, detour: ticket.detour() };
        if let Some((_, word)) = drawn.detour
            && config.has(Mutant::DetourBeforeRequest)
        {
            it.detour = word;
        }
        self.callers[who].at = At::Publish(conn, drawn);
        Some(())
    }

    /// The first step of `chain::publish`.
    fn publish(&mut self, config: &Config, conn: u8, drawn: Drawn) -> At {
        let sent = drawn.sent;
        let content = [sent.call];
        let content = match sent.block {
            Some(block) => Content::Far(place_in(block)),
            None => Content::Short(&content),
        };
        let turn = Turn::from_value(sent.turn);
        let bell = self.conn(conn).on_cell(sent.cell, |cell| {
            cell.publish_request(turn, drawn.head(), Deadline::NONE, content)
        });
        let bell = bell.filter(|_| !config.has(Mutant::NoRing));
        let ring = bell.map_or(Ring::No, |bell| bell.of(sent.cell)).into();
        match drawn.detour {
            Some(_) => At::Lead(conn, drawn, ring),
            None => At::Unlock(conn, sent, ring),
        }
    }

    fn unlock(&mut self, config: &Config, conn: u8, mut sent: Sent, ring: Rings) -> At {
        let drawn = Drawn { sent, detour: None };
        let it = self.conn(conn);
        let block = sent.block;
        let is_lent = it.on_submitter(|submitter, lease| submitter.lend(lease, &drawn.ticket()));
        if sent.on_spare {
            // The region stays with the caller, or the connection keeps it.
            *(if is_lent { &mut sent.block } else { &mut it.spare }) = None;
        }
        if let Some(block) = block
            && config.has(Mutant::AnnouncedTooLate)
            && !std::mem::replace(&mut it.mine[usize::from(block)].told, true)
        {
            it.to_server.push(Message::Region(block));
        }
        self.collect_late_replies(conn);
        self.conn(conn).locked = false;
        self.published(config, conn, sent, ring)
    }

    fn published(&mut self, config: &Config, conn: u8, sent: Sent, ring: Rings) -> At {
        if sent.on_spare && config.has(Mutant::SpareLeftTooEarly) {
            self.conn(conn).on_spare = None;
        }
        if ring == Rings::No { At::Wait(conn, sent) } else { At::Ring(conn, sent, ring) }
    }

    fn look_once_more(&mut self, config: &Config, who: usize, conn: u8, sent: Sent) -> Option<()> {
        let turn = Turn::from_value(sent.turn);
        if self.conn(conn).on_cell(sent.cell, |cell| cell.has_reply(turn)) == Ok(true) {
            self.callers[who].at = At::Read(conn, sent);
            return Some(());
        }
        let outcome = self.end_error(config, conn, sent);
        self.ended(config, who, conn, outcome);
        Some(())
    }

    /// As `Connection::end_error`.
    fn end_error(&mut self, config: &Config, conn: u8, sent: Sent) -> Outcome {
        let it = self.conn(conn);
        if it.end == Some(End::System) && !config.has(Mutant::TakenBelievedTooEarly) {
            return Outcome::MayHaveRun;
        }
        let taken = Turn::from_value(it.taken);
        let next = it.clone().on_submitter(|submitter, lease| {
            submitter.recall(lease);
            submitter.number()
        });
        match may_have_run(Turn::from_value(sent.turn), Era::of(sent.turn.into()), next, taken) {
            true => Outcome::MayHaveRun,
            false => Outcome::NotStarted,
        }
    }

    fn read(
        &mut self,
        config: &Config,
        who: usize,
        conn: u8,
        sent: Sent,
        choice: u8,
    ) -> Option<()> {
        let reply = self.reply_of(conn, sent)?;
        self.leave_spare(who, conn);
        let Body::Far(place) = reply.body else {
            if choice > 0 {
                return None;
            }
            let outcome = match (reply.head.failure, reply.word) {
                (true, CANCELLED) => Outcome::Cancelled,
                (true, _) => Outcome::NoReplyMemory,
                (false, _) => Outcome::Reply,
            };
            self.callers[who].at = At::Finish(conn, sent, false, outcome);
            return Some(());
        };
        let region = place.region as u8;
        if self.conn(conn).maps & 1 << region == 0 {
            let lacks = choice == 1;
            if lacks && !self.may_lack_memory(config, conn) {
                return None;
            }
            self.receive(config, conn, lacks);
            if lacks {
                let outcome = self.end_error(config, conn, sent);
                self.ended(config, who, conn, outcome);
                return Some(());
            }
        } else if choice > 0 {
            return None;
        }
        if self.conn(conn).maps & 1 << region == 0 {
            // The watcher may have had no memory for it: then that is why the connection has ended.
            if self.conn(conn).end != Some(End::System) {
                self.flaw("an honest server is called a liar: the region");
            }
            let outcome = self.end_error(config, conn, sent);
            self.ended(config, who, conn, outcome);
            return Some(());
        }
        self.callers[who].at = At::Hold(conn, sent, region);
        Some(())
    }

    /// Reads the reply that is there, and checks that it is this call's.
    fn reply_of(&mut self, conn: u8, sent: Sent) -> Option<TakenReply> {
        let Ok(reply) = self.conn(conn).on_cell(sent.cell, |cell| cell.read_reply()) else {
            self.flaw("an honest server is called a liar: the reply");
            return None;
        };
        let call = u32::from(sent.call);
        let own = match reply.body {
            Body::Inline(inline) => inline.bytes() == [sent.call],
            Body::Far(_) => reply.word == call,
        };
        if !own {
            self.flaw("a reply belongs to another call");
        }
        Some(reply)
    }

    fn finish(
        &mut self,
        config: &Config,
        who: usize,
        (conn, sent, far, outcome): (u8, Sent, bool, Outcome),
        choice: u8,
    ) -> Option<()> {
        let may_be_next = sent.next == sent.cell;
        if choice == 0 {
            // By the lease; not where it has slept.
            let turn = Turn::from_value(sent.turn);
            let by_lease = may_be_next
                && (!far || sent.on_spare)
                && sent.block.is_none()
                && self.conn(conn).on_lease(|lease| lease.end_of(turn, sent.cell));
            if !by_lease {
                return None;
            }
        } else {
            if choice > 1 || self.conn(conn).locked {
                return None;
            }
            self.conn(conn).recall(config);
            let is_next =
                self.conn(conn).on_submitter(|submitter, _| submitter.put_back(sent.cell));
            if far && may_be_next {
                if is_next {
                    self.conn(conn).unreleased = Some(sent.cell);
                } else {
                    self.release(conn, sent.cell);
                }
            }
            self.conn(conn).give_back(sent);
        }
        self.ended(config, who, conn, outcome);
        Some(())
    }

    /// A caller gives back the right to the spare region, if it has it.
    fn leave_spare(&mut self, who: usize, conn: u8) {
        if let Some(it) = self.conns.get_mut(usize::from(conn))
            && it.on_spare == Some(who as u8)
        {
            it.on_spare = None;
        }
    }

    /// A call has ended, or is repeated.
    fn ended(&mut self, config: &Config, who: usize, conn: u8, outcome: Outcome) {
        let Some((call, kind)) = self.call(config, who) else { return };
        self.leave_spare(who, conn);
        let ghost = &mut self.ghosts[usize::from(call)];
        let runs: u8 = ghost.runs.iter().sum();
        let mut outcome = outcome;
        let mut flaw = None;
        match outcome {
            Outcome::NotStarted => {
                if ghost.runs[usize::from(conn)] > 0 {
                    flaw = Some("a call ran, and its caller was told that it was not started");
                }
                ghost.denied |= 1 << conn;
            }
            Outcome::Reply | Outcome::NoReplyMemory if runs == 0 => {
                flaw = Some("a call was answered and never ran");
            }
            Outcome::Cancelled => flaw = Some("a call was cancelled, and its caller waits for it"),
            _ => {}
        }
        let again = match outcome {
            Outcome::NotStarted => true,
            Outcome::MayHaveRun => kind.idempotent || config.has(Mutant::RepeatsWhatMayHaveRun),
            _ => false,
        };
        let caller = &mut self.callers[who];
        caller.at = At::Idle;
        if again && kind.alone && caller.repeats < config.repeats {
            caller.repeats += 1;
            caller.may_have_run |= outcome == Outcome::MayHaveRun;
        } else {
            let earlier = std::mem::replace(&mut caller.may_have_run, false);
            if earlier && outcome.says_not_sent() && !config.has(Mutant::EarlierTriesForgotten) {
                outcome = Outcome::MayHaveRun;
            }
            if outcome.says_not_sent() && runs > 0 {
                flaw =
                    Some("a call ran, and its caller was told in the end that it was not started");
            }
            ghost.outcome = Some(outcome);
            caller.repeats = 0;
            caller.next += 1;
        }
        if let Some(flaw) = flaw {
            self.flaw(flaw);
        }
    }

    fn end(&mut self, conn: u8, end: End) {
        let it = self.conn(conn);
        it.end.get_or_insert(end);
        it.shut = true;
    }
}
