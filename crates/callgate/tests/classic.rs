//! Old clients and a callgate server, with the bridge between them. Windows only.

#![cfg(windows)]

use std::sync::mpsc;
use std::time::Duration;

use callgate::classic::{self, Bridge, BridgeError, Names, ServerOptions};
use callgate::{Call, CallError, CallOptions, ClientOptions, Server};

/// Four words: a number, two to add, their sum.
type Words = [u32; 4];

fn names(test: &str) -> Names {
    let of = |what| format!("callgate-bridge-{}-{test}-{what}", std::process::id());
    Names::new(of("memory"), of("exec"), of("done"), of("free")).unwrap()
}

fn old_client(names: &Names, answer: Duration) -> classic::Client<Words> {
    let mut options = classic::ClientOptions::default();
    options.answer = answer;
    classic::Client::with(names, options)
}

fn add(call: Call<'_>) {
    let bytes = call.request().to_vec();
    let mut words: Vec<u32> =
        bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
    words[3] = words[1] + words[2];
    let mut reply: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    match words[0] {
        1 => reply.truncate(3),
        2 => return drop(call.reply_status(9, &reply)),
        _ => {}
    }
    let _ = call.reply(&reply);
}

#[test]
fn old_clients_are_served_by_a_callgate_server() {
    let endpoint = format!("bridge-{}", std::process::id());
    let names = names("served");
    let (tell, told) = mpsc::channel();
    let client = callgate::Client::lazy(&*endpoint, ClientOptions::default()).unwrap();
    let options = CallOptions::new().timeout(Duration::from_secs(60));
    let bridge = Bridge::new(client, options, move |error| {
        tell.send(format!("{error:?}")).unwrap();
        let known = matches!(
            error,
            BridgeError::Call(CallError::NotRunning { .. })
                | BridgeError::Status { status: 9 }
                | BridgeError::Length { len: 3, want: 16 }
        );
        assert!(known, "{error:?}");
    });
    let old = classic::Server::serve_bytes(&names, 16, ServerOptions::default(), bridge).unwrap();

    // No callgate server yet: the old clients have an old server, which does not answer.
    let impatient = old_client(&names, Duration::from_millis(250));
    let in_vain = |number| loop {
        match impatient.call(&[number, 2, 3, 0]) {
            Err(classic::CallError::NoAnswer { started, .. }) => {
                if started == classic::Started::MayHaveRun {
                    return told.recv_timeout(Duration::from_secs(60)).unwrap();
                }
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(in_vain(0).contains("NotRunning"));

    let server = Server::serve(&*endpoint, add).unwrap();
    let patient = old_client(&names, Duration::from_secs(60));
    for number in 10..60 {
        assert_eq!(patient.call(&[number, 2, 3, 0]).unwrap(), [number, 2, 3, 5]);
    }
    assert!(in_vain(1).contains("Length"));
    assert!(in_vain(2).contains("Status"));
    // It is replaced, and the old clients notice nothing.
    drop(server);
    let _server = Server::serve(&*endpoint, add).unwrap();
    assert_eq!(patient.call(&[60, 4, 5, 0]).unwrap(), [60, 4, 5, 9]);
    let status = old.status();
    assert_eq!(status.panics, 0);
    assert!(status.unanswered >= 3);
}
