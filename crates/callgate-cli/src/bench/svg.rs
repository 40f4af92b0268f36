//! Draws line charts as SVG. Knows nothing of what is charted: positions come in as they lie on the
//! axes, logarithms already taken.
//!
//! A chart follows the reader's light or dark scheme. Lines differ by dashes too, not by colour
//! alone. The legend stands beside the plot, where no line can run under it.

use std::fmt::Write as _;

/// A chart.
pub struct Chart {
    /// Above the plot.
    pub title: String,
    /// From left to right.
    pub x: Axis,
    /// From bottom to top.
    pub y: Axis,
    /// In the order of the legend; later ones are drawn over earlier ones.
    pub lines: Vec<Line>,
    /// A height to compare with, drawn across.
    pub rule: Option<f64>,
}

/// One axis.
pub struct Axis {
    /// What it shows, and the unit.
    pub label: String,
    /// Its ends.
    pub ends: (f64, f64),
    /// Positions with a line across the plot and a text; an empty text: a fainter line.
    pub ticks: Vec<(f64, String)>,
}

/// One line.
#[derive(Default)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// Joined by the line, from left to right.
    pub points: Vec<(f64, f64)>,
    /// Marked, but not joined.
    pub lone: Vec<(f64, f64)>,
    /// Upright bars: x, lower and upper end.
    pub bars: Vec<(f64, f64, f64)>,
    /// Drawn so that it stands out, and a thin line over it is seen.
    pub thick: bool,
}

const HEIGHT: f64 = 460.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 660.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 396.0;
/// Where the legend begins, and where its texts do.
const LEGEND: f64 = 684.0;
const NAMES: f64 = LEGEND + 38.0;
/// Longer names are cut in the legend.
const NAME_MAX: usize = 24;
/// About the width of a letter, to keep texts apart.
const LETTER: f64 = 7.0;

/// Colours for light and for dark backgrounds, and dashes; lines beyond them begin again. The
/// colours are told apart by most who see few colours, and stand out at least 3 to 1.
const LOOKS: [(&str, &str, &str); 8] = [
    ("#0072b2", "#56b4e9", "none"),
    ("#c24e00", "#ff8a3d", "none"),
    ("#00795a", "#3dd6a3", "7 3"),
    ("#b0408a", "#f08cc8", "2 3"),
    ("#806600", "#e8c547", "10 3 2 3"),
    ("#5b4fa0", "#a79bff", "5 2"),
    ("#4d4d4d", "#c8c8c8", "1 2"),
    ("#8a4b2a", "#e0a080", "12 4"),
];

impl Axis {
    /// Where a position lies between `from` and `to`.
    fn place(&self, position: f64, from: f64, to: f64) -> f64 {
        let (low, high) = self.ends;
        from + (position - low) / (high - low) * (to - from)
    }
}

impl Chart {
    /// Draws the chart as an SVG document.
    pub fn render(&self) -> String {
        let letters = self.lines.iter().map(|line| shorten(&line.name).chars().count()).max();
        let width = NAMES + LETTER * letters.unwrap_or(0) as f64 + 20.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" \
             width=\"{width}\" height=\"{HEIGHT}\" role=\"img\">\n<title>{title}</title>\n{style}\
             <rect class=\"back\" width=\"{width}\" height=\"{HEIGHT}\"/>\n\
             <text class=\"title\" x=\"{LEFT}\" y=\"28\">{title}</text>\n",
            title = escape(&self.title),
            style = style(),
        );
        self.grid_x(&mut svg);
        self.grid_y(&mut svg);
        if let Some(rule) = self.rule {
            line(&mut svg, "rule", (LEFT, self.place_y(rule)), (RIGHT, self.place_y(rule)));
        }
        for (index, line) in self.lines.iter().enumerate() {
            self.line(&mut svg, index, line);
        }
        self.legend(&mut svg);
        svg + "</svg>\n"
    }

    fn place_x(&self, position: f64) -> f64 {
        self.x.place(position, LEFT, RIGHT)
    }

    fn place_y(&self, position: f64) -> f64 {
        self.y.place(position, BOTTOM, TOP)
    }

    fn grid_x(&self, svg: &mut String) {
        let mut free = f64::NEG_INFINITY;
        for (position, label) in &self.x.ticks {
            let x = self.place_x(*position);
            line(svg, grid_class(label), (x, TOP), (x, BOTTOM));
            // A text that would run into the one before it is left out.
            let half = label.chars().count() as f64 * LETTER / 2.0;
            if !label.is_empty() && x - half > free {
                text(svg, "middle", (x, BOTTOM + 20.0), label);
                free = x + half + LETTER;
            }
        }
        text(svg, "middle", (f64::midpoint(LEFT, RIGHT), HEIGHT - 16.0), &self.x.label);
    }

    fn grid_y(&self, svg: &mut String) {
        for (position, label) in &self.y.ticks {
            let y = self.place_y(*position);
            line(svg, grid_class(label), (LEFT, y), (RIGHT, y));
            text(svg, "end", (LEFT - 8.0, y + 4.0), label);
        }
        let middle = f64::midpoint(TOP, BOTTOM);
        let label = escape(&self.y.label);
        let _ = writeln!(
            svg,
            "<text class=\"middle\" transform=\"translate(18 {middle}) rotate(-90)\">{label}</text>"
        );
    }

    fn line(&self, svg: &mut String, index: usize, line: &Line) {
        let look = index % LOOKS.len();
        let place = |&(x, y): &(f64, f64)| (self.place_x(x), self.place_y(y));
        let _ = writeln!(svg, "<g class=\"line look{look}{}\">", own(line));
        if line.points.len() > 1 {
            let points = line.points.iter().map(place);
            let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(svg, "<polyline points=\"{}\"/>", points.join(" "));
        }
        for (x, low, high) in &line.bars {
            let (x, low, high) = (self.place_x(*x), self.place_y(*low), self.place_y(*high));
            let path = format!("M{x:.1} {low:.1}V{high:.1}M{:.1} {low:.1}h8m0 ", x - 4.0);
            let _ = writeln!(svg, "<path class=\"bar\" d=\"{path}{:.1}h-8\"/>", high - low);
        }
        let radius = if line.thick { 4.0 } else { 2.5 };
        for (x, y) in line.points.iter().chain(&line.lone).map(place) {
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"/>");
        }
        svg.push_str("</g>\n");
    }

    fn legend(&self, svg: &mut String) {
        for (index, entry) in self.lines.iter().enumerate() {
            let y = TOP + 12.0 + 24.0 * index as f64;
            let look = index % LOOKS.len();
            let own = own(entry);
            let (from, to, middle) = (LEGEND, LEGEND + 30.0, LEGEND + 15.0);
            let _ = writeln!(
                svg,
                "<g class=\"line look{look}{own}\"><polyline points=\"{from},{y} {to},{y}\"/>\
                 <circle cx=\"{middle}\" cy=\"{y}\" r=\"2.5\"/></g>"
            );
            text(svg, "start", (NAMES, y + 4.0), &shorten(&entry.name));
        }
    }
}

fn own(line: &Line) -> &'static str {
    if line.thick { " own" } else { "" }
}

fn grid_class(label: &str) -> &'static str {
    if label.is_empty() { "faint" } else { "grid" }
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        svg,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

fn text(svg: &mut String, class: &str, at: (f64, f64), text: &str) {
    if !text.is_empty() {
        let (x, y) = at;
        let _ = writeln!(
            svg,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
            escape(text)
        );
    }
}

/// The style sheet: light by default, dark where the reader prefers it.
fn style() -> String {
    let mut light = String::new();
    let mut dark = String::new();
    for (index, (on_light, on_dark, dashes)) in LOOKS.iter().enumerate() {
        let _ = writeln!(light, ".look{index}{{stroke:{on_light};fill:{on_light}}}");
        let _ = writeln!(light, ".look{index} polyline{{stroke-dasharray:{dashes}}}");
        let _ = writeln!(dark, ".look{index}{{stroke:{on_dark};fill:{on_dark}}}");
    }
    format!(
        "<style>\n\
         text{{font:13px system-ui,sans-serif;fill:#24292f}}\n\
         .title{{font-size:16px;font-weight:600}}\n\
         .start{{text-anchor:start}}.middle{{text-anchor:middle}}.end{{text-anchor:end}}\n\
         .back{{fill:#ffffff}}\n\
         .grid{{stroke:#d0d7de}}.faint{{stroke:#eaeef2}}.rule{{stroke:#57606a;stroke-width:1.5}}\n\
         polyline,.bar{{fill:none}}.line{{stroke-width:1.75}}.bar{{stroke-width:1.25}}\n\
         .own polyline{{stroke-width:4;stroke-opacity:.75}}.line circle{{stroke:none}}\n\
         {light}\
         @media (prefers-color-scheme:dark){{\n\
         text{{fill:#e6edf3}}.back{{fill:#0d1117}}\n\
         .grid{{stroke:#30363d}}.faint{{stroke:#1c2128}}.rule{{stroke:#8b949e}}\n\
         {dark}}}\n\
         </style>\n"
    )
}

fn shorten(name: &str) -> String {
    if name.chars().count() <= NAME_MAX {
        return name.to_owned();
    }
    name.chars().take(NAME_MAX - 1).chain(['…']).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(name: &str) -> Chart {
        let axis = || Axis {
            label: "x < y".to_owned(),
            ends: (0.0, 10.0),
            ticks: vec![(0.0, "0".to_owned()), (5.0, String::new()), (10.0, "10".to_owned())],
        };
        let line = |name: &str| Line {
            name: name.to_owned(),
            points: vec![(0.0, 0.0), (10.0, 10.0)],
            lone: vec![(5.0, 5.0)],
            bars: vec![(5.0, 4.0, 6.0)],
            thick: name == "callgate",
        };
        let lines = vec![line("callgate"), line(name)];
        Chart { title: "T & t".to_owned(), x: axis(), y: axis(), lines, rule: Some(1.0) }
    }

    #[test]
    fn positions_are_placed() {
        let svg = chart("limit").render();
        assert!(svg.contains("<polyline points=\"84.0,396.0 660.0,48.0\"/>"), "{svg}");
        assert!(svg.contains("<circle cx=\"372.0\" cy=\"222.0\" r=\"4\"/>"), "{svg}");
        assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
    }

    #[test]
    fn texts_are_escaped_and_cut() {
        let svg = chart("a limit <whose> name is much too long").render();
        assert!(svg.contains("T &amp; t") && svg.contains("x &lt; y"));
        assert!(svg.contains("a limit &lt;whose&gt; name is…"), "{svg}");
    }

    #[test]
    fn crowded_texts_are_left_out() {
        let mut chart = chart("limit");
        chart.x.ticks =
            (0..100).map(|tick| (f64::from(tick) / 10.0, format!("tick {tick}"))).collect();
        let texts = chart.render().matches(">tick ").count();
        assert!((5..20).contains(&texts), "{texts}");
    }
}
