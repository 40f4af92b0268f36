//! Endpoint names that helpers of one run of this program use among themselves.

use callgate::Endpoint;

/// A name of our own. Dropping it removes what serving it has left; that must come after its
/// servers have ended.
#[derive(Debug)]
pub struct Name(String);

impl Name {
    /// Makes a name that no other process uses, since it holds our process id.
    pub fn new(what: &str) -> Name {
        Name(format!("{what}-{}", std::process::id()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        forget(&self.0);
    }
}

/// Removes what serving a [`Name`] has left, which would pile up otherwise.
///
/// A lock file must never be removed while somebody may take the name over. Nobody takes over a
/// name with a living process's id in it, and the server of this one has ended.
pub fn forget(name: &str) {
    if let Ok(socket) = Endpoint::named(name).and_then(|name| name.socket_path()) {
        let _ = std::fs::remove_file(socket.with_extension("lock"));
        let _ = std::fs::remove_file(socket);
    }
}
