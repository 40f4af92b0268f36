//! `bench plot`: draws latency percentiles and the curve over message sizes of a saved run.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::load;
use super::moods::{judged, parts};
use super::report::{Report, Row, Series};
use super::svg::{Axis, Chart, Line};
use crate::duration::parse_bytes;
use crate::exit::{Code, Doing, Failure};
use crate::output::{self, bytes, digits};

/// Options of `bench plot`.
#[derive(Args, Debug)]
pub struct PlotArgs {
    /// What `bench --json` wrote
    file: PathBuf,
    /// Directory for the SVG files; it is made if need be, and files of the same names are replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs `bench plot`.
///
/// # Errors
/// When the file is no report, has nothing to draw, or the drawings can't be written.
pub fn run(args: &PlotArgs) -> Result<(), Failure> {
    let charts = charts(&load::read(&args.file)?);
    if charts.is_empty() {
        let message = format!("{}: no percentiles and no sizes to draw", args.file.display());
        return Err(Failure::new(Code::Usage, message));
    }
    fs::create_dir_all(&args.out).doing(args.out.display())?;
    let mut out = output::out();
    for (name, chart) in charts {
        let path = args.out.join(name);
        fs::write(&path, chart.render()).doing(path.display())?;
        writeln!(out, "{}", path.display())?;
    }
    Ok(out.flush()?)
}

/// Length of all drawings of a report, in bytes.
pub fn len(report: &Report) -> usize {
    charts(report).iter().map(|(_, chart)| chart.render().len()).sum()
}

/// All charts of a report, with the names of their files.
fn charts(report: &Report) -> Vec<(String, Chart)> {
    let mut charts: Vec<(String, Chart)> = Vec::new();
    for row in fullest(report) {
        let safe = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        let plain = row.situation.replace(|letter| !safe(letter), "-");
        charts.extend(latency(row).map(|chart| (format!("latency-{plain}.svg"), chart)));
    }
    let curves = curves(report);
    if !curves.is_empty() {
        charts.push(("size.svg".to_owned(), sizes(&curves)));
        charts.push(("size-ratio.svg".to_owned(), ratios(&curves)));
    }
    charts
}

/// The row of each situation that has most to draw; all figures of one come from the same calls.
fn fullest(report: &Report) -> Vec<&Row> {
    let drawn = |row: &Row| row.limits.iter().filter(|one| !one.percentiles.is_empty()).count();
    let mut fullest: Vec<&Row> = Vec::new();
    for row in report.rows.iter().filter(|row| !row.callgate.percentiles.is_empty()) {
        match fullest.iter_mut().find(|other| other.situation == row.situation) {
            Some(other) if drawn(other) < drawn(row) => *other = row,
            Some(_) => {}
            None => fullest.push(row),
        }
    }
    fullest
}

/// Percentiles of callgate and of each limit; none where all times are zero.
fn latency(row: &Row) -> Option<Chart> {
    let series = || std::iter::once(&row.callgate).chain(&row.limits);
    let series = || series().filter(|series| !series.percentiles.is_empty());
    let finite = |series: &Series| -> Vec<(f64, f64)> {
        let points = series.percentiles.iter();
        let below = points.filter(|(percentile, _)| (0.0..100.0).contains(percentile));
        below.map(|(percentile, ns)| (nines(*percentile), *ns)).collect()
    };
    // The slowest call has no place on this scale; it stands one step beyond the last that has.
    let last = series().flat_map(&finite).map(|point| point.0).fold(1.0, f64::max);
    let end = (last - ROUNDING).ceil() + 1.0;
    let lines: Vec<Line> = series()
        .zip(spread(series().count()))
        .map(|(series, aside)| Line {
            name: series.name.clone(),
            points: logs(finite(series)),
            lone: logs(slowest(series).map(|ns| (end + aside, ns))),
            thick: std::ptr::eq(series, &row.callgate),
            ..Line::default()
        })
        .collect();
    let labels = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999];
    let ticks = labels.map(|percentile| (nines(percentile), percentile.to_string()));
    let below = ticks.into_iter().filter(|(position, _)| *position < end - 0.5);
    let mut ticks: Vec<_> = below.collect();
    ticks.push((end, "max".to_owned()));
    Some(Chart {
        title: format!("{}: round trip of a call", row.situation),
        x: Axis {
            label: "percentile of calls, %".to_owned(),
            ends: (0.0, end + SPREAD + 0.05),
            ticks,
        },
        y: times(&lines)?,
        lines,
        rule: None,
    })
}

/// What sums of powers of ten may lack or have too much.
const ROUNDING: f64 = 1e-6;

/// How far aside marks are moved that would lie on one another.
const SPREAD: f64 = 0.2;

/// Where `count` marks of one position stand, to the left and right of it.
fn spread(count: usize) -> impl Iterator<Item = f64> {
    let step = if count > 1 { 2.0 * SPREAD / (count - 1) as f64 } else { 0.0 };
    let first = if count > 1 { -SPREAD } else { 0.0 };
    (0..count).map(move |index| first + step * index as f64)
}

/// Where a percentile lies: 0 at 0, 1 at 90, 2 at 99, ...
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

fn slowest(series: &Series) -> Option<f64> {
    let last = series.percentiles.iter().find(|(percentile, _)| *percentile >= 100.0);
    series.max_ns.or(last.map(|(_, ns)| *ns))
}

/// Points with the logarithm of their height; those without one are left out.
fn logs(points: impl IntoIterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let points = points.into_iter().filter(|point| point.1 > 0.0);
    points.map(|(x, y)| (x, y.log10())).collect()
}

/// One way to pass messages, over their sizes.
struct Curve {
    /// `in place`, `copied`.
    kind: String,
    points: Vec<Size>,
}

struct Size {
    bytes: u64,
    callgate: f64,
    limit: Option<f64>,
    /// Estimate, lower and upper end.
    ratio: Option<(f64, f64, f64)>,
}

/// The medians of the rows `size/BYTES/KIND`.
fn curves(report: &Report) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for row in report.rows.iter().filter(|row| row.figure == "p50") {
        let mut name = row.situation.splitn(3, '/');
        let (Some("size"), Some(size), Some(kind)) = (name.next(), name.next(), name.next()) else {
            continue;
        };
        let Ok(bytes) = parse_bytes(size) else {
            continue;
        };
        for part in parts(row, report.moods.as_ref()) {
            let judged = judged(&part);
            let point = Size {
                bytes: bytes.max(1),
                callgate: judged.callgate,
                limit: judged.best.map(|(_, median)| median),
                ratio: judged.ratio.map(|ratio| (ratio.estimate, ratio.low, ratio.high)),
            };
            let kind = kind.replace('-', " ");
            let kind = match part.mood {
                Some(mood) => format!("{kind}, {}", mood.name()),
                None => kind,
            };
            match curves.iter_mut().find(|curve| curve.kind == kind) {
                Some(curve) => curve.points.push(point),
                None => curves.push(Curve { kind, points: vec![point] }),
            }
        }
    }
    curves.iter_mut().for_each(|curve| curve.points.sort_by_key(|point| point.bytes));
    curves
}

/// Round trips over sizes.
fn sizes(curves: &[Curve]) -> Chart {
    let line = |name: String, points: Vec<(f64, f64)>, thick| Line {
        name,
        points: logs(points),
        thick,
        ..Line::default()
    };
    let lines: Vec<Line> = curves
        .iter()
        .flat_map(|curve| {
            let own = curve.points.iter().map(|size| (log2(size.bytes), size.callgate)).collect();
            let limits = curve.points.iter();
            let limits = limits.filter_map(|size| Some((log2(size.bytes), size.limit?))).collect();
            [
                line(format!("callgate, {}", curve.kind), own, true),
                line(format!("best limit, {}", curve.kind), limits, false),
            ]
        })
        .filter(|line| !line.points.is_empty())
        .collect();
    let y = times(&lines).unwrap_or(Axis { label: String::new(), ends: (0.0, 1.0), ticks: vec![] });
    let title = "Round trip by size of message, echoed; p50".to_owned();
    Chart { title, x: size_axis(curves), y, lines, rule: None }
}

/// callgate over the limit, over sizes.
fn ratios(curves: &[Curve]) -> Chart {
    let line = |(curve, aside): (&Curve, f64)| {
        let finite = curve.points.iter().filter(|size| size.ratio.is_some_and(|r| r.2.is_finite()));
        let at = |size: &Size| size.ratio.map(|ratio| (log2(size.bytes) + aside, ratio));
        let points: Vec<_> = finite.filter_map(at).collect();
        Line {
            name: curve.kind.clone(),
            points: points.iter().map(|(x, ratio)| (*x, ratio.0)).collect(),
            bars: points.iter().map(|(x, ratio)| (*x, ratio.1, ratio.2)).collect(),
            ..Line::default()
        }
    };
    let lines: Vec<Line> = curves.iter().zip(spread(curves.len())).map(line).collect();
    let bars = || lines.iter().flat_map(|line| &line.bars);
    let low = bars().map(|bar| bar.1).fold(0.9, f64::min);
    let high = bars().map(|bar| bar.2).fold(1.2, f64::max);
    let step = [0.05, 0.1, 0.25, 0.5].into_iter().find(|step| (high - low) / step < 10.0);
    let step = step.unwrap_or((high - low) / 8.0);
    let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
    let ticks = (first..=last).map(|tick| tick as f64 * step);
    Chart {
        title: "callgate over the limit, by size of message; p50".to_owned(),
        x: size_axis(curves),
        y: Axis {
            label: "ratio, with 95 % interval".to_owned(),
            ends: (first as f64 * step, last as f64 * step),
            ticks: ticks.map(|ratio| (ratio, digits(ratio))).collect(),
        },
        lines,
        rule: Some(1.0),
    }
}

fn log2(bytes: u64) -> f64 {
    (bytes as f64).log2()
}

fn size_axis(curves: &[Curve]) -> Axis {
    let mut sizes: Vec<u64> =
        curves.iter().flat_map(|curve| curve.points.iter().map(|size| size.bytes)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let (first, last) = (sizes.first().copied().unwrap_or(1), sizes.last().copied().unwrap_or(1));
    Axis {
        label: "bytes of a message, each way".to_owned(),
        ends: (log2(first) - 0.5, log2(last) + 0.5),
        ticks: sizes.iter().map(|&size| (log2(size), bytes(size))).collect(),
    }
}

/// An axis of times for lines whose heights are logarithms of nanoseconds; none without points.
fn times(lines: &[Line]) -> Option<Axis> {
    let heights = || lines.iter().flat_map(|line| line.points.iter().chain(&line.lone));
    let low = heights().map(|point| point.1).reduce(f64::min)?;
    let high = heights().map(|point| point.1).reduce(f64::max)?;
    // Steps of 1, 2, 5 over all decades around the lines; their ends are those next to the lines.
    let decades = low.floor() as i32..=high.ceil() as i32;
    let steps = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| (decade, step)));
    let position = |(decade, step): (i32, f64)| f64::from(decade) + f64::log10(step);
    let steps: Vec<(i32, f64)> = steps.collect();
    let ends = (
        steps.iter().map(|step| position(*step)).filter(|at| *at <= low).fold(f64::MIN, f64::max),
        steps.iter().map(|step| position(*step)).filter(|at| *at >= high).fold(f64::MAX, f64::min),
    );
    let ends = if low < high { ends } else { (low - 0.31, high + 0.31) };
    let wide = ends.1 - ends.0 > 3.0;
    let inside = steps.into_iter().filter(|step| (ends.0..=ends.1).contains(&position(*step)));
    let label = |(decade, step): (i32, f64)| match wide && step > 1.0 {
        true => String::new(),
        false => time(decade, step),
    };
    let ticks = inside.map(|step| (position(step), label(step))).collect();
    Some(Axis { label: "round trip, log scale".to_owned(), ends, ticks })
}

/// `step` times ten to the power of `decade`, in nanoseconds, as a text.
fn time(decade: i32, step: f64) -> String {
    let ns = step * 10f64.powi(decade);
    let units = [(1e9, "s"), (1e6, "ms"), (1e3, "us")];
    let unit = units.into_iter().find(|(size, _)| ns >= size * 0.999).unwrap_or((1.0, "ns"));
    // Rounds away what powers of ten lack.
    format!("{} {}", (ns / unit.0 * 1e3).round() / 1e3, unit.1)
}

#[cfg(test)]
mod tests {
    use super::super::moods::Moods;
    use super::super::synthetic::{self, row, series};
    use super::*;

    #[test]
    fn each_situation_is_drawn_once() {
        let charts = charts(&synthetic::report());
        let names: Vec<&str> = charts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), 14, "{names:?}");
        assert_eq!(names[0], "latency-busy-32-pinned.svg");
        assert_eq!(names[12..], ["size.svg", "size-ratio.svg"]);
        for (name, chart) in &charts {
            let svg = chart.render();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
            let inside = |position: f64, axis: &Axis| {
                axis.ends.0 - 1e-9 <= position && position <= axis.ends.1 + 1e-9
            };
            for point in chart.lines.iter().flat_map(|line| line.points.iter().chain(&line.lone)) {
                assert!(inside(point.0, &chart.x) && inside(point.1, &chart.y), "{name} {point:?}");
            }
        }
    }

    #[test]
    fn the_row_with_most_limits_is_drawn() {
        let own = synthetic::latency("callgate", 100.0, 1.0, 1);
        let line = synthetic::latency("line", 90.0, 1.0, 2);
        let with = |figure: &str, limits| Row {
            callgate: own.clone(),
            ..row("handler/1us", figure, &[100.0; 5], limits, None)
        };
        let rows =
            vec![with("p50", vec![series("computed", &[99.0; 5])]), with("p50, too", vec![line])];
        let report = Report { rows, ..synthetic::report() };
        assert_eq!(
            fullest(&report).iter().map(|row| &row.figure).collect::<Vec<_>>(),
            ["p50, too"]
        );
    }

    #[test]
    fn the_scale_gives_each_nine_the_same_room() {
        for (percentile, place) in [(0.0, 0.0), (90.0, 1.0), (99.0, 2.0), (99.99, 4.0)] {
            assert!((nines(percentile) - place).abs() < 1e-9);
        }
    }

    #[test]
    fn the_size_curve_takes_the_best_limit() {
        let limits = || vec![series("slow", &[300.0; 5]), series("fast", &[100.0; 5])];
        let rows = ["size/4k/in-place", "size/256/in-place", "size/nonsense/in-place", "busy/32"];
        let rows = rows.map(|name| row(name, "p50", &[110.0; 5], limits(), None)).to_vec();
        let curves = curves(&Report { rows, ..synthetic::report() });
        assert_eq!(curves.len(), 1);
        assert_eq!(curves[0].kind, "in place");
        let sizes: Vec<u64> = curves[0].points.iter().map(|size| size.bytes).collect();
        assert_eq!(sizes, [256, 4096]);
        assert_eq!(curves[0].points[0].limit, Some(100.0));
    }

    #[test]
    fn each_mood_has_a_curve() {
        let limits = vec![series("limit", &[100.0; 10])];
        let mut row = row("size/4k/in-place", "p50", &[110.0; 10], limits, None);
        row.line_ns = [[Some(70.0); 5], [Some(300.0); 5]].concat();
        let mut report = Report { rows: vec![row], ..synthetic::report() };
        report.moods = Moods::of_reports(&[&report]);
        let kinds: Vec<String> = curves(&report).into_iter().map(|curve| curve.kind).collect();
        assert_eq!(kinds, ["in place, near", "in place, far"]);
    }

    #[test]
    fn times_of_any_size_have_an_axis() {
        let with =
            |ns: &[f64]| Line { points: logs(ns.iter().map(|ns| (0.0, *ns))), ..Line::default() };
        for ns in [&[100.0][..], &[0.3, 7e9], &[99.0, 101.0]] {
            let axis = times(&[with(ns)]).unwrap();
            assert!(axis.ends.0 < axis.ends.1 && axis.ticks.len() > 1, "{:?}", axis.ticks);
        }
        assert!(times(&[with(&[0.0])]).is_none());
        assert_eq!([time(2, 1.0), time(3, 2.0), time(5, 5.0)], ["100 ns", "2 us", "500 us"]);
        assert_eq!([time(6, 1.0), time(9, 1.0), time(-1, 2.0)], ["1 ms", "1 s", "0.2 ns"]);
    }
}
