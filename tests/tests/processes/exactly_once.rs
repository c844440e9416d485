//! DEDUP, seen from outside: whatever dies between a record and its acknowledgement, the record is in the log once, in
//! its key's order, and nothing is left in doubt.
//!
//! Every test has `streamhouse produce`, which is idempotent by default, send numbered lines of a few keys while the
//! cluster suffers, and then reads everything back.
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::ChildStdin;
use std::time::Duration;

use streamhouse_tests::{Finished, LocalCluster, Running, until};

const PATIENCE: Duration = Duration::from_secs(60);
const KEYS: usize = 5;
/// Lines fed at once: some batches.
const STEP: usize = 5_000;

/// A `produce` that is fed line by line.
struct Load {
    producer: Running,
    stdin: Option<ChildStdin>,
    lines: Vec<Vec<u8>>,
    tag: &'static str,
}

impl Load {
    fn start(cluster: &LocalCluster, tag: &'static str, flags: &[&str]) -> Self {
        let args = ["produce", "t", "--key-field", "1", "--output", "json"];
        let mut producer = cluster.spawn_command(&[&args, flags].concat());
        let stdin = producer.child.stdin.take();
        Self { producer, stdin, lines: Vec::new(), tag }
    }

    fn feed(&mut self, count: usize) {
        let first = self.lines.len();
        let lines = (first..first + count).map(|n| format!("k{},{},{n}", n % KEYS, self.tag));
        self.lines.extend(lines.map(String::into_bytes));
        let mut bytes = self.lines[first..].join(&b'\n');
        bytes.push(b'\n');
        let stdin = self.stdin.as_mut().expect("it takes input until it is finished");
        stdin.write_all(&bytes).expect("produce takes its input");
    }

    /// Feeds until the cluster shows that more was committed.
    fn flow(&mut self, cluster: &LocalCluster) {
        let before = cluster.records("t");
        until("records are committed", PATIENCE, || {
            self.feed(STEP);
            (cluster.records("t") > before).then_some(())
        });
    }

    fn end(mut self) -> (Finished, Vec<Vec<u8>>) {
        drop(self.stdin.take());
        (self.producer.finish(), self.lines)
    }

    /// Ends the load: all of it was acknowledged, none of it in doubt.
    fn acknowledged(self) -> Vec<Vec<u8>> {
        let (finished, lines) = self.end();
        let produced = finished.ok().json();
        assert_eq!(produced["acknowledged"], lines.len(), "{produced}");
        assert_eq!(produced["ambiguous_records"], 0, "{produced}");
        lines
    }
}

/// Lines by key, in their order.
fn by_key(lines: &[Vec<u8>]) -> BTreeMap<&[u8], Vec<&[u8]>> {
    let mut by_key: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in lines {
        let key = line.split(|byte| *byte == b',').next().expect("a key");
        by_key.entry(key).or_default().push(line.as_slice());
    }
    by_key
}

fn consumed(cluster: &LocalCluster) -> Vec<Vec<u8>> {
    cluster.run(&["consume", "t", "--to-end"]).ok().lines()
}

fn assert_exactly_once(cluster: &LocalCluster, sent: &[Vec<u8>]) {
    let found = consumed(cluster);
    assert_eq!(found.len(), sent.len(), "as many as were acknowledged");
    assert!(by_key(&found) == by_key(sent), "each once, in its key's order");
}

/// A cluster of three controllers and two agents, and a topic.
fn cluster(partitions: &str) -> LocalCluster {
    let cluster = LocalCluster::start(3, 2);
    cluster.run(&["topic", "create", "t", "--partitions", partitions]).ok();
    cluster
}

/// The agent that holds the topic's first partition.
fn holder(cluster: &LocalCluster) -> usize {
    until("an agent holds the partition", PATIENCE, || {
        cluster.agent_at(cluster.partitions("t")[0]["address"].as_str()?)
    })
}

/// Waits until another agent than `before` holds the first partition.
fn moved(cluster: &LocalCluster, before: usize) -> usize {
    until("the partition moves", PATIENCE, || {
        let address = cluster.partitions("t")[0]["address"].as_str()?.to_owned();
        cluster.agent_at(&address).filter(|holder| *holder != before)
    })
}

fn objects(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let count = |path: &Path| if path.is_dir() { objects(path) } else { 1 };
    entries.map(|entry| count(&entry.path())).sum()
}

#[test]
fn leaders_killed_between_commits_and_their_answers() {
    let mut cluster = cluster("2");
    let mut load = Load::start(&cluster, "a", &[]);
    for _ in 0..4 {
        load.flow(&cluster);
        let leader = cluster.leader();
        load.feed(STEP);
        cluster.kill_controller(leader);
        load.feed(STEP);
        until("another one leads", PATIENCE, || {
            let leads = cluster.try_status()?["leader"].as_u64()?;
            (leads != leader as u64).then_some(())
        });
        cluster.start_controller(leader);
        cluster.wait_until_whole();
    }
    let sent = load.acknowledged();
    assert_exactly_once(&cluster, &sent);
}

#[test]
fn an_agent_killed_between_its_puts_and_their_commit() {
    let mut cluster = cluster("1");
    let mut load = Load::start(&cluster, "a", &[]);
    load.flow(&cluster);
    let doomed = holder(&cluster);
    // No commit can be applied from here on …
    (1..=3).for_each(|n| cluster.stop_controller_process(n));
    let before = objects(&cluster.objects());
    // … but objects are stored.
    until("objects are stored", PATIENCE, || {
        load.feed(100);
        (objects(&cluster.objects()) > before).then_some(())
    });
    cluster.kill_agent(doomed);
    (1..=3).for_each(|n| cluster.continue_controller_process(n));
    moved(&cluster, doomed);
    load.flow(&cluster);
    let sent = load.acknowledged();
    assert_exactly_once(&cluster, &sent);
}

#[test]
fn an_agent_that_never_tells_what_it_committed() {
    let mut cluster = cluster("1");
    let mut load = Load::start(&cluster, "a", &[]);
    for _ in 0..3 {
        load.flow(&cluster);
        let doomed = holder(&cluster);
        // Stopped in the flood, it has commits that were applied and acknowledgements that were not sent.
        load.feed(STEP);
        cluster.stop_agent(doomed);
        moved(&cluster, doomed);
        cluster.kill_agent(doomed);
        load.flow(&cluster);
        cluster.start_agent(doomed);
        cluster.wait_until_whole();
    }
    let sent = load.acknowledged();
    assert_exactly_once(&cluster, &sent);
}

#[test]
fn an_agent_whose_session_ended_meanwhile_goes_on_with_old_batches() {
    let cluster = cluster("1");
    let mut load = Load::start(&cluster, "a", &[]);
    for _ in 0..3 {
        load.flow(&cluster);
        let stopped = holder(&cluster);
        load.feed(STEP);
        cluster.stop_agent(stopped);
        moved(&cluster, stopped);
        load.flow(&cluster);
        // Its uploads land late, and its commits come from a session that is no more.
        cluster.continue_agent(stopped);
        load.flow(&cluster);
    }
    let sent = load.acknowledged();
    assert_exactly_once(&cluster, &sent);
}

#[test]
fn a_producer_that_takes_over_a_name_fences_the_one_before_with_its_batches_on_their_way() {
    let cluster = cluster("1");
    let mut first = Load::start(&cluster, "first", &["--producer-name", "loader"]);
    first.flow(&cluster);
    let stopped = holder(&cluster);
    first.feed(STEP);
    cluster.stop_agent(stopped);
    let mut second = Load::start(&cluster, "second", &["--producer-name", "loader"]);
    moved(&cluster, stopped);
    second.flow(&cluster);
    // What the first has in the agent that was stopped comes too late, and it may send nothing more.
    cluster.continue_agent(stopped);
    let (finished, lines) = first.end();
    let sent = second.acknowledged();
    let found = consumed(&cluster);
    let (old, new): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|line| line.windows(7).any(|part| part == b",first,"));
    assert!(by_key(&new) == by_key(&sent), "the second's are all there, once and in order");
    // The first's may have been acknowledged before the second came: a beginning of each key's, without a gap.
    let (old, lines) = (by_key(&old), by_key(&lines));
    for (key, values) in &old {
        assert!(lines[key].starts_with(values), "once and in order");
    }
    let written: usize = old.values().map(Vec::len).sum();
    let all: usize = lines.values().map(Vec::len).sum();
    if written < all {
        let said = &finished.stderr;
        assert_eq!(finished.code, Some(1), "{said}");
        assert!(said.contains("fenced"), "{said}");
    }
}
