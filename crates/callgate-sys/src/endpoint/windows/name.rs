//! From a path to the names of a pipe and of a mutex.

use std::path::{Component, Path, Prefix};

/// Where pipes have their names.
pub(super) const PIPES: &str = r"\\.\pipe\";

/// The longest name of a pipe, what stands before it left out, in UTF-16 units.
pub(super) const LEN_MAX: usize = 256 - PIPES.len();

/// The names of an endpoint, each ending with a zero.
pub(super) struct Names {
    pub(super) pipe: Vec<u16>,
    pub(super) mutex: Vec<u16>,
}

impl Names {
    /// Names the pipe and the mutex of the endpoint at `path`; the length, where it is too long.
    ///
    /// The path of a pipe is that pipe. Any other is written into the name of one: nothing lies at such a path itself.
    pub(super) fn of(path: &Path) -> Result<Names, usize> {
        let name = match pipe_name(path) {
            Some(name) => name,
            None => format!("callgate-at={}", escape(&path.to_string_lossy())),
        };
        let len = name.encode_utf16().count();
        if len > LEN_MAX {
            return Err(len);
        }
        let zero = |text: String| text.encode_utf16().chain([0]).collect();
        // Beside the name of each session's own objects there is this one for all, as pipes have one for all.
        let mutex = zero(format!("Global\\callgate={}", escape(&name)));
        Ok(Names { pipe: zero(format!("{PIPES}{name}")), mutex })
    }
}

fn pipe_name(path: &Path) -> Option<String> {
    let mut parts = path.components();
    let Some(Component::Prefix(prefix)) = parts.next() else { return None };
    let Prefix::DeviceNS(device) = prefix.kind() else { return None };
    if !device.eq_ignore_ascii_case("pipe") {
        return None;
    }
    let rest = path.to_string_lossy();
    Some(rest[PIPES.len().min(rest.len())..].replace('/', r"\"))
}

/// Writes a text without separators, so that two that are different stay so. As the system does in names, it does not tell
/// capital letters from small ones.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.to_lowercase().bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => escaped.push(byte.into()),
            b'\\' | b'/' => escaped.push('='),
            other => escaped.push_str(&format!("%{other:02x}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(path: &str) -> String {
        let names = Names::of(Path::new(path)).unwrap();
        String::from_utf16(&names.pipe[..names.pipe.len() - 1]).unwrap()
    }

    #[test]
    fn paths_become_pipes() {
        assert_eq!(pipe(r"\\.\pipe\callgate\S-1\x.sock"), r"\\.\pipe\callgate\S-1\x.sock");
        assert_eq!(pipe(r"C:\Temp\a b"), r"\\.\pipe\callgate-at=c%3a=temp=a%20b");
        assert_eq!(pipe("C:/temp/A b"), pipe(r"C:\Temp\a b"));
        assert_ne!(pipe(r"C:\a=b"), pipe(r"C:\a\b"));
        assert_ne!(pipe(r"C:\a%20b"), pipe(r"C:\a b"));
        let long = format!(r"C:\{}", "x".repeat(300));
        assert!(Names::of(Path::new(&long)).is_err_and(|len| len > LEN_MAX));
    }
}
