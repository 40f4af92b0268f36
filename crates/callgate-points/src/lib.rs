//! Kill points: named places before and after each store to shared memory and each system call of the protocol.
//!
//! In an ordinary build a point is an empty inline function. Built with `--cfg callgate_points` (through `RUSTFLAGS`)
//! each point can
//!
//! * kill its own process: `CALLGATE_KILL=NAME:N` sends SIGKILL at the N-th passage (from 1) of the point `NAME`. On Windows
//!   it writes the line [`KILL_ME`] on standard output, and the thread goes no further: whoever started the process kills it;
//! * mark itself in a system-call trace: with `CALLGATE_MARK=1` it calls `write(-1, NAME)`, which fails with `EBADF`
//!   and does nothing, but shows in `strace` just before the call or store that it announces (not on Windows);
//! * list itself: with `CALLGATE_POINTS_LOG=PATH` every point met is appended to that file once.
//!
//! With either cfg a point first calls the function that was given to `set_hook`, if one was: a driver that counts the
//! passages and kills at one of them, or, with `--cfg callgate_sim`, a simulated scheduler.
//!
//! The crate knows nothing of what the points stand for.

/// What a process on Windows says when a point is to kill it. Under Wine 8 one that calls TerminateProcess for itself may
/// stay for ever: its last thread waits in ntdll for the lock of virtual memory. It seems that one of the threads which are
/// killed before it had that.
pub const KILL_ME: &str = "kill me";

/// Passes the point `NAME.before`, evaluates the expression, passes `NAME.after`, yields the value.
#[macro_export]
macro_rules! at {
    ($name:literal, $action:expr) => {{
        $crate::hit(concat!($name, ".before"));
        let value = $action;
        $crate::hit(concat!($name, ".after"));
        value
    }};
}

/// Passes a point; does nothing in an ordinary build.
#[cfg(not(any(callgate_points, callgate_sim)))]
#[inline(always)]
pub fn hit(_name: &'static str) {}

#[cfg(callgate_sim)]
pub use hooked::{call as hit, set_hook};

#[cfg(all(callgate_points, not(callgate_sim)))]
pub use hooked::set_hook;

#[cfg(any(callgate_points, callgate_sim))]
mod hooked {
    use std::sync::OnceLock;

    static HOOK: OnceLock<fn(&'static str)> = OnceLock::new();

    /// Makes every point call `hook`; the first one given stays.
    pub fn set_hook(hook: fn(&'static str)) {
        let _ = HOOK.set(hook);
    }

    /// Passes a point: calls the hook, if there is one.
    pub fn call(name: &'static str) {
        if let Some(hook) = HOOK.get() {
            hook(name);
        }
    }
}

#[cfg(all(callgate_points, not(callgate_sim)))]
pub use active::hit;

#[cfg(all(callgate_points, not(callgate_sim)))]
mod active {
    use std::collections::HashSet;
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, OnceLock};

    struct Plan {
        kill: Option<(String, u64)>,
        passed: AtomicU64,
        #[cfg(not(windows))]
        mark: bool,
        log: Option<(std::path::PathBuf, Mutex<HashSet<&'static str>>)>,
    }

    fn plan() -> &'static Plan {
        static PLAN: OnceLock<Plan> = OnceLock::new();
        PLAN.get_or_init(|| Plan {
            kill: std::env::var("CALLGATE_KILL").ok().map(|text| {
                let (name, count) = text.rsplit_once(':').unwrap_or((&text, "1"));
                (name.to_owned(), count.parse().expect("CALLGATE_KILL=NAME:N, N a number"))
            }),
            passed: AtomicU64::new(0),
            #[cfg(not(windows))]
            mark: std::env::var_os("CALLGATE_MARK").is_some(),
            log: std::env::var_os("CALLGATE_POINTS_LOG")
                .map(|path| (path.into(), Mutex::default())),
        })
    }

    /// Passes a point: kills, marks or logs as the environment asks. What the last call left behind as its error stays.
    pub fn hit(name: &'static str) {
        #[cfg(windows)]
        let error = LastError::keep();
        crate::hooked::call(name);
        let plan = plan();
        #[cfg(not(windows))]
        if plan.mark {
            // SAFETY: the buffer is valid for its length; the descriptor is invalid on purpose, so nothing is written.
            unsafe { libc::write(-1, name.as_ptr().cast(), name.len()) };
        }
        if let Some((path, seen)) = &plan.log
            && seen.lock().unwrap_or_else(|e| e.into_inner()).insert(name)
        {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            if let Ok(mut file) = file {
                let _ = file.write_all(format!("{name}\n").as_bytes());
            }
        }
        if let Some((target, count)) = &plan.kill
            && target == name
            && plan.passed.fetch_add(1, Ordering::Relaxed) + 1 == *count
        {
            die();
        }
        #[cfg(windows)]
        error.restore();
    }

    /// What `GetLastError` gives: a point after a call stands before it is asked for.
    #[cfg(windows)]
    struct LastError(u32);

    #[cfg(windows)]
    impl LastError {
        fn keep() -> Self {
            // SAFETY: no memory is passed.
            Self(unsafe { GetLastError() })
        }

        fn restore(self) {
            // SAFETY: no memory is passed.
            unsafe { SetLastError(self.0) };
        }
    }

    #[cfg(windows)]
    #[link(name = "kernel32", kind = "raw-dylib")]
    unsafe extern "system" {
        fn GetLastError() -> u32;
        fn SetLastError(error: u32);
    }

    #[cfg(not(windows))]
    fn die() {
        // SAFETY: kill has no memory preconditions; it ends this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }

    #[cfg(windows)]
    fn die() {
        let mut out = std::io::stdout().lock();
        let told = writeln!(out, "{}", crate::KILL_ME).and_then(|()| out.flush());
        // Others may speak until they are killed, too.
        drop(out);
        told.expect("somebody who kills");
        loop {
            std::thread::park();
        }
    }
}
