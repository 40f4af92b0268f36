//! Runs a program under ptrace, counts the system calls that it makes, and makes chosen ones fail.
//!
//! A call that is to fail is not made: its number is replaced at its entry, and the error put in place at its exit, as
//! `strace -e inject=` does it. Counted is what all threads do between the marks of [`super::mark`], and what has a name in
//! [`super::table`]. It knows nothing of callgate.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::mark::{CLEAN, GO, HARNESS, LIBRARY};
use super::table::{Errno, Name, name_of};

/// Which calls fail.
#[derive(Clone, Default)]
pub struct Plan {
    /// Each of these, always: calls that a system does not have.
    pub missing: Vec<(Name, Errno)>,
    /// The `at`-th of its name, counted from 1 over all threads.
    pub once: Option<(Name, u64, Errno)>,
}

/// What was seen.
#[derive(Default)]
pub struct Trace {
    /// How often each call was made.
    pub counts: BTreeMap<Name, u64>,
    /// Whether the one call was made to fail.
    pub injected: bool,
    /// How often a missing one was.
    pub missed: u64,
    /// It did not end in time, and was killed.
    pub hung: bool,
    /// The exit code, or the signal as a negative number.
    pub exit: i32,
}

#[derive(Default)]
struct Thread {
    seen: bool,
    in_harness: bool,
    fails_with: Option<Errno>,
}

/// `struct ptrace_syscall_info` of the kernel, as far as it is read here.
#[repr(C)]
#[derive(Clone, Copy)]
struct SyscallInfo {
    op: u8,
    pad: [u8; 3],
    arch: u32,
    ip: u64,
    sp: u64,
    nr: u64,
    args: [u64; 6],
    rest: [u64; 4],
}

const GET_SYSCALL_INFO: libc::c_uint = 0x420e;
const ENTRY: u8 = 1;
const EXIT: u8 = 2;
/// Offsets in `struct user` of x86-64.
const ORIG_RAX: usize = 15 * 8;
const RAX: usize = 10 * 8;
/// Offsets of `msg_iov` and `msg_controllen` in `struct msghdr`, and of `iov_len` in `struct iovec`.
const IOV: usize = 16;
const CONTROL_LEN: usize = 40;
const IOV_LEN: usize = 8;

/// Starts `command` traced by this thread. It stops at its first instruction until [`follow`] is called, by this thread too.
///
/// # Panics
/// When it can't be started.
pub fn start(command: &mut Command) -> Child {
    // SAFETY: ptrace(TRACEME) is a plain system call, allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let none = std::ptr::null_mut::<libc::c_void>();
            match libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    command.spawn().expect("the subject starts")
}

/// Follows the child to its end, for at most `limit`.
pub fn follow(child: Child, plan: &Plan, limit: Duration) -> Trace {
    let pid = child.id().cast_signed();
    let (done, ended) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let hung = ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        if hung {
            report_threads(pid);
            // SAFETY: kill has no memory preconditions; the child is not reaped before `done` is dropped.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        hung
    });
    let (trace, threads) = (Trace::default(), BTreeMap::new());
    let mut tracer = Tracer { pid, plan, trace, threads, counts_now: false, is_clean: false };
    tracer.run();
    let mut trace = tracer.trace;
    drop(done);
    trace.hung = watchdog.join().expect("the watchdog");
    trace
}

/// Where each thread of a process that hangs stands.
fn report_threads(pid: i32) {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for task in tasks.flatten() {
        let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let (name, at) = (read("comm"), read("syscall"));
        eprintln!(
            "hung: {pid} {} {}: system call {}",
            task.file_name().display(),
            name.trim(),
            at.trim()
        );
    }
}

struct Tracer<'a> {
    pid: i32,
    plan: &'a Plan,
    trace: Trace,
    threads: BTreeMap<i32, Thread>,
    counts_now: bool,
    is_clean: bool,
}

impl Tracer<'_> {
    fn run(&mut self) {
        loop {
            let mut status = 0;
            // SAFETY: the status is a live local. Children of other threads are left to these.
            let tid =
                unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
            if tid < 0 {
                return;
            }
            if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                self.threads.remove(&tid);
                if tid == self.pid {
                    self.trace.exit = if libc::WIFEXITED(status) {
                        libc::WEXITSTATUS(status)
                    } else {
                        -libc::WTERMSIG(status)
                    };
                    return;
                }
                continue;
            }
            let signal = self.stopped(tid, status);
            // Fails only for a thread that was killed meanwhile, whose end comes next.
            ptrace(libc::PTRACE_SYSCALL, tid, 0, signal as usize);
        }
    }

    /// Looks at a thread that stopped; gives the signal to deliver.
    fn stopped(&mut self, tid: i32, status: i32) -> i32 {
        let signal = libc::WSTOPSIG(status);
        let thread = self.threads.entry(tid).or_default();
        if !std::mem::replace(&mut thread.seen, true) {
            if tid == self.pid {
                let options = libc::PTRACE_O_TRACESYSGOOD
                    | libc::PTRACE_O_TRACECLONE
                    | libc::PTRACE_O_TRACEFORK
                    | libc::PTRACE_O_EXITKILL;
                ptrace(libc::PTRACE_SETOPTIONS, tid, 0, options as usize);
            }
            // The stop at exec, or at a thread's birth.
            return 0;
        }
        if status >> 16 != 0 {
            return 0; // a clone, seen from its maker
        }
        if signal == libc::SIGTRAP | 0x80 {
            self.system_call(tid);
            return 0;
        }
        signal
    }

    fn system_call(&mut self, tid: i32) {
        // SAFETY: all zeros are a valid value.
        let mut info: SyscallInfo = unsafe { std::mem::zeroed() };
        let size = size_of::<SyscallInfo>();
        if ptrace(GET_SYSCALL_INFO, tid, size, (&raw mut info) as usize) < 0 {
            return;
        }
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        if info.op == EXIT {
            if let Some(errno) = thread.fails_with.take() {
                ptrace(libc::PTRACE_POKEUSER, tid, RAX, -i64::from(errno.0) as usize);
            }
            return;
        }
        if info.op != ENTRY {
            return;
        }
        if info.nr == libc::SYS_write as u64 && info.args[0] as i32 == -1 {
            match info.args[2] as usize {
                GO => self.counts_now = true,
                CLEAN => self.is_clean = true,
                HARNESS => thread.in_harness = true,
                LIBRARY => thread.in_harness = false,
                _ => {}
            }
            return;
        }
        if !self.counts_now || thread.in_harness {
            return;
        }
        let Some(mut name) = name_of(info.nr as libc::c_long, &info.args) else { return };
        if name == "sendmsg" {
            name = which_sendmsg(tid, info.args[1] as usize);
        }
        let mut count = 0;
        if !self.is_clean {
            let so_far = self.trace.counts.entry(name).or_default();
            *so_far += 1;
            count = *so_far;
        }
        let once = self.plan.once.filter(|(which, at, _)| *which == name && *at == count);
        let missing = self.plan.missing.iter().find(|(which, _)| *which == name);
        let Some(errno) = once.map(|(_, _, errno)| errno).or(missing.map(|(_, errno)| *errno))
        else {
            return;
        };
        self.trace.injected |= once.is_some();
        self.trace.missed += u64::from(once.is_none());
        thread.fails_with = Some(errno);
        ptrace(libc::PTRACE_POKEUSER, tid, ORIG_RAX, usize::MAX);
    }
}

/// What a sendmsg carries: a descriptor, one byte (a bell), or a message.
fn which_sendmsg(tid: i32, message: usize) -> Name {
    if peek(tid, message + CONTROL_LEN) != 0 {
        return "sendmsg fd";
    }
    let first = peek(tid, message + IOV) as usize;
    if peek(tid, first + IOV_LEN) == 1 { "sendmsg bell" } else { "sendmsg" }
}

/// A word of the tracee's memory.
fn peek(tid: i32, address: usize) -> libc::c_long {
    ptrace(libc::PTRACE_PEEKDATA, tid, address, 0)
}

fn ptrace(request: libc::c_uint, tid: i32, address: usize, data: usize) -> libc::c_long {
    // SAFETY: the requests used here read and write the tracee, which is stopped, and for GET_SYSCALL_INFO the live local
    // that `data` points to, of the size that `address` gives.
    unsafe { libc::ptrace(request, tid, address as *mut libc::c_void, data as *mut libc::c_void) }
}
