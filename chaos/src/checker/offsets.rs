//! Consumers' committed offsets (GROUP); who may commit them is judged in `groups.rs`. Offsets that a history tells of
//! here only ever grow, whoever committed them: what was committed, or shown by a fetch, is what every later one shows
//! or is behind, whichever client asks. Registers that are written back and forth are keys of the metadata (`meta.rs`).
//!
//! A commit without membership is fenced by nothing. One that was not answered may come late, once, and take the offset
//! back; what was asked before that shows, and answered after, then says nothing.

use std::collections::{HashMap, HashSet};

use super::anomaly::{AnomalyKind, Report};
use crate::history::{Event, History, Operation, Outcome, Partition};

type Key<'a> = (&'a str, Partition);

/// What a group is known to have committed of a partition.
#[derive(Default)]
struct Known {
    /// The highest offset whose commit was acknowledged, or that was fetched, and by which event; since it was last
    /// taken back. Members that commit by themselves tell of no commits.
    floor: Option<(u64, usize)>,
    /// How often it was taken back by a commit that came late.
    turn: u64,
    /// Commits without membership that were not answered, and of which nothing was seen yet: how many, by offset.
    late: HashMap<u64, u32>,
    /// What was acknowledged: a fetch that shows it shows none of the late ones.
    acknowledged: HashSet<u64>,
}

/// What was known when something was asked.
#[derive(Clone, Copy, Default)]
struct Asked {
    floor: Option<(u64, usize)>,
    turn: u64,
}

#[derive(Default)]
struct Offsets<'a> {
    known: HashMap<Key<'a>, Known>,
    committing: HashMap<(u32, Key<'a>), Asked>,
    fetching: HashMap<(u32, Key<'a>), Asked>,
}

pub(super) fn check(history: &History, report: &mut Report) {
    let mut offsets = Offsets::default();
    for (at, event) in history.events.iter().enumerate() {
        offsets.take(at, event, report);
    }
}

impl<'a> Offsets<'a> {
    fn take(&mut self, event: usize, line: &'a Event, report: &mut Report) {
        match &line.operation {
            Operation::CommitOffset { group, at, offset, member } => {
                let (asking, key) = ((line.process, (group.as_str(), *at)), (group.as_str(), *at));
                let known = self.known.entry(key).or_default();
                if line.outcome == Outcome::Invoke {
                    self.committing.insert(asking, known.asked());
                    if !member {
                        *known.late.entry(*offset).or_default() += 1;
                    }
                    return;
                }
                let asked = self.committing.remove(&asking);
                if !member && line.outcome != Outcome::Info {
                    known.is_over(*offset);
                }
                if let (Some(asked), Outcome::Ok) = (asked, line.outcome) {
                    known.commit(key, *offset, *member, asked, event, report);
                }
            }
            Operation::FetchOffset { group, at, offset } => {
                let (asking, key) = ((line.process, (group.as_str(), *at)), (group.as_str(), *at));
                let known = self.known.entry(key).or_default();
                if line.outcome == Outcome::Invoke {
                    self.fetching.insert(asking, known.asked());
                } else if let (Some(asked), Outcome::Ok) =
                    (self.fetching.remove(&asking), line.outcome)
                {
                    known.fetch(key, *offset, asked, event, report);
                }
            }
            _ => {}
        }
    }
}

impl Known {
    fn asked(&self) -> Asked {
        Asked { floor: self.floor, turn: self.turn }
    }

    /// One of the late commits of this offset is no longer one.
    fn is_over(&mut self, offset: u64) -> bool {
        let Some(left) = self.late.get_mut(&offset) else { return false };
        *left -= 1;
        if *left == 0 {
            self.late.remove(&offset);
        }
        true
    }

    fn commit(
        &mut self,
        key: Key<'_>,
        offset: u64,
        member: bool,
        asked: Asked,
        event: usize,
        report: &mut Report,
    ) {
        self.acknowledged.insert(offset);
        let behind = self.floor.is_some_and(|(floor, _)| offset < floor);
        if self.check(key, Some(offset), "and then a commit was taken of", asked, event, report)
            && behind
            && !member
        {
            // It was under way together with the one that it is behind: either may have been the last.
            self.take_back(offset, event);
        } else {
            self.raise(offset, asked, event);
        }
    }

    fn fetch(
        &mut self,
        key: Key<'_>,
        offset: Option<u64>,
        asked: Asked,
        event: usize,
        report: &mut Report,
    ) {
        let behind = asked.floor.filter(|_| asked.turn == self.turn);
        let behind = behind.is_some_and(|(floor, _)| offset.is_some_and(|offset| offset < floor));
        if let Some(offset) = offset
            && (behind || !self.acknowledged.contains(&offset))
            && self.is_over(offset)
            && behind
        {
            self.take_back(offset, event);
            return;
        }
        self.check(key, offset, "and then", asked, event, report);
        if let Some(offset) = offset {
            self.raise(offset, asked, event);
        }
    }

    /// Whether it is not behind what was known when it was asked.
    fn check(
        &self,
        (group, at): Key<'_>,
        offset: Option<u64>,
        and_then: &str,
        asked: Asked,
        event: usize,
        report: &mut Report,
    ) -> bool {
        let floor = asked.floor.filter(|_| asked.turn == self.turn);
        let Some((floor, seen)) = floor else { return true };
        if offset.is_some_and(|offset| offset >= floor) {
            return true;
        }
        let now = offset.map_or("nothing".to_owned(), |offset| offset.to_string());
        let detail = format!("group {group} had {floor} for {at}, {and_then} {now}");
        report.found(AnomalyKind::OffsetCommitRegression, detail, vec![seen, event]);
        false
    }

    fn take_back(&mut self, offset: u64, event: usize) {
        self.floor = Some((offset, event));
        self.turn += 1;
    }

    fn raise(&mut self, offset: u64, asked: Asked, event: usize) {
        if asked.turn == self.turn && self.floor.is_none_or(|(floor, _)| offset > floor) {
            self.floor = Some((offset, event));
        }
    }
}
