//! An echo server and its client in one program.
//!
//! Without arguments it is both. In two terminals:
//!
//! ```text
//! cargo run --example echo server
//! cargo run --example echo client some words
//! ```

use std::error::Error;
use std::time::{Duration, Instant};

use callgate::{Call, Client, ClientOptions, Server};

const NAME: &str = "example-echo";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("server") => {
            let server = serve()?;
            println!("serving {}; end it with ctrl-C", server.path().display());
            server.wait();
            Ok(())
        }
        Some("client") => call(&arguments[1..].join(" ")),
        Some(other) => {
            Err(format!("unknown role {other:?}; use server, client, or nothing").into())
        }
        None => {
            let _server = serve()?;
            call("hello over shared memory")
        }
    }
}

fn serve() -> Result<Server, Box<dyn Error>> {
    Ok(Server::serve(NAME, |call: Call<'_>| {
        let bytes = call.request().to_vec();
        // An error means that the caller is gone, or that it has been told why there is no reply.
        let _ = call.reply(&bytes);
    })?)
}

fn call(text: &str) -> Result<(), Box<dyn Error>> {
    let mut options = ClientOptions::default();
    // Waits a little if the server is only about to start.
    options.connect_timeout = Duration::from_secs(2);
    options.timeout = Some(Duration::from_secs(5));
    let client = Client::connect_with(NAME, options)?;
    let began = Instant::now();
    let reply = client.call(text.as_bytes())?;
    let took = began.elapsed();
    assert_eq!(reply.to_vec(), text.as_bytes());
    println!("{} bytes came back as they went, in {took:?}: {text}", reply.len());
    Ok(())
}
