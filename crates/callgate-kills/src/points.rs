//! The names of all kill points, and in which role each must be met.
//!
//! `points.txt` is the list; a test compares it with the source. A *place* is a point's `before` (even) or `after`
//! (odd).

use std::collections::HashMap;
use std::sync::OnceLock;

/// Room for all places.
pub const PLACES: usize = 256;

const LIST: &str = include_str!("../points.txt");

/// One line of the list.
pub struct Point {
    pub name: &'static str,
    /// Whether a client, a server must pass it.
    pub client: bool,
    pub server: bool,
}

/// All points, in the order of the list.
pub fn points() -> &'static [Point] {
    static POINTS: OnceLock<Vec<Point>> = OnceLock::new();
    POINTS.get_or_init(|| {
        let lines = LIST.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let points: Vec<Point> = lines.map(read).collect();
        assert!(2 * points.len() <= PLACES, "more points than room for them: raise PLACES");
        points
    })
}

fn read(line: &'static str) -> Point {
    let (name, roles) = line.split_once(' ').unwrap_or((line, ""));
    let (client, server) = match roles {
        "both" => (true, true),
        "client" => (true, false),
        "server" => (false, true),
        other => panic!("points.txt: {name}: {other} is no role"),
    };
    Point { name, client, server }
}

/// The place of a point's passage, by its full name.
pub fn place(full: &str) -> Option<usize> {
    static PLACES: OnceLock<HashMap<String, usize>> = OnceLock::new();
    let places = PLACES.get_or_init(|| {
        let places = points().iter().enumerate().flat_map(|(at, point)| {
            [
                (format!("{}.before", point.name), 2 * at),
                (format!("{}.after", point.name), 2 * at + 1),
            ]
        });
        places.collect()
    });
    places.get(full).copied()
}

/// The full name of a place.
pub fn name(place: usize) -> String {
    let when = if place.is_multiple_of(2) { "before" } else { "after" };
    format!("{}.{when}", points()[place / 2].name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn sources(folder: &Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            // Nobody is killed at points there: these programs run on Linux.
            if path.file_stem().is_some_and(|name| name == "windows" || name == "win") {
                continue;
            }
            if path.is_dir() {
                sources(&path, text);
            } else if path.extension().is_some_and(|end| end == "rs") {
                *text += &std::fs::read_to_string(&path).expect("a source file");
            }
        }
    }

    #[test]
    fn the_list_is_that_of_the_source() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crates");
        let mut text = String::new();
        for name in ["callgate-proto", "callgate-sys", "callgate"] {
            sources(&crates.join(name).join("src"), &mut text);
        }
        let in_source: BTreeSet<&str> = text
            .split("at!(")
            .skip(1)
            .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
            .filter(|name| ["proto.", "sys.", "callgate."].iter().any(|it| name.starts_with(it)))
            .collect();
        let in_list: BTreeSet<&str> = points().iter().map(|point| point.name).collect();
        assert!(in_source.len() > 70, "{}", in_source.len());
        assert_eq!(in_source, in_list);
    }

    #[test]
    fn places_have_names() {
        for point in points() {
            let after = format!("{}.after", point.name);
            assert_eq!(place(&after).map(name), Some(after));
        }
    }
}
