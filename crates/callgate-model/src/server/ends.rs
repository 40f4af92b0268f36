//! How servers and clients end: who drains and stops, and what the kernel does to processes.

use crate::config::{Config, Mutant};
use crate::state::{Phase, Server, State, WorkerAt};

impl State {
    /// Whoever drains (0) or stops (1) the server.
    pub(crate) fn step_stopper(&mut self, config: &Config, choice: u8) -> Option<()> {
        let conn = self.served();
        let next = match (self.server.phase, choice) {
            (Phase::Serving, 0) if config.drain && self.server.life == 1 => Phase::Draining,
            (Phase::Serving, 1) if config.stop && self.server.life == 1 => Phase::Stopping(0),
            (Phase::Stopping(0), 1) => {
                if let Some(conn) = conn {
                    self.of(conn).gone = true;
                }
                Phase::Stopping(1)
            }
            (Phase::Stopping(1), 1) => {
                if let Some(conn) = conn
                    && !config.has(Mutant::NoBarrierAtStop)
                {
                    self.flush(conn);
                }
                Phase::Stopping(2)
            }
            (Phase::Stopping(2), 1) => {
                if let Some(conn) = conn {
                    self.of(conn).shut = true;
                }
                Phase::Stopping(3)
            }
            _ => return None,
        };
        if matches!(next, Phase::Draining | Phase::Stopping(0)) {
            self.server.rung = true;
        }
        self.server.phase = next;
        self.finish_stop();
        Some(())
    }

    pub(super) fn finish_stop(&mut self) {
        if self.server.phase == Phase::Stopping(3) && self.server.at == WorkerAt::Ended {
            self.server.phase = Phase::Ended;
        }
    }

    /// The worker's store becomes visible by itself.
    pub(crate) fn step_buffer(&mut self, conn: u8) -> Option<()> {
        self.flush(conn)
    }

    /// The server is killed.
    pub(crate) fn kill_server(&mut self, config: &Config) -> Option<()> {
        if !config.kill_server || self.server.life > 1 || !self.server_runs() {
            return None;
        }
        self.server.phase = Phase::Killed;
        self.server.at = WorkerAt::Ended;
        self.server.jobs.clear();
        self.server.rung = false;
        for conn in 0..self.conns.len() as u8 {
            self.flush(conn);
            self.of(conn).linked = false;
        }
        Some(())
    }

    /// The client is killed.
    pub(crate) fn kill_client(&mut self, config: &Config) -> Option<()> {
        if !config.kill_client || self.client_dead {
            return None;
        }
        self.client_dead = true;
        for caller in &mut self.callers {
            caller.at = crate::state::At::Idle;
        }
        Some(())
    }

    /// The kernel hangs up what a dead process had.
    pub(crate) fn hang_up(&mut self, conn: u8) -> Option<()> {
        let killed = self.server.phase == Phase::Killed && self.of(conn).life == self.server.life;
        let dead = killed || self.client_dead;
        let it = self.of(conn);
        if it.shut || !dead {
            return None;
        }
        it.shut = true;
        Some(())
    }

    /// A server starts in the place of one that is gone.
    pub(crate) fn start_server(&mut self, config: &Config) -> Option<()> {
        let gone = match self.server.phase {
            Phase::Ended => self.server.jobs.is_empty(),
            Phase::Killed => self.conns.iter().all(|conn| conn.shut),
            _ => false,
        };
        if !gone || self.server.life >= config.lives {
            return None;
        }
        self.server = Server::new(self.server.life + 1);
        Some(())
    }
}
