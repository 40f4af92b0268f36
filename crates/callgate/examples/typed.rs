//! Requests and replies that are plain structs: sent as their bytes, read back without parsing.
//!
//! A received payload lies in memory that the sender can still change. So it is copied into a
//! private value first, and that value is checked.

use std::error::Error;

use callgate::{Call, CallError, Client, Payload, Server};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const NAME: &str = "example-typed";

/// Codes of failures are the application's own.
const NOT_AN_ORDER: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Order {
    id: u64,
    price_cents: i64,
    quantity: u32,
    customer: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Confirmation {
    id: u64,
    total_cents: i64,
}

/// Copies a value out of a payload; `None` when the payload has another size.
fn read<T: FromBytes + IntoBytes>(payload: Payload<'_>) -> Option<T> {
    let mut value = T::new_zeroed();
    let bytes = value.as_mut_bytes();
    (payload.len() == bytes.len() && payload.copy_to(bytes) == bytes.len()).then_some(value)
}

fn confirm(call: Call<'_>) {
    let Some(order) = read::<Order>(call.request()) else {
        let message = format!("an order has {} bytes", size_of::<Order>());
        let _ = call.fail(NOT_AN_ORDER, &message);
        return;
    };
    let total_cents = order.price_cents.saturating_mul(order.quantity.into());
    let _ = call.reply(Confirmation { id: order.id, total_cents }.as_bytes());
}

fn main() -> Result<(), Box<dyn Error>> {
    let _server = Server::serve(NAME, confirm)?;
    let client = Client::connect(NAME)?;

    let order = Order { id: 7, price_cents: 1_250, quantity: 4, customer: 99 };
    let reply = client.call(order.as_bytes())?;
    let confirmation: Confirmation = read(reply.payload()).ok_or("not a confirmation")?;
    println!("{order:?} was answered with {confirmation:?}");
    assert_eq!(confirmation, Confirmation { id: 7, total_cents: 5_000 });

    match client.call(b"too short") {
        Err(CallError::Handler { code: NOT_AN_ORDER, message }) => {
            println!("a wrong request fails for its caller alone: {message}");
            Ok(())
        }
        other => Err(format!("expected a failure, got {other:?}").into()),
    }
}
