//! One thread, which waits for the command's pipes and its end at once.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, ChildStdout, ExitStatus};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use callgate::Deferred;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, kill_process_group, pidfd_open,
    set_parent_process_death_signal,
};

use super::{CODE_NOT_STARTED, Command, LOOK, NoReply, limits, prepared};

/// The exit status, or 128 + the signal, as shells have it.
pub(super) fn reply_status(status: ExitStatus) -> u32 {
    let number = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) fn run(
    command: &Command,
    call: &Deferred,
    aborted: &AtomicBool,
) -> Result<(ExitStatus, Vec<u8>), NoReply> {
    let name = command.program.display();
    let mut run = prepared(command, call);
    // A group of its own: ctrl-C on our terminal is for us, and a kill reaches its children.
    run.process_group(0);
    die_with_us(&mut run);
    let mut child = run
        .spawn()
        .map_err(|error| NoReply(CODE_NOT_STARTED, format!("can't run {name}: {error}")))?;
    let end = command.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut watch = Watch { command, call, aborted, end, output: Vec::new() };
    let result = watch.run(&mut child);
    if result.is_err() {
        kill(&child);
    }
    let status = child.wait();
    result?;
    let status = status.map_err(|error| NoReply(CODE_NOT_STARTED, format!("{name}: {error}")))?;
    Ok((status, watch.output))
}

/// Has the command killed when this process is; what it has started itself is not reached.
///
/// The signal comes at the end of the thread that starts the command, and that is a job's, which
/// waits for the command first.
fn die_with_us(run: &mut std::process::Command) {
    let parent = getpid();
    let before = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above took effect.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec, the closure makes system calls only: it takes no lock and
    // allocates nothing, since both kinds of error that it makes are plain numbers.
    unsafe { run.pre_exec(before) };
}

fn kill(child: &Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Feeds the command and reads what it writes, and looks after limits meanwhile.
struct Watch<'a> {
    command: &'a Command,
    call: &'a Deferred,
    aborted: &'a AtomicBool,
    end: Option<Instant>,
    output: Vec<u8>,
}

impl Watch<'_> {
    /// Goes on until the command has ended and its output, too (its children may hold it open).
    fn run(&mut self, child: &mut Child) -> Result<(), NoReply> {
        let system = |error: io::Error| NoReply(CODE_NOT_STARTED, error.to_string());
        let ended = pidfd(child).map_err(system)?;
        let mut feed = child
            .stdin
            .take()
            .map(|pipe| Feed::new(pipe, self.call))
            .transpose()
            .map_err(system)?;
        let mut output = child.stdout.take();
        let mut running = true;
        while running || output.is_some() {
            let ready = {
                let mut fds = Vec::with_capacity(3);
                let mut add = |fd, flags| fds.push(PollFd::from_borrowed_fd(fd, flags));
                // In a fixed order; what is over is replaced by the process, without flags.
                let none = (ended.as_fd(), PollFlags::empty());
                let watched = if running { (ended.as_fd(), PollFlags::IN) } else { none };
                add(watched.0, watched.1);
                let watched = output.as_ref().map_or(none, |pipe| (pipe.as_fd(), PollFlags::IN));
                add(watched.0, watched.1);
                let watched =
                    feed.as_ref().map_or(none, |feed| (feed.pipe.as_fd(), PollFlags::OUT));
                add(watched.0, watched.1);
                ready(&mut fds).map_err(system)?
            };
            if ready[0] {
                running = false;
            }
            if ready[1] && !self.take(output.as_mut()).map_err(system)? {
                output = None;
            }
            if ready[2] && !feed.as_mut().is_some_and(Feed::give) {
                feed = None;
            }
            limits(self.command, self.call, self.aborted, self.end, self.output.len())?;
        }
        Ok(())
    }

    /// Reads once; false at the end of the output.
    fn take(&mut self, output: Option<&mut ChildStdout>) -> io::Result<bool> {
        let mut buffer = [0; 64 << 10];
        let count = output.map_or(Ok(0), |pipe| pipe.read(&mut buffer))?;
        self.output.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }
}

/// The request on its way into the command's standard input.
struct Feed<'a> {
    pipe: ChildStdin,
    call: &'a Deferred,
    piece: Vec<u8>,
    given: usize,
    offset: usize,
}

impl Feed<'_> {
    fn new(pipe: ChildStdin, call: &Deferred) -> io::Result<Feed<'_>> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Feed { pipe, call, piece: Vec::new(), given: 0, offset: 0 })
    }

    /// Writes as much as the pipe takes; false when all is written, or the command reads no more.
    fn give(&mut self) -> bool {
        let request = self.call.request();
        loop {
            if self.given == self.piece.len() {
                self.piece.resize((request.len() - self.offset).min(64 << 10), 0);
                self.given = 0;
                if self.piece.is_empty() || request.read_at(self.offset, &mut self.piece) == 0 {
                    return false;
                }
                self.offset += self.piece.len();
            }
            match self.pipe.write(&self.piece[self.given..]) {
                Ok(count) => self.given += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("no pid"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Waits a moment until one of three descriptors is ready; a hang-up counts.
fn ready(fds: &mut [PollFd<'_>]) -> io::Result<[bool; 3]> {
    let time = Timespec { tv_sec: 0, tv_nsec: LOOK.as_nanos() as _ };
    match poll(fds, Some(&time)) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok([false; 3]),
        Err(error) => return Err(error.into()),
    }
    Ok([0, 1, 2].map(|index| fds.get(index).is_some_and(|fd| !fd.revents().is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_becomes_128_plus_its_number() {
        assert_eq!(reply_status(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(reply_status(ExitStatus::from_raw(9)), 137);
    }
}
