//! A client of the demo: reads files, has them digested by the server, compares.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
#[cfg(not(windows))]
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use callgate::{CallError, CallOptions, Client, ClientOptions, Reply, Retry};
use clap::Args;
use sha2::{Digest as _, Sha256};

use super::message::{
    CODE_UNKNOWN, CallFailed, Did, FromClient, Header, Job, METHOD_ABORT, METHOD_BEGIN,
    METHOD_FINISH, METHOD_UPDATE, METHOD_WHOLE, Outcome, Skip, hex, now_ns,
};
use crate::errors::call_kind;
use crate::exit::{Doing, Failure};
use crate::worker::{read_line, report};

/// Options of `demo-client`.
#[derive(Args, Debug)]
pub struct ClientArgs {
    name: String,
}

/// File content in one request; longer files take several.
const CHUNK: usize = 256 << 10;

/// How long the server may be away.
const ABSENCE_MAX: Duration = Duration::from_secs(10);

/// How long one call may take.
const CALL_MAX: Duration = Duration::from_secs(30);

/// How often a file is begun again before it counts as failed.
const ATTEMPTS_MAX: u32 = 20;

/// Jobs, and time, after which the parent hears of what was done.
const REPORT: (usize, Duration) = (32, Duration::from_millis(10));

/// Runs the hidden `demo-client`; it ends when its input has and all jobs are done.
///
/// # Errors
/// When the server can't be reached at first.
pub fn run(args: &ClientArgs) -> Result<(), Failure> {
    let mut options = ClientOptions::default();
    options.connect_timeout = ABSENCE_MAX;
    // A killed parent leaves nobody to report to, and there is nothing to clean up. The end of the
    // input, which ends this process otherwise, is seen after the jobs at hand only.
    #[cfg(not(windows))]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .doing("prctl")?;
    options.timeout = Some(CALL_MAX);
    // Every error is to be seen and counted.
    options.retry = Retry::Never;
    let client = Client::connect_with(&args.name, options)?;
    report(&FromClient::Ready)?;
    let jobs = read_jobs().doing("thread")?;
    let mut checker = Checker::new(client);
    loop {
        let job = match jobs.try_recv() {
            Ok(job) => job,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                checker.report()?;
                match jobs.recv() {
                    Ok(job) => job,
                    Err(_) => break,
                }
            }
        };
        let outcome = checker.check(&PathBuf::from(job.path))?;
        checker.did.jobs.push((job.job, outcome));
        if checker.did.jobs.len() >= REPORT.0 {
            checker.report()?;
        }
        checker.report_if_due()?;
    }
    checker.report()?;
    Ok(())
}

/// Reads jobs on a thread of its own, so that the parent never waits for a busy client.
fn read_jobs() -> io::Result<Receiver<Job>> {
    let (send, jobs) = channel();
    thread::Builder::new().name("jobs".to_owned()).spawn(move || {
        let mut input = io::stdin().lock();
        while let Ok(Some(job)) = read_line::<Job>(&mut input) {
            if send.send(job).is_err() {
                return;
            }
        }
    })?;
    Ok(jobs)
}

/// Checks files, and keeps what is to be reported.
struct Checker {
    client: Client,
    did: Did,
    reported: Instant,
    /// Id of the digest begun last.
    digest: u64,
    /// Room for a header, then for a chunk.
    buffer: Vec<u8>,
}

/// Why an attempt at a file ended early.
enum Stop {
    /// The file is at fault.
    Skip(Skip),
    /// The server went away or lost the digest: begin the file again.
    Again(String),
    /// No use in trying again.
    Fail(String),
    /// The parent is gone.
    Parent(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Parent(error)
    }
}

impl Checker {
    fn new(client: Client) -> Checker {
        Checker {
            client,
            did: Did::default(),
            reported: Instant::now(),
            digest: 0,
            buffer: vec![0; Header::LEN + CHUNK],
        }
    }

    /// Checks one file, beginning again after errors that this may help against.
    fn check(&mut self, path: &Path) -> io::Result<Outcome> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS_MAX {
            match self.attempt(path) {
                Ok(outcome) => return Ok(outcome),
                Err(Stop::Skip(skip)) => return Ok(Outcome::Skipped(skip)),
                Err(Stop::Fail(error)) => return Ok(Outcome::Failed(error)),
                Err(Stop::Again(error)) => last = error,
                Err(Stop::Parent(error)) => return Err(error),
            }
        }
        Ok(Outcome::Failed(last))
    }

    fn attempt(&mut self, path: &Path) -> Result<Outcome, Stop> {
        let (mut file, before) = open(path).map_err(Stop::Skip)?;
        let size = before.len();
        let (ours, theirs, len) = if size <= CHUNK as u64 {
            self.whole(&mut file, size as usize)?
        } else {
            self.parts(&mut file, size)?
        };
        if ours != theirs {
            return Ok(Outcome::Wrong { ours: hex(&ours), theirs: hex(&theirs) });
        }
        let changed = match file.metadata() {
            Ok(after) => {
                let stamp = |data: &Metadata| (data.len(), data.modified().ok());
                len != size || stamp(&after) != stamp(&before)
            }
            Err(_) => true,
        };
        Ok(if changed { Outcome::Skipped(Skip::Changed) } else { Outcome::Right })
    }

    /// A file in one request: our digest, the server's, and how much there was to read.
    fn whole(&mut self, file: &mut File, size: usize) -> Result<(Vec<u8>, Vec<u8>, u64), Stop> {
        let len = fill(file, &mut self.buffer[..size]).map_err(|_| Stop::Skip(Skip::Unreadable))?;
        let reply = self.call(METHOD_WHOLE, 0..len)?;
        self.did.bytes += len as u64;
        let ours = Sha256::digest(&self.buffer[..len]).to_vec();
        Ok((ours, reply.to_vec(), len as u64))
    }

    /// A file in several requests.
    fn parts(&mut self, file: &mut File, size: u64) -> Result<(Vec<u8>, Vec<u8>, u64), Stop> {
        self.digest += 1;
        let mut header = Header { id: self.digest, offset: 0 };
        let mut hash = Sha256::new();
        self.part(METHOD_BEGIN, header, 0)?;
        while header.offset < size {
            let most = (size - header.offset).min(CHUNK as u64) as usize;
            let chunk = &mut self.buffer[Header::LEN..][..most];
            let len = match fill(file, chunk) {
                Ok(0) => break,
                Ok(len) => len,
                Err(_) => {
                    self.part(METHOD_ABORT, header, 0)?;
                    return Err(Stop::Skip(Skip::Unreadable));
                }
            };
            hash.update(&self.buffer[Header::LEN..][..len]);
            self.part(METHOD_UPDATE, header, len)?;
            header.offset += len as u64;
            self.did.bytes += len as u64;
            self.report_if_due()?;
        }
        let reply = self.part(METHOD_FINISH, header, 0)?;
        Ok((hash.finalize().to_vec(), reply.to_vec(), header.offset))
    }

    /// Sends a header and the first `len` bytes of the chunk in the buffer.
    fn part(&mut self, method: u32, header: Header, len: usize) -> Result<Reply, Stop> {
        self.buffer[..Header::LEN].copy_from_slice(&header.to_bytes());
        self.call(method, 0..Header::LEN + len)
    }

    fn call(&mut self, method: u32, range: std::ops::Range<usize>) -> Result<Reply, Stop> {
        let (began, began_ns) = (Instant::now(), now_ns());
        let options = CallOptions::new().method(method);
        let error = match self.client.call_with(options, &self.buffer[range]) {
            Ok(reply) => {
                self.did.round_trips.push(began.elapsed().as_nanos() as u64);
                return Ok(reply);
            }
            Err(error) => error,
        };
        let kind = match &error {
            CallError::Handler { code: CODE_UNKNOWN, .. } => "Handler (digest lost)".to_owned(),
            error => call_kind(error),
        };
        // At once, since the parent compares it with the time of the kill.
        let failed = CallFailed { error: kind, began_ns, ended_ns: now_ns() };
        report(&FromClient::Failed(failed))?;
        let text = error.to_string();
        Err(match error {
            CallError::Disconnected { .. }
            | CallError::NotRunning { .. }
            | CallError::DeadlineExceeded { .. }
            | CallError::Handler { code: CODE_UNKNOWN, .. } => Stop::Again(text),
            _ => Stop::Fail(text),
        })
    }

    fn report_if_due(&mut self) -> io::Result<()> {
        if self.reported.elapsed() >= REPORT.1 { self.report() } else { Ok(()) }
    }

    /// Tells the parent what was done since the last report, if anything.
    fn report(&mut self) -> io::Result<()> {
        self.reported = Instant::now();
        if self.did.jobs.is_empty() && self.did.round_trips.is_empty() {
            return Ok(());
        }
        report(&FromClient::Did(std::mem::take(&mut self.did)))
    }
}

/// Opens a regular file; a link that took its place is not followed.
#[cfg(windows)]
fn open(path: &Path) -> Result<(File, Metadata), Skip> {
    use std::os::windows::fs::OpenOptionsExt;

    use windows_sys::Win32::Storage::FileSystem::FILE_FLAG_OPEN_REPARSE_POINT;

    let opened =
        OpenOptions::new().read(true).custom_flags(FILE_FLAG_OPEN_REPARSE_POINT).open(path);
    let file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Skip::Vanished,
        // So a directory is told, too.
        _ if path.is_dir() => Skip::Vanished,
        _ => Skip::Unreadable,
    })?;
    let data = file.metadata().map_err(|_| Skip::Unreadable)?;
    if data.is_file() { Ok((file, data)) } else { Err(Skip::Vanished) }
}

#[cfg(not(windows))]
/// Opens a regular file; a link or a pipe that took its place is not followed nor waited for.
fn open(path: &Path) -> Result<(File, Metadata), Skip> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENXIO) => Skip::Vanished,
        _ => Skip::Unreadable,
    })?;
    let data = file.metadata().map_err(|_| Skip::Unreadable)?;
    if data.is_file() { Ok((file, data)) } else { Err(Skip::Vanished) }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_opened() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::write(at("file"), "some").unwrap();
        #[cfg(not(windows))]
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        assert_eq!(open(&at("file")).unwrap().1.len(), 4);
        assert_eq!(open(&at("link")).unwrap_err(), Skip::Vanished);
        assert_eq!(open(&at("absent")).unwrap_err(), Skip::Vanished);
        assert_eq!(open(root.path()).unwrap_err(), Skip::Vanished);
    }
}
