//! The hidden `bench-server`: echoes.

use std::io;

use callgate::{Call, ReplyError, Server};
use clap::Args;

use super::{METHOD_NOTHING, Ready};
use crate::bench::bytes::work_for;
use crate::exit::{Doing, Failure};
use crate::scratch;
use crate::worker::{read_line, report};

/// Options of `bench-server`.
#[derive(Args, Debug)]
pub struct ServerArgs {
    name: String,
}

/// Runs the hidden `bench-server`.
///
/// # Errors
/// When the name can't be served.
pub fn serve(args: &ServerArgs) -> Result<(), Failure> {
    let server = Server::serve(&args.name, |call: Call<'_>| {
        // The caller sees what went wrong, or is gone.
        let _ = answer(call);
    })?;
    report(&Ready::with(0))?;
    let mut input = io::stdin().lock();
    while read_line::<()>(&mut input).doing("standard input")?.is_some() {}
    drop(server);
    scratch::forget(&args.name);
    Ok(())
}

/// Messages up to this length are answered through a buffer on the stack.
const SMALL: usize = 48;

/// Echoes: a small message with its first word inverted, a large one as it is, copied once, from
/// the request's memory to the reply's.
fn answer(call: Call<'_>) -> Result<(), ReplyError> {
    let method = call.method();
    if method == METHOD_NOTHING {
        return call.reply(&[]);
    }
    let len = call.request().len();
    if len > SMALL {
        let mut reply = call.loan(len)?;
        let (request, bytes) = reply.split();
        request.copy_to(bytes);
        return reply.send();
    }
    let mut message = [0; SMALL];
    call.request().copy_to(&mut message);
    work_for(method.into());
    if let Some(first) = message.first_chunk_mut() {
        *first = (!u64::from_le_bytes(*first)).to_le_bytes();
    }
    call.reply(&message[..len])
}
