//! Every fault in the lane of its name.

use std::collections::BTreeMap;

use super::canvas::{Axis, Canvas, FAINT, GRID, INK, LEFT, RIGHT, WIDTH};
use crate::run::report::FaultRun;

const LANE: f64 = 22.0;
/// What a figure beside a bar takes.
const FIGURE: f64 = 92.0;

/// Families of faults: what their names begin with, and their colour.
const FAMILIES: [(&str, &str, &[&str]); 5] = [
    ("processes", "#dc2626", &["kill", "crash", "stop"]),
    ("store", "#7c3aed", &["store"]),
    ("disks and clocks", "#b45309", &["power", "fsync", "disk", "old", "flip", "clock"]),
    ("operators", "#059669", &["rolling", "transfer", "replace"]),
    ("links", "#0284c7", &[""]),
];

fn family(name: &str) -> (usize, &'static str) {
    let of = |begins: &[&str]| begins.iter().any(|begin| name.starts_with(begin));
    let found = FAMILIES.iter().position(|(_, _, begins)| of(begins)).unwrap_or(0);
    (found, FAMILIES[found].1)
}

/// Faults by name, in the order of families and names.
pub(super) struct Lanes<'f> {
    faults: &'f [FaultRun],
    lanes: Vec<(&'static str, Vec<&'f FaultRun>)>,
}

impl<'f> Lanes<'f> {
    pub(super) fn of(faults: &'f [FaultRun]) -> Self {
        let mut lanes: BTreeMap<(usize, &'static str), Vec<&FaultRun>> = BTreeMap::new();
        for fault in faults {
            lanes.entry((family(fault.name).0, fault.name)).or_default().push(fault);
        }
        let lanes = lanes.into_iter().map(|((_, name), faults)| (name, faults)).collect();
        Self { faults, lanes }
    }

    pub(super) fn height(&self) -> f64 {
        self.lanes.len() as f64 * LANE
    }

    /// Each fault's time, through all panels.
    pub(super) fn bands(&self, canvas: &mut Canvas, axis: &Axis, (top, bottom): (f64, f64)) {
        for fault in self.faults {
            let (from, to) = (at(axis, fault.begun_us), at(axis, fault.healed_us));
            let (_, colour) = family(fault.name);
            canvas.area((from, top), ((to - from).max(1.0), bottom - top), colour, 0.07, "");
        }
    }

    pub(super) fn draw(&self, canvas: &mut Canvas, axis: &Axis, top: f64) {
        canvas.words(
            (LEFT, top - 12.0),
            15,
            "start",
            &[
                ("Faults", INK, true),
                ("pale: until all were at work again; beside it: the longest pause of a partition", FAINT, false),
            ],
        );
        let names: Vec<_> = FAMILIES.iter().map(|(name, _, _)| format!("● {name}")).collect();
        let legend: Vec<_> = names
            .iter()
            .zip(FAMILIES)
            .map(|(name, (_, colour, _))| (name.as_str(), colour, false))
            .collect();
        canvas.words((WIDTH - RIGHT, top - 12.0), 13, "end", &legend);
        for ((name, faults), lane) in self.lanes.iter().zip(0..) {
            let y = top + f64::from(lane) * LANE;
            canvas.line((LEFT, y + LANE), (WIDTH - RIGHT, y + LANE), GRID, "");
            canvas.text((LEFT - 10.0, y + LANE - 6.5), 13, INK, "end", name);
            for (number, fault) in faults.iter().enumerate() {
                let next = faults.get(number + 1).map_or(WIDTH, |next| at(axis, next.begun_us));
                bar(canvas, axis, fault, y, next);
            }
        }
    }
}

fn at(axis: &Axis, us: u64) -> f64 {
    axis.x(us as f64 / 1e6)
}

fn bar(canvas: &mut Canvas, axis: &Axis, fault: &FaultRun, y: f64, next: f64) {
    let [from, healed, whole] =
        [fault.begun_us, fault.healed_us, fault.whole_us].map(|us| at(axis, us));
    let (_, colour) = family(fault.name);
    let writable = match fault.writable_us {
        Some(after) => format!("every partition written {:.1} s after it", after as f64 / 1e6),
        None => "some partition never written after it".to_owned(),
    };
    let words = format!("{}; {writable}", fault.detail);
    for (from, to, opacity) in [(from, healed, 0.9), (healed, whole, 0.35)] {
        let size = ((to - from).max(1.5), LANE - 8.0);
        canvas.area((from, y + 4.0), size, colour, opacity, &words);
    }
    if next - whole > FIGURE && whole + FIGURE < WIDTH {
        let pause = format!("{:.1} s", fault.pause_us as f64 / 1e6);
        canvas.text((whole + 6.0, y + LANE - 7.0), 11, FAINT, "start", &pause);
    }
}
