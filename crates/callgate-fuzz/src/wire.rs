//! The messages of the socket.

use callgate_proto::layout::{CELLS_MAX, CELLS_MIN};
use callgate_proto::wire::{Answer, Ask, Hello, Message, Reason, Versions};

use crate::assert_named;

/// Decodes the bytes as a hello, an answer and a message. What is understood is encoded and understood again, the same.
///
/// # Panics
/// When a decoder is wrong.
pub fn handshake(bytes: &[u8]) {
    match Hello::decode(bytes) {
        Ok(hello) => check_hello(hello),
        Err(violation) => assert_named(violation),
    }
    match Answer::decode(bytes) {
        Ok((answer, versions)) => check_answer(answer, versions),
        Err(violation) => assert_named(violation),
    }
    match Message::decode(bytes) {
        Ok(message) => assert_eq!(message.encode().as_bytes(), bytes),
        Err(violation) => assert_named(violation),
    }
}

fn check_hello(hello: Hello) {
    assert!(hello.versions.low <= hello.versions.high);
    let common = hello.versions.common(Versions::OURS);
    if let Some(Ask::Connect { cells, .. }) = hello.ask {
        assert!((CELLS_MIN..=CELLS_MAX).contains(&cells));
    }
    assert!(hello.ask.is_none() || common.is_some());
    assert_eq!(Hello::decode(hello.encode().as_bytes()), Ok(hello));
}

fn check_answer(answer: Answer, versions: Versions) {
    assert!(versions.low <= versions.high);
    match answer {
        Answer::Welcome(_) => {
            assert_eq!(versions.low, versions.high);
            assert!(versions.common(Versions::OURS).is_some());
        }
        Answer::Refusal { reason, .. } => {
            let none = versions.common(Versions::OURS).is_none();
            assert!(!none || reason == Some(Reason::Version));
        }
        Answer::Status(_) => {}
    }
    assert_eq!(Answer::decode(answer.encode(versions).as_bytes()), Ok((answer, versions)));
}
