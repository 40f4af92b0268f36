//! How the library's errors become messages and exit codes.

use std::fmt::Write as _;

use callgate::{CallError, EndpointError, ReplyError, ServeError, Started};

use crate::exit::{Code, Failure};

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        let code = call_code(&error);
        let hint = match &error {
            CallError::NotRunning { .. } => {
                "\nStart a server under this name (callgate serve), or wait for one with --wait."
            }
            CallError::DeadlineExceeded { .. } => "\nA longer --timeout gives it more time.",
            CallError::UntrustedServer { .. } => "\nIf you trust that user, say so: --server-uid.",
            CallError::TooManyInFlight { .. } => "\nTry again when some calls have ended.",
            CallError::Endpoint(error) => endpoint_hint(error),
            _ => "",
        };
        Failure::new(code, format_args!("{}{hint}", chain(&error)))
    }
}

/// The exit code for a failed call.
pub fn call_code(error: &CallError) -> Code {
    match error {
        CallError::NotRunning { .. } => Code::NotRunning,
        CallError::Handler { .. } => Code::Reply,
        CallError::DeadlineExceeded { .. } => Code::Deadline,
        CallError::Disconnected { .. } => Code::Disconnected,
        CallError::Refused { .. }
        | CallError::UntrustedServer { .. }
        | CallError::Version { .. }
        | CallError::TooLarge { .. }
        | CallError::TooManyInFlight { .. }
        | CallError::NoMemory { .. } => Code::Refused,
        CallError::ProtocolViolation { .. } => Code::Violation,
        CallError::Endpoint(error) => endpoint_code(error),
        _ => Code::Internal,
    }
}

/// One word for a failed call, for counting.
pub fn call_kind(error: &CallError) -> String {
    match error {
        CallError::NotRunning { .. } => "NotRunning".to_owned(),
        CallError::Disconnected { started: Started::NotStarted } => {
            "Disconnected (not started)".to_owned()
        }
        CallError::Disconnected { started: Started::MayHaveRun } => {
            "Disconnected (may have run)".to_owned()
        }
        CallError::DeadlineExceeded { .. } => "DeadlineExceeded".to_owned(),
        CallError::Handler { code, .. } => format!("Handler ({code})"),
        other => {
            let text = format!("{other:?}");
            let end = text.find(|letter: char| !letter.is_alphanumeric()).unwrap_or(text.len());
            text[..end].to_owned()
        }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Failure {
        match &error {
            ServeError::AddressInUse { .. } => Failure::new(
                Code::InUse,
                format_args!("{error}\nStop that server first, or choose another name."),
            ),
            ServeError::Endpoint(endpoint) => {
                let hint = endpoint_hint(endpoint);
                Failure::new(endpoint_code(endpoint), format_args!("{error}{hint}"))
            }
            _ => Failure::internal(chain(&error)),
        }
    }
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Failure {
        Failure::new(endpoint_code(&error), format_args!("{error}{}", endpoint_hint(&error)))
    }
}

/// A wrong name is the caller's mistake, an unsafe directory is not.
fn endpoint_code(error: &EndpointError) -> Code {
    match error {
        EndpointError::Directory(_) => Code::Internal,
        _ => Code::Usage,
    }
}

fn endpoint_hint(error: &EndpointError) -> &'static str {
    match error {
        // Nothing of it lies in a directory on Windows.
        EndpointError::Directory(_) if !cfg!(windows) => {
            "\nSet XDG_RUNTIME_DIR to a directory of your own that nobody else may use (mode 0700)."
        }
        _ => "",
    }
}

impl From<ReplyError> for Failure {
    fn from(error: ReplyError) -> Failure {
        Failure::new(Code::Refused, error)
    }
}

/// The error and what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told() {
        let source = std::io::Error::other("the cause");
        let error = CallError::Os { what: "what was tried".to_owned(), source };
        let failure = Failure::from(error);
        assert_eq!(failure.message, "what was tried: the cause");
        assert_eq!(failure.code, Code::Internal as u8);
    }

    #[test]
    fn an_unusable_directory_is_no_wrong_use() {
        let error = || EndpointError::Directory("not yours".to_owned());
        for failure in [
            Failure::from(error()),
            Failure::from(CallError::Endpoint(error())),
            Failure::from(ServeError::Endpoint(error())),
        ] {
            assert_eq!(failure.code, Code::Internal as u8);
            assert!(failure.message.contains("not yours"), "{}", failure.message);
            let hint = failure.message.contains("\nSet XDG_RUNTIME_DIR");
            assert_eq!(hint, !cfg!(windows), "{}", failure.message);
        }
        let wrong = EndpointError::Name { name: "a b".to_owned(), problem: "it has a space" };
        assert_eq!(Failure::from(wrong).code, Code::Usage as u8);
    }
}
