//! The picture of a run: throughput, latency, and below them every fault in a lane of its own, all on one axis of time.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::measure::Second;
use super::report::{FaultRun, RunReport, Verdict};

const WIDTH: f64 = 1_400.0;
/// For names of lanes and axes.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 40.0;
const HEAD: f64 = 92.0;
const PANEL: f64 = 190.0;
const GAP: f64 = 46.0;
const LANE: f64 = 22.0;
const FOOT: f64 = 46.0;

const INK: &str = "#1f2937";
const FAINT: &str = "#6b7280";
const GRID: &str = "#e5e7eb";
const ACKNOWLEDGED: &str = "#2563eb";
const READ: &str = "#f59e0b";
const MEDIAN: &str = "#0d9488";
const SLOW: &str = "#be185d";

/// Colours of families of faults: what the name begins with.
const FAMILIES: [(&str, &str, &[&str]); 5] = [
    ("processes", "#dc2626", &["kill", "crash", "stop"]),
    ("store", "#7c3aed", &["store"]),
    ("disks", "#b45309", &["power", "fsync"]),
    ("operators", "#059669", &["rolling", "transfer"]),
    ("links", "#0284c7", &[""]),
];

fn family(name: &str) -> (&'static str, &'static str) {
    let of = |begins: &[&str]| begins.iter().any(|begin| name.starts_with(begin));
    let found = FAMILIES.iter().find(|(_, _, begins)| of(begins));
    found.map_or(("links", INK), |(family, colour, _)| (*family, *colour))
}

/// Time to the right, in seconds.
struct Axis {
    seconds: f64,
}

impl Axis {
    fn x(&self, second: f64) -> f64 {
        LEFT + (second / self.seconds).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    /// Round steps, about ten of them.
    fn step(&self) -> f64 {
        let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0];
        steps.into_iter().find(|step| self.seconds / step <= 14.0).unwrap_or(3_600.0)
    }
}

/// The whole picture, as SVG.
pub(super) fn draw(report: &RunReport, seconds: &[Second]) -> String {
    let axis = Axis { seconds: report.seconds.max(1.0) };
    let lanes = lanes(&report.faults);
    let lanes_top = HEAD + 2.0 * (PANEL + GAP);
    let height = lanes_top + lanes.len() as f64 * LANE + FOOT;
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"Inter, 'Helvetica Neue', Arial, sans-serif\">\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
    );
    head(&mut svg, report);
    bands(&mut svg, &axis, &report.faults, lanes_top + lanes.len() as f64 * LANE);
    throughput(&mut svg, &axis, seconds, HEAD);
    latency(&mut svg, &axis, seconds, HEAD + PANEL + GAP);
    faults(&mut svg, &axis, &lanes, lanes_top);
    times(&mut svg, &axis, height - FOOT);
    svg.push_str("</svg>\n");
    svg
}

fn text(svg: &mut String, (x, y): (f64, f64), size: u32, colour: &str, more: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = write!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{colour}\" {more}>{words}</text>"
    );
}

fn head(svg: &mut String, report: &RunReport) {
    let (verdict, colour) = match report.verdict {
        Verdict::Passed => ("passed", "#059669"),
        Verdict::Failed => ("FAILED", "#dc2626"),
        Verdict::Invalid => ("invalid", "#d97706"),
    };
    text(svg, (24.0, 38.0), 24, INK, "font-weight=\"700\"", "StreamHouse under faults");
    let title = format!("seed {}", report.seed);
    text(svg, (326.0, 38.0), 18, FAINT, "", &title);
    let right = (WIDTH - RIGHT, 38.0);
    text(svg, right, 24, colour, "font-weight=\"700\" text-anchor=\"end\"", verdict);
    let found: u64 = report.checked.counts.values().sum();
    let figures = format!(
        "{} records acknowledged · {} read · {} faults · {found} anomalies · {:.0} s",
        report.checked.acknowledged,
        report.checked.reads,
        report.faults.len(),
        report.seconds
    );
    text(svg, (24.0, 64.0), 15, FAINT, "", &figures);
}

/// Each fault's time, through all panels.
fn bands(svg: &mut String, axis: &Axis, faults: &[FaultRun], bottom: f64) {
    for fault in faults {
        let (from, to) =
            (axis.x(fault.begun_us as f64 / 1e6), axis.x(fault.healed_us as f64 / 1e6));
        let (_, colour) = family(fault.name);
        let _ = write!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{HEAD}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\" opacity=\"0.07\"/>",
            (to - from).max(1.0),
            bottom - HEAD
        );
    }
}

/// Title, legend, and lines at these values.
fn frame(
    svg: &mut String,
    top: f64,
    title: &str,
    legend: &[(&str, &str)],
    marks: &[(f64, String)],
) {
    text(svg, (LEFT, top - 10.0), 15, INK, "font-weight=\"600\"", title);
    let mut x = WIDTH - RIGHT;
    for (name, colour) in legend.iter().rev() {
        text(svg, (x, top - 10.0), 14, INK, "text-anchor=\"end\"", name);
        x -= name.len() as f64 * 7.4 + 10.0;
        let _ = write!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"14\" height=\"5\" rx=\"2\" fill=\"{colour}\"/>",
            x - 12.0,
            top - 17.0
        );
        x -= 34.0;
    }
    for (y, name) in marks {
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{GRID}\"/>",
            WIDTH - RIGHT
        );
        text(svg, (LEFT - 10.0, y + 4.5), 13, FAINT, "text-anchor=\"end\"", name);
    }
}

fn throughput(svg: &mut String, axis: &Axis, seconds: &[Second], top: f64) {
    let most = seconds.iter().map(|second| second.acknowledged).max().unwrap_or(0).max(1);
    let most_read = seconds.iter().map(|second| second.read).max().unwrap_or(0).max(1);
    // Two consumers and more read what is written once: a scale of its own.
    let y = |count: u64, most: u64| top + PANEL * (1.0 - count as f64 / (most as f64 * 1.08));
    let marks: Vec<_> = (0..=4)
        .map(|quarter| {
            let count = most * quarter / 4;
            (y(count, most), format!("{count}/s"))
        })
        .collect();
    let read = format!("read (of {most_read}/s)");
    frame(svg, top, "Records", &[("acknowledged", ACKNOWLEDGED), (read.as_str(), READ)], &marks);
    let points = |value: &dyn Fn(&Second) -> f64| line(axis, seconds, value);
    let acknowledged = points(&|second| y(second.acknowledged, most));
    let bottom = top + PANEL;
    let (from, to) = (axis.x(0.5), axis.x(seconds.len() as f64 - 0.5));
    let _ = write!(
        svg,
        "<polygon points=\"{from:.1},{bottom:.1} {acknowledged} {to:.1},{bottom:.1}\" fill=\"{ACKNOWLEDGED}\" opacity=\"0.22\"/>"
    );
    polyline(svg, &acknowledged, ACKNOWLEDGED, 1.8);
    polyline(svg, &points(&|second| y(second.read, most_read)), READ, 1.4);
}

fn latency(svg: &mut String, axis: &Axis, seconds: &[Second], top: f64) {
    const LEAST: f64 = 1.0;
    const MOST: f64 = 30_000.0;
    let y = |milliseconds: f64| {
        let part = (milliseconds.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln();
        top + PANEL * (1.0 - part)
    };
    let marks = [(1.0, "1 ms"), (10.0, "10 ms"), (100.0, "100 ms"), (1e3, "1 s"), (1e4, "10 s")];
    let marks: Vec<_> = marks.iter().map(|(at, name)| (y(*at), (*name).to_owned())).collect();
    let legend = [("half of them", MEDIAN), ("99 of 100", SLOW)];
    frame(svg, top, "Time to acknowledgement", &legend, &marks);
    for (percent, colour) in [(99, SLOW), (50, MEDIAN)] {
        for (at, second) in seconds.iter().enumerate() {
            let rank = (second.latencies.len() * percent).div_ceil(100).max(1) - 1;
            let Some(milliseconds) = second.latencies.get(rank) else { continue };
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\" fill=\"{colour}\"/>",
                axis.x(at as f64 + 0.5),
                y(*milliseconds)
            );
        }
    }
}

fn line(axis: &Axis, seconds: &[Second], y: &dyn Fn(&Second) -> f64) -> String {
    let mut points = String::new();
    for (at, second) in seconds.iter().enumerate() {
        let _ = write!(points, "{:.1},{:.1} ", axis.x(at as f64 + 0.5), y(second));
    }
    points
}

fn polyline(svg: &mut String, points: &str, colour: &str, width: f64) {
    let _ = write!(
        svg,
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"/>"
    );
}

/// Faults by name, in the order of families and names.
fn lanes(faults: &[FaultRun]) -> Vec<(&'static str, Vec<&FaultRun>)> {
    let mut lanes: BTreeMap<(&str, &'static str), Vec<&FaultRun>> = BTreeMap::new();
    for fault in faults {
        lanes.entry((family(fault.name).0, fault.name)).or_default().push(fault);
    }
    lanes.into_iter().map(|((_, name), faults)| (name, faults)).collect()
}

fn faults(svg: &mut String, axis: &Axis, lanes: &[(&'static str, Vec<&FaultRun>)], top: f64) {
    let legend: Vec<_> = FAMILIES.iter().map(|(name, colour, _)| (*name, *colour)).collect();
    frame(svg, top, "Faults: until healed, and paler until all were at work again", &legend, &[]);
    for ((name, faults), lane) in lanes.iter().zip(0..) {
        let y = top + f64::from(lane) * LANE;
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{GRID}\"/>",
            WIDTH - RIGHT,
            y + LANE,
            y + LANE
        );
        let place = (LEFT - 10.0, y + LANE - 6.5);
        text(svg, place, 13, INK, "text-anchor=\"end\"", name);
        for fault in faults {
            bar(svg, axis, fault, y);
        }
    }
}

fn bar(svg: &mut String, axis: &Axis, fault: &FaultRun, y: f64) {
    let at = |us: u64| axis.x(us as f64 / 1e6);
    let (from, healed, whole) = (at(fault.begun_us), at(fault.healed_us), at(fault.whole_us));
    let (_, colour) = family(fault.name);
    let mut title = String::new();
    text(&mut title, (0.0, 0.0), 1, INK, "", &fault.detail);
    let words = title.split_once('>').map_or("", |(_, rest)| rest.trim_end_matches("</text>"));
    for (from, to, opacity) in [(from, healed, 0.9), (healed, whole, 0.35)] {
        let _ = write!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\" fill=\"{colour}\" opacity=\"{opacity}\"><title>{words}</title></rect>",
            y + 4.0,
            (to - from).max(1.5),
            LANE - 8.0
        );
    }
}

fn times(svg: &mut String, axis: &Axis, y: f64) {
    let step = axis.step();
    let mut second = 0.0;
    while second <= axis.seconds {
        let x = axis.x(second);
        let name = if step >= 60.0 {
            format!("{:.0} min", second / 60.0)
        } else {
            format!("{second:.0} s")
        };
        let _ = write!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{HEAD}\" y2=\"{y:.1}\" stroke=\"{GRID}\" stroke-dasharray=\"2 4\"/>"
        );
        text(svg, (x, y + 22.0), 13, FAINT, "text-anchor=\"middle\"", &name);
        second += step;
    }
}
