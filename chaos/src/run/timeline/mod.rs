//! The picture of a run: what was acknowledged and read, how long that took, and below it every fault in a lane of its
//! own, all on one axis of time.

mod canvas;
mod lanes;
mod panels;

use super::measure::Second;
use super::report::{RunReport, Verdict};
use canvas::{Axis, Canvas, FAINT, GRID, INK, LEFT, RIGHT, WIDTH, thousands};
use lanes::Lanes;
use panels::Panel;

const HEAD: f64 = 112.0;
const PANEL: f64 = 140.0;
const GAP: f64 = 44.0;
const FOOT: f64 = 58.0;

/// The whole picture, as SVG.
pub(super) fn draw(report: &RunReport, seconds: &[Second]) -> String {
    let axis = Axis { seconds: report.seconds.max(1.0) };
    let lanes = Lanes::of(&report.faults);
    let tops = [0.0, 1.0, 2.0, 3.0].map(|panel| HEAD + panel * (PANEL + GAP));
    let bottom = tops[3] + lanes.height();
    let mut canvas = Canvas::new(bottom + FOOT);
    head(&mut canvas, report);
    lanes.bands(&mut canvas, &axis, (HEAD, bottom));
    times(&mut canvas, &axis, (HEAD, bottom));
    healed(&mut canvas, &axis, report, (HEAD, bottom));
    let panel = |at: usize| Panel { top: tops[at], height: PANEL, axis: &axis };
    let until = report.faults.last().map_or(0.0, |fault| fault.whole_us as f64 / 1e6);
    panel(0).acknowledged(&mut canvas, seconds, until);
    panel(1).read(&mut canvas, seconds);
    panel(2).latency(&mut canvas, seconds);
    lanes.draw(&mut canvas, &axis, tops[3]);
    canvas.finish()
}

fn head(canvas: &mut Canvas, report: &RunReport) {
    let (verdict, colour) = match report.verdict {
        Verdict::Passed => ("passed", "#059669"),
        Verdict::Failed => ("FAILED", "#dc2626"),
        Verdict::Invalid => ("invalid", "#d97706"),
        Verdict::Unfinished => ("unfinished", "#d97706"),
    };
    let seed = format!("seed {}", report.seed);
    canvas.words(
        (24.0, 40.0),
        24,
        "start",
        &[("StreamHouse under faults", INK, true), (seed.as_str(), FAINT, false)],
    );
    canvas.words((WIDTH - RIGHT, 40.0), 24, "end", &[(verdict, colour, true)]);
    let found: u64 = report.checked.counts.values().sum();
    let figures = format!(
        "{} records acknowledged, {} read · {} faults · {found} anomalies · {:.0} s",
        thousands(report.checked.acknowledged),
        thousands(report.checked.reads),
        report.faults.len(),
        report.seconds
    );
    canvas.text((24.0, 66.0), 15, FAINT, "start", &figures);
}

/// Round times, through all panels.
fn times(canvas: &mut Canvas, axis: &Axis, (top, bottom): (f64, f64)) {
    let step = axis.step();
    let mut second = 0.0;
    while second <= axis.seconds {
        let x = axis.x(second);
        let minutes = second / 60.0;
        let name =
            if step >= 60.0 { format!("{minutes:.0} min") } else { format!("{second:.0} s") };
        canvas.line((x, top), (x, bottom), GRID, "stroke-dasharray=\"2 4\"");
        canvas.text((x, bottom + 20.0), 13, FAINT, "middle", &name);
        second += step;
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    canvas.text((middle, bottom + 42.0), 13, FAINT, "middle", "time since the run began");
}

/// Where the last fault was over: behind it clients finish, all is drained, audited and collected.
fn healed(canvas: &mut Canvas, axis: &Axis, report: &RunReport, (top, bottom): (f64, f64)) {
    let Some(last) = report.faults.last() else { return };
    let x = axis.x(last.whole_us as f64 / 1e6);
    canvas.line((x, top), (x, bottom), FAINT, "stroke-width=\"1.2\"");
    canvas.text((x + 5.0, top - 30.0), 12, FAINT, "end", "all healed ▾");
}

#[cfg(test)]
mod tests {
    use super::canvas::thousands;
    use super::panels::round_up;

    #[test]
    fn scales_end_at_round_numbers() {
        let ends = [0.0, 1.0, 3.0, 70.0, 801.0, 5_424.0].map(round_up);
        assert_eq!(ends, [1.0, 1.0, 4.0, 100.0, 1_000.0, 10_000.0]);
    }

    #[test]
    fn figures_are_grouped() {
        assert_eq!([7, 1_000, 1_234_567].map(thousands), ["7", "1,000", "1,234,567"]);
    }
}
