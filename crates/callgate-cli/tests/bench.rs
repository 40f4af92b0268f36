//! The benchmarks run, and their JSON has what it should. Figures are not judged here.
#![cfg(not(windows))]

mod common;

use std::process::Command;
use std::time::Duration;

use common::{Ended, Home};
use serde_json::Value;

/// Situations that take a part each of what measures: pairs, crowds, connecting, flight.
const SOME: [&str; 6] = [
    "--only=busy/32",
    "--only=gap/100us",
    "--only=crowd/2",
    "--only=connect",
    "--only=flight",
    "--only=size/4k",
];

#[test]
fn situations_are_measured_beside_their_limits() {
    let home = Home::new();
    let short = ["bench", "--quick", "--json", "--seed=7", "--rounds=2", "--time=2ms"];
    let report = home.run(short.iter().chain(&SOME)).expect(0).json();
    assert_eq!((report["format"].as_u64(), report["seed"].as_u64()), (Some(1), Some(7)));
    assert!(report["machine"]["cpus"].as_u64().unwrap() > 0 && report["clock_ns"].is_u64());
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["situation"] == "gap/100us" && row["figure"] == "p99"));
    let cpus = std::thread::available_parallelism().unwrap().get();
    for row in rows {
        let looks = row["line_ns"].as_array().map_or(0, Vec::len);
        assert_eq!(looks, if cpus > 1 { 2 } else { 0 }, "{row}");
        let limits = row["limits"].as_array().unwrap();
        assert!(!limits.is_empty(), "{row}");
        for series in limits.iter().chain([&row["callgate"]]) {
            let rounds = series["rounds"].as_array().unwrap();
            assert_eq!(rounds.len(), 2, "{row}");
            assert!(rounds.iter().all(|value| value.as_f64().unwrap() >= 0.0), "{row}");
            check_percentiles(series, row["figure"] == "p50");
        }
    }
    assert_eq!(home.endpoint_files(), [""; 0]);
}

fn check_percentiles(series: &Value, wanted: bool) {
    let Some(percentiles) = series.get("percentiles") else {
        assert!(!wanted, "{series}");
        return;
    };
    let values: Vec<f64> =
        percentiles.as_array().unwrap().iter().map(|pair| pair[1].as_f64().unwrap()).collect();
    assert!(values.len() == 11 && values.is_sorted(), "{series}");
    assert_eq!(series["max_ns"].as_f64(), values.last().copied());
}

#[test]
fn situations_are_listed_and_chosen_by_name() {
    let home = Home::new();
    let list = home.run(["bench", "--list"]).expect(0).out();
    for name in ["busy/48/free", "size/16m/copied", "loaded/16", "idle/10000", "handler/1ms"] {
        assert!(list.contains(name), "{list}");
    }
    let some = home.run(["bench", "--list", "--only", "size/*/copied"]).expect(0).out();
    assert!(some.contains("size/4k/copied") && !some.contains("in-place"), "{some}");
    let none = home.run(["bench", "--only", "nonsense"]).expect(2);
    assert!(none.err().contains("--list"), "{}", none.err());
}

#[test]
fn wake_ups_are_measured() {
    let home = Home::new();
    let report = home.run(["bench", "wake", "--quick", "--json", "--rounds", "1"]).expect(0).json();
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["primitive"] == "futex"));
    assert!(rows.iter().any(|row| row["place"] == "one cpu"));
}

#[test]
fn idle_clients_are_measured() {
    let home = Home::new();
    let args = ["bench", "idle", "--clients", "5", "--seconds", "1", "--json"];
    let report = home.run(args).expect(0).json();
    assert_eq!(report["clients"], 5);
    assert!(report["server"]["threads"].as_u64().unwrap() > 0);
    assert!(report["descriptors_per_client"].as_f64().unwrap() >= 1.0);
    assert_eq!(home.endpoint_files(), [""; 0]);
}

/// The processes that `parent` has forked: they have its command line.
fn forked(parent: u32) -> Vec<u32> {
    let read = |pid: u32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let children = read(parent, &format!("task/{parent}/children")).unwrap_or_default();
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    let own = read(parent, "cmdline").unwrap_or_default();
    children.filter(|child| read(*child, "cmdline").is_ok_and(|line| line == own)).collect()
}

#[test]
fn a_killed_server_fails_its_situation_and_no_other() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        // Lines that two processes poll are not measured then.
        return;
    }
    let home = Home::new();
    let args = ["bench", "--quick", "--json", "--rounds=1", "--time=200ms"];
    let chosen = ["--only=busy/32/pinned", "--only=connect/echo"];
    let mut bench = home.callgate(args.iter().chain(&chosen)).spawn().unwrap();
    // The line between rounds, and five more, of which each has a server, forked first, and a client.
    let line_server = loop {
        if let forked = forked(bench.id())
            && forked.len() == 12
        {
            break forked[2];
        }
        assert!(bench.try_wait().unwrap().is_none(), "ended early");
        std::thread::sleep(Duration::from_millis(1));
    };
    let killed = Command::new("kill").args(["-KILL", &line_server.to_string()]).status().unwrap();
    assert!(killed.success());
    let ended = Ended(bench.wait_with_output().unwrap()).expect(70);
    let err = ended.err();
    let reason = "line, 0 pauses: a forked client: the process at the other end has ended";
    assert!(err.contains(&format!("busy/32/pinned is not measured: {reason}")), "{err}");
    assert!(err.ends_with("could not be measured: busy/32/pinned\n"), "{err}");
    let report = ended.json();
    assert_eq!(report["missing"][0]["reason"], reason);
    assert_eq!(report["rows"][0]["situation"], "connect/echo");
    assert_eq!(home.endpoint_files(), [""; 0]);
}
