//! The options with which `call`, `ping` and `classic-bridge` reach a server.

use std::time::Duration;

use callgate::{Client, ClientOptions, Endpoint, ServerIdentity};
use clap::Args;

use crate::exit::Failure;

/// Which server, and how to reach it.
#[derive(Args, Debug)]
pub struct ConnectArgs {
    /// Endpoint: a name, or the path of a socket (with a /)
    #[arg(value_parser = Endpoint::parse)]
    pub name: Endpoint,
    /// Wait that long for the server to appear
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = crate::duration::parse)]
    pub wait: Duration,
    /// Accept a server of this user: a uid, or `any` [default: this user or root]
    #[arg(long, value_name = "UID", value_parser = server_identity)]
    pub server_uid: Option<ServerUid>,
}

/// A user whose servers are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerUid {
    /// Everyone.
    Any,
    /// One.
    Uid(u32),
}

fn server_identity(text: &str) -> Result<ServerUid, String> {
    match text {
        "any" => Ok(ServerUid::Any),
        // Other users have no numbers there.
        _ if cfg!(windows) && text != "0" => Err("expected 0 (the system) or `any`".to_owned()),
        _ => text.parse().map(ServerUid::Uid).map_err(|_| "expected a uid or `any`".to_owned()),
    }
}

impl ConnectArgs {
    /// Connects for one call, waiting for the server as long as asked, but never longer than `limit`.
    ///
    /// # Errors
    /// When it can't be reached.
    pub fn connect_once(&self, limit: Option<Duration>) -> Result<Client, Failure> {
        let mut options = self.options();
        options.timeout = limit;
        // One is what it needs.
        options.in_flight = Some(1);
        Ok(Client::connect_with(&self.name, options)?)
    }

    /// Connects, waiting for the server as long as asked.
    ///
    /// # Errors
    /// When it can't be reached.
    pub fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect_with(&self.name, self.options())?)
    }

    /// Connects with the first call; that one, and each that connects anew, waits for the server as long as asked.
    ///
    /// # Errors
    /// When the name is unusable.
    #[cfg(windows)]
    pub fn lazy(&self) -> Result<Client, Failure> {
        Ok(Client::lazy(&self.name, self.options())?)
    }

    fn options(&self) -> ClientOptions {
        let mut options = ClientOptions::default();
        options.connect_timeout = self.wait;
        if let Some(uid) = self.server_uid {
            options.server = match uid {
                ServerUid::Any => ServerIdentity::Anyone,
                ServerUid::Uid(uid) => ServerIdentity::Uid(uid),
            };
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_identities() {
        assert_eq!(server_identity("any"), Ok(ServerUid::Any));
        assert_eq!(server_identity("0"), Ok(ServerUid::Uid(0)));
        let numbered = server_identity("1000");
        assert_eq!(numbered.ok(), (!cfg!(windows)).then_some(ServerUid::Uid(1000)));
        assert!(server_identity("root").is_err());
    }
}
