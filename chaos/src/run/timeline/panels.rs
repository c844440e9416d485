//! Curves over time: records a second, and the time to acknowledgement.

use super::canvas::{Axis, Canvas, FAINT, GRID, INK, LEFT, RIGHT, WIDTH, thousands};
use crate::run::measure::Second;

const ACKNOWLEDGED: &str = "#2563eb";
const READ: &str = "#d97706";
const MEDIAN: &str = "#0d9488";
const SLOW: &str = "#be185d";
const NOTHING: &str = "#dc2626";
/// The latency axis, logarithmic, in milliseconds.
const LEAST: f64 = 1.0;
const MOST: f64 = 60_000.0;

/// Where a curve goes.
pub(super) struct Panel<'a> {
    pub(super) top: f64,
    pub(super) height: f64,
    pub(super) axis: &'a Axis,
}

/// The next of 1, 2, 4 and 10 times a power of ten.
pub(super) fn round_up(value: f64) -> f64 {
    let mut power = 1.0;
    loop {
        for factor in [1.0, 2.0, 4.0] {
            if value <= factor * power {
                return factor * power;
            }
        }
        power *= 10.0;
    }
}

impl Panel<'_> {
    pub(super) fn acknowledged(&self, canvas: &mut Canvas, seconds: &[Second], until: f64) {
        let legend =
            [("● a second", ACKNOWLEDGED, false), ("▬ none in that second", NOTHING, false)];
        self.title(canvas, "Records acknowledged", &legend);
        self.rate(canvas, seconds, |second| second.acknowledged, ACKNOWLEDGED);
        // A second without any is what this picture is about: it must not look like few. Before the first and behind the
        // last fault there are no clients.
        let width = self.axis.x(1.0) - self.axis.x(0.0);
        let first = seconds.iter().position(|second| second.acknowledged > 0).unwrap_or(0);
        let last = seconds.len().min(until.ceil().max(0.0) as usize);
        for at in (first..last).filter(|at| seconds[*at].acknowledged == 0) {
            let corner = (self.axis.x(at as f64), self.top + self.height);
            canvas.area(corner, (width, 5.0), NOTHING, 0.9, "nothing was acknowledged");
        }
    }

    pub(super) fn read(&self, canvas: &mut Canvas, seconds: &[Second]) {
        let legend = [("● a second, all consumers together", READ, false)];
        self.title(canvas, "Records read", &legend);
        self.rate(canvas, seconds, |second| second.read, READ);
    }

    pub(super) fn latency(&self, canvas: &mut Canvas, seconds: &[Second]) {
        let legend = [("● 50 of 100", MEDIAN, false), ("● 99 of 100", SLOW, false)];
        self.title(canvas, "Time from send to acknowledgement", &legend);
        let marks =
            [(1.0, "1 ms"), (10.0, "10 ms"), (100.0, "100 ms"), (1e3, "1 s"), (1e4, "10 s")];
        for (at, name) in marks {
            self.mark(canvas, self.milliseconds(at), name);
        }
        for run in runs(seconds) {
            let line = |percent: usize| -> Vec<(f64, f64)> {
                let points = run.clone().map(|at| {
                    let value = percentile(&seconds[at].latencies, percent);
                    (self.axis.x(at as f64 + 0.5), self.milliseconds(value))
                });
                points.collect()
            };
            let (median, slow) = (line(50), line(99));
            let around: Vec<_> = slow.iter().chain(median.iter().rev()).copied().collect();
            canvas.polygon(&around, SLOW, 0.12);
            for (points, colour) in [(slow, SLOW), (median, MEDIAN)] {
                if let [(x, y)] = points[..] {
                    canvas.area((x - 1.5, y - 1.5), (3.0, 3.0), colour, 1.0, "");
                }
                canvas.polyline(&points, colour);
            }
        }
    }

    fn title(&self, canvas: &mut Canvas, title: &str, legend: &[(&str, &str, bool)]) {
        canvas.words((LEFT, self.top - 12.0), 15, "start", &[(title, INK, true)]);
        canvas.words((WIDTH - RIGHT, self.top - 12.0), 13, "end", legend);
    }

    fn mark(&self, canvas: &mut Canvas, y: f64, name: &str) {
        canvas.line((LEFT, y), (WIDTH - RIGHT, y), GRID, "");
        canvas.text((LEFT - 10.0, y + 4.5), 13, FAINT, "end", name);
    }

    /// A curve of counts. What a client catches up with after a pause may be many times the usual; such peaks are cut off
    /// and told in figures, so that the usual can be seen.
    fn rate(
        &self,
        canvas: &mut Canvas,
        seconds: &[Second],
        count: impl Fn(&Second) -> u64,
        colour: &str,
    ) {
        let mut counts: Vec<u64> = seconds.iter().map(&count).filter(|count| *count > 0).collect();
        counts.sort_unstable();
        let usual = counts.get(counts.len() * 95 / 100).copied().unwrap_or(1) as f64;
        let most = counts.last().copied().unwrap_or(1) as f64;
        let end = round_up(if most > 2.0 * usual { 1.2 * usual } else { most });
        let y = |count: f64| self.top + self.height * (1.0 - (count / end).min(1.0));
        for quarter in 0..=4 {
            let at = end * f64::from(quarter) / 4.0;
            if at.fract() == 0.0 {
                self.mark(canvas, y(at), &format!("{}/s", thousands(at as u64)));
            }
        }
        let points = seconds.iter().enumerate();
        let points: Vec<_> = points
            .map(|(at, second)| (self.axis.x(at as f64 + 0.5), y(count(second) as f64)))
            .collect();
        let (Some((first, _)), Some((last, _))) = (points.first(), points.last()) else { return };
        let bottom = self.top + self.height;
        let corners = [&[(*first, bottom)][..], &points, &[(*last, bottom)]].concat();
        canvas.polygon(&corners, colour, 0.2);
        canvas.polyline(&points, colour);
        self.peaks(canvas, seconds, count, end, colour);
    }

    /// The highest of each run of seconds that were cut off.
    fn peaks(
        &self,
        canvas: &mut Canvas,
        seconds: &[Second],
        count: impl Fn(&Second) -> u64,
        end: f64,
        colour: &str,
    ) {
        let mut peak: Option<(usize, u64)> = None;
        let mut free = 0.0;
        for (at, count) in seconds.iter().map(count).chain([0]).enumerate() {
            if count as f64 > end {
                peak = peak.filter(|(_, most)| *most >= count).or(Some((at, count)));
            } else if let Some((at, most)) = peak.take() {
                let x = self.axis.x(at as f64 + 0.5);
                // Where two would overlap the first is enough.
                if x > free {
                    let words = format!("▴ {}", thousands(most));
                    canvas.label((x, self.top + 14.0), 12, colour, &words);
                    free = x + 60.0;
                }
            }
        }
    }

    fn milliseconds(&self, milliseconds: f64) -> f64 {
        let part = (milliseconds.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln();
        self.top + self.height * (1.0 - part)
    }
}

/// Runs of seconds in which something was acknowledged.
fn runs(seconds: &[Second]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for at in (0..seconds.len()).filter(|at| !seconds[*at].latencies.is_empty()) {
        match runs.last_mut() {
            Some(run) if run.end == at => run.end = at + 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

/// Of sorted values, of which there are some.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or(LEAST)
}
