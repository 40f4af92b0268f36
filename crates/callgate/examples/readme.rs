//! The example of the README, word for word.

use callgate::{Call, Client, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The server runs in the background of its program until it is stopped or dropped.
    let _server = Server::serve("readme-sum", |call: Call<'_>| {
        let mut sum = 0u64;
        call.request().for_each_chunk(|bytes| {
            sum += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        });
        let _ = call.reply(&sum.to_le_bytes()); // an error here means that the caller is gone
    })?;

    // The client is usually another process.
    let client = Client::connect("readme-sum")?;
    let reply = client.call(&[1, 2, 3])?;
    assert_eq!(reply.to_vec(), 6u64.to_le_bytes());
    println!("1 + 2 + 3 = 6, says the server");
    Ok(())
}
