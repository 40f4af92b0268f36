//! Sets each situation up, callgate's side and the limits', and measures its rounds.

use std::cell::RefCell;
use std::path::PathBuf;

use super::bare::accept::{self, Address};
use super::bare::crowd::{self, Giving};
use super::bare::kernel::Primitive;
use super::bare::line::Beat;
use super::bare::{area, kernel, line, ring};
use super::bytes::work_cost;
use super::crew::Post;
use super::effort::Effort;
use super::handler;
use super::idle::{self, Idlers};
use super::moods::{Moods, Probe, verdict};
use super::peer::Work;
use super::plan::Situation;
use super::process::{self, Partner};
use super::report::Row;
use super::rounds::{Allowance, Found, measure};
use super::rows::{Measured, rows};
use super::side::{Fresh, Side, Team};
use super::stats::Verdict;
use crate::exit::{Doing, Failure};

/// What serves the whole run.
pub struct Stage {
    cpus: Vec<usize>,
    /// For situations with one client: it has no other.
    pair: Option<Post>,
    /// For those with several.
    crowd: Option<Post>,
    /// Tells how far apart the CPUs are.
    probe: Option<Probe>,
    /// What it told of each round so far.
    looks: Vec<f64>,
    /// For rounds of what is unclear.
    allowance: Allowance,
    /// What was odd and is no failure.
    notes: Vec<String>,
}

/// How a situation ended.
pub enum Outcome {
    /// It was measured.
    Rows(Vec<Row>),
    /// It can't be measured here, for this reason.
    Skipped(String),
}

type Sides = Vec<Box<dyn Side>>;

const SMALL: Work = Work::Small { size: 32, handler_ns: 0 };

impl Stage {
    /// Looks at the machine; starts nothing yet. Rounds beyond the planned ones take no longer than
    /// the allowance, all situations together.
    ///
    /// # Errors
    /// When the CPUs can't be asked for.
    pub fn new(allowance: Allowance) -> Result<Stage, Failure> {
        let cpus = process::cpus().doing("sched_getaffinity")?;
        Ok(Stage {
            cpus,
            pair: None,
            crowd: None,
            probe: None,
            looks: Vec::new(),
            allowance,
            notes: Vec::new(),
        })
    }

    /// What was odd since the last time.
    pub fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// CPUs that may be used.
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }

    /// Measures one situation. `progress` is told of each round.
    ///
    /// # Errors
    /// When a process fails, or an answer was wrong.
    pub fn measure(
        &mut self,
        situation: Situation,
        effort: Effort,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Outcome, Failure> {
        let needed = situation.cpus_needed();
        if self.cpus.len() < needed {
            return Ok(Outcome::Skipped(format!("needs {needed} CPUs")));
        }
        if let Situation::Idle(clients) = situation {
            return idle::rows(&situation.name(), clients, effort.time, &mut self.notes);
        }
        if let Situation::Beside(idle) = situation
            && let Err(reason) = idle::enough_descriptors(idle)
        {
            return Ok(Outcome::Skipped(reason));
        }
        if self.probe.is_none() {
            self.probe = Probe::start(&self.cpus)?;
        }
        // Foreign load, connections and addresses last until the rounds are over.
        let _load = match situation {
            Situation::Crowd { loaded: true, .. } => foreign_load()?,
            _ => Vec::new(),
        };
        let address = Address::new();
        let mut many = None;
        let mut sides = self.sides(situation, &address, &mut many)?;
        let works = RefCell::new(Vec::new());
        let mut each_round = |round: usize| {
            progress(round);
            if let Situation::Handler(ns @ ..=10_000) = situation {
                // A round that was thrown away comes again.
                works.borrow_mut().truncate(round);
                works.borrow_mut().push(work_cost(ns.into()));
            }
        };
        let rows = |found: &Found| {
            let computed = handler::computed(&found.sides, &works.borrow());
            let sides: Vec<&Measured> = found.sides.iter().chain(&computed).collect();
            rows(&situation.name(), &situation.asks(), &sides, &found.line_ns)
        };
        let looks = &self.looks;
        let mut unclear = |found: &Found| {
            let here = found.line_ns.iter().copied().flatten();
            let moods = Moods::of(&looks.iter().copied().chain(here).collect::<Vec<_>>());
            let verdicts = rows(found).into_iter().map(|row| verdict(&row, moods.as_ref()));
            verdicts.into_iter().any(|verdict| verdict == Some(Verdict::Unclear))
        };
        let mut probe = self.probe.as_mut();
        let mut look = || probe.as_mut().map(|probe| probe.look()).transpose();
        let found = measure(
            &mut sides,
            effort,
            &mut self.allowance,
            &mut look,
            &mut each_round,
            &mut unclear,
        )?;
        drop(sides);
        if let Some((idlers, post)) = many {
            idlers.stop()?;
            post.stop()?;
        }
        self.looks.extend(found.line_ns.iter().copied().flatten());
        Ok(Outcome::Rows(rows(&found)))
    }

    /// Kills servers and clients: after a failure nobody knows what they are doing.
    pub fn clear(&mut self) {
        self.pair = None;
        self.crowd = None;
        self.probe = None;
    }

    /// Ends the servers and clients.
    ///
    /// # Errors
    /// When one of them ends with an error.
    pub fn stop(self) -> Result<(), Failure> {
        [self.pair, self.crowd].into_iter().flatten().try_for_each(Post::stop)
    }

    /// Client and server with no other clients; where they run is set anew each time.
    fn pair(&mut self, work: Work, client: &[usize], server: &[usize]) -> Result<Team, Failure> {
        let post = started(&mut self.pair, "bench-pair")?;
        Team::callgate(post.clients(1)?, post.server(), work).pin(client, server)
    }

    fn crowd(&mut self, clients: usize, work: Work) -> Result<Team, Failure> {
        let post = started(&mut self.crowd, "bench-crowd")?;
        Team::callgate(post.clients(clients)?, post.server(), work).pin(&self.cpus, &self.cpus)
    }

    fn sides(
        &mut self,
        situation: Situation,
        address: &Address,
        many: &mut Option<(Idlers, Post)>,
    ) -> Result<Sides, Failure> {
        let all = self.cpus.clone();
        let (one, two) = process::two_cores(&all).unwrap_or((all[0], all[0]));
        let (one, two) = ([one], [two]);
        let mut sides: Sides = Vec::new();
        match situation {
            Situation::Busy { size, pinned } => {
                let (client, server) =
                    if pinned { (&one[..], &two[..]) } else { (&all[..], &all[..]) };
                let work = Work::Small { size, handler_ns: 0 };
                sides.push(Box::new(self.pair(work, client, server)?));
                for beat in Beat::ALL {
                    let limit = line::limit(beat, size, 0).doing("a line")?;
                    sides.push(Box::new(Team::limit(beat.name(), limit).pin(client, server)?));
                }
            }
            Situation::Size { size, copied } => {
                let work = if copied { Work::Copied { size } } else { Work::InPlace { size } };
                sides.push(Box::new(self.pair(work, &one, &two)?));
                let beats = if size <= 4 << 10 { &Beat::ALL[..] } else { &Beat::SOME[..] };
                for &beat in beats {
                    let limit = area::limit(beat, size, copied).doing("shared memory")?;
                    sides.push(Box::new(Team::limit(beat.name(), limit).pin(&one, &two)?));
                }
            }
            Situation::Gap(_) => {
                sides.push(Box::new(self.pair(SMALL, &all, &all)?));
                kernel_sides(&mut sides, &all)?;
            }
            Situation::OneCpu => {
                sides.push(Box::new(self.pair(SMALL, &one, &one)?));
                kernel_sides(&mut sides, &one)?;
            }
            Situation::Crowd { clients, .. } => {
                sides.push(Box::new(self.crowd(clients, SMALL)?));
                for giving in Giving::ALL {
                    let limit = crowd::limit(clients, giving).doing("a crowd")?;
                    sides.push(Box::new(Team::limit(giving.name(), limit).pin(&all, &all)?));
                }
            }
            Situation::Beside(idle) => {
                let mut post = Post::start("bench-many")?;
                let hot = Team::callgate(post.clients(1)?, post.server(), SMALL).pin(&all, &all)?;
                let mut idlers = Idlers::start(post.name(), idle)?;
                idlers.connect(idle)?;
                self.notes.extend(idlers.refused().note(&situation.name()));
                *many = Some((idlers, post));
                sides.push(Box::new(hot));
                sides.push(Box::new(self.pair(SMALL, &all, &all)?.named("callgate, alone")));
            }
            Situation::Quiet => {
                let post = started(&mut self.crowd, "bench-crowd")?;
                let clients = post.clients(2)?;
                let quiet = || Team::callgate(vec![clients[0].clone()], post.server(), SMALL);
                sides.push(Box::new(quiet().beside(clients[1].clone()).pin(&all, &all)?));
                sides.push(Box::new(quiet().named("callgate, idle server").pin(&all, &all)?));
            }
            Situation::Flight(window) => {
                sides.push(Box::new(self.pair(Work::Flight { window }, &all, &all)?));
                for batch in ring::BATCHES {
                    let limit = ring::limit(batch).doing("rings")?;
                    sides.push(Box::new(Team::limit(ring::name(batch), limit).pin(&all, &all)?));
                }
            }
            Situation::Threads(threads) => {
                sides.push(Box::new(self.crowd(1, Work::Threads { threads })?));
                let processes = self.crowd(threads, SMALL)?.named("callgate, processes");
                sides.push(Box::new(processes));
            }
            Situation::Idle(_) => {}
            Situation::Connect => {
                sides.push(Box::new(self.pair(Work::Connect, &all, &all)?));
                let limit = accept::limit(address).doing("a Unix socket")?;
                sides.push(Box::new(Team::limit("unix socket", limit).pin(&all, &all)?));
            }
            Situation::Fresh => {
                let post = started(&mut self.pair, "bench-pair")?;
                let args = [PathBuf::from(post.name().as_str())];
                process::pin_process(post.server().pid(), &all).doing("sched_setaffinity")?;
                sides.push(Box::new(Fresh::new("callgate", &args, None)));
                let partner = accept::serve(address).doing("a Unix socket")?;
                let args = [PathBuf::from("--unix"), address.path().to_owned()];
                sides.push(Box::new(Fresh::new("unix socket", &args, Some(partner))));
            }
            Situation::Handler(handler_ns) => {
                let work = Work::Small { size: 32, handler_ns };
                sides.push(Box::new(self.pair(work, &all, &all)?));
                handler_sides(&mut sides, handler_ns, &all)?;
            }
        }
        Ok(sides)
    }
}

fn started<'a>(post: &'a mut Option<Post>, what: &str) -> Result<&'a mut Post, Failure> {
    match post {
        Some(post) => Ok(post),
        None => Ok(post.insert(Post::start(what)?)),
    }
}

fn kernel_sides(sides: &mut Sides, cpus: &[usize]) -> Result<(), Failure> {
    for primitive in Primitive::ALL {
        let limit = kernel::limit(primitive, 0).doing(primitive.name())?;
        sides.push(Box::new(Team::limit(primitive.name(), limit).pin(cpus, cpus)?));
    }
    Ok(())
}

/// Lines, with and without work, beside a short handler; a futex pair beside a long one.
fn handler_sides(sides: &mut Sides, handler_ns: u32, cpus: &[usize]) -> Result<(), Failure> {
    let ns = u64::from(handler_ns);
    if handler_ns > 10_000 {
        let limit = kernel::limit(Primitive::Futex, ns).doing("futex")?;
        sides.push(Box::new(Team::limit("futex", limit).pin(cpus, cpus)?));
        return Ok(());
    }
    for beat in Beat::ALL {
        let limit = line::limit(beat, 32, 0).doing("a line")?;
        sides.push(Box::new(Team::limit(beat.name(), limit).pin(cpus, cpus)?));
    }
    for beat in Beat::SOME {
        let limit = line::limit(beat, 32, ns).doing("a line")?;
        sides.push(Box::new(Team::limit(handler::working(beat), limit).pin(cpus, cpus)?));
    }
    Ok(())
}

/// Two processes that never stop.
fn foreign_load() -> Result<Vec<Partner>, Failure> {
    let busy = || loop {
        std::hint::black_box(0);
    };
    (0..2).map(|_| Partner::fork(&[], busy).doing("fork")).collect()
}
