//! `callgate call`: one request, one reply.

use std::io::{self, IsTerminal, Read, Write};
use std::time::{Duration, Instant};

use callgate::{CallOptions, Reply};
use clap::Args;

use crate::connect::ConnectArgs;
use crate::exit::{Code, Doing, Failure};
use crate::output::{self, WARN};

/// Options of `call`.
#[derive(Args, Debug)]
#[command(after_help = crate::exit::HELP)]
pub struct CallArgs {
    #[command(flatten)]
    server: ConnectArgs,
    /// Method number of the call
    #[arg(long, value_name = "N", default_value_t = 0)]
    method: u32,
    /// Give the call that long, like 250ms or 2s, of which --wait is a part [default: no limit]
    ///
    /// The time spent on waiting for the server and connecting counts, so that a shorter --timeout
    /// ends a longer --wait. The time in which the request is read does not.
    #[arg(long, value_name = "TIME", value_parser = crate::duration::parse)]
    timeout: Option<Duration>,
    /// The request, instead of standard input
    #[arg(long, value_name = "TEXT")]
    data: Option<String>,
    /// Exit with the reply's status where it is 1 to 255, rather than 1
    #[arg(long)]
    pass_status: bool,
}

/// Requests longer than this are not read into memory; servers take 256 MiB by default.
const REQUEST_BYTES_MAX: u64 = 4 << 30;

/// Runs `call`.
///
/// # Errors
/// When there was no reply, or one with a nonzero status.
pub fn run(args: &CallArgs) -> Result<(), Failure> {
    let began = Instant::now();
    let client = args.server.connect_once(args.timeout)?;
    let left = args.timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
    let request = match &args.data {
        Some(text) => text.clone().into_bytes(),
        None => read_request()?,
    };
    let mut options = CallOptions::new().method(args.method);
    if let Some(left) = left {
        options = options.timeout(left);
    }
    let reply = client.call_with(options, &request)?;
    write_reply(&reply)?;
    match reply.status() {
        0 => Ok(()),
        status => {
            let code = u8::try_from(status).ok().filter(|_| args.pass_status);
            Err(Failure {
                code: code.unwrap_or(Code::Reply as u8),
                message: format!("the reply has status {status}"),
            })
        }
    }
}

fn read_request() -> Result<Vec<u8>, Failure> {
    let input = io::stdin();
    if input.is_terminal() {
        output::complain(WARN, "reading the request from the terminal; end it with ctrl-D");
    }
    let mut request = Vec::new();
    let most = REQUEST_BYTES_MAX + 1;
    input.lock().take(most).read_to_end(&mut request).doing("standard input")?;
    if request.len() as u64 == most {
        let limit = output::bytes(REQUEST_BYTES_MAX);
        return Err(Failure::new(Code::Refused, format_args!("the request is over {limit}")));
    }
    Ok(request)
}

/// Writes the reply in pieces, so that a large one is not copied as a whole.
fn write_reply(reply: &Reply) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let mut result = Ok(());
    reply.payload().for_each_chunk(|chunk| {
        if result.is_ok() {
            result = out.write_all(chunk);
        }
    });
    Ok(result.and_then(|()| out.flush())?)
}
