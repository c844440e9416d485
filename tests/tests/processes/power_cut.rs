//! All controllers die at once.
use std::collections::HashSet;
use std::io::Write as _;
use std::time::Duration;

use streamhouse_tests::{LocalCluster, sample_rows, sorted, until};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn nothing_acknowledged_is_gone_and_offsets_continue() {
    let mut cluster = LocalCluster::start(3, 2);
    cluster.run(&["topic", "create", "flights", "--partitions", "4"]).ok();
    let rows = sample_rows();
    let input = rows.join(&b'\n');
    let produce = ["produce", "flights", "--key-field", "10"];
    cluster.run_with_input(&produce, &input).ok();
    let before = offsets(&cluster);

    cluster.kill_all_controllers();
    for n in 1..=3 {
        cluster.start_controller(n);
    }
    cluster.wait_until_whole();
    assert_eq!(offsets(&cluster), before);
    let read = || sorted(cluster.run(&["consume", "flights", "--to-end"]).ok().lines());
    assert_eq!(read(), sorted(rows.clone()));

    cluster.run_with_input(&produce, &input).ok();
    let after = offsets(&cluster);
    assert!(after.iter().zip(&before).all(|(after, before)| *after == before * 2), "{after:?}");
    assert_eq!(read(), sorted([rows.clone(), rows].concat()));
}

#[test]
fn a_produce_that_was_under_way_ends_well() {
    let mut cluster = LocalCluster::start(3, 2);
    cluster.run(&["topic", "create", "flights", "--partitions", "4"]).ok();
    let rows = sample_rows();
    let mut producer =
        cluster.spawn_command(&["produce", "flights", "--key-field", "10", "--output", "json"]);
    let mut stdin = producer.child.stdin.take().expect("stdin is piped");
    let (first, second) = rows.split_at(rows.len() / 2);
    for part in [first, second] {
        let mut lines = part.join(&b'\n');
        lines.push(b'\n');
        stdin.write_all(&lines).unwrap();
        if part.len() == first.len() {
            until("some records are acknowledged", PATIENCE, || {
                (cluster.records("flights") > 0).then_some(())
            });
            cluster.kill_all_controllers();
        }
    }
    drop(stdin);
    for n in 1..=3 {
        cluster.start_controller(n);
    }
    let produced = producer.finish().ok().json();
    assert_eq!(produced["acknowledged"], rows.len());
    let consumed = cluster.run(&["consume", "flights", "--to-end"]).ok().lines();
    let extra = consumed.len() as u64 - rows.len() as u64;
    assert!(extra <= produced["ambiguous_records"].as_u64().unwrap(), "{extra} rows too many");
    let all: HashSet<Vec<u8>> = consumed.into_iter().collect();
    assert_eq!(all, rows.into_iter().collect());
}

fn offsets(cluster: &LocalCluster) -> Vec<u64> {
    let partitions = cluster.partitions("flights");
    partitions.iter().map(|p| p["high_watermark"].as_u64().expect("an offset")).collect()
}
