//! Durations and sizes as people type them: `250ms`, `2s`, `1m`, `64k`.

use std::time::Duration;

/// Reads a duration: a number with one of the units ns, us, ms, s, m, h; a bare 0 is allowed.
///
/// # Errors
/// Says what is expected.
pub fn parse(text: &str) -> Result<Duration, String> {
    const WANT: &str = "expected a number with a unit, like 250ms, 2s or 1m";
    let (number, unit) = split(text);
    let value: f64 = number.parse().map_err(|_| WANT.to_owned())?;
    let scale = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "" if value == 0.0 => 0.0,
        _ => return Err(WANT.to_owned()),
    };
    Duration::try_from_secs_f64(value * scale).map_err(|_| "too long".to_owned())
}

/// Reads a duration that is more than zero.
///
/// # Errors
/// Says what is expected.
pub fn parse_some(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        Duration::ZERO => Err("expected more than zero".to_owned()),
        some => Ok(some),
    }
}

/// Reads a byte count that is more than zero.
///
/// # Errors
/// Says what is expected.
pub fn parse_some_bytes(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        0 => Err("expected 1 byte and more".to_owned()),
        some => Ok(some),
    }
}

/// Reads a byte count: a whole number, with k, M or G (1024 each; `KiB` and `kb` mean the same).
///
/// # Errors
/// Says what is expected.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const WANT: &str = "expected a number of bytes, like 4096, 64k, 16M or 1G";
    let (number, unit) = split(text);
    let value: u64 = number.parse().map_err(|_| WANT.to_owned())?;
    let unit = unit.to_ascii_lowercase();
    let shift = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(WANT.to_owned()),
    };
    value.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let digits = |letter: char| letter.is_ascii_digit() || letter == '.';
    let end = text.find(|letter| !digits(letter)).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(parse("1.5 h"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        assert_eq!(parse_some("1ns"), Ok(Duration::from_nanos(1)));
        for none in ["0", "0s", "0.1ns"] {
            assert_eq!(parse_some(none), Err("expected more than zero".to_owned()), "{none}");
        }
        for wrong in ["", "2", "s", "-1s", "1e9s", "2 parsecs", "1..2s", "9999999999999999999999h"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("48"), Ok(48));
        assert_eq!(parse_bytes("64k"), Ok(65_536));
        assert_eq!(parse_some_bytes("1"), Ok(1));
        assert!(parse_some_bytes("0k").is_err());
        assert_eq!(parse_bytes("1 MiB"), Ok(1 << 20));
        assert_eq!(parse_bytes("2GB"), Ok(2 << 30));
        for wrong in ["", "k", "-1", "1.5k", "99999999999999999999", "20000000T"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
