//! What must hold of the members' words, whatever they went through. Pure.

use std::collections::BTreeMap;

use super::member::{Line, What};
use super::producer::Acknowledged;

/// What a poll handed out of a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) at: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// A partition's time with a member.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) member: usize,
    pub(crate) partition: u32,
    pub(crate) reads: Vec<Read>,
    /// When it came.
    pub(crate) from: u64,
    /// When it went.
    pub(crate) until: Option<u64>,
}

/// All grants of a member. It reads what it was given and nothing else, in order and without a gap.
pub(crate) fn grants(member: usize, lines: &[Line]) -> Vec<Grant> {
    let mut open = BTreeMap::<u32, Grant>::new();
    let mut all = Vec::new();
    for line in lines {
        match &line.what {
            What::Assigned(partitions) => {
                for &partition in partitions {
                    let (reads, from) = (Vec::new(), line.at);
                    let new = Grant { member, partition, reads, from, until: None };
                    let twice = open.insert(partition, new);
                    assert!(twice.is_none(), "member {member} was given {partition} twice");
                }
            }
            What::Revoked(partitions) | What::Lost(partitions) => {
                for partition in partitions {
                    let gone = open.remove(partition);
                    let gone = gone.unwrap_or_else(|| panic!("{member} never had {partition}"));
                    all.push(Grant { until: Some(line.at), ..gone });
                }
            }
            &What::Read(partition, first, last) => {
                let own = open.get_mut(&partition);
                let own = own.unwrap_or_else(|| panic!("{member} reads {partition}, not its own"));
                if let Some(before) = own.reads.last() {
                    assert_eq!(first, before.last + 1, "READ: {member} skips in {partition}");
                }
                own.reads.push(Read { at: line.at, first, last });
            }
            What::Said(_) => {}
        }
    }
    all.extend(open.into_values());
    all
}

/// Every record was read, and nobody began behind one that nobody had read.
pub(crate) fn nothing_is_skipped(grants: &[Grant], acknowledged: &Acknowledged) {
    for (partition, records) in acknowledged.iter().enumerate() {
        let mut next = 0;
        for (_, read) in in_order(grants, partition as u32) {
            assert!(read.first <= next, "offsets {next} to {} of {partition}", read.first - 1);
            next = next.max(read.last + 1);
        }
        assert_eq!(next, records.len() as u64, "records at the end of {partition} were not read");
    }
}

/// How many records were read more than once.
pub(crate) fn read_again(grants: &[Grant], acknowledged: &Acknowledged) -> u64 {
    let read = |grant: &Grant| grant.reads.iter().map(|r| r.last + 1 - r.first).sum::<u64>();
    let written: u64 = acknowledged.iter().map(|records| records.len() as u64).sum();
    grants.iter().map(read).sum::<u64>() - written
}

/// GROUP: once another has handed out records of a partition, whoever had it before hands out no more.
pub(crate) fn one_reader_at_a_time(grants: &[Grant], partitions: u32) {
    for partition in 0..partitions {
        let mut order: Vec<usize> = Vec::new();
        for (grant, read) in in_order(grants, partition) {
            if order.last() == Some(&grant) {
                continue;
            }
            let member = grants[grant].member;
            assert!(
                !order.contains(&grant),
                "member {member} handed out {read:?} of {partition} after another had begun"
            );
            order.push(grant);
        }
    }
}

/// What was handed out of a partition, by the clock that all share.
fn in_order(grants: &[Grant], partition: u32) -> Vec<(usize, Read)> {
    let own = grants.iter().enumerate().filter(|(_, grant)| grant.partition == partition);
    let mut reads: Vec<_> =
        own.flat_map(|(index, grant)| grant.reads.iter().map(move |read| (index, *read))).collect();
    reads.sort_by_key(|(_, read)| read.at);
    reads
}

/// The longest time that a member which kept a partition handed out nothing of it while records came, and the longest for
/// which a record was there that it could have. One that loses a partition and gets it again, with nobody in between, kept it. `stopped`:
/// members that were stopped, whose last words count for nothing.
pub(crate) fn longest_gaps(
    grants: &[Grant],
    acknowledged: &Acknowledged,
    stopped: &[usize],
) -> (u64, u64) {
    let (mut longest, mut unread) = (0, 0);
    for grant in kept(grants) {
        let records = &acknowledged[grant.partition as usize];
        let (Some(&begin), Some(&end)) = (records.first(), records.last()) else { continue };
        let mut see = |from: u64, next: u64, until: u64| {
            longest = longest.max(until.min(end).saturating_sub(from.max(begin)));
            if let Some(&there) = records.get(next as usize) {
                unread = unread.max(until.saturating_sub(from.max(there)));
            }
        };
        if let Some(first) = grant.reads.first() {
            see(grant.from, first.first, first.at);
        }
        for pair in grant.reads.windows(2) {
            see(pair[0].at, pair[1].first, pair[1].at);
        }
        if let (Some(last), Some(until), false) =
            (grant.reads.last(), grant.until, stopped.contains(&grant.member))
        {
            see(last.at, last.last + 1, until);
        }
    }
    (longest, unread)
}

/// The grants, those of one member that follow one another as one.
fn kept(grants: &[Grant]) -> Vec<Grant> {
    let mut sorted = grants.to_vec();
    sorted.sort_by_key(|grant| (grant.partition, grant.from));
    let mut kept: Vec<Grant> = Vec::new();
    for grant in sorted {
        match kept.last_mut() {
            Some(last) if (last.partition, last.member) == (grant.partition, grant.member) => {
                last.reads.extend(grant.reads);
                last.until = grant.until;
            }
            _ => kept.push(grant),
        }
    }
    kept
}

/// How long it took after `at` until other members had handed out records of all these partitions.
pub(crate) fn taken_over(grants: &[Grant], (member, at): (usize, u64), partitions: &[u32]) -> u64 {
    let first = |partition: &u32| {
        let others = grants.iter().filter(|g| g.partition == *partition && g.member != member);
        let reads = others.flat_map(|grant| &grant.reads).map(|read| read.at);
        reads.filter(|read| *read > at).min().expect("somebody reads it")
    };
    partitions.iter().map(first).max().expect("it had partitions") - at
}

/// GROUP: nothing was handed out by a member that was stopped at `at` once its session timeout was over, until it was
/// told that it lost what it had; how long it took to notice after it went on.
pub(crate) fn silent_past_its_lease(lines: &[Line], at: u64, timeout: u64, resumed: u64) -> u64 {
    let lost = lines.iter().find(|line| line.at > resumed && matches!(line.what, What::Lost(_)));
    let lost = lost.expect("it notices").at;
    let late = lines.iter().find(|line| {
        matches!(line.what, What::Read(..)) && line.at > at + timeout && line.at < lost
    });
    assert!(late.is_none(), "handed out past its session timeout: {late:?}");
    lost - resumed
}

/// Is the judge awake?
mod tests {
    use super::*;

    fn lines(words: &[(u64, What)]) -> Vec<Line> {
        words.iter().map(|(at, what)| Line { at: *at, what: what.clone() }).collect()
    }

    fn fails(work: impl FnOnce() + std::panic::UnwindSafe) {
        assert!(std::panic::catch_unwind(work).is_err(), "the judge sleeps");
    }

    fn one(member: usize, reads: &[(u64, u64, u64)]) -> Grant {
        let reads = reads.iter().map(|&(at, first, last)| Read { at, first, last }).collect();
        Grant { member, partition: 0, reads, from: 0, until: None }
    }

    #[test]
    fn what_is_not_its_own_or_leaves_a_gap_is_no_reading() {
        let given = (1, What::Assigned(vec![0]));
        grants(0, &lines(&[given.clone(), (2, What::Read(0, 0, 4)), (3, What::Read(0, 5, 6))]));
        fails(|| drop(grants(0, &lines(&[(1, What::Read(0, 0, 4))]))));
        let skips = [given.clone(), (2, What::Read(0, 0, 4)), (3, What::Read(0, 6, 6))];
        fails(move || drop(grants(0, &lines(&skips))));
        let late = [given.clone(), (2, What::Lost(vec![0])), (3, What::Read(0, 0, 1))];
        fails(move || drop(grants(0, &lines(&late))));
        fails(move || drop(grants(0, &lines(&[given.clone(), given]))));
    }

    #[test]
    fn a_record_that_nobody_read_is_seen() {
        let written = vec![vec![0; 10]];
        nothing_is_skipped(&[one(0, &[(1, 0, 5)]), one(1, &[(2, 4, 9)])], &written);
        for reads in [[(1, 0, 5), (2, 7, 9)], [(1, 0, 5), (2, 6, 8)]] {
            let written = written.clone();
            fails(move || {
                nothing_is_skipped(&[one(0, &reads[..1]), one(1, &reads[1..])], &written)
            });
        }
    }

    #[test]
    fn two_readers_by_turns_are_seen() {
        one_reader_at_a_time(&[one(0, &[(1, 0, 5)]), one(1, &[(2, 4, 9), (3, 10, 11)])], 1);
        let turns = [one(0, &[(1, 0, 5), (3, 6, 7)]), one(1, &[(2, 4, 9)])];
        fails(move || one_reader_at_a_time(&turns, 1));
    }

    #[test]
    fn a_gap_is_measured_over_a_grant_that_went_and_came_again() {
        let written = vec![vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 700]];
        let again = Grant { from: 500, ..one(0, &[(900, 3, 4)]) };
        let before = Grant { until: Some(200), ..one(0, &[(50, 0, 1), (100, 2, 2)]) };
        assert_eq!(longest_gaps(&[before.clone(), again.clone()], &written, &[]), (600, 800));
        // With somebody else in between it is a move.
        let other = Grant { from: 250, ..one(1, &[(260, 3, 3)]) };
        assert_eq!(longest_gaps(&[before, other, again], &written, &[]), (200, 400));
        assert_eq!(longest_gaps(&[one(0, &[(70, 10, 10)])], &written, &[]), (70, 0));
    }

    #[test]
    fn a_word_past_the_session_timeout_is_seen() {
        let said = |at| lines(&[(at, What::Read(0, 0, 1)), (9_000, What::Lost(vec![0]))]);
        assert_eq!(silent_past_its_lease(&said(1_500), 1_000, 3_000, 8_000), 1_000);
        fails(move || {
            silent_past_its_lease(&said(8_500), 1_000, 3_000, 8_000);
        });
    }
}
