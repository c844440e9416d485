//! The real sample, in and out through the command line.
use std::collections::BTreeMap;

use streamhouse_tests::{LocalCluster, run_with, sample_file, sample_rows, sorted};

/// Field 10 of a row, counting from 1: the carrier.
fn carrier(row: &[u8]) -> Vec<u8> {
    row.split(|byte| *byte == b',').nth(9).expect("every row has a carrier").to_vec()
}

fn by_carrier(rows: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut by_carrier: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        by_carrier.entry(carrier(row)).or_default().push(row.clone());
    }
    by_carrier
}

#[test]
fn the_sample_comes_back_byte_for_byte_and_in_key_order() {
    let cluster = LocalCluster::start(3, 2);
    cluster.run(&["topic", "create", "flights", "--partitions", "4"]).ok();
    let file = sample_file();
    let produced = cluster
        .run(&[
            "produce",
            "flights",
            "--file",
            file.to_str().unwrap(),
            "--skip-header",
            "--key-field",
            "10",
            "--output",
            "json",
        ])
        .ok()
        .json();
    let rows = sample_rows();
    assert_eq!(produced["records"], rows.len());
    assert_eq!(produced["acknowledged"], rows.len());
    assert_eq!(produced["failed"], 0);
    let bytes: usize = rows.iter().map(Vec::len).sum();
    assert_eq!(produced["bytes"], bytes);

    let values = cluster.run(&["consume", "flights", "--to-end"]).ok().lines();
    // Records of one key are in one partition, in the order in which they were produced.
    assert_eq!(by_carrier(&values), by_carrier(&rows));
    assert_eq!(sorted(values), sorted(rows));
}

#[test]
fn json_tells_where_each_record_is() {
    let cluster = LocalCluster::start(1, 1);
    cluster.run(&["topic", "create", "t", "--partitions", "2"]).ok();
    let input = b"k1,first\r\n\"k,2\",sec\xffond\nk1,\n";
    cluster.run_with_input(&["produce", "t", "--key-field", "1", "--partition", "1"], input).ok();
    let consumed = cluster.run(&["consume", "t", "--to-end", "--format", "json"]).ok();
    let records: Vec<serde_json::Value> =
        consumed.lines().iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!(records.len(), 3);
    for (offset, record) in records.iter().enumerate() {
        assert_eq!(record["topic"], "t");
        assert_eq!(record["partition"], 1);
        assert_eq!(record["offset"], offset);
        assert!(record["timestamp"].as_i64().unwrap() > 1_600_000_000_000);
        assert_eq!(record["headers"], serde_json::json!([]));
    }
    // The line as it was, but for its newline; the key as CSV reads it; bytes that are no text as base64.
    assert_eq!((&records[0]["key"], &records[0]["value"]), (&"k1".into(), &"k1,first\r".into()));
    assert_eq!(records[1]["key"], "k,2");
    assert_eq!(records[1]["value"]["base64"], "ImssMiIsc2Vj/29uZA==");
    assert_eq!(records[2]["value"], "k1,");
}

#[test]
fn a_group_goes_on_after_what_it_printed() {
    let cluster = LocalCluster::start(1, 1);
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let rows = sample_rows();
    let input = rows.join(&b'\n');
    cluster.run_with_input(&["produce", "t"], &input).ok();
    let consume = |more: &[&str]| {
        let args = [&["consume", "t", "--group", "g", "--to-end"], more].concat();
        cluster.run(&args).ok().lines()
    };
    let first = consume(&["--max-records", "7"]);
    assert_eq!(first, rows[..7]);
    assert_eq!(consume(&[]), rows[7..]);
    assert!(consume(&[]).is_empty());
    // Another group has not seen anything yet; one that begins at the end has nothing to see.
    let other = cluster.run(&["consume", "t", "--group", "h", "--to-end"]).ok().lines();
    assert_eq!(other.len(), rows.len());
    let latest = cluster.run(&["consume", "t", "--from", "latest", "--to-end"]).ok().lines();
    assert!(latest.is_empty());
}

#[test]
fn consume_follows_the_log_until_it_is_interrupted() {
    use std::io::{BufRead as _, BufReader};
    use streamhouse_tests::{Signal, signal};

    let cluster = LocalCluster::start(1, 1);
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let mut consumer = cluster.spawn_command(&["consume", "t", "--group", "g"]);
    let mut lines = BufReader::new(consumer.child.stdout.take().unwrap()).lines();
    for value in ["one", "two"] {
        cluster.run_with_input(&["produce", "t"], value.as_bytes()).ok();
        // It blocks until the record is there: nothing is kept back while the log is idle.
        assert_eq!(lines.next().unwrap().unwrap(), value);
    }
    signal(&consumer.child.id().into(), Signal::SIGINT);
    consumer.finish().ok();
    // What it printed, it has committed.
    assert!(cluster.run(&["consume", "t", "--group", "g", "--to-end"]).ok().lines().is_empty());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let cluster = LocalCluster::start(1, 1);
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let input = sample_rows().join(&b'\n');
    cluster.run_with_input(&["produce", "t"], &input).ok();
    let mut consumer = cluster.spawn_command(&["consume", "t"]);
    drop(consumer.child.stdout.take());
    consumer.finish().ok();
}

#[test]
fn controllers_are_found_by_flag_or_environment() {
    let cluster = LocalCluster::start(1, 1);
    let controllers = cluster.controllers();
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let by_flag = run_with(
        &["topic", "list", "--controllers", &controllers, "--output", "json"],
        // The flag wins over what cannot be reached.
        &[("STREAMHOUSE_CONTROLLERS", "127.0.0.1:1")],
        b"",
    );
    assert_eq!(by_flag.ok().json()[0]["name"], "t");
}
