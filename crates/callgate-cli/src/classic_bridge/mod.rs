//! `callgate classic-bridge`: clients of the classic Win32 protocol, answered by calls to a callgate server. Windows only.

mod tally;

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use callgate::CallOptions;
use callgate::classic::{
    Access, Bridge, Existing, NameError, Names, ObjectError, ServeError, Server, ServerOptions,
};
use clap::Args;

use crate::connect::ConnectArgs;
use crate::errors::chain;
use crate::exit::{Code, Doing, Failure};
use crate::output::{self, DIM, WARN, bytes};
use crate::signal;
use tally::{Tally, Watched};

/// Options of `classic-bridge`.
#[derive(Args, Debug)]
#[command(
    after_help = crate::exit::HELP,
    after_long_help = format!("{LONG_HELP}\n\n{}", crate::exit::HELP)
)]
pub struct BridgeArgs {
    #[command(flatten)]
    server: ConnectArgs,
    /// Name of the file mapping with the struct, as the old clients have it
    #[arg(long, value_name = "NAME")]
    memory: String,
    /// Name of the event by which a client says that its request is there
    #[arg(long, value_name = "NAME")]
    exec: String,
    /// Name of the event by which the server says that its answer is there
    #[arg(long, value_name = "NAME")]
    done: String,
    /// Name of the mutex that one client at a time owns
    #[arg(long, value_name = "NAME")]
    free: String,
    /// Bytes of the struct, as `sizeof` says on the old clients' side
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: usize,
    /// Method number of the calls
    #[arg(long, value_name = "N", default_value_t = 0)]
    method: u32,
    /// Give each call that long, of which --wait is a part; less than the old clients wait for
    ///
    /// An answer that is not ready by then, since the machine was slow, is held back: who asked has given up, and the
    /// next client would take it for its own.
    #[arg(
        long, value_name = "TIME", default_value = "200ms",
        value_parser = crate::duration::parse_some
    )]
    timeout: Duration,
    /// Fail where the memory exists already, rather than to go on with it
    #[arg(long)]
    refuse_existing: bool,
    /// Run and answer a request only while a client owns Free: for clients that may be killed
    ///
    /// Clients that do not take Free at all, or leave it early, are then never answered.
    #[arg(long)]
    watch_free: bool,
    /// Who may use memory and events: a security descriptor in SDDL [default: what Windows gives]
    #[arg(long, value_name = "TEXT")]
    sddl: Option<String>,
    /// End with standard input, too: for a program that starts the bridge and has no console
    #[arg(long)]
    until_eof: bool,
}

const LONG_HELP: &str = "\
The bytes of the struct are the request, and the reply, which has to be as long, replaces them.
A call that fails, a reply with a status, and one of another length leave the old client without
an answer: it runs out of time, as with a server that is dead. Standard error says why; the next
request is passed on all the same, so that the callgate server may be stopped and started.

Stop the old server first: nobody can tell one that lives from memory that a client has kept.

Ctrl-C and ctrl-break end the bridge when the request that it has taken is over, and print the
counts; a second one ends it at once. With --until-eof the end of standard input is a ctrl-C, too.";

/// Longest struct: servers take no longer request by default.
const SIZE_MAX: u64 = 256 << 20;

fn parse_size(text: &str) -> Result<usize, String> {
    let size = crate::duration::parse_bytes(text)?;
    match usize::try_from(size) {
        Ok(bytes) if (1..=SIZE_MAX).contains(&size) => Ok(bytes),
        _ => Err(format!("expected 1 byte to {}", bytes(SIZE_MAX))),
    }
}

/// Runs `classic-bridge` until ctrl-C ends it.
///
/// # Errors
/// When the objects can't be had, or waiting for requests fails.
pub fn run(args: &BridgeArgs) -> Result<(), Failure> {
    let names = Names::new(&*args.memory, &*args.exec, &*args.done, &*args.free)?;
    let client = args.server.lazy()?;
    let options = server_options(args);
    let call = CallOptions::new().method(args.method).timeout(args.timeout);
    let tally = Arc::new(Tally::default());
    let failed = tally.clone();
    let bridge = Bridge::new(client, call, move |error| failed.failed(error));
    let watched = Watched { bridge, tally: tally.clone() };
    let started = Instant::now();
    let server = Arc::new(Server::serve_bytes(&names, args.size, options, watched)?);
    // Before anybody is told that it can be stopped.
    stop_when_asked(&server)?;
    if args.until_eof {
        stop_with_input(&server)?;
    }
    announce(args, &server)?;
    let ended = server.wait();
    tally.print(&args.memory, &server.status(), started.elapsed())?;
    Ok(ended.map_err(ServeError::Object)?)
}

fn server_options(args: &BridgeArgs) -> ServerOptions {
    let mut options = ServerOptions::default();
    // The reply may have come in time, and the machine has let the bridge go on too late.
    options.patience = Some(args.timeout);
    options.watch_free = args.watch_free;
    if args.refuse_existing {
        options.existing = Existing::Refuse;
    }
    if let Some(sddl) = &args.sddl {
        options.access = Access::Sddl(sddl.clone());
    }
    options
}

fn stop_when_asked(server: &Arc<Server>) -> Result<(), Failure> {
    let server = server.clone();
    let mut asked = false;
    signal::on_termination(move |number| {
        if asked {
            std::process::exit(i32::from(signal::exit_code(number)));
        }
        asked = true;
        output::complain(DIM, "finishing the request that is running; again to stop at once");
        server.stop();
        true
    })
    .doing("signals")
}

fn stop_with_input(server: &Arc<Server>) -> Result<(), Failure> {
    let server = server.clone();
    let body = move || {
        // An input that can't be read has ended as well.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        server.stop();
    };
    thread::Builder::new().name("input".to_owned()).spawn(body).doing("thread")?;
    Ok(())
}

fn announce(args: &BridgeArgs, server: &Server) -> Result<(), Failure> {
    if server.status().adopted {
        let message = "the memory existed already: by clients that stayed attached, or by an old \
                       server that still runs; end that one, or it answers some of the requests";
        output::complain(WARN, message);
    }
    let (memory, name, pid) = (&args.memory, &args.server.name, std::process::id());
    // In bytes, as the other side's sizeof is.
    let (size, timeout) = (args.size, output::span(args.timeout));
    let mut out = output::out();
    writeln!(out, "ready: {memory} ({size} bytes, pid {pid}) to {name}, {timeout} for each call")?;
    Ok(out.flush()?)
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Failure {
        Failure::new(Code::Usage, error)
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Failure {
        let (code, hint) = match &error {
            ServeError::AlreadyServed { .. } => (Code::InUse, "\nStop that server first."),
            ServeError::Exists { .. } => {
                (Code::InUse, "\nEnd them, or leave out --refuse-existing.")
            }
            ServeError::Option { .. } => (Code::Usage, ""),
            ServeError::Object(error) => object(error),
            _ => (Code::Internal, ""),
        };
        Failure::new(code, format_args!("{}{hint}", chain(&error)))
    }
}

fn object(error: &ObjectError) -> (Code, &'static str) {
    match error {
        ObjectError::WrongKind { .. } => {
            (Code::Usage, "\nGive the names that the old clients use.")
        }
        ObjectError::Size { .. } => {
            (Code::Usage, "\nGive the struct's size with --size, or end who has the memory.")
        }
        ObjectError::Sddl { .. } => (Code::Usage, "\nSee --sddl."),
        ObjectError::Denied { .. } => {
            (Code::Refused, "\nNames under Global\\ need a service's or an administrator's rights.")
        }
        ObjectError::ManualReset { .. } | ObjectError::NotPageFile { .. } => (Code::Violation, ""),
        _ => (Code::Internal, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_bounds() {
        assert_eq!(parse_size("1"), Ok(1));
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        for wrong in ["0", "257M", "all", "16000000T"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: BridgeArgs,
    }

    #[test]
    fn no_answer_is_given_after_the_time_that_clients_have() {
        use clap::Parser;
        let line = "bridge orders --memory m --exec e --done d --free f --size 4";
        for (more, patience_ms) in [("", 200), (" --timeout 3s", 3_000)] {
            let line = Line::try_parse_from(format!("{line}{more}").split(' ')).unwrap();
            let options = server_options(&line.args);
            assert_eq!(options.patience, Some(Duration::from_millis(patience_ms)));
            assert_eq!(line.args.timeout, Duration::from_millis(patience_ms));
        }
    }

    #[test]
    fn each_failure_has_its_code() {
        let (name, memory) = (String::new, "m".to_owned());
        for (error, code) in [
            (ServeError::AlreadyServed { memory, owner: name() }, Code::InUse),
            (ServeError::Exists { name: name() }, Code::InUse),
            (
                ObjectError::Size { name: name(), have: 1, want: 2, want_pages: 3 }.into(),
                Code::Usage,
            ),
            (ObjectError::NotPageFile { name: name(), attributes: 1 }.into(), Code::Violation),
            (ServeError::NoMemory { bytes: 1 }, Code::Internal),
        ] {
            assert_eq!(Failure::from(error).code, code as u8);
        }
    }
}
