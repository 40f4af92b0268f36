//! A simulated operating system: the third backend, for tests.
//!
//! Built with `--cfg callgate_sim`, every module of this crate works on a *world* instead of the
//! kernel: processes that can be killed, tasks that are scheduled by a seed, a clock that stands
//! still while somebody works and jumps while all sleep. What happens in a world is a function of
//! its seed. The logic above this crate is the same, to the line, as in production.
//!
//! A scheduling point is every operation of this crate, every lock, and every point of
//! `callgate-points`. Between two of them a task is alone: orders of memory weaker than sequential
//! consistency are not simulated (loom tests those), but for [`LateFlag`](crate::sync::LateFlag).

pub(crate) mod kernel;
mod rng;
pub(crate) mod world;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Once, PoisonError};

pub(crate) use crate::poller::Event;
use crate::thread::JoinHandle;
use kernel::Object;
pub use rng::Rng;
use world::{Wait, World, inside};
pub(crate) use world::{here, spawn};

/// Size of a simulated page.
pub(crate) const PAGE: usize = 4096;

/// What a world is to be like.
#[derive(Clone, Debug)]
pub struct Config {
    /// Decides everything.
    pub seed: u64,
    /// Virtual time, in nanoseconds, after which a world in which everybody sleeps is stuck.
    pub horizon_ns: u64,
    /// Steps after which a world is taken not to end.
    pub steps_max: u64,
    /// Loses the n-th futex wake (from 1) that would have woken somebody; 0 for none.
    pub drop_wake: u64,
    /// Loses the n-th ring of a doorbell (from 1); 0 for none.
    pub drop_ring: u64,
    /// Operations that may fail for lack of something do so once in this many; 0 for never.
    pub fault_one_in: u64,
    /// Whether mapping memory that a peer sent is among them.
    pub map_faults: bool,
    /// Prints every step.
    pub print: bool,
}

impl Config {
    /// A world of this seed, without faults, that has two minutes and 5 million steps.
    pub fn new(seed: u64) -> Config {
        Config {
            seed,
            horizon_ns: 120_000_000_000,
            steps_max: 5_000_000,
            drop_wake: 0,
            drop_ring: 0,
            fault_one_in: 0,
            map_faults: false,
            print: false,
        }
    }
}

/// What a run was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Over all steps, their times and choices: equal for equal seeds.
    pub hash: u64,
    /// Scheduling points passed.
    pub steps: u64,
    /// Futex wakes that woke somebody.
    pub wakes: u64,
    /// Doorbells rung.
    pub rings: u64,
}

/// Runs `scenario` as the first task of a new world, and ends the world when it returns.
///
/// # Errors
///
/// What went wrong, with the seed and the last steps: a panic of any task that nobody caught, or a
/// deadlock.
pub fn run(config: Config, scenario: impl FnOnce() + Send + 'static) -> Result<Report, String> {
    assert!(here().is_none(), "a world inside of a world");
    callgate_points::set_hook(|name| {
        if let Some(here) = here() {
            here.point(name, 20);
        }
    });
    catch_panics();
    let world: *mut World = Box::into_raw(Box::new(World::new(config)));
    // SAFETY: freed below, after every thread that knows it has ended.
    let shared: &'static World = unsafe { &*world };
    let process = add_process(shared, "scenario");
    let body = move || {
        let ended = catch_unwind(AssertUnwindSafe(scenario)).map_err(|panic| message(&*panic));
        let here = inside();
        here.world.end(&mut here.world.lock(), ended);
    };
    let (task, _) = spawn(shared, process, "main", body).expect("a thread");
    shared.lock().begin(task);
    let mut state = shared.await_end();
    state.dismiss();
    let threads = std::mem::take(&mut state.threads);
    let report =
        Report { hash: state.hash, steps: state.steps, wakes: state.wakes, rings: state.rings };
    // It stays ended: who ended it may run for a moment yet, and must not hand the baton to one that was dismissed.
    let ended = state.ended.replace(Ok(())).expect("it has ended");
    drop(state);
    for thread in threads {
        use std::os::unix::thread::JoinHandleExt;
        let thread = thread.into_pthread_t();
        // SAFETY: into_pthread_t gave us the right to join, which nobody else has. Not `join` of
        // std: threads that were dismissed leave no result.
        unsafe { libc::pthread_join(thread, std::ptr::null_mut()) };
    }
    // SAFETY: from Box::into_raw above; all its threads have ended.
    drop(unsafe { Box::from_raw(world) });
    ended.map(|()| report)
}

/// Keeps the threads that this one will make on one CPU: tasks take turns, and a turn is handed
/// over fastest on one CPU.
pub fn pin_to_cpu(index: usize) {
    let count = std::thread::available_parallelism().map_or(1, |count| count.get());
    let mut set = rustix::thread::CpuSet::new();
    set.set(index % count);
    // Without it everything is slower, nothing else.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// A simulated process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process(usize);

/// What a process has open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Descriptors.
    pub fds: usize,
    /// Mappings of shared memory.
    pub mappings: usize,
    /// Bytes in them.
    pub bytes: usize,
    /// Tasks that have not ended.
    pub tasks: usize,
}

impl Process {
    /// Makes one that has no task yet.
    pub fn new(name: &str) -> Process {
        Process(add_process(inside().world, name))
    }

    /// Runs `body` in a task of this process.
    pub fn run<T: Send + 'static>(
        self,
        name: &str,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        start(self.0, name, body).expect("a thread")
    }

    /// Kills it now. Its tasks never go on; what it has is closed bit by bit.
    pub fn kill(self) {
        let here = inside();
        here.operation("sim.kill", 1_000, |state| state.kill(self.0));
    }

    /// Kills it when its tasks have passed this many scheduling points from now on.
    pub fn kill_after(self, points: u64) {
        inside().world.lock().processes[self.0].kill_in = Some(points);
    }

    /// Stops it for a time, as SIGSTOP and SIGCONT do: it has all that it had, and does nothing.
    pub fn stop_for(self, ns: u64) {
        let here = inside();
        here.operation("sim.stop", 1_000, |state| {
            state.processes[self.0].stopped_until_ns = state.now_ns + ns;
        });
    }

    /// Moves its tasks that sleep on shared memory to a word that nobody wakes, as a hostile peer does with
    /// `FUTEX_REQUEUE`; tells how many.
    pub fn move_sleepers(self) -> usize {
        inside().operation("sim.move_sleepers", 1_000, |state| state.move_sleepers(self.0))
    }

    /// Takes a planned kill back; true unless it was killed already.
    pub fn spare(self) -> bool {
        let mut state = inside().world.lock();
        state.processes[self.0].kill_in = None;
        !state.processes[self.0].killed
    }

    /// Whether it was killed.
    pub fn is_killed(self) -> bool {
        inside().world.lock().processes[self.0].killed
    }

    /// What it has open now.
    pub fn usage(self) -> Usage {
        let state = inside().world.lock();
        let mut usage = Usage::default();
        for fd in state.kernel.fds.values().filter(|fd| fd.process == self.0) {
            if let Object::Mapping(region) = fd.object {
                usage.mappings += 1;
                usage.bytes += state.kernel.memory(region).1;
            } else {
                usage.fds += 1;
            }
        }
        usage.tasks = state.tasks_alive(self.0);
        usage
    }
}

/// Bytes of shared memory that any process holds, or that lie in a socket.
pub fn memory_held() -> usize {
    inside().world.lock().kernel.bytes_held()
}

/// Changes [`Config::fault_one_in`] from now on.
pub fn set_faults(one_in: u64) {
    inside().world.lock().config.fault_one_in = one_in;
}

/// Ends the world as failed, also where a panic would be caught. The caller gets no further than to
/// the next scheduling point.
pub fn fail(what: &str) {
    let here = inside();
    here.world.end(&mut here.world.lock(), Err(what.to_owned()));
}

/// Gives a number of the world's own chance.
pub fn random(end: u64) -> u64 {
    inside().world.lock().rng.below(end)
}

pub(crate) fn start<T: Send + 'static>(
    process: usize,
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    let here = inside();
    here.point("thread.spawn", 5_000);
    let result = Arc::new(Mutex::new(None));
    let place = result.clone();
    let (task, thread) = spawn(here.world, process, name, move || {
        let ended = catch_unwind(AssertUnwindSafe(body));
        if let Err(panic) = &ended {
            let here = inside();
            here.world.end(&mut here.world.lock(), Err(message(&**panic)));
        }
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
    })?;
    here.point("after", 10);
    Ok(JoinHandle { task, thread, result })
}

/// A descriptor, or a mapping, of the process that holds the value; closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Handle(pub(crate) u64);

impl Handle {
    pub(crate) fn new(state: &mut world::State, process: usize, object: Object) -> Handle {
        Handle(state.kernel.open(process, object))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(here) = here() {
            here.operation("sys.close", 200, |state| state.kernel.close(self.0, false));
        }
    }
}

/// Waits for a wake of `address`; false when the deadline passed.
pub(crate) fn wait_address(address: usize, deadline_ns: Option<u64>) -> bool {
    let here = inside();
    here.block(here.world.lock(), Wait::Address(address), deadline_ns)
}

/// The error of a system that lacks something, if chance wants it.
pub(crate) fn fault(state: &mut world::State, errno: i32) -> std::io::Result<()> {
    let one_in = state.config.fault_one_in;
    match state.rng.one_in(one_in) {
        true => Err(std::io::Error::from_raw_os_error(errno)),
        false => Ok(()),
    }
}

fn add_process(world: &World, name: &str) -> usize {
    let mut state = world.lock();
    state.processes.push(world::Process {
        name: name.to_owned(),
        killed: false,
        dead: false,
        kill_in: None,
        barriers: 0,
        stopped_until_ns: 0,
        locals: Vec::new(),
    });
    state.processes.len() - 1
}

thread_local! {
    static WHERE: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// A panic in a world isn't printed where it happens, but with the end of the world that it causes.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if here().is_none() {
                return usual(info);
            }
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            WHERE.with_borrow_mut(|text| *text = place);
        }));
    });
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    let place = WHERE.with_borrow(Clone::clone);
    format!("{} at {place}", text.unwrap_or_else(|| "a panic".into()))
}
