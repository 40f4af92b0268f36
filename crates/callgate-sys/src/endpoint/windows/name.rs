//! From a path to the names of a pipe and of a mutex.

use std::path::{Component, Path, Prefix};

use windows_sys::Wdk::System::SystemServices::RtlUpcaseUnicodeChar;

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
    // The system would take it for the end of the name.
    if rest.contains('\0') {
        return None;
    }
    Some(rest[PIPES.len().min(rest.len())..].replace('/', r"\"))
}

/// Writes a text without separators, so that two that are different stay so. Letters that the system does not tell apart in
/// names are not told apart: it has a table for that, in which each unit of UTF-16 has its capital.
fn escape(text: &str) -> String {
    // SAFETY: it has no conditions.
    let capitals: Vec<u16> =
        text.encode_utf16().map(|unit| unsafe { RtlUpcaseUnicodeChar(unit) }).collect();
    let mut escaped = String::with_capacity(text.len());
    for byte in String::from_utf16_lossy(&capitals).bytes() {
        match byte.to_ascii_lowercase() {
            byte @ (b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-') => escaped.push(byte.into()),
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
        // Letters are one where the system's own names have them as one, and only there.
        assert_ne!(pipe("C:\\\u{212a}"), pipe("C:\\k"));
        assert_eq!(pipe("C:\\\u{391}\u{3a3}"), pipe("C:\\\u{3b1}\u{3c3}"));
        assert_eq!(pipe("C:\\\u{c4}"), pipe("C:\\\u{e4}"));
        // A name of a pipe would end at it.
        assert!(!pipe("\\\\.\\pipe\\a\0b").contains('\0'));
        let long = format!(r"C:\{}", "x".repeat(300));
        assert!(Names::of(Path::new(&long)).is_err_and(|len| len > LEN_MAX));
    }
}
