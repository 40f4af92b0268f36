//! The scheduler: tasks, of which one runs, and virtual time.
//!
//! A task is a thread of the real system that holds the baton, or waits for it. So whatever happens
//! between two scheduling points happens in one step, and the order of the steps is the seed's.
//! Nothing here reads a real clock, an address or a hash seed into a decision.

mod state;

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::thread::futex;

use super::Config;
use super::kernel::Kernel;
use super::rng::Rng;
use crate::futex::WORDS_MAX;

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
