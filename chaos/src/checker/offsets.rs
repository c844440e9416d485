//! Consumers' committed offsets (GROUP); who may commit them is judged in `groups.rs`. Offsets that a history tells of
//! here only ever grow, whoever committed them: what one fetch has shown, no later one may be behind. Registers that are
//! written back and forth are keys of the metadata (`meta.rs`).

use std::collections::{HashMap, HashSet};

use super::anomaly::{AnomalyKind, Report};
use crate::history::{Event, History, Operation, Outcome, Partition};

type Key<'a> = (&'a str, Partition);

#[derive(Default)]
struct Offsets<'a> {
    /// The highest offset whose commit was acknowledged, or that was fetched, and by which event. Members that commit by
    /// themselves tell of no commits.
    committed: HashMap<Key<'a>, (u64, usize)>,
    /// What that was when a process's fetch began.
    fetching: HashMap<(u32, Key<'a>), Option<(u64, usize)>>,
    /// Commits without membership that were not answered, and so may come late: nothing fences them.
    late: HashSet<(Key<'a>, u64)>,
}

pub(super) fn check(history: &History, report: &mut Report) {
    let mut offsets = Offsets::default();
    for (at, event) in history.events.iter().enumerate() {
        offsets.take(at, event, report);
    }
}

impl<'a> Offsets<'a> {
    fn take(&mut self, event: usize, line: &'a Event, report: &mut Report) {
        match (&line.operation, line.outcome) {
            (Operation::CommitOffset { group, at, offset, member: false }, Outcome::Invoke) => {
                self.late.insert(((group, *at), *offset));
            }
            (Operation::CommitOffset { group, at, offset, .. }, Outcome::Ok) => {
                self.late.remove(&((group, *at), *offset));
                self.raise((group, *at), *offset, event);
            }
            (Operation::FetchOffset { group, at, .. }, Outcome::Invoke) => {
                let known = self.committed.get(&(group.as_str(), *at)).copied();
                self.fetching.insert((line.process, (group, *at)), known);
            }
            (Operation::FetchOffset { group, at, offset }, Outcome::Ok) => {
                let before = self.fetching.remove(&(line.process, (group, *at))).flatten();
                if offset.is_some_and(|offset| self.late.contains(&((group, *at), offset))) {
                    return;
                }
                check_fetch(report, (group, *at), *offset, before, event);
                if let Some(offset) = offset {
                    self.raise((group, *at), *offset, event);
                }
            }
            _ => {}
        }
    }

    fn raise(&mut self, key: Key<'a>, offset: u64, event: usize) {
        let known = self.committed.entry(key).or_insert((offset, event));
        if offset > known.0 {
            *known = (offset, event);
        }
    }
}

fn check_fetch(
    report: &mut Report,
    (group, at): Key<'_>,
    offset: Option<u64>,
    before: Option<(u64, usize)>,
    event: usize,
) {
    if let Some((committed, acknowledged)) = before
        && offset.is_none_or(|offset| offset < committed)
    {
        let detail = format!("group {group} had {committed} for {at}, and then {offset:?}");
        report.found(AnomalyKind::OffsetCommitRegression, detail, vec![acknowledged, event]);
    }
}
