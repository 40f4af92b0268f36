//! The benchmarks run, and their JSON has what it should. Figures are not judged here.

mod common;

use common::Home;

#[test]
fn calls_are_measured_beside_bare_primitives() {
    let home = Home::new();
    let report = home.run(["bench", "--quick", "--json", "--rounds", "1"]).expect(0).json();
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() > 10);
    for row in rows {
        let trip = &row["round_trip_ns"];
        assert!(trip["count"].as_u64().unwrap() > 0, "{row}");
        assert!(trip["p50"]["median"].as_u64().unwrap() <= trip["max"].as_u64().unwrap(), "{row}");
        let bare = row["bare"].as_array().unwrap();
        assert!(!bare.is_empty() && bare[0]["ratio_p50"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert_eq!(home.endpoint_files(), [""; 0]);
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
