//! Large buffers without a copy that nobody asked for: both the request and the reply are built in
//! shared memory, and read where they lie.

use std::error::Error;
use std::time::Instant;

use callgate::{Call, CallOptions, Client, Server};

const NAME: &str = "example-in-place";
const FRAME_BYTES: usize = 3840 * 2160 * 4;

/// Answers a picture with its negative.
fn negative(call: Call<'_>) {
    let len = call.request().len();
    // The reply's buffer. On an error the caller has been told why.
    let Ok(mut reply) = call.loan(len) else { return };
    let (request, out) = reply.split();
    // One pass from the request's memory to the reply's: the copy is the work.
    request.copy_to(out);
    out.iter_mut().for_each(|byte| *byte = !*byte);
    let _ = reply.send();
}

fn pixel(at: usize, frame: u8) -> u8 {
    (at % 251) as u8 ^ frame
}

fn main() -> Result<(), Box<dyn Error>> {
    let _server = Server::serve(NAME, negative)?;
    let client = Client::connect(NAME)?;
    for frame in 0..4 {
        // The first frame needs memory, which the later ones use again.
        let mut picture = client.loan(FRAME_BYTES)?;
        for (at, byte) in picture.iter_mut().enumerate() {
            *byte = pixel(at, frame);
        }

        let began = Instant::now();
        let reply = picture.call(CallOptions::new())?;
        let took = began.elapsed();

        // Chunks are private copies that fit the cache; the whole reply is never copied.
        let (mut at, mut wrong) = (0, 0);
        reply.payload().for_each_chunk(|chunk| {
            wrong +=
                chunk.iter().zip(at..).filter(|(byte, at)| **byte != !pixel(*at, frame)).count();
            at += chunk.len();
        });
        assert_eq!((at, wrong), (FRAME_BYTES, 0));
        println!("frame {frame}: {FRAME_BYTES} bytes there and back in {took:?}, all right");
    }
    Ok(())
}
