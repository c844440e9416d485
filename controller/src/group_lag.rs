//! How far consumer groups are behind, for Prometheus.
//!
//! BOUND: at most [`MAX_SERIES`] partitions are told of one by one, in the
//! order of their groups' names; how many there are in all, and how many are
//! left out, is told as well.

use crate::state::groups;
use crate::state::kv::{KvError, KvRead};
use crate::state::{offsets, partitions, topics};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;

/// Partitions of groups that are told of one by one.
const MAX_SERIES: usize = 2_000;
const LAG: &str = "streamhouse_controller_group_lag_records";
const GROUPS: &str = "streamhouse_controller_groups";
const MEMBERS: &str = "streamhouse_controller_group_members";
const LEFT_OUT: &str = "streamhouse_controller_groups_without_lag";
/// Groups read at once.
const PAGE: usize = 100;

/// One partition of one group.
#[derive(Debug, PartialEq, Eq)]
struct Lag {
    group: String,
    topic: String,
    partition: u32,
    /// Records that the group has not committed; what the log does not keep
    /// any more is not counted.
    records: u64,
}

/// All that are told of.
#[derive(Debug, Default)]
struct Lags {
    partitions: Vec<Lag>,
    groups: u64,
    /// Groups of which nothing is told, as they are too many.
    left_out: u64,
    /// Members of the groups that are told of.
    members: u64,
}

/// The lags in Prometheus' text format. Written here and not kept in the
/// recorder, from which a group that was removed would never go.
pub(crate) fn render(kv: &dyn KvRead) -> Result<String, KvError> {
    let lags = read(kv)?;
    let mut text = String::new();
    for (name, help, value) in [
        (GROUPS, "Consumer groups, in its applied state.", lags.groups),
        (MEMBERS, "Members of the consumer groups whose lag is told.", lags.members),
        (LEFT_OUT, "Consumer groups whose lag is not told, as there are too many.", lags.left_out),
    ] {
        // Writing to a string cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    }
    let help = "Records of a partition that a consumer group has not committed.";
    let _ = write!(text, "# HELP {LAG} {help}\n# TYPE {LAG} gauge\n");
    for Lag { group, topic, partition, records } in lags.partitions {
        let (group, topic) = (escaped(&group), escaped(&topic));
        let labels = format!("group=\"{group}\",topic=\"{topic}\",partition=\"{partition}\"");
        let _ = writeln!(text, "{LAG}{{{labels}}} {records}");
    }
    Ok(text)
}

/// A label's value; names hold no control characters.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Reads up to [`MAX_SERIES`] partitions, group by group.
fn read(kv: &dyn KvRead) -> Result<Lags, KvError> {
    let mut lags = Lags { groups: offsets::group_count(kv)?, ..Lags::default() };
    let (mut names, mut from, mut seen) = (BTreeMap::new(), String::new(), 0);
    'all: loop {
        let page = groups::names(kv, &from, PAGE)?;
        let Some(last) = page.last() else { break };
        from = format!("{last}\0");
        for group in page {
            let room = MAX_SERIES - lags.partitions.len();
            let committed = offsets::all_committed(kv, &group, room + 1)?;
            if committed.len() > room {
                break 'all;
            }
            seen += 1;
            lags.members += groups::membership(kv, &group)?.map_or(0, |all| all.members.into());
            for (key, offset) in committed {
                let Some(partition) = partitions::partition(kv, &key)? else { continue };
                if let Entry::Vacant(entry) = names.entry(key.topic) {
                    entry.insert(topics::topic(kv, &key.topic)?.map(|topic| topic.name));
                }
                let Some(Some(topic)) = names.get(&key.topic) else { continue };
                let from = offset.offset.max(partition.log_start);
                lags.partitions.push(Lag {
                    group: group.clone(),
                    topic: topic.clone(),
                    partition: key.partition,
                    records: partition.next_offset.saturating_sub(from),
                });
            }
        }
    }
    lags.left_out = lags.groups.saturating_sub(seen);
    Ok(lags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_break_out_of_its_label() {
        assert_eq!(escaped(r#"a"b\c"#), r#"a\"b\\c"#);
    }

    #[test]
    fn a_state_without_groups_is_told_as_such() {
        let text = render(&crate::state::kv::MemoryKv::default()).unwrap();
        assert!(text.contains("streamhouse_controller_groups 0\n"), "{text}");
    }
}
