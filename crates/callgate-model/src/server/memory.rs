//! What a server does about the memory of its replies.

use callgate_proto::cell::Turn;

use crate::config::{Config, Mutant};
use crate::state::{Conn, Job, Message, Placed, State};

impl State {
    /// As `Connection::reuse`.
    pub(super) fn reuse(&mut self, conn: u8, cell: u16) {
        let it = self.of(conn);
        if it.pinned & 1 << cell != 0 {
            it.pinned &= !(1 << cell);
            if let Some((_, region)) = it.replies[usize::from(cell)].take() {
                it.theirs[usize::from(region)].live = false;
            }
        }
    }

    fn reclaim_released(&mut self, conn: u8) -> bool {
        let mut any = false;
        for cell in 0..self.of(conn).cells.len() as u16 {
            let it = self.of(conn);
            let Some((turn, _)) = it.replies[usize::from(cell)] else { continue };
            let turn = Turn::from_value(turn);
            if it.pinned & 1 << cell != 0 && it.on_cell(cell, |cell| cell.is_released(turn)) {
                self.reuse(conn, cell);
                any = true;
            }
        }
        any
    }

    /// As `Connection::place`.
    pub(super) fn place_reply(&mut self, config: &Config, job: Job, again: bool) -> Option<u8> {
        let it = self.of(job.conn);
        let mut last = it.replies[usize::from(job.cell)];
        if config.has(Mutant::RoomUsedAgainTooEarly) {
            last = it.replies.iter().copied().flatten().next();
        } else if it.pinned & 1 << job.cell == 0 {
            last = None;
        }
        if let Some((_, region)) = last.filter(|_| again) {
            it.theirs[usize::from(region)].content = job.call;
            return Some(region);
        }
        self.reuse(job.conn, job.cell);
        let place = |it: &mut Conn| Conn::place(&mut it.theirs, config.regions, job.call);
        let mut placed = place(self.of(job.conn));
        if placed == Placed::Full && self.reclaim_released(job.conn) {
            placed = place(self.of(job.conn));
        }
        let it = self.of(job.conn);
        match placed {
            Placed::At(region) => Some(region),
            Placed::Grow if !it.shut => {
                let region = Conn::add(&mut it.theirs, job.call);
                it.to_client.push(Message::Region(region));
                Some(region)
            }
            Placed::Grow | Placed::Full => None,
        }
    }

    /// Gives quiet reply memory back.
    pub(super) fn tidy_replies(&mut self, config: &Config) -> Option<()> {
        let conn = self.served()?;
        if !config.tidy {
            return None;
        }
        if self.reclaim_released(conn) {
            return Some(());
        }
        let it = self.of(conn);
        let at = it.theirs.iter().position(|region| !region.live && !region.retired)?;
        it.theirs[at].retired = true;
        if !it.shut {
            it.to_client.push(Message::Retire(at as u8));
        }
        Some(())
    }
}
