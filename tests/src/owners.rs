//! Who read which partition of a group, by the controllers' own history.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::LocalCluster;

/// GROUP: a partition goes from whom it was with, who gave it up or was a member no more, in every controller's words.
/// How often one was granted.
///
/// # Panics
///
/// If one was granted to somebody while it was another's, or if none ever moved.
pub fn no_partition_had_two_owners(cluster: &LocalCluster) -> usize {
    let logs: Vec<_> =
        (1..=cluster.controller_count()).map(|n| cluster.controller_log(n)).collect();
    judge(logs.iter().map(String::as_str)).unwrap_or_else(|wrong| panic!("GROUP: {wrong}"))
}

/// A partition of a group.
type At = (String, String);

/// What the controllers told of groups. Whoever led at the time told of it: the lines of all are one history, in which
/// some may stand twice; the first index counts. A line's index is that of the last entry which was applied with its own.
#[derive(Default)]
struct History {
    /// By partition, group epoch, old and new owner, which name one move: the index, and why.
    moves: BTreeMap<(At, u64, String, String), (u64, String)>,
    /// Members that went, and the index.
    left: BTreeMap<String, u64>,
    /// Groups that were removed, and the index.
    removed: BTreeSet<(String, u64)>,
}

impl History {
    fn read<'a>(logs: impl Iterator<Item = &'a str>) -> Self {
        let mut history = Self::default();
        for line in logs.flat_map(str::lines) {
            let number = |name| field(line, name).parse::<u64>().expect("a number");
            let at = || (field(line, "group"), field(line, "partition"));
            if line.contains(" partition moved ") {
                let name = (at(), number("epoch"), field(line, "from"), field(line, "to"));
                let told = (number("index"), field(line, "reason"));
                history
                    .moves
                    .entry(name)
                    .and_modify(|first| first.0 = first.0.min(told.0))
                    .or_insert(told);
            } else if line.contains(" member left ") {
                let first = history.left.entry(field(line, "member")).or_insert(u64::MAX);
                *first = number("index").min(*first);
            } else if line.contains(" group removed ") {
                history.removed.insert((field(line, "group"), number("index")));
            }
        }
        history
    }

    /// Whether nobody who had something of the group by `since` has it at `index`.
    fn was_removed(&self, group: &str, since: u64, index: u64) -> bool {
        self.removed.iter().any(|(name, at)| name == group && (since..=index).contains(at))
    }

    fn has_left(&self, member: &str, index: u64) -> bool {
        self.left.get(member).is_some_and(|at| *at <= index)
    }
}

/// How often a partition was granted, or the first grant that should not have been.
fn judge<'a>(logs: impl Iterator<Item = &'a str>) -> Result<usize, String> {
    let history = History::read(logs);
    if history.moves.is_empty() {
        return Err("the controllers tell of no move".to_owned());
    }
    let mut moves: Vec<_> = history.moves.iter().collect();
    // Within one batch a partition is given up before it is granted.
    moves.sort_by_key(|((_, epoch, from, _), (index, _))| (*index, *epoch, from.is_empty()));
    let mut owners = BTreeMap::<&At, (&str, u64)>::new();
    let mut grants = 0;
    for ((at, _, from, to), (index, reason)) in moves {
        let (owner, since) = owners.insert(at, (to, *index)).unwrap_or_default();
        let (group, partition) = at;
        let wrong = |what: &str| {
            let (owner, from, to) = (name(owner), name(from), name(to));
            Err(format!(
                "{partition} of group {group}, which {owner} owned, went from {from} to {to} at index {index} because \
                 {reason}: {what}"
            ))
        };
        let removed = from.is_empty() && history.was_removed(group, since, *index);
        if owner != from && !removed {
            return wrong("it was granted while another owned it");
        }
        let just = match reason.as_str() {
            "nobody owned it" => from.is_empty(),
            "its owner gave it up" => !from.is_empty(),
            "its owner is a member no more" | "its owner's instance has joined again" => {
                history.has_left(from, *index)
            }
            // Nobody reads what is not there.
            "its topic is gone" => to.is_empty(),
            _ => return wrong("there is no such reason"),
        };
        if !just {
            return wrong("that is not so");
        }
        grants += usize::from(!to.is_empty());
    }
    Ok(grants)
}

fn name(member: &str) -> &str {
    if member.is_empty() { "nobody" } else { member }
}

/// A field of a log line; text stands in quotes.
fn field(line: &str, name: &str) -> String {
    let rest = line.split_once(&format!(" {name}=")).map(|(_, rest)| rest).unwrap_or_default();
    let value = match rest.strip_prefix('"') {
        Some(text) => text.split('"').next(),
        None => rest.split(' ').next(),
    };
    value.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = "nobody owned it";
    const RELEASED: &str = "its owner gave it up";
    const GONE: &str = "its owner is a member no more";
    const REPLACED: &str = "its owner's instance has joined again";

    fn moved(index: u64, epoch: u64, (from, to): (&str, &str), reason: &str) -> String {
        format!(
            "2026-11-21T18:00:00.000000Z  INFO streamhouse_controller::journal: partition moved index={index} \
             group=\"g\" epoch={epoch} partition=\"t/0\" from=\"{from}\" to=\"{to}\" reason=\"{reason}\"\n"
        )
    }

    fn left(index: u64, member: &str) -> String {
        format!(
            "2026-11-21T18:00:00.000000Z  INFO streamhouse_controller::journal: member left index={index} \
             group=\"g\" member=\"{member}\" reason=\"it left\"\n"
        )
    }

    fn wrong(lines: &[String]) -> String {
        judge([lines.concat().as_str()].into_iter()).unwrap_err()
    }

    #[test]
    fn what_was_given_up_or_left_behind_may_be_granted() {
        let first = [
            moved(10, 1, ("", "a"), NEW),
            moved(20, 3, ("a", "b"), RELEASED),
            left(30, "b"),
            moved(31, 5, ("b", "c"), GONE),
        ];
        // The last one was told by the next leader, too, and in one batch with another.
        let second = [
            moved(32, 5, ("b", "c"), GONE),
            moved(40, 7, ("c", "d"), REPLACED),
            left(40, "c"),
            moved(50, 8, ("d", ""), RELEASED),
            moved(50, 9, ("", "e"), NEW),
        ];
        let logs = [second.concat(), first.concat()];
        assert_eq!(judge(logs.iter().map(String::as_str)), Ok(5));
    }

    #[test]
    fn a_group_that_was_removed_begins_anew() {
        let removed =
            "INFO streamhouse_controller::journal: group removed index=20 group=\"g\"\n".to_owned();
        let lines = [moved(10, 9, ("", "a"), NEW), removed, moved(30, 1, ("", "b"), NEW)];
        assert_eq!(judge([lines.concat().as_str()].into_iter()), Ok(2));
        let without = [lines[0].clone(), lines[2].clone()];
        assert!(wrong(&without).contains("while another owned it"), "{}", wrong(&without));
    }

    #[test]
    fn a_grant_over_an_owner_is_found() {
        let grant = moved(10, 1, ("", "a"), NEW);
        // To somebody else than the owner's successor.
        let unseen = wrong(&[grant.clone(), moved(20, 3, ("", "b"), NEW)]);
        assert!(unseen.contains("which a owned, went from nobody to b"), "{unseen}");
        // The chain holds, but nobody gave anything up.
        for reason in [NEW, GONE, REPLACED, "its topic is gone"] {
            let taken = wrong(&[grant.clone(), moved(20, 3, ("a", "b"), reason)]);
            assert!(taken.ends_with("that is not so"), "{taken}");
        }
        // It went, but later.
        let early = wrong(&[grant.clone(), moved(20, 3, ("a", "b"), GONE), left(21, "a")]);
        assert!(early.ends_with("that is not so"), "{early}");
        let odd = wrong(&[grant, moved(20, 3, ("a", "b"), "")]);
        assert!(odd.ends_with("there is no such reason"), "{odd}");
        assert!(wrong(&[]).contains("no move"));
    }
}
