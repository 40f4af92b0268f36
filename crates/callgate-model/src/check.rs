//! The model as the checker sees it: what can happen in a state, and what must hold.

use stateright::{Model, Property};

use crate::config::Config;
use crate::state::{At, Outcome, State};

/// One thing that can happen. The last number tells choices apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A caller's step.
    Caller(u8, u8),
    /// A step of the client's watcher for a connection.
    Watcher(u8, u8),
    /// A step of the server's worker.
    Worker(u8),
    /// A step of a thread that answers a deferred call.
    Job(u8),
    /// A step of whoever drains or stops the server.
    Stopper(u8),
    /// A store becomes visible.
    Buffer(u8),
    /// The server is killed.
    KillServer,
    /// The client is killed.
    KillClient,
    /// The kernel hangs a connection up.
    HangUp(u8),
    /// The next server starts.
    StartServer,
}

/// The model.
#[derive(Clone, Debug)]
pub struct Protocol(pub Config);

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(&self.0)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // What went wrong is looked at, not gone on from.
        if state.flaw.is_some() {
            return;
        }
        if !state.client_dead {
            for caller in 0..state.callers.len() as u8 {
                actions.extend((0..3).map(|choice| Action::Caller(caller, choice)));
            }
        }
        for conn in 0..state.conns.len() as u8 {
            actions.extend((0..6).map(|choice| Action::Watcher(conn, choice)));
            actions.push(Action::Buffer(conn));
            actions.push(Action::HangUp(conn));
        }
        actions.extend((0..6).map(Action::Worker));
        actions.extend((0..state.server.jobs.len() as u8).map(Action::Job));
        actions.extend((0..2).map(Action::Stopper));
        actions.extend([Action::KillServer, Action::KillClient, Action::StartServer]);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let config = &self.0;
        let mut state = last.clone();
        match action {
            Action::Caller(who, choice) => state.step_caller(config, who.into(), choice),
            Action::Watcher(conn, choice) => state.step_watcher(config, conn, choice),
            Action::Worker(choice) => state.step_worker(config, choice),
            Action::Job(at) => state.step_job(config, at.into()),
            Action::Stopper(choice) => state.step_stopper(config, choice),
            Action::Buffer(conn) => state.step_buffer(conn),
            Action::KillServer => state.kill_server(config),
            Action::KillClient => state.kill_client(config),
            Action::HangUp(conn) => state.hang_up(conn),
            Action::StartServer => state.start_server(config),
        }?;
        state.check_held();
        state.scrub(config);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            // Each of these sets a flaw, with its name: a reply of another call; a call run twice; a call that ran and was
            // said not to be started, in either order; an answer without a run; memory used again, or retired, while it is
            // read; an honest side called a liar.
            Property::<Self>::always("nothing goes wrong", |_, state| state.flaw.is_none()),
            Property::<Self>::always("a drain answers what it took", |model, state| {
                let config = &model.0;
                let cut = config.kill_server || config.stop || config.client_lacks_memory;
                let lost = |outcome| outcome == Some(Outcome::MayHaveRun);
                cut || !config.drain || !state.ghosts.iter().any(|ghost| lost(ghost.outcome))
            }),
            Property::<Self>::eventually("every call ends", |model, state| {
                state.all_ended(&model.0)
            }),
            Property::<Self>::eventually("nothing is kept", |model, state| {
                state.all_ended(&model.0) && state.nothing_is_kept(&model.0)
            }),
        ];
        // So that what is checked is known to happen.
        macro_rules! happens {
            ($($outcome:ident),*) => {
                [$((Outcome::$outcome, Property::<Self>::sometimes(concat!("some call ends with ", stringify!($outcome)),
                    |_, state: &State| state.has(Outcome::$outcome)))),*]
            };
        }
        let all = happens!(Reply, NotStarted, MayHaveRun, GivenUp, NotRunning, TooMany, NoMemory);
        properties.extend(
            all.into_iter()
                .filter_map(|(outcome, property)| self.0.expects(outcome).then_some(property)),
        );
        properties
    }
}

impl Config {
    /// Whether some call ends so in this scenario.
    pub fn expects(&self, outcome: Outcome) -> bool {
        let kinds = || self.callers.iter().flatten();
        let ends = self.kill_server || self.stop || self.drain;
        match outcome {
            Outcome::Reply => true,
            Outcome::NotStarted => ends,
            Outcome::MayHaveRun => self.kill_server || self.stop || self.client_lacks_memory,
            Outcome::GivenUp => kinds().any(|kind| kind.impatient),
            Outcome::NotRunning => ends,
            Outcome::NoMemory => matches!(self.name, "memory" | "room"),
            Outcome::TooMany => self.name == "cancel",
            Outcome::Cancelled | Outcome::NoReplyMemory => false,
        }
    }
}

impl State {
    fn has(&self, outcome: Outcome) -> bool {
        self.ghosts.iter().any(|ghost| ghost.outcome == Some(outcome))
    }

    /// What is read is what was written for its reader.
    fn check_held(&mut self) {
        let spoilt = |at: At| match at {
            At::Hold(conn, sent, region) => {
                let region = self.conns[usize::from(conn)].theirs[usize::from(region)];
                region.content != sent.call
            }
            _ => false,
        };
        if self.callers.iter().any(|caller| spoilt(caller.at)) {
            self.flaw("a reply's memory was used again while it was read");
        }
    }

    /// Whether every call has ended, or nobody is left who made one.
    pub fn all_ended(&self, config: &Config) -> bool {
        let done = |(caller, kinds): (&crate::state::Caller, &Vec<_>)| {
            usize::from(caller.next) == kinds.len()
        };
        self.client_dead || self.callers.iter().zip(&config.callers).all(done)
    }

    /// Whether every cell, payload and connection that is not needed was given back.
    pub fn nothing_is_kept(&self, config: &Config) -> bool {
        if !self.server.jobs.is_empty() {
            return false;
        }
        if self.client_dead {
            return self.served().is_none();
        }
        self.conns.iter().filter(|conn| conn.end.is_none() && !conn.shut).all(|conn| {
            let mut conn = conn.clone();
            conn.recall(config);
            let spare = if config.tidy { None } else { conn.spare };
            let available = conn.on_submitter(|submitter, _| submitter.available());
            available == usize::from(config.cells) - 1
                && !conn.locked
                && conn.given_up.is_empty()
                && conn.deferred == 0
                && conn.on_spare.is_none()
                && (0..).zip(&conn.mine).all(|(at, region)| !region.live || spare == Some(at))
                && conn.unsent.is_empty()
                && (!config.tidy || conn.theirs.iter().all(|region| !region.live))
        })
    }
}
