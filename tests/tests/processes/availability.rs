//! What goes on while controllers come, go and hang: everybody waits a little and loses nothing.
//!
//! With `STREAMHOUSE_KILLS_SECONDS` the machine is there for these tests alone, and waits are held against their goal.
mod hung_leader;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use streamhouse_tests::{LocalCluster, until};
use tokio::runtime::Runtime;

use crate::promised::{Sent, assert_exactly_once};
use crate::{load, raw};

const PATIENCE: Duration = Duration::from_secs(60);
/// The longest that anybody may have to wait while controllers are started again one by one.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_ALONE: Duration = Duration::from_millis(1_500);
/// How often all of them are.
const ROUNDS_ALONE: usize = 5;

fn addresses(cluster: &LocalCluster) -> Vec<String> {
    cluster.controllers().split(',').map(str::to_owned).collect()
}

fn status_of(cluster: &LocalCluster, n: usize) -> Option<Value> {
    let status = cluster.try_status()?;
    status["controllers"].as_array()?.iter().find(|c| c["id"] == n).cloned()
}

/// Waits until controller `n` follows or leads.
fn serves_again(cluster: &LocalCluster, n: usize) {
    until("it follows again", PATIENCE, || {
        status_of(cluster, n).filter(|c| c["role"] == "follower" || c["role"] == "leader")
    });
}

#[test]
fn a_rolling_restart_fails_nothing() {
    const REQUESTER: u8 = 5;
    let mut cluster = LocalCluster::start(3, 2);
    cluster.run(&["topic", "create", "t", "--partitions", "4"]).ok();
    let partition = raw::partition(&cluster, "t");
    let offsets = load::offsets(addresses(&cluster), REQUESTER, partition.clone());
    let records = load::records(&cluster, "rolling");
    let reader = load::consumer(&cluster);
    let topics = load::topics(&cluster);
    // All of them are under way before the first controller goes.
    offsets.flows();
    records.flows();
    reader.flows();
    topics.flows();
    let alone = std::env::var("STREAMHOUSE_KILLS_SECONDS").is_ok();
    let rounds = if alone { ROUNDS_ALONE } else { 1 };
    for n in (0..rounds).flat_map(|_| 1..=3) {
        cluster.stop_controller(n);
        cluster.start_controller(n);
        // The next one only when this one follows again, as an operator would.
        serves_again(&cluster, n);
    }
    offsets.flows();
    topics.flows();

    println!("rolling restart of all controllers, {rounds} times:");
    let (sent, of_records) = records.acknowledged();
    reader.reaches(sent.len() as u64);
    let (read, of_reads) = reader.stop();
    let (last, of_offsets) = offsets.stop();
    let (created, of_topics) = topics.stop();
    assert_exactly_once(&cluster, &[&sent]);
    let mut written: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for Sent { partition, value, .. } in sent {
        written.entry(partition).or_default().push(value);
    }
    assert!(read == written, "each record is read once, and in order");
    let listed = cluster.run(&["topic", "list", "--output", "json"]).ok().json();
    let listed: Vec<&str> =
        listed.as_array().unwrap().iter().filter_map(|topic| topic["name"].as_str()).collect();
    assert_eq!(listed.len(), created.len() + 1, "no topic but those");
    assert!(created.iter().all(|name| listed.contains(&name.as_str())));
    let runtime = Runtime::new().unwrap();
    let address = cluster.controller_address(cluster.leader()).to_string();
    // The leader may just have changed again.
    let (committed, _) = until("the offset is read", PATIENCE, || {
        runtime.block_on(async {
            load::committed(&mut load::client(&address), REQUESTER, &partition).await
        })
    });
    assert_eq!(committed, last);

    let bound = if alone { PAUSE_ALONE } else { PAUSE };
    for (what, longest) in [
        ("an offset commit", of_offsets),
        ("a record's acknowledgement", of_records),
        ("the consumer", of_reads),
        ("a topic's creation", of_topics),
    ] {
        assert!(longest < bound, "{what} waited for {longest:?}, more than {bound:?}");
    }
}
