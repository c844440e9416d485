//! Lines, words and areas of an SVG, and the axis of time.

use std::fmt::Write as _;

pub(super) const WIDTH: f64 = 1_400.0;
/// For names of lanes and axes.
pub(super) const LEFT: f64 = 190.0;
pub(super) const RIGHT: f64 = 40.0;

pub(super) const INK: &str = "#1f2937";
pub(super) const FAINT: &str = "#6b7280";
pub(super) const GRID: &str = "#e5e7eb";

/// Time to the right, in seconds.
pub(super) struct Axis {
    pub(super) seconds: f64,
}

impl Axis {
    pub(super) fn x(&self, second: f64) -> f64 {
        LEFT + (second / self.seconds).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    /// Round steps, about ten of them.
    pub(super) fn step(&self) -> f64 {
        let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0];
        steps.into_iter().find(|step| self.seconds / step <= 14.0).unwrap_or(3_600.0)
    }
}

pub(super) struct Canvas(String);

impl Canvas {
    pub(super) fn new(height: f64) -> Self {
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" font-family=\"Inter, 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif\">\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
        ))
    }

    pub(super) fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }

    pub(super) fn text(
        &mut self,
        at: (f64, f64),
        size: u32,
        colour: &str,
        anchor: &str,
        words: &str,
    ) {
        self.words(at, size, anchor, &[(words, colour, false)]);
    }

    /// The same, readable on whatever lies below.
    pub(super) fn label(&mut self, (x, y): (f64, f64), size: u32, colour: &str, words: &str) {
        let words = escaped(words);
        let _ = write!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{colour}\" text-anchor=\"middle\" \
             stroke=\"white\" stroke-width=\"3\" paint-order=\"stroke\">{words}</text>"
        );
    }

    /// Words of several colours in one line: whatever the font, they do not overlap. The last says: bold.
    pub(super) fn words(
        &mut self,
        (x, y): (f64, f64),
        size: u32,
        anchor: &str,
        words: &[(&str, &str, bool)],
    ) {
        let _ = write!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\">"
        );
        for (at, (words, colour, bold)) in words.iter().enumerate() {
            let weight = if *bold { " font-weight=\"700\"" } else { "" };
            let apart = if at > 0 { " dx=\"14\"" } else { "" };
            let words = escaped(words);
            let _ = write!(self.0, "<tspan fill=\"{colour}\"{weight}{apart}>{words}</tspan>");
        }
        self.0.push_str("</text>");
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, more: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = write!(
            self.0,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" {more}/>"
        );
    }

    /// From a corner, so wide and high; a pointer over it tells `words`.
    pub(super) fn area(
        &mut self,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        colour: &str,
        opacity: f64,
        words: &str,
    ) {
        let title = match words {
            "" => String::new(),
            words => format!("<title>{}</title>", escaped(words)),
        };
        let _ = write!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\" \
             fill=\"{colour}\" opacity=\"{opacity}\">{title}</rect>"
        );
    }

    pub(super) fn polygon(&mut self, points: &[(f64, f64)], colour: &str, opacity: f64) {
        let points = listed(points);
        let _ = write!(
            self.0,
            "<polygon points=\"{points}\" fill=\"{colour}\" opacity=\"{opacity}\"/>"
        );
    }

    pub(super) fn polyline(&mut self, points: &[(f64, f64)], colour: &str) {
        let points = listed(points);
        let _ = write!(
            self.0,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" \
             stroke-linejoin=\"round\" stroke-linecap=\"round\"/>"
        );
    }
}

fn listed(points: &[(f64, f64)]) -> String {
    let mut list = String::new();
    for (x, y) in points {
        let _ = write!(list, "{x:.1},{y:.1} ");
    }
    list
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// With commas between groups of three digits.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
