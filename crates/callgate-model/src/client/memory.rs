//! What the threads of a client do about memory: room for requests, late replies, regions of the server's; and its watcher.

use callgate_proto::body::Body;
use callgate_proto::cell::Turn;

use crate::config::{Config, Mutant};
use crate::state::{At, Conn, End, Message, Outcome, Placed, Region, State};

impl State {
    /// As `Connection::place` and `make_room`; `spare`: a region was made, and whether its caller has waited since.
    pub(super) fn place_request(
        &mut self,
        config: &Config,
        who: usize,
        (conn, spare): (u8, Option<bool>),
        choice: u8,
    ) -> Option<()> {
        let (call, kind) = self.call(config, who)?;
        if choice == 1 && kind.impatient && spare == Some(true) {
            self.ended(config, who, conn, Outcome::GivenUp);
            return Some(());
        }
        let it = self.conn(conn);
        let on_spare = it.on_spare == Some(who as u8);
        if let Some(at) = it.spare.filter(|_| on_spare && spare.is_none()) {
            if choice > 0 {
                return None;
            }
            it.mine[usize::from(at)].content = call;
            self.callers[who].at = At::Begin(conn, at);
            return Some(());
        }
        if it.locked || choice > 0 {
            return None;
        }
        it.recall(config);
        if it.end.is_some() {
            self.ended(config, who, conn, Outcome::NotStarted);
            return Some(());
        }
        it.let_go_of_spare(config);
        self.collect_late_replies(conn);
        let it = self.conn(conn);
        let mut placed = Conn::place(&mut it.mine, config.regions, call);
        if spare == Some(true)
            && placed == Placed::Full
            && config.has(Mutant::RoomNotLookedForAgain)
        {
            placed = Placed::Grow;
        }
        self.callers[who].at = match (placed, spare) {
            (Placed::At(at), _) => self.placed(who, conn, at),
            // Whoever waits for room is not modelled.
            (Placed::Full, _) => {
                self.ended(config, who, conn, Outcome::NoMemory);
                return Some(());
            }
            (Placed::Grow, None) => At::Room(conn, false),
            (Placed::Grow, Some(_)) => self.announce(config, who, conn, call),
        };
        Some(())
    }

    /// As `Connection::announce`.
    fn announce(&mut self, config: &Config, who: usize, conn: u8, call: u8) -> At {
        let it = self.conn(conn);
        if it.shut {
            self.end(conn, End::Closed);
            self.ended(config, who, conn, Outcome::NotStarted);
            return self.callers[who].at;
        }
        let overtakes = config.has(Mutant::RetiresOvertaken);
        if !overtakes {
            it.flush_retires(config);
        }
        let is_full = it.to_server.len() >= config.socket;
        if is_full || !(it.unsent.is_empty() || overtakes) {
            return At::Room(conn, true);
        }
        let at = Conn::add(&mut it.mine, call);
        if !config.has(Mutant::AnnouncedTooLate) {
            it.mine[usize::from(at)].told = true;
            it.to_server.push(Message::Region(at));
        }
        self.placed(who, conn, at)
    }

    /// The request has a region: the spare one of a caller that is alone.
    fn placed(&mut self, who: usize, conn: u8, at: u8) -> At {
        let it = self.conn(conn);
        if it.on_spare == Some(who as u8) {
            it.spare = Some(at);
            At::Begin(conn, at)
        } else {
            At::Draw(conn, Some(at))
        }
    }

    pub(super) fn release(&mut self, conn: u8, cell: u16) {
        self.conn(conn).on_cell(cell, |cell| cell.release());
    }

    pub(super) fn collect_late_replies(&mut self, conn: u8) {
        let mut at = 0;
        while at < self.conn(conn).given_up.len() {
            let sent = self.conn(conn).given_up[at];
            let turn = Turn::from_value(sent.turn);
            match self.conn(conn).on_cell(sent.cell, |cell| cell.has_reply(turn)) {
                Ok(false) => at += 1,
                Ok(true) => {
                    let far = self
                        .reply_of(conn, sent)
                        .is_some_and(|reply| matches!(reply.body, Body::Far(_)));
                    let it = self.conn(conn);
                    if far {
                        it.on_cell(sent.cell, |cell| cell.release());
                    }
                    it.on_submitter(|submitter, _| submitter.put_back(sent.cell));
                    it.give_back(sent);
                    it.given_up.swap_remove(at);
                }
                Err(_) => return self.flaw("an honest server is called a liar: a late reply"),
            }
        }
    }

    pub(super) fn may_lack_memory(&self, config: &Config, conn: u8) -> bool {
        let it = &self.conns[usize::from(conn)];
        config.client_lacks_memory
            && self.conns.len() < 2
            && it.to_client.iter().any(|message| matches!(message, Message::Region(_)))
    }

    /// Reads what the server sent; `lacks`: and cannot map it.
    pub(super) fn receive(&mut self, config: &Config, conn: u8, lacks: bool) {
        for message in std::mem::take(&mut self.conn(conn).to_client) {
            if matches!(message, Message::Region(_))
                && self.conn(conn).maps.count_ones() as usize >= config.regions
            {
                self.flaw("an honest server is called a liar: the quota");
            }
            match message {
                Message::Bell => {}
                Message::Region(_) if lacks => return self.end(conn, End::System),
                Message::Region(at) => self.conn(conn).maps |= 1 << at,
                Message::Retire(at) => {
                    self.conn(conn).maps &= !(1 << at);
                    let held = |at_caller: At| matches!(at_caller, At::Hold(its, _, region) if its == conn && region == at);
                    if self.callers.iter().any(|caller| held(caller.at)) {
                        self.flaw("a region is retired while its payload is read");
                    }
                }
            }
        }
    }

    /// The watcher: `choice` 0 and 1 attend to a connection, 2 wakes sleepers, 3 to 5 tidy.
    pub(crate) fn step_watcher(&mut self, config: &Config, conn: u8, choice: u8) -> Option<()> {
        if self.client_dead {
            return None;
        }
        let it = self.conn(conn);
        match choice {
            0 | 1 => {
                let lacks = choice == 1;
                if it.end.is_some() || (it.to_client.is_empty() && !it.shut) {
                    return None;
                }
                if lacks && !self.may_lack_memory(config, conn) {
                    return None;
                }
                self.receive(config, conn, lacks);
                if self.conn(conn).shut {
                    self.end(conn, End::Closed);
                }
            }
            2 => {
                it.end?;
                if config.has(Mutant::NoWakeAtEnd) {
                    return None;
                }
                let asleep: Vec<u16> = self
                    .callers
                    .iter()
                    .filter_map(|caller| match caller.at {
                        At::Asleep(its, sent) if its == conn => Some(sent.cell),
                        _ => None,
                    })
                    .collect();
                asleep.first()?;
                for cell in asleep {
                    self.wake_word(conn, cell);
                }
            }
            _ if it.locked || it.end.is_some() => return None,
            3 => {
                let before = it.given_up.len();
                if before == 0 {
                    return None;
                }
                it.recall(config);
                self.collect_late_replies(conn);
                if self.conn(conn).given_up.len() == before {
                    return None;
                }
            }
            4 if config.tidy => {
                it.recall(config);
                let cell = it.unreleased.take()?;
                self.release(conn, cell);
            }
            5 if config.tidy => {
                it.recall(config);
                if it.let_go_of_spare(config) {
                    return Some(());
                }
                let in_use = config.has(Mutant::RetiredInUse);
                let is_due = |region: &Region| !region.retired && (in_use || !region.live);
                let Some(at) = it.mine.iter().position(is_due) else {
                    let before = it.unsent.len();
                    it.flush_retires(config);
                    return (it.unsent.len() < before).then_some(());
                };
                it.mine[at].retired = true;
                it.unsent.push(at as u8);
                it.flush_retires(config);
            }
            _ => return None,
        }
        Some(())
    }
}
