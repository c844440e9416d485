//! What is told of a group's progress: to operators by `group describe`, to Prometheus by the controllers.
use std::collections::BTreeMap;
use std::time::Duration;

use crate::observed::metrics;
use serde_json::Value;
use streamhouse_client::{Consumer, OffsetReset, TopicPartition};
use streamhouse_tests::{LocalCluster, until};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(60);
const LAG: &str = "group_lag_records{";

/// Ten records into every partition of topic `t`.
fn produce(cluster: &LocalCluster, partitions: u32) {
    cluster.run(&["topic", "create", "t", "--partitions", &partitions.to_string()]).ok();
    for partition in 0..partitions {
        let lines: String = (0..10).map(|n| format!("{n}\n")).collect();
        let partition = partition.to_string();
        cluster.run_with_input(&["produce", "t", "--partition", &partition], lines.as_bytes()).ok();
    }
}

/// What the controller that leads tells of groups' lags, and of how many groups there are.
fn lags(cluster: &LocalCluster) -> (BTreeMap<String, f64>, f64) {
    let mut found = metrics(cluster, cluster.leader());
    let groups = found["groups"];
    found.retain(|name, _| name.starts_with(LAG));
    (found, groups)
}

#[test]
fn lag_of_groups_is_told_by_the_leader() {
    let mut cluster = LocalCluster::start(3, 1);
    produce(&cluster, 2);
    assert_eq!(lags(&cluster), (BTreeMap::new(), 0.0));
    for (partition, offset) in [("0", "3"), ("1", "10")] {
        let args =
            ["group", "reset", "g", "--topic", "t", "--partition", partition, "--to", offset];
        cluster.run(&args).ok();
    }
    let series =
        |partition: u32| format!("{LAG}group=\"g\",topic=\"t\",partition=\"{partition}\"}}");
    let expected = (BTreeMap::from([(series(0), 7.0), (series(1), 0.0)]), 1.0);
    assert_eq!(lags(&cluster), expected);
    // More records are more lag; the next leader tells the same.
    cluster.run_with_input(&["produce", "t", "--partition", "1"], b"one\ntwo\n").ok();
    let expected = (BTreeMap::from([(series(0), 7.0), (series(1), 2.0)]), 1.0);
    assert_eq!(lags(&cluster), expected);
    let leader = cluster.leader();
    cluster.kill_controller(leader);
    until("another one leads", PATIENCE, || {
        let status = cluster.try_status()?;
        status["leader"].as_u64().filter(|id| *id != leader as u64)
    });
    assert_eq!(lags(&cluster), expected);
    // What is gone is not told of any more.
    cluster.run(&["group", "delete", "g"]).ok();
    assert_eq!(lags(&cluster), (BTreeMap::new(), 0.0));
}

/// The rows of `group describe`, by partition.
fn rows(described: &Value) -> BTreeMap<u64, Value> {
    let rows = described["partitions"].as_array().unwrap().iter();
    rows.map(|row| (row["partition"].as_u64().unwrap(), row.clone())).collect()
}

#[test]
fn describe_tells_owner_offsets_and_lag_of_each_partition() {
    const PARTITIONS: u32 = 4;
    let cluster = LocalCluster::start(1, 1);
    produce(&cluster, PARTITIONS);
    let described = || cluster.run(&["group", "describe", "g", "--output", "json"]).ok().json();
    Runtime::new().unwrap().block_on(async {
        let controllers = cluster.controllers();
        let join = async |client: &str| {
            let building = Consumer::builder().controllers(controllers.split(','));
            let building = building.group_id("g").client_id(client).topics(["t"]);
            let building = building.auto_commit(false).offset_reset(OffsetReset::Earliest);
            building.build().await.unwrap()
        };
        let (mut alice, mut bob) = (join("alice").await, join("bob").await);
        while bob.assignment().len() < 2 {
            // Whoever has them gives them up in a poll.
            for member in [&mut alice, &mut bob] {
                member.poll(Duration::from_millis(50)).await.unwrap();
            }
        }
        let mut owners = BTreeMap::new();
        for (name, member) in [("alice", &mut alice), ("bob", &mut bob)] {
            let own: Vec<TopicPartition> = member.assignment();
            assert_eq!(own.len(), 2);
            owners.extend(own.iter().map(|at| (u64::from(at.partition), name)));
            // Of the first one as many as its number says, of the other one nothing.
            let first = own[0].clone();
            let offset = u64::from(first.partition) + 1;
            member.commit_offsets([(first, offset)]).await.unwrap();
        }
        let told = described();
        assert_eq!((&told["state"], &told["group"]), (&"stable".into(), &"g".into()));
        let members = told["members"].as_array().unwrap();
        let mut committed = Vec::new();
        for (partition, row) in rows(&told) {
            let client = owners[&partition];
            let owner = members.iter().find(|member| member["id"] == row["owner"]).unwrap();
            assert_eq!(owner["client"], client, "{row}");
            let named = owner["partitions"].as_array().unwrap();
            assert!(named.contains(&format!("t/{partition}").into()), "{owner}");
            assert_eq!((&row["topic"], &row["end"]), (&"t".into(), &10.into()));
            assert_eq!(row["moving_to"], Value::Null);
            match row["committed"].as_u64() {
                None => assert_eq!(row["lag"], Value::Null, "{row}"),
                Some(offset) => {
                    assert_eq!((offset, &row["lag"]), (partition + 1, &(10 - offset).into()));
                    committed.push(offset);
                }
            }
        }
        assert_eq!((members.len(), owners.len(), committed.len()), (2, 4, 2));
        assert_eq!(told["lag"], 20 - committed.iter().sum::<u64>());
        // The same in a table, and what is without an offset.
        let table = cluster.run(&["group", "describe", "g"]).ok().stdout;
        let table = String::from_utf8(table).unwrap();
        assert!(table.contains("group g · stable") && table.contains("without an offset: 2 of 4"));
        assert!(table.contains("alice") && table.contains("bob"), "{table}");

        alice.close().await.unwrap();
        bob.close().await.unwrap();
    });
    // What nobody reads any more is listed where it has an offset.
    let told = until("nobody owns anything", PATIENCE, || {
        let told = described();
        rows(&told).values().all(|row| row["owner"].is_null()).then_some(told)
    });
    assert_eq!((&told["state"], &told["members"]), (&"empty".into(), &Value::Array(Vec::new())));
    assert_eq!(rows(&told).len(), 2, "{told}");
}
