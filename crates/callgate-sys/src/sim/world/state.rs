//! What happens in the world, step by step: who runs next, what time it is, who is woken, killed, and closed.

use super::{EXIT, GO, Run, State, Task, Wait};

/// An address at which nothing lies.
const NOWHERE: usize = 1;

/// Steps kept to be printed with a failure.
const TRACE_LEN: usize = 300;

impl State {
    /// Makes the threads that still wait for the baton end.
    pub(crate) fn dismiss(&mut self) {
        for task in &self.tasks {
            task.baton.hand(EXIT);
        }
    }

    pub(crate) fn has_waiter(&self, address: usize) -> bool {
        self.tasks.iter().any(|task| task.run.waits_on(address))
    }

    pub(crate) fn has_ended(&self, task: usize) -> bool {
        matches!(self.tasks[task].run, Run::Done | Run::Dead)
    }

    /// Gives the baton to the first task.
    pub(crate) fn begin(&mut self, task: usize) {
        self.tasks[task].baton.hand(GO);
    }

    /// Tasks of a process that have not ended.
    pub(crate) fn tasks_alive(&self, process: usize) -> usize {
        let alive = |task: &&Task| matches!(task.run, Run::Ready | Run::Blocked(_));
        self.tasks.iter().filter(|task| task.process == process).filter(alive).count()
    }

    pub(super) fn note_step(&mut self, task: usize, name: &'static str, cost_ns: u64) {
        self.steps += 1;
        let cost_ns = self.rng.range(cost_ns / 2, cost_ns * 2) * self.speed;
        self.now_ns += cost_ns;
        if self.trace.len() == TRACE_LEN {
            self.trace.pop_front();
        }
        self.trace.push_back((self.now_ns, task, name));
        for byte in name.bytes() {
            self.note(byte.into());
        }
        self.note(task as u64);
        self.note(cost_ns);
        if self.config.print {
            eprintln!("{} {} {name}", self.now_ns, self.tasks[task].name);
        }
        let process = self.tasks[task].process;
        if let Some(kill_in) = self.processes[process].kill_in {
            if kill_in == 0 {
                self.kill(process);
            } else {
                self.processes[process].kill_in = Some(kill_in - 1);
            }
        }
    }

    /// Makes a value a part of the trace.
    pub(crate) fn note(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
    }

    /// Ends a process as `kill -9` does. What it had is closed bit by bit.
    pub(crate) fn kill(&mut self, process: usize) {
        if self.processes[process].killed {
            return;
        }
        self.processes[process].killed = true;
        self.processes[process].kill_in = None;
        self.trace.push_back((self.now_ns, usize::MAX, "killed"));
        self.note(process as u64);
        for task in &mut self.tasks {
            if task.process == process && task.run != Run::Done {
                task.run = Run::Dead;
            }
        }
        self.kernel.bury(process, &mut self.rng);
    }

    /// Wakes at most `count` tasks that wait for `address`, in an order of chance.
    pub(crate) fn wake_address(&mut self, address: usize, count: u32) -> u32 {
        let mut woken = 0;
        while woken < count {
            let asleep = self.tasks.iter().filter(|task| task.run.waits_on(address)).count();
            let Some(at) = asleep.checked_sub(1) else { break };
            let at = self.rng.below(at as u64 + 1) as usize;
            let chosen = self.tasks.iter_mut().filter(|task| task.run.waits_on(address)).nth(at);
            chosen.expect("counted").run = Run::Ready;
            woken += 1;
        }
        woken
    }

    /// Moves the tasks of a process that sleep on shared memory to a word that nobody wakes; tells how many.
    pub(crate) fn move_sleepers(&mut self, process: usize) -> usize {
        let mut moved = 0;
        for task in self.tasks.iter_mut().filter(|task| task.process == process) {
            if let Run::Blocked(Wait::Address(address)) = &mut task.run
                && self.kernel.is_shared(*address)
            {
                *address = NOWHERE;
                moved += 1;
            }
        }
        moved
    }

    pub(super) fn can_run(&self, task: usize) -> bool {
        let task = &self.tasks[task];
        task.run == Run::Ready && self.processes[task.process].stopped_until_ns <= self.now_ns
    }

    /// Chooses who runs next; lets time pass while nobody can.
    pub(super) fn choose(&mut self) -> Result<usize, String> {
        if self.steps > self.config.steps_max {
            return Err(format!("no end after {} steps", self.steps));
        }
        loop {
            self.settle();
            let ready: Vec<usize> = (0..self.tasks.len()).filter(|at| self.can_run(*at)).collect();
            if !ready.is_empty() {
                let mut next = self.rng.pick(&ready);
                if self.tasks[next].slow && !self.rng.one_in(20) {
                    next = self.rng.pick(&ready);
                }
                return Ok(next);
            }
            if self.close_one() {
                continue;
            }
            let due = self.tasks.iter().filter_map(|task| match task.run {
                Run::Blocked(_) => task.deadline_ns,
                // Its process is stopped.
                Run::Ready => Some(self.processes[task.process].stopped_until_ns),
                Run::Done | Run::Dead => None,
            });
            let Some(due_ns) = due.min() else {
                return Err("deadlock: every task sleeps, and nothing is due".into());
            };
            if due_ns > self.began_ns.saturating_add(self.config.horizon_ns) {
                return Err("deadlock: every task sleeps, and nothing is due in time".into());
            }
            self.now_ns = self.now_ns.max(due_ns);
        }
    }

    /// Makes those ready whose wait is over.
    fn settle(&mut self) {
        if self.rng.one_in(8) {
            self.close_one();
        }
        let changed = std::mem::take(&mut self.kernel.changed);
        for at in 0..self.tasks.len() {
            let Run::Blocked(wait) = self.tasks[at].run else { continue };
            if changed && self.is_over(wait) {
                self.tasks[at].run = Run::Ready;
            } else if self.tasks[at].deadline_ns.is_some_and(|due_ns| due_ns <= self.now_ns) {
                self.tasks[at].run = Run::Ready;
                self.tasks[at].timed_out = true;
            }
        }
    }

    fn is_over(&self, wait: Wait) -> bool {
        match wait {
            Wait::Address(_) | Wait::AnyAddress(_) | Wait::Time => false,
            Wait::Readable(fd) => self.kernel.readiness(fd, &self.processes).any(),
            Wait::Writable(fd) => self.kernel.is_writable(fd),
            Wait::Poller(fd) => self.kernel.has_events(fd, &self.processes),
            Wait::Backlog(fd) => self.kernel.takes_connections(fd),
            Wait::Task(task) => self.has_ended(task),
        }
    }

    /// Goes on with the burial of processes that were killed; false when there is nothing to do.
    fn close_one(&mut self) -> bool {
        let Some((process, fd)) = self.kernel.next_burial() else { return false };
        match fd {
            Some(fd) => self.kernel.close(fd, true),
            None => self.processes[process].dead = true,
        }
        self.kernel.changed = true;
        let cost_ns = self.rng.range(100, 100_000);
        self.now_ns += cost_ns;
        self.note(cost_ns);
        true
    }

    pub(super) fn describe(&self) -> String {
        use std::fmt::Write;
        let mut text = format!("seed {}, step {}\n", self.config.seed, self.steps);
        for (at, task) in self.tasks.iter().enumerate() {
            let due = task.deadline_ns.filter(|_| matches!(task.run, Run::Blocked(_)));
            let due = due.map(|due_ns| due_ns.saturating_sub(self.now_ns) / 1_000);
            let _ =
                writeln!(text, "  task {at:3} {:28} {:?} due in us {due:?}", task.name, task.run);
        }
        for (at_ns, task, name) in &self.trace {
            let who = self.tasks.get(*task).map_or("", |task| task.name.as_str());
            let _ = writeln!(text, "  {at_ns:14} {who:28} {name}");
        }
        text
    }
}
