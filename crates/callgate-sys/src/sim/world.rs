//! The scheduler: tasks, of which one runs, and virtual time.
//!
//! A task is a thread of the real system that holds the baton, or waits for it. So whatever happens
//! between two scheduling points happens in one step, and the order of the steps is the seed's.
//! Nothing here reads a real clock, an address or a hash seed into a decision.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::thread::futex;

use super::Config;
use super::kernel::Kernel;
use super::rng::Rng;
use crate::futex::WORDS_MAX;

/// Steps kept to be printed with a failure.
const TRACE_LEN: usize = 300;

/// An address at which nothing lies.
const NOWHERE: usize = 1;

/// What a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// A wake of this address: a futex word, a lock, a condition variable.
    Address(usize),
    /// A wake of any of these addresses, as far as they are not 0.
    AnyAddress([usize; WORDS_MAX]),
    /// Something to read from this descriptor.
    Readable(u64),
    /// Room in this socket.
    Writable(u64),
    /// An event of this poller.
    Poller(u64),
    /// Room in the queue of this listener, or its end.
    Backlog(u64),
    /// The end of this task.
    Task(usize),
    /// Its deadline alone.
    Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    Ready,
    Blocked(Wait),
    Done,
    /// Its process was killed.
    Dead,
}

impl Run {
    fn waits_on(self, address: usize) -> bool {
        match self {
            Run::Blocked(Wait::Address(its)) => its == address,
            Run::Blocked(Wait::AnyAddress(all)) => all.contains(&address),
            _ => false,
        }
    }
}

pub(crate) struct Task {
    name: String,
    pub(crate) process: usize,
    pub(crate) run: Run,
    deadline_ns: Option<u64>,
    timed_out: bool,
    baton: Box<Baton>,
    /// Seldom chosen, as if its CPU were busy with something else.
    slow: bool,
}

/// Where the thread of a task waits for its turn.
struct Baton(AtomicU32);

const WAIT: u32 = 0;
const GO: u32 = 1;
const EXIT: u32 = 2;

pub(crate) struct Process {
    pub(crate) name: String,
    /// Killed: none of its tasks runs any more.
    pub(crate) killed: bool,
    /// Everything that it had is closed: its pidfd tells.
    pub(crate) dead: bool,
    pub(crate) kill_in: Option<u64>,
    /// Barriers that all its tasks have passed.
    pub(crate) barriers: u64,
    /// None of its tasks runs before.
    pub(crate) stopped_until_ns: u64,
    /// Values of `process_local!`, by the address of the static.
    pub(crate) locals: Vec<(usize, usize)>,
}

pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) now_ns: u64,
    began_ns: u64,
    pub(crate) steps: u64,
    pub(crate) tasks: Vec<Task>,
    pub(crate) processes: Vec<Process>,
    pub(crate) kernel: Kernel,
    pub(crate) threads: Vec<std::thread::JoinHandle<()>>,
    pub(crate) hash: u64,
    pub(crate) cpus: u32,
    pub(crate) wakes: u64,
    pub(crate) rings: u64,
    pub(crate) ended: Option<Result<(), String>>,
    trace: VecDeque<(u64, usize, &'static str)>,
    switch_one_in: u64,
    /// Whether this system can sleep on several words at once.
    pub(crate) waits_on_many: bool,
    /// Whether this system can make all tasks of a process pass a barrier.
    pub(crate) has_barrier: bool,
    slow_one_in: u64,
    speed: u64,
}

pub(crate) struct World {
    state: Mutex<State>,
    over: Condvar,
}

/// Who runs: a task of a world.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    pub(crate) world: &'static World,
    pub(crate) task: usize,
    pub(crate) process: usize,
}

thread_local! {
    static HERE: Cell<Option<Here>> = const { Cell::new(None) };
}

/// The task that runs on this thread; `None` outside of every world.
pub(crate) fn here() -> Option<Here> {
    HERE.get()
}

/// As [`here`], where the outside has no meaning.
pub(crate) fn inside() -> Here {
    here().expect("simulated operations work inside of `sim::run` only")
}

impl World {
    pub(crate) fn new(config: Config) -> World {
        let mut rng = Rng::new(config.seed);
        let began_ns = rng.range(1, 1 << 40);
        let state = State {
            now_ns: began_ns,
            began_ns,
            cpus: rng.pick(&[1, 2, 2, 4]),
            switch_one_in: rng.pick(&[2, 4, 8, 32]),
            waits_on_many: !rng.one_in(3),
            // Not of the chance that decides all else, so that seeds stay what they were.
            has_barrier: !Rng::new(!config.seed).one_in(6),
            slow_one_in: rng.pick(&[0, 0, 3, 6]),
            speed: rng.pick(&[1, 2, 4, 8]),
            kernel: Kernel::new(&mut rng),
            steps: 0,
            tasks: Vec::new(),
            processes: Vec::new(),
            threads: Vec::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            wakes: 0,
            rings: 0,
            ended: None,
            trace: VecDeque::new(),
            config,
            rng,
        };
        World { state: Mutex::new(state), over: Condvar::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks the runner until the world has ended.
    pub(crate) fn await_end(&self) -> MutexGuard<'_, State> {
        let state = self.lock();
        let over = self.over.wait_while(state, |state| state.ended.is_none());
        over.unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the world: no task gets the baton any more.
    pub(crate) fn end(&self, state: &mut State, how: Result<(), String>) {
        if state.ended.is_none() {
            let how = how.map_err(|what| format!("{what}\n{}", state.describe()));
            state.ended = Some(how);
        }
        self.over.notify_all();
    }
}

impl Here {
    /// Does one operation of the system: a step that nobody else sees half done.
    pub(crate) fn operation<T>(
        self,
        name: &'static str,
        cost_ns: u64,
        work: impl FnOnce(&mut State) -> T,
    ) -> T {
        self.point(name, cost_ns);
        let result = work(&mut self.world.lock());
        self.point("after", 10);
        result
    }

    /// A scheduling point that takes about `cost_ns`: somebody else may run now.
    pub(crate) fn point(self, name: &'static str, cost_ns: u64) {
        let mut state = self.world.lock();
        state.note_step(self.task, name, cost_ns);
        let switch_one_in = state.switch_one_in;
        let stays = state.can_run(self.task) && state.ended.is_none();
        if state.rng.one_in(switch_one_in) || !stays {
            self.switch(state);
        }
    }

    /// Lets others run until `wait` is over (true) or the deadline has passed (false).
    pub(crate) fn block(
        self,
        mut state: MutexGuard<'static, State>,
        wait: Wait,
        deadline_ns: Option<u64>,
    ) -> bool {
        // The process may have been killed by this very step.
        if state.tasks[self.task].run == Run::Ready {
            let task = &mut state.tasks[self.task];
            task.run = Run::Blocked(wait);
            task.deadline_ns = deadline_ns;
            task.timed_out = false;
            state.kernel.changed = true;
        }
        self.switch(state);
        !self.world.lock().tasks[self.task].timed_out
    }

    /// Gives the baton to the next task, which may be this one, and waits until it comes back.
    pub(crate) fn switch(self, mut state: MutexGuard<'static, State>) {
        if state.ended.is_none() {
            match state.choose() {
                Ok(next) => {
                    if next == self.task {
                        return;
                    }
                    state.tasks[next].baton.hand(GO);
                }
                Err(what) => self.world.end(&mut state, Err(what)),
            }
        }
        let baton: *const Baton = &raw const *state.tasks[self.task].baton;
        drop(state);
        // SAFETY: boxed, so it stays where it is when the list of tasks grows; the world is freed
        // only after all its threads have ended.
        unsafe { &*baton }.take();
    }
}

/// Makes a task with a thread of its own, which runs `body` once it is chosen.
pub(crate) fn spawn(
    world: &'static World,
    process: usize,
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<(usize, std::thread::Thread)> {
    let mut state = world.lock();
    let task = state.tasks.len();
    let slow_one_in = state.slow_one_in;
    let slow = state.rng.one_in(slow_one_in);
    let run = if state.processes[process].killed { Run::Dead } else { Run::Ready };
    let name = format!("{}/{name}", state.processes[process].name);
    state.tasks.push(Task {
        name,
        process,
        run,
        deadline_ns: None,
        timed_out: false,
        baton: Box::new(Baton(AtomicU32::new(WAIT))),
        slow,
    });
    let here = Here { world, task, process };
    let baton = (&raw const *state.tasks[task].baton) as usize;
    let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(move || {
        // SAFETY: as in `Here::switch`.
        unsafe { &*(baton as *const Baton) }.take();
        HERE.set(Some(here));
        body();
        HERE.set(None);
        here.done();
    });
    let thread = match thread {
        Ok(thread) => thread,
        Err(error) => {
            state.tasks[task].run = Run::Done;
            return Err(error);
        }
    };
    let handle = thread.thread().clone();
    state.threads.push(thread);
    Ok((task, handle))
}

impl Here {
    /// The task has ended: the baton goes on, and this thread ends by itself.
    fn done(self) {
        let mut state = self.world.lock();
        if state.ended.is_some() {
            return;
        }
        state.tasks[self.task].run = Run::Done;
        state.kernel.changed = true;
        match state.choose() {
            Ok(next) => state.tasks[next].baton.hand(GO),
            Err(what) => self.world.end(&mut state, Err(what)),
        }
    }
}

impl Baton {
    fn hand(&self, what: u32) {
        self.0.store(what, Ordering::Release);
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, 1);
    }

    fn take(&self) {
        loop {
            match self.0.load(Ordering::Acquire) {
                WAIT => {
                    let _ = futex::wait(&self.0, futex::Flags::PRIVATE, WAIT, None);
                }
                EXIT => {
                    free_signal_stack();
                    // The thread goes without unwinding: the destructors of a killed process must
                    // not run, and those of an ended world have nothing to do.
                    // SAFETY: this ends the calling thread alone. It holds no lock of the real
                    // system, since it waits for the baton; its stack stays until it is joined.
                    unsafe { libc::syscall(libc::SYS_exit, 0) };
                }
                _ => {
                    self.0.store(WAIT, Ordering::Relaxed);
                    return;
                }
            }
        }
    }
}

/// Frees what `std` maps for each thread, and frees itself only where a thread ends in order: its
/// signal stack, with a guard page below it.
fn free_signal_stack() {
    let page = rustix::param::page_size();
    let off = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    let mut old = off;
    // SAFETY: both point to live locals; the thread handles no signal on that stack now.
    let result = unsafe { libc::sigaltstack(&raw const off, &raw mut old) };
    if result == 0 && old.ss_flags & libc::SS_DISABLE == 0 && !old.ss_sp.is_null() {
        // SAFETY: `std` mapped exactly this, for this thread alone, which never uses it again.
        unsafe { libc::munmap(old.ss_sp.byte_sub(page), old.ss_size + page) };
    }
}

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

    fn note_step(&mut self, task: usize, name: &'static str, cost_ns: u64) {
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

    fn can_run(&self, task: usize) -> bool {
        let task = &self.tasks[task];
        task.run == Run::Ready && self.processes[task.process].stopped_until_ns <= self.now_ns
    }

    /// Chooses who runs next; lets time pass while nobody can.
    fn choose(&mut self) -> Result<usize, String> {
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

    fn describe(&self) -> String {
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
