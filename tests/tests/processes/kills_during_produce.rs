//! The leader, then an agent, are killed with `kill -9` while records flow.
use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::time::Duration;

use streamhouse_tests::{LocalCluster, Signal, sample_rows, signal, until};

const PATIENCE: Duration = Duration::from_secs(60);
const ROUNDS: usize = 12;

/// The sample over and over, each row with a number of its own behind it, so that no two are the same.
fn numbered_rows() -> Vec<Vec<u8>> {
    let sample = sample_rows();
    let all = sample.iter().cycle().take(sample.len() * ROUNDS);
    all.enumerate().map(|(number, row)| [row, format!(",{number}").as_bytes()].concat()).collect()
}

fn carrier(row: &[u8]) -> &[u8] {
    row.split(|byte| *byte == b',').nth(9).expect("every row has a carrier")
}

fn per_carrier<'a>(rows: impl Iterator<Item = &'a [u8]>) -> BTreeMap<&'a [u8], Vec<&'a [u8]>> {
    let mut per_carrier: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        per_carrier.entry(carrier(row)).or_default().push(row);
    }
    per_carrier
}

#[test]
fn every_row_is_there_once_and_in_order() {
    let mut cluster = LocalCluster::start(3, 2);
    cluster.run(&["topic", "create", "flights", "--partitions", "4"]).ok();
    let mut producer =
        cluster.spawn_command(&["produce", "flights", "--key-field", "10", "--output", "json"]);
    let mut stdin = producer.child.stdin.take().expect("stdin is piped");
    let rows = numbered_rows();
    let (quarter, half) = (rows.len() / 4, rows.len() / 2);
    let mut feed = |rows: &[Vec<u8>]| {
        for chunk in rows.chunks(1000) {
            let mut lines = chunk.join(&b'\n');
            lines.push(b'\n');
            stdin.write_all(&lines).expect("produce takes its input");
        }
    };

    // Records flow …
    feed(&rows[..quarter]);
    until("some records are acknowledged", PATIENCE, || {
        (cluster.records("flights") > 0).then_some(())
    });
    // … when the leader dies; more come in while there is none, and the dead one comes back.
    let leader = cluster.leader();
    cluster.kill_controller(leader);
    feed(&rows[quarter..half]);
    until("another one leads", PATIENCE, || {
        let status = cluster.try_status()?;
        status["leader"].as_u64().filter(|id| *id != leader as u64)
    });
    cluster.start_controller(leader);
    cluster.wait_until_whole();

    // Then an agent that holds partitions dies, with batches on its way.
    let before = cluster.records("flights");
    let holder = cluster.partitions("flights")[0]["address"].as_str().map(str::to_owned);
    let holder = holder.and_then(|address| cluster.agent_at(&address)).unwrap_or(1);
    let middle = (half + rows.len()) / 2;
    feed(&rows[half..middle]);
    until("records flow under the new leader", PATIENCE, || {
        (cluster.records("flights") > before).then_some(())
    });
    cluster.kill_agent(holder);
    feed(&rows[middle..]);
    drop(stdin);

    let produced = producer.finish().ok().json();
    assert_eq!(produced["acknowledged"], rows.len());
    let consumed = cluster.run(&["consume", "flights", "--to-end"]).ok().lines();

    // Exactly once.
    assert_eq!(produced["ambiguous_records"], 0, "{produced}");
    let found: HashSet<&[u8]> = consumed.iter().map(Vec::as_slice).collect();
    let missing = rows.iter().filter(|row| !found.contains(row.as_slice())).count();
    assert_eq!(missing, 0, "of {} rows", rows.len());
    assert_eq!(consumed.len(), rows.len(), "no row stands twice, and none was not sent");
    // Per key, they are in the order sent.
    let sent = per_carrier(rows.iter().map(Vec::as_slice));
    assert!(
        per_carrier(consumed.iter().map(Vec::as_slice)) == sent,
        "some key's rows are out of order"
    );
}

#[test]
fn without_an_agent_it_says_what_it_waits_for_and_in_the_end_what_it_had_waited_for() {
    let mut cluster = LocalCluster::start(1, 1);
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    cluster.kill_agent(1);
    let mut producer = cluster.spawn_command(&["produce", "t", "--output", "json"]);
    producer.child.stdin.take().unwrap().write_all(b"one\n").unwrap();
    let mut said = BufReader::new(producer.child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let cause = "no agents of group default are alive";
    assert_eq!(line, format!("no agent holds t/0: {cause}: waiting\n"));
    signal(&producer.child.id().into(), Signal::SIGTERM);
    let mut error = String::new();
    said.read_to_string(&mut error).unwrap();
    let before = "error: interrupted by SIGTERM before all records were acknowledged";
    assert_eq!(error, format!("{before}; no agent holds t/0: {cause}\n"));
    assert_eq!(producer.finish().code, Some(1));
}
