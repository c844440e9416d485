//! What comes again after a member of a group died: exactly what it had not committed.
use std::collections::BTreeMap;
use std::time::Duration;

use crate::member_process::{MemberProcess, Runs, runs};
use streamhouse_client::{Producer, Record};
use streamhouse_tests::{LocalCluster, until};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(60);
const PARTITIONS: u32 = 2;
/// So much that nobody reads it to the end between two looks.
const EACH: u64 = 20_000;
const BATCH: u64 = 200;
/// Read of every partition before the commit, and after it.
const AT_LEAST: u64 = 200;
const SESSION_TIMEOUT: Duration = Duration::from_secs(2);

/// In many batches, so that no partition is read to its end before the other one's turn.
async fn produce(cluster: &LocalCluster) {
    let controllers = cluster.controllers();
    let building = Producer::builder().controllers(controllers.split(','));
    let producer = building.build().await.unwrap();
    for first in (0..EACH).step_by(BATCH as usize) {
        let mut deliveries = Vec::new();
        for (partition, offset) in
            (0..PARTITIONS).flat_map(|p| (first..first + BATCH).map(move |o| (p, o)))
        {
            let record = Record::to("t").partition(partition).value(offset.to_string());
            deliveries.push(producer.send(record).await.unwrap());
        }
        for delivery in deliveries {
            delivery.await.unwrap();
        }
    }
    producer.close().await.unwrap();
}

/// The group's offsets, as an operator sees them.
fn committed(cluster: &LocalCluster) -> BTreeMap<u32, u64> {
    let group = cluster.run(&["group", "describe", "g", "--output", "json"]).ok().json();
    let partitions = group["partitions"].as_array().unwrap().clone();
    let offset = |row: &serde_json::Value| {
        Some((row["partition"].as_u64()? as u32, row["committed"].as_u64()?))
    };
    partitions.iter().filter_map(offset).collect()
}

/// How many records there are of the partition of which there are the fewest.
fn least(runs: &Runs) -> u64 {
    let counts = runs.values().map(|(first, last)| last + 1 - first);
    if runs.len() < PARTITIONS as usize { 0 } else { counts.min().unwrap_or_default() }
}

#[test]
fn a_killed_member_s_uncommitted_records_come_again() {
    let cluster = LocalCluster::start(3, 1);
    cluster.run(&["topic", "create", "t", "--partitions", &PARTITIONS.to_string()]).ok();
    Runtime::new().unwrap().block_on(produce(&cluster));
    // Slow enough to be caught in the midst of it, with much in its hands that it was not asked for yet.
    let slowly = ["--manual-commit", "--max-poll", "20", "--every", "5"];
    let mut dead = MemberProcess::start(&cluster, "dead", SESSION_TIMEOUT, &slowly);
    until("it has read a part", PATIENCE, || {
        (least(&runs(&dead.said())) >= AT_LEAST).then_some(())
    });
    dead.tell("commit");
    let taken = runs(&dead.until_said("commit taken"));
    until("it has read on", PATIENCE, || {
        let read = runs(&dead.said());
        let further = taken.iter().map(|(partition, run)| read[partition].1 - run.1);
        (further.min() >= Some(AT_LEAST)).then_some(())
    });
    dead.kill();
    let read = runs(&dead.said());
    assert!(
        read.values().all(|(_, last)| *last < EACH - 1),
        "it had not read everything: {read:?}"
    );

    let committed = committed(&cluster);
    let expected: BTreeMap<_, _> = taken.iter().map(|(p, (_, last))| (*p, last + 1)).collect();
    assert_eq!(
        committed, expected,
        "what was read before the commit, and nothing of what came later"
    );

    let next = MemberProcess::start(&cluster, "next", SESSION_TIMEOUT, &["--manual-commit"]);
    let again = until("another one reads to the end", PATIENCE, || {
        let again = runs(&next.said());
        (again.len() == PARTITIONS as usize && again.values().all(|(_, last)| *last == EACH - 1))
            .then_some(again)
    });
    for partition in 0..PARTITIONS {
        let ((_, last), (first, _)) = (read[&partition], again[&partition]);
        assert_eq!(first, committed[&partition], "of {partition}");
        println!(
            "partition {partition}: committed {first}, read to {last} when it died: {} records came again",
            last + 1 - first
        );
    }
}
