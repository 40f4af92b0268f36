//! What the threads of a server do.

mod ends;
mod memory;

use callgate_proto::body::{Body, Content, Place, ReplyHead};
use callgate_proto::cell::{Doorbell, Turn};
use callgate_proto::layout::Cell;

use crate::client::{ARMED_AND_BELL, CANCELLED, FAR, NO_MEMORY};
use crate::config::{Answered, Config, Kind, Mutant};
use crate::state::{Answer, Conn, Job, JobAt, Message, Phase, State, WorkerAt};

impl State {
    fn of(&mut self, conn: u8) -> &mut Conn {
        &mut self.conns[usize::from(conn)]
    }

    fn kind(config: &Config, call: u8) -> Kind {
        let kinds: Vec<Kind> = config.callers.iter().flatten().copied().collect();
        kinds[usize::from(call)]
    }

    /// Whether the worker's poller, or its bell, has something for it.
    fn has_news(&self) -> bool {
        let news = |conn: u8| {
            let it = &self.conns[usize::from(conn)];
            it.shut || !it.to_server.is_empty()
        };
        self.server.rung || self.served().is_some_and(news)
    }

    /// A step of the worker; `choice` where there are several.
    pub(crate) fn step_worker(&mut self, config: &Config, choice: u8) -> Option<()> {
        if !self.server_runs() {
            return None;
        }
        let at = self.server.at;
        if choice > 0
            && !matches!(
                at,
                WorkerAt::Poll
                    | WorkerAt::Dry
                    | WorkerAt::Run(_)
                    | WorkerAt::Answer(_)
                    | WorkerAt::Drain
                    | WorkerAt::InPoller
                    | WorkerAt::OnWord(_)
            )
        {
            return None;
        }
        if choice == 5 {
            let idle = matches!(at, WorkerAt::Poll | WorkerAt::InPoller | WorkerAt::OnWord(_));
            return if idle { self.tidy_replies(config) } else { None };
        }
        let next = match at {
            WorkerAt::Poll => return self.poll(config, choice),
            WorkerAt::Dry => {
                let Some(conn) = self.served() else {
                    self.server.at = WorkerAt::Poll;
                    return (choice == 0).then_some(());
                };
                match choice {
                    0 if config.bell_socket => self.arm(conn, Doorbell::Socket),
                    1 if config.bell_word => self.arm(conn, Doorbell::Word),
                    _ => return None,
                }
            }
            WorkerAt::Armed(word, value) => {
                let conn = self.served()?;
                let led_off =
                    self.of(conn).on_intake(|intake, _, detour, _| intake.is_led_off(detour));
                let looks = !config.has(Mutant::NoLookAfterArming);
                if led_off && looks { WorkerAt::Poll } else { WorkerAt::Sleepy(word, value) }
            }
            WorkerAt::Sleepy(word, value) => {
                let Some(conn) = self.served() else {
                    self.server.at = WorkerAt::Poll;
                    return Some(());
                };
                let cell = self.of(conn).intake.cell;
                let same = self.of(conn).cells[usize::from(cell)].state == value;
                if self.has_news() {
                    // Looking at the poller is attending to what it tells.
                    self.server.rung = false;
                    self.attend(config, conn);
                    WorkerAt::Poll
                } else if !word {
                    WorkerAt::InPoller
                } else if same {
                    WorkerAt::OnWord(cell)
                } else {
                    WorkerAt::Poll
                }
            }
            WorkerAt::OnWord(_) | WorkerAt::InPoller => {
                if choice > 0 || !self.has_news() {
                    return None;
                }
                self.server.rung = false;
                WorkerAt::Poll
            }
            WorkerAt::Take(job) => {
                if config.has(Mutant::TakenTooLate) {
                    WorkerAt::Run(job)
                } else {
                    self.store_taken(config, job);
                    let looks = !config.has(Mutant::NoLookBeforeRun);
                    if looks { WorkerAt::Check(job) } else { WorkerAt::Run(job) }
                }
            }
            WorkerAt::Check(job) => {
                if self.of(job.conn).gone {
                    WorkerAt::Poll
                } else {
                    WorkerAt::Run(job)
                }
            }
            WorkerAt::Run(job) => return self.run(config, job, choice),
            WorkerAt::LateTake(job) => {
                self.store_taken(config, job);
                WorkerAt::Answer(job)
            }
            WorkerAt::Answer(job) => {
                // With the room of the cell's last reply, or without.
                let pinned = self.of(job.conn).pinned & 1 << job.cell != 0;
                if choice > u8::from(pinned && State::kind(config, job.call).far_reply) {
                    return None;
                }
                match self.prepare(config, job, choice == 0) {
                    Some(answer) => WorkerAt::Publish(job, answer),
                    None => WorkerAt::Poll,
                }
            }
            WorkerAt::Publish(job, answer) => {
                // An atomic operation comes after the store.
                self.flush(job.conn);
                let short = !matches!(answer, Answer::Far(_));
                let (conn, cell) = (job.conn, job.cell);
                match self.publish_answer(config, job, answer) {
                    true => WorkerAt::Wake(conn, cell, short),
                    false => self.answered(conn, cell, short),
                }
            }
            WorkerAt::Wake(conn, cell, short) => {
                self.server.at = self.answered(conn, cell, short);
                self.wake_word(conn, cell);
                return Some(());
            }
            WorkerAt::Reuse(conn, cell) => {
                self.reuse(conn, cell);
                WorkerAt::Poll
            }
            WorkerAt::Drain => return self.drain(config, choice),
            WorkerAt::Ended => return None,
        };
        self.server.at = next;
        Some(())
    }

    fn poll(&mut self, config: &Config, choice: u8) -> Option<()> {
        if choice == 4 {
            if self.server.phase == Phase::Serving {
                return None;
            }
            self.server.at = WorkerAt::Drain;
            return Some(());
        }
        let Some(conn) = self.served() else {
            self.server.at = WorkerAt::InPoller;
            return (choice == 0).then_some(());
        };
        if choice == 3 {
            let it = self.of(conn);
            if it.to_server.is_empty() && !it.shut {
                return None;
            }
            self.attend(config, conn);
            return Some(());
        }
        let before = self.of(conn).intake.clone();
        let taken = self
            .of(conn)
            .on_intake(|intake, cells, detour, deferred| intake.take(cells, detour, deferred));
        let Ok(taken) = taken else {
            self.flaw("an honest client is called a liar: the chain");
            return Some(());
        };
        match (choice, taken) {
            (0, Some(taken)) => {
                let region = match taken.request.body {
                    Body::Inline(_) => None,
                    Body::Far(place) => Some(place.region as u8),
                };
                let call = taken.request.head.method as u8;
                let job = Job { call, conn, turn: taken.turn.value(), cell: taken.cell, region };
                if let Some(region) = region
                    && self.of(conn).mapped & 1 << region == 0
                {
                    self.read_messages(config, conn);
                    if self.of(conn).mapped & 1 << region == 0 {
                        self.flaw("an honest client is called a liar: the region");
                    }
                }
                // Looked for a moment later, which makes no difference: nothing else of the client's can come between.
                self.server.at = if self.of(conn).on_cell(taken.cell, Cell::was_given_up) {
                    WorkerAt::Publish(job, Answer::Cancelled)
                } else {
                    WorkerAt::Take(job)
                };
            }
            // It keeps what the look has learned: that a detour led on, say.
            (0, None) => self.server.at = WorkerAt::Dry,
            _ => {
                self.of(conn).intake = before;
                return None;
            }
        }
        Some(())
    }

    /// The first step of `Intake::arm`.
    fn arm(&mut self, conn: u8, bell: Doorbell) -> WorkerAt {
        let armed = self.of(conn).on_intake(|intake, cells, _, _| intake.arm_first(cells, bell));
        armed.map_or(WorkerAt::Poll, |value| WorkerAt::Armed(bell == Doorbell::Word, value))
    }

    fn store_taken(&mut self, config: &Config, job: Job) {
        let it = self.of(job.conn);
        if config.stop {
            it.buffered = Some(job.turn);
        } else {
            it.taken = job.turn;
        }
    }

    /// Everybody sees the worker's last store.
    fn flush(&mut self, conn: u8) -> Option<()> {
        let it = self.of(conn);
        it.taken = it.buffered.take()?;
        Some(())
    }

    fn run(&mut self, config: &Config, job: Job, choice: u8) -> Option<()> {
        let kind = State::kind(config, job.call);
        let later = match (choice, kind.answered) {
            (0, Answered::Now | Answered::Either) => false,
            (1, Answered::Later | Answered::Either) => true,
            _ => return None,
        };
        self.check_request(job);
        let ghost = &mut self.ghosts[usize::from(job.call)];
        ghost.runs[usize::from(job.conn)] += 1;
        let runs: u8 = ghost.runs.iter().sum();
        let denied = ghost.denied & 1 << job.conn != 0
            || ghost.outcome.is_some_and(crate::state::Outcome::says_not_sent);
        if runs > 1 && !(kind.idempotent && ghost.runs.iter().all(|runs| *runs <= 1)) {
            self.flaw("a call runs twice");
        }
        if denied {
            self.flaw("a call runs, and its caller was told that it was not started");
        }
        self.server.at = if later {
            self.of(job.conn).deferred |= 1 << job.cell;
            self.server.jobs.push((job, JobAt::Waiting));
            if config.has(Mutant::TakenTooLate) {
                self.store_taken(config, job);
            }
            WorkerAt::Poll
        } else if config.has(Mutant::TakenTooLate) {
            WorkerAt::LateTake(job)
        } else {
            WorkerAt::Answer(job)
        };
        Some(())
    }

    fn check_request(&mut self, job: Job) {
        if let Some(region) = job.region
            && self.of(job.conn).mine[usize::from(region)].content != job.call
        {
            self.flaw("a request's memory was used again while it was read");
        }
    }

    /// What the worker does after a wake, or where none is needed.
    fn answered(&mut self, conn: u8, cell: u16, short: bool) -> WorkerAt {
        let pinned = self.of(conn).pinned & 1 << cell != 0;
        if short && pinned { WorkerAt::Reuse(conn, cell) } else { WorkerAt::Poll }
    }

    /// Makes the answer, with its memory; `None` if the connection has ended. `again`: where the cell's last reply lies, if
    /// that may be.
    fn prepare(&mut self, config: &Config, job: Job, again: bool) -> Option<Answer> {
        self.check_request(job);
        if self.of(job.conn).gone {
            return None;
        }
        if !State::kind(config, job.call).far_reply {
            return Some(Answer::Near);
        }
        let Some(region) = self.place_reply(config, job, again) else {
            return Some(Answer::NoMemory);
        };
        let it = self.of(job.conn);
        it.replies[usize::from(job.cell)] = Some((job.turn, region));
        it.pinned |= 1 << job.cell;
        Some(Answer::Far(region))
    }

    /// Publishes an answer; whether its caller sleeps.
    fn publish_answer(&mut self, config: &Config, job: Job, answer: Answer) -> bool {
        let it = self.of(job.conn);
        if it.gone {
            return false;
        }
        let near = [job.call];
        let near = Content::Short(&near);
        let (failure, word, content) = match answer {
            Answer::Near => (false, u32::from(job.call), near),
            Answer::Far(region) => {
                let place = Place { region: region.into(), offset: 0, len: FAR };
                (false, u32::from(job.call), Content::Far(place))
            }
            Answer::Cancelled => (true, CANCELLED, near),
            Answer::NoMemory => (true, NO_MEMORY, near),
        };
        let head = ReplyHead { failure, active: 1, cpu: None };
        let turn = Turn::from_value(job.turn);
        let asleep = it.on_cell(job.cell, |cell| cell.publish_reply(turn, head, word, content));
        if config.has(Mutant::ReplyForgetsArming) {
            it.cells[usize::from(job.cell)].state &= !ARMED_AND_BELL;
        }
        if config.has(Mutant::ReplyMemoryFreedAtReply) {
            self.reuse(job.conn, job.cell);
        }
        asleep && !config.has(Mutant::NoWake)
    }

    fn attend(&mut self, config: &Config, conn: u8) {
        self.read_messages(config, conn);
        if self.of(conn).shut {
            self.end_link(conn);
        }
    }

    fn read_messages(&mut self, config: &Config, conn: u8) {
        for message in std::mem::take(&mut self.of(conn).to_server) {
            match message {
                Message::Bell => {}
                Message::Region(at) => {
                    if self.of(conn).mapped.count_ones() as usize >= config.regions {
                        self.flaw("an honest client is called a liar: the quota");
                    }
                    self.of(conn).mapped |= 1 << at;
                }
                Message::Retire(at) => {
                    self.of(conn).mapped &= !(1 << at);
                    let reads =
                        |(job, _): &(Job, JobAt)| job.conn == conn && job.region == Some(at);
                    if self.server.jobs.iter().any(reads) {
                        self.flaw("a region is retired while its receiver has it");
                    }
                }
            }
        }
    }

    fn end_link(&mut self, conn: u8) {
        self.flush(conn);
        let it = self.of(conn);
        it.gone = true;
        it.shut = true;
        it.linked = false;
        it.mapped = 0;
    }

    fn drain(&mut self, config: &Config, choice: u8) -> Option<()> {
        // Its time may pass where the server may be cut off anyway.
        let waits = self.server.phase == Phase::Draining
            && !self.server.jobs.is_empty()
            && !config.has(Mutant::DrainForgetsDeferred);
        let over = choice == 1 && waits && config.kill_server;
        if (choice > 0 || waits) && !over {
            return None;
        }
        if let Some(conn) = self.served() {
            self.end_link(conn);
        }
        self.server.at = WorkerAt::Ended;
        if self.server.phase == Phase::Draining {
            self.server.phase = Phase::Ended;
        }
        self.finish_stop();
        Some(())
    }

    /// A step of the thread that has the deferred call at this place.
    pub(crate) fn step_job(&mut self, config: &Config, at: usize) -> Option<()> {
        let (job, stage) = *self.server.jobs.get(at)?;
        let next = match stage {
            JobAt::Waiting => {
                let prepared = self.prepare(config, job, true);
                if let Some(Answer::Near | Answer::NoMemory) = prepared {
                    self.reuse(job.conn, job.cell);
                }
                if !config.has(Mutant::RegionHeldAfterReply) {
                    self.server.jobs[at].0.region = None;
                }
                prepared.map_or(JobAt::Done, JobAt::Undefer)
            }
            JobAt::Undefer(answer) => {
                self.of(job.conn).deferred &= !(1 << job.cell);
                JobAt::Publish(answer)
            }
            JobAt::Publish(answer) => match self.publish_answer(config, job, answer) {
                true => JobAt::Wake,
                false => JobAt::Done,
            },
            JobAt::Wake => {
                self.wake_word(job.conn, job.cell);
                JobAt::Done
            }
            JobAt::Done => {
                self.server.jobs.remove(at);
                if self.server.phase != Phase::Serving {
                    self.server.rung = true;
                }
                return Some(());
            }
        };
        self.server.jobs[at].1 = next;
        Some(())
    }
}
