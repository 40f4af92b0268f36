//! What the program reads, without acting on it: for tests and fuzz targets.
//!
//! Each function takes anything, and must neither panic nor go on without end.

use std::ffi::OsString;

use clap::Parser;

use crate::bench::{compare, load, plot, table};
use crate::cli::Cli;
use crate::demo::message::{FromClient, FromServer, Job, PathText, ToServer};
use crate::worker::read_line;

/// Parses a command line without the program's name. `Ok` says that a subcommand would run.
///
/// # Errors
/// What would be told.
pub fn arguments(words: Vec<OsString>) -> Result<(), String> {
    let line = std::iter::once(OsString::from("callgate")).chain(words);
    Cli::try_parse_from(line).map(drop).map_err(|error| error.render().to_string())
}

/// Parses a duration and a size as options take them: nanoseconds, and bytes.
#[must_use]
pub fn quantities(text: &str) -> (Option<u128>, Option<u64>) {
    let duration = crate::duration::parse(text).ok().map(|duration| duration.as_nanos());
    (duration, crate::duration::parse_bytes(text).ok())
}

/// Reads the text of a report of `bench --json`, and shows, compares and plots it where it is one: the length of all that.
///
/// # Errors
/// Says why it is none.
pub fn report(text: &str) -> Result<usize, String> {
    let report = load::parse(text)?;
    Ok(table::render(&report).len() + compare::text(&report, &report).len() + plot::len(&report))
}

/// Reads what the helpers of `demo` and `bench` say to each other, as each kind of message; how many it was.
#[must_use]
pub fn messages(bytes: &[u8]) -> usize {
    fn one<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> usize {
        let mut input = bytes;
        let mut count = 0;
        while let Ok(Some(_)) = read_line::<T>(&mut input) {
            count += 1;
        }
        count
    }
    one::<Job>(bytes)
        + one::<PathText>(bytes)
        + one::<FromClient>(bytes)
        + one::<ToServer>(bytes)
        + one::<FromServer>(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_told_from_nonsense() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(arguments(words("call digest --data x")), Ok(()));
        assert!(arguments(words("call --nonsense")).is_err());
        assert_eq!(quantities("2s"), (Some(2_000_000_000), None));
        assert!(report("{}").is_err());
        assert_eq!(messages(b"\"watch\"\n\"watch\"\n"), 4);
    }
}
