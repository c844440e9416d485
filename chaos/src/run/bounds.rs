//! For how long producers may be kept waiting by a fault: each has its bound, and a run that goes beyond one has
//! failed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::report::FaultRun;

/// The pause by which a fault's turn is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// How long a partition took no record, less what of it the machine stood still.
    pub us: u64,
    /// What was taken from it for that.
    pub allowed_us: u64,
    /// How long it may be; nothing where that is not bounded.
    pub bound: Option<Duration>,
}

/// A time in which a partition took no record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pause {
    /// How long, less what of it the machine stood still.
    pub(super) us: u64,
    /// What was taken from it for that.
    pub(super) allowed_us: u64,
    /// The same, with the [`AFTERMATH_US`] before it.
    pub(super) near_us: u64,
}

/// For so long after a machine stood still, pauses may be its doing: a session's TTL, and an election.
pub(super) const AFTERMATH_US: u64 = 5_000_000;

/// A machine that stood still for so long did more than to keep everybody waiting: controllers that hear nothing for
/// that long elect anew, sessions are doubted. What a pause is then made of, nobody can tell.
const DISTURBED_US: u64 = 200_000;
/// Of so many turns with a bound one must have been told from the machine's own doing, or nothing is shown.
const OF_TURNS: usize = 2;

impl Judged {
    /// Takes the one by which a turn is judged of all its pauses: the longest; but if the machine disturbed that, one
    /// that is beyond the bound although the machine stood still neither in it nor before it.
    pub(super) fn take(&mut self, pauses: impl Iterator<Item = Pause>) {
        let pauses: Vec<Pause> = pauses.collect();
        let bound_us = self.bound.map_or(u64::MAX, |bound| bound.as_micros() as u64);
        let longest = pauses.iter().max();
        let disturbed = longest.is_some_and(|pause| pause.allowed_us >= DISTURBED_US);
        let calm = pauses.iter().filter(|pause| disturbed && pause.near_us < DISTURBED_US).max();
        let chosen = calm.filter(|pause| pause.us > bound_us).or(longest).copied();
        let Pause { us, allowed_us, .. } = chosen.unwrap_or_default();
        (self.us, self.allowed_us) = (us, allowed_us);
    }

    /// Its bound, if the pause can be held to it.
    fn held_to(&self) -> Option<Duration> {
        self.bound.filter(|_| self.allowed_us < DISTURBED_US)
    }
}

/// What went beyond its bound, by turn: of the turns of one fault 99 of 100 are held to it, so of few all. A fault that
/// struck nothing excuses nothing.
pub(super) fn beyond(faults: &[FaultRun]) -> Vec<String> {
    let mut turns: BTreeMap<&str, Vec<(usize, &FaultRun)>> = BTreeMap::new();
    for fault in faults {
        let turns = turns.entry(fault.name).or_default();
        turns.push((turns.len() + 1, fault));
    }
    for turns in turns.values_mut() {
        turns.retain(|(_, fault)| fault.judged.bound.is_none() || fault.judged.held_to().is_some());
    }
    turns.into_values().flat_map(|turns| beyond_of_one(&turns)).collect()
}

/// That too few pauses could be held to their bounds, because the machine stood still in them.
pub(super) fn unjudged(faults: &[FaultRun]) -> Option<String> {
    let bounded: Vec<_> = faults.iter().filter(|fault| fault.judged.bound.is_some()).collect();
    let judged = bounded.iter().filter(|fault| fault.judged.held_to().is_some()).count();
    let too_few = judged * OF_TURNS < bounded.len();
    too_few.then(|| {
        format!(
            "the machine stood still in {} of {} pauses that have a bound: nobody can tell what they were",
            bounded.len() - judged,
            bounded.len()
        )
    })
}

fn beyond_of_one(turns: &[(usize, &FaultRun)]) -> Vec<String> {
    let mut lengths: Vec<u64> = turns.iter().map(|(_, fault)| fault.judged.us).collect();
    lengths.sort_unstable();
    let Some(p99) = lengths.get((lengths.len() * 99).div_ceil(100).saturating_sub(1)) else {
        return Vec::new();
    };
    let is_beyond =
        |us: u64, bound: Option<Duration>| bound.filter(|bound| Duration::from_micros(us) > *bound);
    let found = turns.iter().filter_map(|(turn, fault)| {
        let bound = is_beyond(fault.judged.us, fault.judged.held_to())?;
        is_beyond(*p99, Some(bound))?;
        Some(sentence(*turn, fault, bound))
    });
    found.collect()
}

fn sentence(turn: usize, fault: &FaultRun, bound: Duration) -> String {
    let Judged { us, allowed_us, .. } = fault.judged;
    let seconds = |us: u64| us as f64 / 1e6;
    let allowed = match allowed_us {
        0 => String::new(),
        _ => format!(", {:.2} s of standstill not counted", seconds(allowed_us)),
    };
    format!(
        "{}, turn {turn} (at {:.1} s): a partition took no record for {:.2} s{allowed}; at most {bound:?} allowed",
        fault.name,
        seconds(fault.begun_us),
        seconds(us)
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::fault;
    use super::*;

    fn turn(name: &'static str, pause_ms: u64, bound: Option<u64>) -> FaultRun {
        let bound = bound.map(Duration::from_secs);
        let judged = Judged { us: pause_ms * 1_000, allowed_us: 0, bound };
        FaultRun { name, judged, ..fault(10, 14) }
    }

    #[test]
    fn a_pause_beyond_its_bound_is_told_with_fault_turn_figure_and_bound() {
        let faults = [
            turn("kill-agent", 1_999, Some(2)),
            turn("kill-leader", 2_000, Some(2)),
            turn("kill-agent", 2_610, Some(2)),
            turn("kill-all-agents", 60_000, None),
        ];
        let told = "kill-agent, turn 2 (at 10.0 s): a partition took no record for 2.61 s; at most 2s allowed";
        assert_eq!(beyond(&faults), [told]);
    }

    #[test]
    fn a_fault_that_struck_nothing_excuses_nothing() {
        let absent = FaultRun { installed: false, ..turn("kill-agent", 9_000, Some(2)) };
        assert_eq!(beyond(&[absent]).len(), 1);
    }

    #[test]
    fn what_the_machine_disturbed_is_not_judged_and_too_much_of_it_is_told() {
        let mut disturbed = turn("kill-leader", 9_000, Some(2));
        disturbed.judged.allowed_us = DISTURBED_US;
        let calm = || turn("kill-agent", 900, Some(2));
        assert_eq!(beyond(&[disturbed.clone()]), [""; 0]);
        assert_eq!(unjudged(&[disturbed.clone(), calm(), turn("reset", 9_000, None)]), None);
        let told = "the machine stood still in 2 of 3 pauses that have a bound: nobody can tell what they were";
        let faults = [disturbed.clone(), calm(), disturbed];
        assert_eq!(unjudged(&faults).as_deref(), Some(told));
        assert_eq!(unjudged(&[]), None);
    }

    #[test]
    fn a_pause_that_the_machine_disturbed_hides_no_other_one() {
        let taken = |pauses: &[Pause]| {
            let mut judged = Judged { us: 0, allowed_us: 0, bound: Some(Duration::from_secs(2)) };
            judged.take(pauses.iter().copied());
            (judged.us, judged.held_to().is_some())
        };
        let calm = |us| Pause { us, allowed_us: 0, near_us: 0 };
        let disturbed = Pause { us: 9_000_000, allowed_us: DISTURBED_US, near_us: DISTURBED_US };
        assert_eq!(taken(&[disturbed, calm(2_000_001), calm(5)]), (2_000_001, true));
        // One within the bound does not clear the turn.
        assert_eq!(taken(&[disturbed, calm(2_000_000)]), (9_000_000, false));
        // Nor is one judged that began as the machine had just stood still.
        let after = Pause { near_us: DISTURBED_US, ..calm(2_000_001) };
        assert_eq!(taken(&[disturbed, after]), (9_000_000, false));
        assert_eq!(taken(&[Pause { us: 2_000_002, ..after }]), (2_000_002, true));
        assert_eq!(taken(&[calm(1_000), calm(3_000_000), calm(2_500_000)]), (3_000_000, true));
        assert_eq!(taken(&[]), (0, true));
    }

    #[test]
    fn of_a_hundred_turns_one_may_be_beyond_and_of_two_none() {
        let mut faults = vec![turn("ring", 100, Some(5)); 99];
        faults.push(turn("ring", 6_000, Some(5)));
        assert_eq!(beyond(&faults), [""; 0]);
        faults.push(turn("ring", 7_000, Some(5)));
        assert_eq!(beyond(&faults).len(), 2);
    }

    #[test]
    fn what_was_allowed_for_a_standstill_is_told() {
        let mut fault = turn("kill-leader", 2_100, Some(2));
        fault.judged.allowed_us = 150_000;
        assert!(beyond(&[fault])[0].contains("0.15 s of standstill not counted"));
    }
}
