//! The server of each scenario: as a victim, and as one that survives clients.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use callgate::{Access, Call, Deferred, ServeError, Server, ServerOptions};
use callgate_tests::data::{check_request, reply};
use callgate_tests::liars::host;
use callgate_tests::liars::notes::Notes;

use crate::alloc::live_bytes;
use crate::arena::Arena;
use crate::kin::Driver;
use crate::scenario::Scenario;

/// What a call asks for.
pub mod method {
    /// Checks the request, counts the run, answers.
    pub const RUN: u32 = 0;
    /// The same, but the answer comes from another thread, a little later.
    pub const LATER: u32 = 1;
    /// Answers; then the server stops, and starts again.
    pub const STOP: u32 = 2;
    /// Answers; then the server drains, and starts again.
    pub const DRAIN: u32 = 3;
    /// As [`LATER`], but so much later that the caller asks the kernel whether its server lives.
    pub const SLOW: u32 = 4;
    /// Counts the run, and panics.
    pub const PANIC: u32 = 5;
}

/// How much later the late answers come.
const LATER: Duration = Duration::from_micros(150);
const SLOW: Duration = Duration::from_millis(1_100);
/// A group that the system is made to refuse; see [`Scenario::Broken`].
pub const REFUSED_GROUP: u32 = 54_321;

/// What a server needs that is lied to.
struct Lied {
    notes: Notes,
    held: Mutex<Vec<Deferred>>,
}

static LIED: OnceLock<Lied> = OnceLock::new();

/// From now on clients of this process's servers may be liars, as the arena has them.
pub fn expect_liars() {
    LIED.get_or_init(|| Lied { notes: Notes::listen(), held: Mutex::default() });
}

/// What its threads ask the main one to do.
enum Order {
    Command(String),
    Restart { drain: bool },
}

struct Work {
    arena: &'static Arena,
    orders: Sender<Order>,
    later: Sender<(Instant, Deferred)>,
    held: AtomicU64,
}

/// Serves at `folder`/s until told to quit; a child's body.
pub fn run(arena: &'static Arena, scenario: Scenario, folder: &Path, driver: Driver) -> i32 {
    serve(arena, scenario, scenario.server_options(), &folder.join("s"), driver)
}

/// Serves at a path until told to quit.
pub fn serve(
    arena: &'static Arena,
    scenario: Scenario,
    options: ServerOptions,
    path: &Path,
    driver: Driver,
) -> i32 {
    let (orders, to_do) = channel();
    let (later, late) = channel();
    let work = Arc::new(Work { arena, orders: orders.clone(), later, held: AtomicU64::new(0) });
    let (mut lines, mut say) = driver.split();
    std::thread::spawn(move || {
        let mut line = String::new();
        while matches!(lines.read_line(&mut line), Ok(1..)) {
            let _ = orders.send(Order::Command(line.trim_end().to_owned()));
            line.clear();
        }
        let _ = orders.send(Order::Command("quit".to_owned()));
    });
    let worker = work.clone();
    std::thread::spawn(move || answer_later(&worker, &late));
    if scenario == Scenario::Broken {
        break_first(path);
    }
    let begin = || {
        let work = work.clone();
        Server::serve_with(path.to_str().expect("utf-8"), options.clone(), move |call: Call<'_>| {
            work.handle(call)
        })
    };
    let server = match begin() {
        Ok(server) => server,
        Err(error) => {
            arena.flaw(&format!("a server cannot begin: {error}"));
            return 1;
        }
    };
    let mut more = Vec::new();
    if scenario == Scenario::Names {
        more = serve_more(&work, path);
    }
    let _ = writeln!(say, "serving");
    obey(&work, &to_do, server, begin, &mut say);
    drop(more);
    let _ = writeln!(say, "bye");
    0
}

fn obey(
    work: &Work,
    to_do: &Receiver<Order>,
    server: Server,
    begin: impl Fn() -> Result<Server, ServeError>,
    say: &mut impl Write,
) {
    let mut server = Some(server);
    while let Ok(order) = to_do.recv() {
        match order {
            Order::Restart { drain } => {
                let old = server.take().expect("there is one");
                if drain {
                    let _ = old.drain(Duration::from_millis(20));
                } else {
                    old.stop();
                    old.wait();
                }
                drop(old);
                match begin() {
                    Ok(next) => server = Some(next),
                    Err(error) => {
                        work.arena.flaw(&format!("a server cannot begin again: {error}"));
                        return;
                    }
                }
            }
            Order::Command(line) => match line.as_str() {
                // The processes that have broken the protocol since the last time, and how.
                "accused" => {
                    let accused = LIED.get().map(|lied| lied.notes.take()).unwrap_or_default();
                    let _ = writeln!(say, "accused {accused}");
                }
                "status" => {
                    if let Some(lied) = LIED.get() {
                        lied.held.lock().expect("a list").clear();
                    }
                    let status = server.as_ref().expect("there is one").status();
                    let _ = writeln!(
                        say,
                        "clients={} calls={} reply_bytes={} violations={} held={} live={}",
                        status.clients,
                        status.calls,
                        status.reply_bytes,
                        status.violations,
                        work.held.load(Relaxed),
                        live_bytes(),
                    );
                }
                "quit" => return,
                other => work.arena.flaw(&format!("no command {other}")),
            },
        }
    }
}

fn answer_later(work: &Work, late: &Receiver<(Instant, Deferred)>) {
    while let Ok((due, call)) = late.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        work.answer(call);
        work.held.fetch_sub(1, Relaxed);
    }
}

impl Work {
    fn handle(&self, call: Call<'_>) {
        if let Some(lied) = LIED.get()
            && call.caller().pid.is_some_and(|pid| self.arena.liars.has(pid))
        {
            return host::handle(&lied.held, call);
        }
        match call.method() {
            method::LATER | method::SLOW => {
                let later = if call.method() == method::SLOW { SLOW } else { LATER };
                self.count(&call);
                self.held.fetch_add(1, Relaxed);
                let _ = self.later.send((Instant::now() + later, call.defer()));
            }
            method::STOP | method::DRAIN => {
                let drain = call.method() == method::DRAIN;
                self.count(&call);
                self.answer(call);
                let _ = self.orders.send(Order::Restart { drain });
            }
            method::PANIC => {
                self.count(&call);
                panic!("a handler that panics");
            }
            _ => {
                self.count(&call);
                self.answer(call);
            }
        }
    }

    fn count(&self, call: &Call<'_>) {
        let mut head = [0; 8];
        if call.request().len() >= 8 {
            let bytes = call.request().to_vec();
            head.copy_from_slice(&bytes[..8]);
            let id = u64::from_le_bytes(head);
            if id < crate::others::IDS {
                self.arena.book.ran(id);
            }
        }
    }

    fn answer(&self, call: Call<'_>) {
        let bytes = call.request().to_vec();
        let Some((id, len)) = check_request(&bytes) else {
            self.arena.flaw(&format!("a request of {} bytes came spoilt", bytes.len()));
            return;
        };
        let bytes = reply(id, len);
        if id % 2 == 0 {
            let _ = call.reply(bytes);
        } else if let Ok(mut loan) = call.loan(len) {
            loan.copy_from_slice(bytes);
            let _ = loan.send();
        }
    }
}

/// The other endpoints of [`Scenario::Names`]: a name, and a path too long for a socket address.
pub fn more_endpoints(folder: &Path) -> [String; 2] {
    let long = folder.join("l".repeat(120)).join("s");
    ["kills".to_owned(), long.to_str().expect("utf-8").to_owned()]
}

/// Serves those, and is refused where somebody serves already.
fn serve_more(work: &Arc<Work>, path: &Path) -> Vec<Server> {
    let folder = path.parent().expect("a folder");
    let _ = std::fs::create_dir(folder.join("l".repeat(120)));
    let mut servers = Vec::new();
    for endpoint in more_endpoints(folder) {
        let work = work.clone();
        match Server::serve(&endpoint, move |call: Call<'_>| work.handle(call)) {
            Ok(server) => servers.push(server),
            Err(error) => servers_flaw(path, &endpoint, &error),
        }
    }
    // By another process, and by this one.
    for taken in ["o", "s"] {
        let taken = folder.join(taken);
        if !taken.exists() {
            continue;
        }
        match Server::serve(taken.to_str().expect("utf-8"), |_: Call<'_>| {}) {
            Err(ServeError::AddressInUse { pid: Some(_), .. }) => {}
            Err(error) => servers_flaw(path, "a name in use", &error),
            Ok(_) => panic!("a name in use was given to a second server"),
        }
    }
    servers
}

fn servers_flaw(path: &Path, endpoint: &str, error: &ServeError) {
    panic!("{}: {endpoint}: {error}", path.display());
}

/// What is left and what fails before a server of [`Scenario::Broken`] begins.
fn break_first(path: &Path) {
    let stale = stale_path(path);
    let _ = std::fs::remove_file(&stale);
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("a socket"));
    let mut options = ServerOptions::default();
    options.access = Access::Group(REFUSED_GROUP);
    let refused = Server::serve_with(path.to_str().expect("utf-8"), options, |_: Call<'_>| {});
    assert!(matches!(refused, Err(ServeError::Os { .. })), "{:?}", refused.err());
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("nothing is left there"));
}

/// Where a server binds its socket at first.
pub fn stale_path(path: &Path) -> PathBuf {
    let name = path.file_name().and_then(|name| name.to_str()).expect("utf-8");
    path.with_file_name(format!(".{name}.tmp"))
}
