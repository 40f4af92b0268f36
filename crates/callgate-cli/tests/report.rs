//! Saved runs of the benchmark are shown, compared and drawn.
#![cfg(not(windows))]

mod common;

use common::Home;
use serde_json::{Value, json};

/// A run with one figure, around `p50` nanoseconds, beside a limit of 100.
fn run(p50: f64) -> Value {
    let rounds =
        |middle: f64| -> Vec<f64> { (0..9).map(|round| middle + f64::from(round % 3)).collect() };
    let percentiles =
        json!([[0.0, p50 / 2.0], [50.0, p50], [99.9, p50 * 9.0], [100.0, p50 * 99.0]]);
    json!({
        "format": 1,
        "callgate": "0.1.0",
        "machine": { "processor": "some", "kernel": "6.1", "cpus": 2, "load": 0.1 },
        "seed": 1,
        "quick": false,
        "clock_ns": 16,
        "rows": [{
            "situation": "size/4k/in-place",
            "figure": "p50",
            "unit": "ns",
            "callgate": { "name": "callgate", "rounds": rounds(p50), "percentiles": percentiles },
            "limits": [{ "name": "line", "rounds": rounds(100.0) }],
            "goal": { "at_most": 1.2 },
        }],
    })
}

fn save(home: &Home, name: &str, run: &Value) -> String {
    let path = home.path(name);
    std::fs::write(&path, run.to_string()).unwrap();
    path.into_os_string().into_string().unwrap()
}

#[test]
fn a_run_is_shown() {
    let home = Home::new();
    let file = save(&home, "a.json", &run(110.0));
    let out = home.run(["bench", "show", &file]).expect(0).out();
    assert!(out.contains("size/4k/in-place  p50") && out.contains("holds"), "{out}");
    assert!(out.ends_with("1 row holds, 0 unclear, 0 short\n"), "{out}");
    let file = save(&home, "b.json", &run(150.0));
    let out = home.run(["bench", "show", &file]).expect(0).out();
    assert!(out.ends_with("short: size/4k/in-place p50\n"), "{out}");
}

#[test]
fn two_runs_are_compared() {
    let home = Home::new();
    let (old, new) = (save(&home, "a.json", &run(110.0)), save(&home, "b.json", &run(150.0)));
    let ended = home.run(["bench", "compare", &old, &new]).expect(0);
    assert!(ended.out().contains(" worse\n") && ended.err().is_empty(), "{}", ended.out());
    let mut quick = run(110.0);
    quick["quick"] = json!(true);
    quick["machine"]["processor"] = json!("other");
    let quick = save(&home, "c.json", &quick);
    let ended = home.run(["bench", "compare", &old, &quick, "--json"]).expect(0);
    assert!(ended.err().contains("another processor: some before, other after"), "{}", ended.err());
    let comparison = ended.json();
    assert_eq!(comparison["warnings"].as_array().unwrap().len(), 2);
    assert_eq!(comparison["rows"][0]["mark"], "none");
}

#[test]
fn a_run_is_drawn() {
    let home = Home::new();
    let file = save(&home, "a.json", &run(110.0));
    let plots = home.path("some/plots");
    let out = home.run(["bench", "plot", &file, "--out", plots.to_str().unwrap()]).expect(0).out();
    let names: Vec<&str> = out.lines().filter_map(|line| line.rsplit('/').next()).collect();
    assert_eq!(names, ["latency-size-4k-in-place.svg", "size.svg", "size-ratio.svg"]);
    for name in names {
        let svg = std::fs::read_to_string(plots.join(name)).unwrap();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
        assert!(
            svg.contains("prefers-color-scheme:dark") && svg.contains("log scale")
                || name == "size-ratio.svg",
            "{svg}"
        );
    }
}

#[test]
fn other_files_are_refused() {
    let home = Home::new();
    let mut other = run(110.0);
    other["format"] = json!(99);
    let other = save(&home, "other.json", &other);
    let good = save(&home, "good.json", &run(110.0));
    let ended = home.run(["bench", "compare", &good, &other]).expect(2);
    assert!(ended.err().contains("a report of format 99"), "{}", ended.err());
    let text = save(&home, "text.json", &json!("no report"));
    let ended = home.run(["bench", "show", &text]).expect(2);
    assert!(ended.err().contains("not a report of `bench --json`"), "{}", ended.err());
    home.run(["bench", "show", "/nowhere/at/all.json"]).expect(70);
    let mut bare = run(110.0);
    bare["rows"][0]["situation"] = json!("busy/32");
    bare["rows"][0]["callgate"]["percentiles"] = json!([]);
    let bare = save(&home, "bare.json", &bare);
    let plots = home.path("plots");
    home.run(["bench", "plot", &bare, "--out", plots.to_str().unwrap()]).expect(2);
    assert!(!plots.exists());
}
