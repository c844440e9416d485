//! Members of consumer groups (GROUP): each partition has one owner at a time, only that one reads and commits it, and
//! what the group has committed was handed to some member.
//!
//! A member hears late that it has lost a partition, and may even hear that it got one when that is over already. So
//! what counts is what members did: one that used a partition, by a poll or a commit, and used it again without having
//! got it anew, held it from the end of the first use to the beginning of the latest. Nobody else can have used it in
//! between. And whose commit is taken after another one's that got the partition later commits as of a generation that
//! is over, whether or not it had used the partition before.
//!
//! Who gets a partition begins where the group has got to: at or behind what was known to be committed then, and not past
//! a record, if nobody ever asked to commit that it was read. What members ask that commit by themselves is not known.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::anomaly::{AnomalyKind, Report};
use super::log::Log;
use crate::history::{Event, History, Operation, Outcome, Partition, Read};

type Key<'a> = (&'a str, Partition);

/// A poll that returned records of a partition, or a commit that was taken: it began and ended at these events.
#[derive(Clone, Copy)]
struct Use {
    process: u32,
    begun: usize,
    ended: usize,
}

/// What a process made of a partition since it got it.
#[derive(Clone, Copy)]
struct Hold {
    /// How often the process had got the partition.
    grant: u64,
    first: Use,
    latest: Use,
}

/// A commit that was taken.
#[derive(Clone, Copy)]
struct Taken {
    process: u32,
    /// When the process had got the partition: of two, the later one is of the later generation.
    got: usize,
    event: usize,
}

/// Of the commits of a partition that were taken, the one of the latest generation, and the one of the latest of any
/// other process.
#[derive(Clone, Copy, Default)]
struct Latest {
    first: Option<Taken>,
    other: Option<Taken>,
}

impl Latest {
    fn take(&mut self, taken: Taken) {
        match self.first {
            Some(first) if first.process != taken.process && taken.got > first.got => {
                *self = Self { first: Some(taken), other: Some(first) };
            }
            Some(first) if first.process != taken.process => {
                if self.other.is_none_or(|other| taken.got > other.got) {
                    self.other = Some(taken);
                }
            }
            // The first of its generation is the one that came about before most.
            Some(first) if first.got >= taken.got => {}
            _ => self.first = Some(taken),
        }
    }

    fn of_others(&self, process: u32) -> Option<Taken> {
        self.first.filter(|first| first.process != process).or(self.other)
    }
}

/// A partition that a member has got and was handed nothing of yet.
#[derive(Clone, Copy)]
struct Begins {
    /// When it got it.
    got: usize,
    /// What the group was known to have committed then, and by which event.
    floor: Option<(u64, usize)>,
}

#[derive(Default)]
struct Groups<'a> {
    /// Which group a process is a member of.
    members: HashMap<u32, &'a str>,
    /// What a process owns, as far as it knows, and how often it got it.
    owned: HashSet<(u32, Partition)>,
    grants: HashMap<(u32, Partition), u64>,
    /// When it got it last.
    got: HashMap<(u32, Partition), usize>,
    /// In the order of their ends.
    uses: HashMap<Key<'a>, Vec<Use>>,
    holds: HashMap<(u32, Partition), Hold>,
    /// Where the poll, and each commit, under way began.
    polling: HashMap<u32, usize>,
    committing: HashMap<(u32, Partition), (usize, Option<Taken>)>,
    taken: HashMap<Key<'a>, Latest>,
    /// What was handed to members, by group and partition.
    handed: HashMap<Key<'a>, HashSet<u64>>,
    /// The highest offset that a group of members was known to have committed, and by which event.
    committed: BTreeMap<Key<'a>, (u64, usize)>,
    /// The highest offset that members asked to commit, of groups in which they do.
    asked: HashMap<&'a str, HashMap<Partition, u64>>,
    begins: HashMap<(u32, Partition), Begins>,
    /// Where logs end, and which event says so.
    ends: HashMap<Partition, (u64, usize)>,
}

pub(super) fn check(history: &History, log: &Log, report: &mut Report) {
    let mut groups = Groups::default();
    for (event, line) in history.events.iter().enumerate() {
        groups.take(event, line, log, report);
    }
    groups.check_handed(log, report);
}

impl<'a> Groups<'a> {
    fn take(&mut self, event: usize, line: &'a Event, log: &Log, report: &mut Report) {
        let process = line.process;
        match (&line.operation, line.outcome) {
            (Operation::Subscribe { group }, Outcome::Ok) => {
                self.members.insert(process, group);
            }
            (Operation::Own { group, at }, Outcome::Ok) => {
                for at in at {
                    let floor = self.committed.get(&(group.as_str(), *at)).copied();
                    self.begins.insert((process, *at), Begins { got: event, floor });
                    self.owned.insert((process, *at));
                    *self.grants.entry((process, *at)).or_default() += 1;
                    self.got.insert((process, *at), event);
                }
            }
            (Operation::Disown { at, .. }, Outcome::Ok) => {
                for at in at {
                    self.owned.remove(&(process, *at));
                    self.begins.remove(&(process, *at));
                }
            }
            (Operation::Poll { .. }, Outcome::Invoke) => {
                self.polling.insert(process, event);
            }
            (Operation::Poll { reads, .. }, Outcome::Ok) => {
                self.poll(process, reads, event, log, report)
            }
            (Operation::CommitOffset { group, at, offset, member: true }, Outcome::Invoke) => {
                let asked = self.asked.entry(group).or_default().entry(*at).or_default();
                *asked = (*offset).max(*asked);
                let taken = self.taken.get(&(group.as_str(), *at));
                let before = taken.and_then(|latest| latest.of_others(process));
                self.committing.insert((process, *at), (event, before));
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
            (Operation::Extent { at, high_watermark, .. }, Outcome::Ok) => {
                self.ends.insert(*at, (*high_watermark, event));
            }
            _ => {}
        }
    }

    fn see(&mut self, key: Key<'a>, offset: u64, event: usize) {
        let known = self.committed.entry(key).or_insert((offset, event));
        if offset > known.0 {
            *known = (offset, event);
        }
    }

    fn poll(&mut self, process: u32, reads: &[Read], event: usize, log: &Log, report: &mut Report) {
        let begun = self.polling.remove(&process).unwrap_or(event);
        let Some(group) = self.members.get(&process).copied() else { return };
        let partitions: BTreeSet<Partition> = reads.iter().map(|read| read.at).collect();
        for at in partitions {
            let told = format!("process {process} of group {group} was handed records of {at}");
            if !self.owned.contains(&(process, at)) {
                let detail = format!("{told}, which is not its own");
                report.found(AnomalyKind::DoubleOwnership, detail, vec![event]);
            }
            if let Some((before, other)) = self.used(process, (group, at), begun, event) {
                let detail = format!("{told}, which another one used meanwhile");
                let proof = vec![before.ended, other.ended, event];
                report.found(AnomalyKind::DoubleOwnership, detail, proof);
            }
        }
        for read in reads {
            if let Some(begins) = self.begins.remove(&(process, read.at)) {
                self.check_begin((group, read.at), begins, read.offset, event, log, report);
            }
            self.handed.entry((group, read.at)).or_default().insert(read.offset);
        }
    }

    /// Whether the first record that a member was handed is where its group had got to.
    fn check_begin(
        &self,
        (group, at): Key<'a>,
        Begins { got, floor }: Begins,
        first: u64,
        event: usize,
        log: &Log,
        report: &mut Report,
    ) {
        if let Some((floor, seen)) = floor
            && first < floor
        {
            let detail = format!(
                "group {group} had committed {floor} of {at}, and who got it then began at {first}"
            );
            report.found(AnomalyKind::OffsetCommitRegression, detail, vec![seen, got, event]);
        }
        let Some(asked) = self.asked.get(group) else { return };
        let asked = asked.get(&at).copied().unwrap_or(0);
        let between = (at, asked)..(at, first.max(asked));
        if let Some(((_, offset), found)) = log.read.range(between).next() {
            let detail = format!(
                "who got {at} of group {group} began at {first}, though nobody had asked to commit {} at {offset}",
                found.value
            );
            report.found(AnomalyKind::GroupSkip, detail, vec![got, event, found.event]);
        }
    }

    fn commit(&mut self, process: u32, key: Key<'a>, event: usize, report: &mut Report) {
        let (group, at) = key;
        let (begun, newer) = self.committing.remove(&(process, at)).unwrap_or((event, None));
        let got = self.got.get(&(process, at)).copied().unwrap_or(0);
        let used = self.used(process, key, begun, event);
        let proof = match (used, newer.filter(|newer| newer.got > got)) {
            (Some((before, other)), _) => Some(vec![before.ended, other.ended, event]),
            (None, Some(newer)) => Some(vec![newer.got, newer.event, event]),
            (None, None) => None,
        };
        if let Some(proof) = proof {
            let detail = format!(
                "group {group} took a commit of {at} from process {process}, when another one had used it"
            );
            report.found(AnomalyKind::ZombieOffsetCommit, detail, proof);
        }
        // One that was asked before the partition came is no sign of that generation.
        if got < begun {
            self.taken.entry(key).or_default().take(Taken { process, got, event });
        }
    }

    /// Notes a use. The first one of the process since it got the partition, and another's that lay between the two, if
    /// there is one.
    fn used(
        &mut self,
        process: u32,
        key: Key<'a>,
        begun: usize,
        ended: usize,
    ) -> Option<(Use, Use)> {
        let at = key.1;
        let grant = self.grants.get(&(process, at)).copied().unwrap_or(0);
        let now = Use { process, begun, ended };
        let uses = self.uses.entry(key).or_default();
        uses.push(now);
        let hold = self.holds.entry((process, at));
        let hold = hold.or_insert(Hold { grant, first: now, latest: now });
        if hold.grant != grant {
            *hold = Hold { grant, first: now, latest: now };
        }
        let Hold { first, latest, .. } = *hold;
        hold.latest = now;
        // Those that ended before the latest use began were looked at then.
        let new = uses.iter().rev().take_while(|other| other.ended >= latest.begun);
        let mut others = new.filter(|other| other.process != process);
        let other = others.find(|other| other.begun > first.ended && other.ended < begun)?;
        Some((first, *other))
    }

    fn check_handed(&self, log: &Log, report: &mut Report) {
        let nothing = HashSet::new();
        for ((group, at), (committed, event)) in &self.committed {
            if let Some((end, told)) = self.ends.get(at)
                && committed > end
            {
                let detail =
                    format!("group {group} committed {committed} of {at}, which ends at {end}");
                report.found(AnomalyKind::GroupSkip, detail, vec![*event, *told]);
            }
            let handed = self.handed.get(&(*group, *at)).unwrap_or(&nothing);
            let below = log.read.range((*at, 0)..(*at, *committed));
            let skipped = below.filter(|((_, offset), _)| !handed.contains(offset));
            for ((_, offset), found) in skipped {
                let detail = format!(
                    "group {group} committed {committed} of {at}, and no member was handed {} at {offset}",
                    found.value
                );
                report.found(AnomalyKind::GroupSkip, detail, vec![*event, found.event]);
            }
        }
    }
}
