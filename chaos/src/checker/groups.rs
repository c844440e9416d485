//! Members of consumer groups (GROUP): each partition has one owner at a time, only that one reads and commits it, and
//! what the group has committed was handed to some member.
//!
//! A member hears late that it has lost a partition. So what counts is what it *began* after another member had been told
//! that the partition is its own: the poll or the commit can only have succeeded if both held the partition.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::anomaly::{AnomalyKind, Report};
use super::log::Log;
use crate::history::{Event, History, Operation, Outcome, Partition, Read};

type Key<'a> = (&'a str, Partition);

#[derive(Default)]
struct Groups<'a> {
    /// Which group a process is a member of.
    members: HashMap<u32, &'a str>,
    /// Who was last told that it owns a partition.
    owners: HashMap<Key<'a>, u32>,
    /// What a process owns, as far as it knows.
    owned: HashSet<(u32, Partition)>,
    /// Another member was told that it owns the partition: by which event.
    replaced: HashMap<(u32, Partition), usize>,
    /// Where the poll, and each commit, under way began.
    polling: HashMap<u32, usize>,
    committing: HashMap<(u32, Partition), usize>,
    /// What was handed to members, by group and partition.
    handed: HashMap<Key<'a>, HashSet<u64>>,
    /// The highest offset that a group of members was known to have committed, and by which event.
    committed: BTreeMap<Key<'a>, (u64, usize)>,
}

pub(super) fn check(history: &History, log: &Log, report: &mut Report) {
    let mut groups = Groups::default();
    for (event, line) in history.events.iter().enumerate() {
        groups.take(event, line, report);
    }
    groups.check_handed(log, report);
}

impl<'a> Groups<'a> {
    fn take(&mut self, event: usize, line: &'a Event, report: &mut Report) {
        let process = line.process;
        match (&line.operation, line.outcome) {
            (Operation::Subscribe { group }, Outcome::Ok) => {
                self.members.insert(process, group);
            }
            (Operation::Own { group, at }, Outcome::Ok) => self.own(process, group, at, event),
            (Operation::Disown { at, .. }, Outcome::Ok) => {
                for at in at {
                    self.owned.remove(&(process, *at));
                }
            }
            (Operation::Poll { .. }, Outcome::Invoke) => {
                self.polling.insert(process, event);
            }
            (Operation::Poll { reads }, Outcome::Ok) => self.poll(process, reads, event, report),
            (Operation::CommitOffset { at, member: true, .. }, Outcome::Invoke) => {
                self.committing.insert((process, *at), event);
            }
            (Operation::CommitOffset { group, at, offset, member: true }, Outcome::Ok) => {
                self.commit(process, (group, *at), event, report);
                self.see((group, *at), *offset, event);
            }
            (Operation::FetchOffset { group, at, offset: Some(offset) }, Outcome::Ok)
                if self.members.contains_key(&process) =>
            {
                self.see((group, *at), *offset, event);
            }
            _ => {}
        }
    }

    fn own(&mut self, process: u32, group: &'a str, partitions: &[Partition], event: usize) {
        for at in partitions {
            let before = self.owners.insert((group, *at), process);
            if let Some(before) = before.filter(|before| *before != process) {
                self.replaced.insert((before, *at), event);
            }
            self.replaced.remove(&(process, *at));
            self.owned.insert((process, *at));
        }
    }

    fn see(&mut self, key: Key<'a>, offset: u64, event: usize) {
        let known = self.committed.entry(key).or_insert((offset, event));
        if offset > known.0 {
            *known = (offset, event);
        }
    }

    /// The event by which another member had got the partition when this process began what it began at `begun`.
    fn replaced_before(&self, process: u32, at: Partition, begun: Option<usize>) -> Option<usize> {
        let replaced = *self.replaced.get(&(process, at))?;
        begun.is_some_and(|begun| begun > replaced).then_some(replaced)
    }

    fn poll(&mut self, process: u32, reads: &[Read], event: usize, report: &mut Report) {
        let begun = self.polling.remove(&process);
        let Some(group) = self.members.get(&process).copied() else { return };
        let partitions: BTreeSet<Partition> = reads.iter().map(|read| read.at).collect();
        for at in partitions {
            let owned = self.owned.contains(&(process, at));
            let Some(proof) = self
                .replaced_before(process, at, begun)
                .map(|replaced| vec![replaced, event])
                .or_else(|| (!owned).then(|| vec![event]))
            else {
                continue;
            };
            let detail = format!(
                "process {process} of group {group} was handed records of {at}, which is not its own"
            );
            report.found(AnomalyKind::DoubleOwnership, detail, proof);
        }
        for read in reads {
            self.handed.entry((group, read.at)).or_default().insert(read.offset);
        }
    }

    fn commit(&mut self, process: u32, (group, at): Key<'_>, event: usize, report: &mut Report) {
        let begun = self.committing.remove(&(process, at));
        if let Some(replaced) = self.replaced_before(process, at, begun) {
            let detail = format!(
                "group {group} took a commit of {at} from process {process}, when {at} was another's"
            );
            report.found(AnomalyKind::ZombieOffsetCommit, detail, vec![replaced, event]);
        }
    }

    fn check_handed(&self, log: &Log, report: &mut Report) {
        let nothing = HashSet::new();
        for ((group, at), (committed, event)) in &self.committed {
            let handed = self.handed.get(&(*group, *at)).unwrap_or(&nothing);
            let below = log.read.range((*at, 0)..(*at, *committed));
            let skipped = below.filter(|((_, offset), _)| !handed.contains(offset));
            for ((_, offset), (value, read)) in skipped {
                let detail = format!(
                    "group {group} committed {committed} of {at}, and no member was handed {value} at {offset}"
                );
                report.found(AnomalyKind::GroupSkip, detail, vec![*event, *read]);
            }
        }
    }
}
