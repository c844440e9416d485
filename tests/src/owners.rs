//! Who read which partition of a group, by the controllers' own history.

use std::collections::BTreeMap;

use crate::cluster::LocalCluster;

/// GROUP: a partition goes from whom it was with, in every controller's words. How often one moved.
///
/// # Panics
///
/// If one was granted to somebody while it was another's, or if none ever moved.
pub fn no_partition_had_two_owners(cluster: &LocalCluster) -> usize {
    // Whoever led at the time told of it; by the log's index the moves of all leaders are one history.
    let mut moves = BTreeMap::new();
    for n in 1..=cluster.controller_count() {
        let log = cluster.controller_log(n);
        for line in log.lines().filter(|line| line.contains("partition moved")) {
            let index: u64 = field(line, "index").parse().expect("an index");
            moves.insert(
                (index, field(line, "partition")),
                (field(line, "from"), field(line, "to")),
            );
        }
    }
    assert!(!moves.is_empty(), "the controllers tell of no move");
    let count = moves.len();
    let mut owners = BTreeMap::<String, String>::new();
    for ((index, partition), (from, to)) in moves {
        let owner = owners.insert(partition.clone(), to).unwrap_or_default();
        assert_eq!(owner, from, "{partition} was granted while another owned it, at index {index}");
    }
    count
}

fn field(line: &str, name: &str) -> String {
    let rest = line.split_once(&format!("{name}=")).map(|(_, rest)| rest).unwrap_or_default();
    rest.split(' ').next().unwrap_or_default().trim_matches('"').to_owned()
}
