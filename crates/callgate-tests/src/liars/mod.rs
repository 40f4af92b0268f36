//! The campaign of liars: peers that speak the protocol correctly, and then say what is not true.
//!
//! The program `liars` is all of its processes: the driver, and, started by it, the liars, those who are lied to, and
//! honest clients beside them.
//!
//! | module | owns |
//! | --- | --- |
//! | [`campaign`] | the driver: which lie when, what must come of it, the rows |
//! | [`growth`] | what the victim uses, sample after sample, and its slope |
//! | [`client`] | the client that lies: all its lies, and floods |
//! | [`server`] | the server that lies |
//! | [`speaker`] | a client that speaks by hand and correctly |
//! | [`host`] | the server that is lied to |
//! | [`guest`] | the client process that is lied to |
//! | [`honest`] | calls that are checked in every byte, and timed |
//! | [`probe`] | what a worker did before an honest call |
//! | [`notes`] | what the library reports of its peers |

pub mod campaign;
pub mod client;
pub mod growth;
pub mod guest;
pub mod honest;
pub mod host;
pub mod notes;
pub mod probe;
pub mod server;
pub mod speaker;

use crate::peer::Words;
use crate::roles::die_with_parent;

/// Runs the role that the first argument names, or the campaign.
pub fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words = Words::parse(&arguments.join(" "));
    let role: fn(&Words) = match arguments.first().map(String::as_str) {
        Some("host") => host::run,
        Some("honest") => honest::run,
        Some("guest") => guest::run,
        Some("client") => client::run,
        Some("server") => server::run,
        _ => std::process::exit(campaign::main(&arguments)),
    };
    die_with_parent();
    role(&words);
}

/// Gives a percentile of what was counted, in its order; 0 where nothing was.
fn percentile(sorted_ns: &[u64], percent: usize) -> u64 {
    let last = sorted_ns.len().saturating_sub(1);
    sorted_ns.get((sorted_ns.len() * percent / 100).min(last)).copied().unwrap_or(0)
}
