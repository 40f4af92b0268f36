//! The command in a job object, which goes with us and with the call; a thread for each of its pipes.

use std::io::{self, Read, Write};
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::os::windows::process::CommandExt;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use callgate::Deferred;
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE,
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION, JobObjectExtendedLimitInformation,
    SetInformationJobObject, TerminateJobObject,
};
use windows_sys::Win32::System::Threading::{CREATE_NEW_PROCESS_GROUP, CREATE_SUSPENDED};

use super::{CODE_NOT_STARTED, Command, LOOK, NoReply, limits, prepared};

/// Bytes that are passed on at a time.
const PIECE: usize = 64 << 10;

/// The exit status.
pub(super) fn reply_status(status: ExitStatus) -> u32 {
    status.code().map_or(u32::MAX, i32::cast_unsigned)
}

pub(super) fn run(
    command: &Command,
    call: &Deferred,
    aborted: &AtomicBool,
) -> Result<(ExitStatus, Vec<u8>), NoReply> {
    let name = command.program.display();
    let system = |error: io::Error| NoReply(CODE_NOT_STARTED, format!("{name}: {error}"));
    let job = Job::new().map_err(system)?;
    let mut run = prepared(command, call);
    // Ctrl-C in our console is for us. And it begins in its job: what it starts before it is there would not be.
    run.creation_flags(CREATE_NEW_PROCESS_GROUP | CREATE_SUSPENDED);
    let mut child = run
        .spawn()
        .map_err(|error| NoReply(CODE_NOT_STARTED, format!("can't run {name}: {error}")))?;
    // Where it cannot be taken (in another job that lets nobody go, before Windows 8) it is killed alone.
    let _ = job.take(&child);
    if let Err(error) = resume(&child) {
        let _ = child.kill();
        return Err(system(error));
    }
    let end = command.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let written = AtomicUsize::new(0);
    let limit = usize::try_from(command.reply_bytes_max).unwrap_or(usize::MAX);
    let (feed, output) = (child.stdin.take(), child.stdout.take());
    let result = std::thread::scope(|scope| {
        scope.spawn(|| feed.map(|pipe| give(pipe, call)));
        let (done, ended) = sync_channel(1);
        let written = &written;
        let reading = scope.spawn(move || {
            let output = output.map_or(Ok(Vec::new()), |pipe| take(pipe, limit, written));
            let _ = done.send(());
            output
        });
        // Until its output has ended, which its children may hold open.
        let mut result = Ok(());
        while result.is_ok() && ended.recv_timeout(LOOK).is_err() && !reading.is_finished() {
            result = limits(command, call, aborted, end, written.load(Ordering::Relaxed));
        }
        while result.is_ok() && child.try_wait().map_err(system)?.is_none() {
            std::thread::sleep(LOOK / 10);
            result = limits(command, call, aborted, end, written.load(Ordering::Relaxed));
        }
        if result.is_err() {
            job.kill();
            let _ = child.kill();
        }
        let output = reading.join().unwrap_or_else(|_| Ok(Vec::new()));
        // More than it may write ends the reading, too.
        result
            .and_then(|()| limits(command, call, aborted, end, written.load(Ordering::Relaxed)))?;
        output.map_err(system)
    });
    if result.is_err() {
        job.kill();
        let _ = child.kill();
    }
    let status = child.wait();
    let output = result?;
    Ok((status.map_err(system)?, output))
}

/// Lets a process run that was made suspended.
fn resume(child: &Child) -> io::Result<()> {
    #[link(name = "ntdll")]
    unsafe extern "system" {
        fn NtResumeProcess(process: HANDLE) -> i32;
    }
    // `ResumeThread` wants the handle of its first thread, which the standard library keeps to itself.
    // SAFETY: the handle is open, and has all rights.
    let status = unsafe { NtResumeProcess(child.as_raw_handle()) };
    if status < 0 {
        return Err(io::Error::other(format!("NtResumeProcess: status {status:#010x}")));
    }
    Ok(())
}

/// Writes the request into the command's standard input, as far as it reads it.
fn give(mut pipe: impl Write, call: &Deferred) {
    let request = call.request();
    let mut piece = vec![0; request.len().min(PIECE)];
    let mut offset = 0;
    while offset < request.len() {
        let len = request.read_at(offset, &mut piece);
        if pipe.write_all(&piece[..len]).is_err() {
            return;
        }
        offset += len;
    }
}

/// Reads the command's output, as far as it may write; counts it.
fn take(mut pipe: impl Read, limit: usize, written: &AtomicUsize) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    let mut piece = vec![0; PIECE];
    loop {
        let len = pipe.read(&mut piece)?;
        output.extend_from_slice(&piece[..len]);
        written.store(output.len(), Ordering::Relaxed);
        if len == 0 || output.len() > limit {
            return Ok(output);
        }
    }
}

/// What a command starts belongs to its job, and is killed with it, or when this process ends.
struct Job(OwnedHandle);

impl Job {
    fn new() -> io::Result<Job> {
        // SAFETY: there are no attributes, and there is no name.
        let job = unsafe { CreateJobObjectW(std::ptr::null(), std::ptr::null()) };
        if job.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: made just now, and nobody else's.
        let job = unsafe { OwnedHandle::from_raw_handle(job) };
        let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
        // SAFETY: the job is open; the information is a live local of that size.
        let set = unsafe {
            SetInformationJobObject(
                job.as_raw_handle(),
                JobObjectExtendedLimitInformation,
                (&raw const limits).cast(),
                size_of_val(&limits) as u32,
            )
        };
        if set == 0 { Err(io::Error::last_os_error()) } else { Ok(Job(job)) }
    }

    fn take(&self, child: &Child) -> io::Result<()> {
        // SAFETY: both handles are open.
        let taken =
            unsafe { AssignProcessToJobObject(self.0.as_raw_handle(), child.as_raw_handle()) };
        if taken == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn kill(&self) {
        // SAFETY: the job is open.
        unsafe { TerminateJobObject(self.0.as_raw_handle(), 1) };
    }
}
