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
    use crate::codec;
    use crate::state::command::{Command, CommandBody, GenerationKey, PartitionKey};
    use crate::state::kv::{MemoryKv, Transaction};
    use crate::state::{apply, work};

    /// A cluster with one topic, `t`.
    #[derive(Default)]
    struct State {
        kv: MemoryKv,
        index: u64,
    }

    impl State {
        fn new(partitions: u32) -> Self {
            let mut state = Self::default();
            let generation = GenerationKey { counter: 1, random: 7 };
            state.run(CommandBody::InitCluster { cluster: [9; 16], generation });
            let (topic, name, config) = ([1; 16], "t".into(), Vec::new());
            state.run(CommandBody::CreateTopic { topic, name, partitions, config });
            while work::is_due(&state.kv, 1).unwrap() {
                state.run(CommandBody::Continue);
            }
            state
        }

        fn run(&mut self, body: CommandBody) {
            self.index += 1;
            let command = Command { time_ms: 1, request: None, body };
            let mut tx = Transaction::new(&self.kv);
            apply(&mut tx, self.index, &command).unwrap();
            let writes = tx.into_writes();
            self.kv.commit(writes);
        }

        /// The group commits that offset of its first so many partitions.
        fn commit(&mut self, group: &str, partitions: u32, offset: u64) {
            let offsets = (0..partitions).map(|n| (at(n), offset, String::new())).collect();
            self.run(CommandBody::CommitOffsets { group: group.into(), offsets });
        }

        /// What the partition keeps, written into its record: the only one that ends with its key.
        fn keep(&mut self, number: u32, log_start: u64, next_offset: u64) {
            let (key, end) = (at(number), [&[1; 16], &number.to_be_bytes()[..]].concat());
            let found = partitions::partition(&self.kv, &key).unwrap().unwrap();
            let record = codec::encode(&found);
            let mut pairs = self.kv.pairs.iter_mut();
            let (_, value) =
                pairs.find(|(key, value)| key.ends_with(&end) && **value == record).unwrap();
            *value = codec::encode(&partitions::Partition { log_start, next_offset, ..found });
        }

        fn lags(&self) -> Vec<u64> {
            read(&self.kv).unwrap().partitions.iter().map(|lag| lag.records).collect()
        }
    }

    fn at(partition: u32) -> PartitionKey {
        PartitionKey { topic: [1; 16], partition }
    }

    #[test]
    fn a_name_cannot_break_out_of_its_label() {
        assert_eq!(escaped(r#"a"b\c"#), r#"a\"b\\c"#);
    }

    #[test]
    fn a_state_without_groups_is_told_as_such() {
        let text = render(&MemoryKv::default()).unwrap();
        assert!(text.contains("streamhouse_controller_groups 0\n"), "{text}");
    }

    #[test]
    fn what_the_log_does_not_keep_any_more_is_no_lag() {
        let mut state = State::new(4);
        state.commit("g", 4, 10);
        // Up to its end; in its midst; of nothing any more; and further than there is.
        state.keep(0, 0, 10);
        state.keep(1, 3, 17);
        state.keep(2, 40, 45);
        state.keep(3, 0, 4);
        assert_eq!(state.lags(), [0, 7, 5, 0]);
        let text = render(&state.kv).unwrap();
        let line =
            "streamhouse_controller_group_lag_records{group=\"g\",topic=\"t\",partition=\"2\"} 5\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn groups_beyond_the_limit_are_counted_and_not_told() {
        let mut state = State::new(1_200);
        state.commit("a", 1_200, 0);
        state.commit("b", 800, 0);
        assert_eq!(state.lags().len(), MAX_SERIES);
        assert_eq!(read(&state.kv).unwrap().left_out, 0);
        // With one more partition the second one does not fit, and what comes behind it is not told either.
        state.commit("b", 801, 0);
        state.commit("c", 1, 0);
        assert_eq!(state.lags().len(), 1_200);
        let text = render(&state.kv).unwrap();
        for line in ["groups 3", "groups_without_lag 2"] {
            assert!(text.contains(&format!("\nstreamhouse_controller_{line}\n")), "{line}");
        }
        assert!(!text.contains("group=\"b\"") && !text.contains("group=\"c\""));
    }
}
