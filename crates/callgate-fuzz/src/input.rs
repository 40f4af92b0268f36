//! What a user gives: names, command lines, files.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use callgate::Endpoint;

/// Reads the bytes as the name and the path of an endpoint, and holds what is allowed against the rules of PROTOCOL.md 1.1.
///
/// # Panics
/// When the rules are not kept.
pub fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let allowed = (1..=64).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        && !text.starts_with(['.', '-']);
    let named = Endpoint::named(&text);
    assert_eq!(named.is_ok(), allowed, "{text:?}");
    if let Ok(named) = &named {
        assert_eq!(named.to_string(), text);
        assert_eq!(Endpoint::parse(&text).as_ref().ok(), Some(named));
        let path = named.socket_path();
        if let Ok(path) = path {
            let file = path.file_name().and_then(|name| name.to_str());
            assert_eq!(file, Some(format!("{text}.sock").as_str()), "it left its directory");
        }
    }
    match Endpoint::parse(&text) {
        Ok(endpoint) if text.contains('/') => check_path(&endpoint),
        Ok(endpoint) => assert_eq!(Some(endpoint), named.ok()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let raw = OsString::from_vec(bytes.to_vec());
    match Endpoint::at(Path::new(&raw)) {
        Ok(endpoint) => check_path(&endpoint),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn check_path(endpoint: &Endpoint) {
    let path = endpoint.socket_path().expect("a path needs no directory of the user");
    assert!(path.is_absolute() && path.file_name().is_some());
    assert!(!path.as_os_str().as_encoded_bytes().contains(&0));
}

/// Reads the bytes as a command line, its words apart by zeros, and each word as a quantity.
///
/// # Panics
/// When the parser does.
pub fn arguments(bytes: &[u8]) {
    let words = bytes.split(|byte| *byte == 0).take(40);
    let words: Vec<OsString> = words.map(|word| OsString::from_vec(word.to_vec())).collect();
    for word in &words {
        let text = word.to_string_lossy();
        let (duration_ns, _) = callgate_cli::input::quantities(&text);
        if let Some(duration_ns) = duration_ns {
            assert!(duration_ns < 1 << 94, "{text} is longer than a duration can be");
        }
    }
    if let Err(told) = callgate_cli::input::arguments(words) {
        assert!(!told.is_empty());
    }
}

/// Reads the bytes as a report of the benchmark, and as what helper processes say.
///
/// # Panics
/// When one of the readers does, or those who show what they read.
pub fn reports(bytes: &[u8]) {
    let _ = callgate_cli::input::messages(bytes);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Err(told) = callgate_cli::input::report(text)
    {
        assert!(!told.is_empty());
    }
}
