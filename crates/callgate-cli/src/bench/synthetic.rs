//! Reports made up for tests.

use super::report::{FORMAT, Goal, Machine, Report, Row, Series};

/// A series with these rounds.
pub fn series(name: &str, rounds: &[f64]) -> Series {
    Series { name: name.to_owned(), rounds: rounds.to_vec(), percentiles: Vec::new(), max_ns: None }
}

/// A row; its unit follows from the figure.
pub fn row(
    situation: &str,
    figure: &str,
    callgate: &[f64],
    limits: Vec<Series>,
    goal: Option<Goal>,
) -> Row {
    let unit = match figure {
        "calls/s" => "calls/s",
        "share" => "1",
        _ => "ns",
    };
    Row {
        situation: situation.to_owned(),
        figure: figure.to_owned(),
        unit: unit.to_owned(),
        callgate: series("callgate", callgate),
        limits,
        goal,
        line_ns: Vec::new(),
    }
}

/// Rounds that lie evenly within `noise` of `middle`, a part of it, to each side; for each seed
/// others.
pub fn noisy(middle: f64, noise: f64, rounds: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    };
    let _ = (next(), next(), next());
    (0..rounds).map(|_| middle * (1.0 + noise * (2.0 * next() - 1.0))).collect()
}

/// A series around `p50`, with a latency curve that has a foot, a body and a tail.
pub fn latency(name: &str, p50: f64, tail: f64, seed: u64) -> Series {
    let curve = [
        (0.0, 0.85),
        (10.0, 0.93),
        (25.0, 0.97),
        (50.0, 1.0),
        (75.0, 1.05),
        (90.0, 1.15),
        (95.0, 1.2 + 0.05 * tail),
        (99.0, 1.3 + 0.3 * tail),
        (99.9, 1.5 + 2.0 * tail),
        (99.99, 2.0 + 20.0 * tail),
        (100.0, 5.0 + 200.0 * tail),
    ];
    Series {
        percentiles: curve.iter().map(|(percentile, by)| (*percentile, p50 * by)).collect(),
        max_ns: Some(p50 * (5.0 + 200.0 * tail)),
        ..series(name, &noisy(p50, 0.03, 15, seed))
    }
}

/// A whole report with rows of most kinds.
pub fn report() -> Report {
    let mut rows = Vec::new();
    let paces =
        ["line, 0 pauses", "line, 1 pause", "line, 2 pauses", "line, 3 pauses", "line, fence"];
    let lines: Vec<Series> = paces
        .iter()
        .zip([205.0, 160.0, 131.0, 136.0, 128.0])
        .zip(2..)
        .map(|((name, p50), seed)| latency(name, p50, 1.0, seed))
        .collect();
    let busy = |figure: &str, by: f64, goal| Row {
        callgate: Series { name: "callgate".to_owned(), ..latency("callgate", 142.0 * by, 1.4, 1) },
        limits: lines.clone(),
        ..row("busy/32/pinned", figure, &[], vec![], goal)
    };
    rows.push(busy("p50", 1.0, Some(Goal::AtMost(1.2))));
    rows.push(busy("p99", 1.5, Some(Goal::AtMost(1.5))));
    let sizes =
        [("256", 330.0), ("4k", 2_060.0), ("64k", 11_800.0), ("1m", 172e3), ("16m", 2.97e6)];
    for (index, (size, ns)) in sizes.into_iter().enumerate() {
        for (kind, by, goal) in [("in-place", 1.0, 1.05), ("copied", 1.45, 1.1)] {
            let own = latency("callgate", ns * by * 1.04, 0.8, 10 + index as u64);
            let limit = latency("limit", ns * by, 0.7, 20 + index as u64);
            let situation = format!("size/{size}/{kind}");
            let row = row(&situation, "p50", &[], vec![limit], Some(Goal::AtMost(goal)));
            rows.push(Row { callgate: own, ..row });
        }
    }
    let kernel = [("futex", 10.5e3), ("eventfd", 9.8e3), ("socket", 13.4e3)];
    let kernel: Vec<Series> =
        kernel.iter().zip(30..).map(|((name, p50), seed)| latency(name, *p50, 0.4, seed)).collect();
    let gap = row("gap/1ms", "p50", &[], kernel, Some(Goal::AtMost(1.0)));
    rows.push(Row { callgate: latency("callgate", 12.9e3, 0.3, 40), ..gap });
    let crowd = vec![series("futex", &noisy(326e3, 0.1, 15, 41))];
    let calls = noisy(810e3, 0.1, 15, 42);
    rows.push(row("crowd/16", "calls/s", &calls, crowd, Some(Goal::AtLeast(2.5))));
    rows.push(row("crowd/16", "max", &noisy(4.2e6, 0.4, 15, 43), vec![], None));
    let idle = row("idle/10000", "memory", &[28_100.0], vec![], Some(Goal::Absolute(32_768.0)));
    rows.push(Row { unit: "bytes".to_owned(), ..idle });
    let machine =
        Machine { processor: "Test".to_owned(), kernel: "6.1".to_owned(), cpus: 2, load: 0.1 };
    let callgate = "0.1.0".to_owned();
    Report {
        format: FORMAT,
        callgate,
        machine,
        seed: 7,
        quick: false,
        clock_ns: 16,
        moods: None,
        rows,
        missing: Vec::new(),
        notes: Vec::new(),
    }
}
