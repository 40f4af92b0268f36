//! What became of the requests: counted, and told where it changes.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use callgate::classic::{Answer, BridgeError, Handler, ServerStatus};

use crate::errors::{call_kind, chain};
use crate::exit::Failure;
use crate::output::{self, DIM, HEAD, WARN, count, styled};

/// Requests without an answer, by what kept them from it.
#[derive(Default)]
pub struct Tally(Mutex<Failures>);

#[derive(Default)]
struct Failures {
    kinds: BTreeMap<String, u64>,
    /// What the last request failed of, if it did: a server that is away is told once, not for each client's attempt.
    last: Option<String>,
}

impl Tally {
    /// Counts a request without an answer, and says why where the one before had another end.
    pub fn failed(&self, error: &BridgeError) {
        let kind = kind(error);
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.kinds.entry(kind.clone()).or_default() += 1;
        if failures.last.as_ref() != Some(&kind) {
            output::complain(WARN, chain(error));
            failures.last = Some(kind);
        }
    }

    fn answered(&self) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.last.take().is_some() {
            output::complain(DIM, "requests are answered again");
        }
    }

    /// Prints the counts.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn print(&self, name: &str, status: &ServerStatus, time: Duration) -> Result<(), Failure> {
        let mut out = output::out();
        writeln!(out, "{}", styled(HEAD, format_args!("--- {name} bridge statistics ---")))?;
        let ServerStatus { answered, dropped, skipped, unanswered, panics, .. } = *status;
        let requests = answered + dropped + skipped + unanswered + panics;
        writeln!(
            out,
            "{} requests, {} answered, {} unanswered, {} answered too late, {} not run, time {}",
            count(requests),
            count(answered),
            count(unanswered + panics),
            count(dropped),
            count(skipped),
            output::span(time)
        )?;
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (kind, times) in &failures.kinds {
            writeln!(out, "unanswered: {} {kind}", count(*times))?;
        }
        Ok(out.flush()?)
    }
}

fn kind(error: &BridgeError) -> String {
    match error {
        BridgeError::Call(error) => call_kind(error),
        BridgeError::Status { status } => format!("Status ({status})"),
        BridgeError::Length { len, .. } => format!("Length ({len})"),
        _ => "other".to_owned(),
    }
}

/// A bridge whose answers are noticed, too.
pub struct Watched<B> {
    /// What answers.
    pub bridge: B,
    /// What is told of answers; the bridge tells it of the rest.
    pub tally: Arc<Tally>,
}

impl<B: Handler<[u8]>> Handler<[u8]> for Watched<B> {
    fn handle(&mut self, data: &mut [u8]) -> Answer {
        let answer = self.bridge.handle(data);
        if answer == Answer::Ready {
            self.tally.answered();
        }
        answer
    }
}
