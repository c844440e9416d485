//! Consumer groups as real processes: members come and go in every way, and nobody skips a record or reads what is
//! another's.
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use streamhouse_tests::{LocalCluster, binary, no_partition_had_two_owners, until};

const PATIENCE: Duration = Duration::from_secs(60);
const SHORT: [&str; 2] = ["--session-timeout", "3s"];

/// One `consume --group` with its output in files.
struct Member {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Member {
    fn start(cluster: &LocalCluster, name: &str, flags: &[&str]) -> Self {
        let (out, err) = (
            cluster.folder().join(format!("{name}.out")),
            cluster.folder().join(format!("{name}.err")),
        );
        let child = Command::new(binary())
            .args(["consume", "t", "--group", "g", "--format", "json", "--show-rebalances"])
            .args(["--controllers", &cluster.controllers()])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap();
        Self { child, out, err }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    /// What it reads now, by what it said of its partitions.
    fn reads(&self) -> BTreeSet<u32> {
        let mut reads = BTreeSet::new();
        for line in self.said().lines() {
            let Some((what, partitions)) = line.split_once(": ") else { continue };
            let numbers = partitions.split(' ').filter_map(|p| p.strip_prefix("t/")?.parse().ok());
            match what {
                "assigned" => reads.extend(numbers),
                "revoked" | "lost" => {
                    let gone: BTreeSet<u32> = numbers.collect();
                    reads.retain(|n| !gone.contains(n));
                }
                _ => {}
            }
        }
        reads
    }

    /// Partition and offset of every record that it printed.
    fn records(&self) -> Vec<(u64, u64)> {
        let text = fs::read_to_string(&self.out).unwrap();
        // The last line may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let record = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            (record["partition"].as_u64().unwrap(), record["offset"].as_u64().unwrap())
        };
        whole.lines().map(record).collect()
    }

    /// Its end, after SIGTERM.
    fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        assert!(self.child.wait().unwrap().success(), "{}", self.said());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn topic(cluster: &LocalCluster, partitions: u32) {
    cluster.run(&["topic", "create", "t", "--partitions", &partitions.to_string()]).ok();
}

/// Ten records into every partition.
fn produce(cluster: &LocalCluster, partitions: u32) {
    for partition in 0..partitions {
        let lines: String = (0..10).map(|n| format!("{partition}-{n}\n")).collect();
        let partition = partition.to_string();
        cluster.run_with_input(&["produce", "t", "--partition", &partition], lines.as_bytes()).ok();
    }
}

/// Waits until every partition has its reader, and only one.
fn settled(members: &[&Member], partitions: u32) -> Vec<BTreeSet<u32>> {
    until("every partition has one reader", PATIENCE, || {
        let reads: Vec<_> = members.iter().map(|member| member.reads()).collect();
        let all: BTreeSet<u32> = reads.iter().flatten().copied().collect();
        let count: usize = reads.iter().map(BTreeSet::len).sum();
        let balanced = reads.iter().all(|r| r.len() >= partitions as usize / members.len());
        let whole = all.len() == partitions as usize && count == all.len();
        (whole && balanced).then_some(reads)
    })
}

/// Waits until these have printed every record up to `upto` of every partition.
fn all_read(members: &[&Member], partitions: u32, upto: u64) {
    let wanted: BTreeSet<_> =
        (0..u64::from(partitions)).flat_map(|p| (0..upto).map(move |o| (p, o))).collect();
    until("every record is read", PATIENCE, || {
        let read: BTreeSet<_> = members.iter().flat_map(|member| member.records()).collect();
        (read.is_superset(&wanted)).then_some(())
    });
}

#[test]
fn members_come_and_go_in_every_way_and_every_record_is_read() {
    let cluster = LocalCluster::start(3, 1);
    topic(&cluster, 8);
    produce(&cluster, 8);
    let (a, b) = (Member::start(&cluster, "a", &SHORT), Member::start(&cluster, "b", &SHORT));
    let before = settled(&[&a, &b], 8);
    let c = Member::start(&cluster, "c", &SHORT);
    let after = settled(&[&a, &b, &c], 8);
    // A newcomer takes and gives nothing between the others.
    assert!(after[0].is_subset(&before[0]) && after[1].is_subset(&before[1]));
    produce(&cluster, 8);
    all_read(&[&a, &b, &c], 8, 20);
    let state = cluster.run(&["group", "describe", "g", "--output", "json"]).ok().json();
    assert_eq!(
        (&state["state"], state["members"].as_array().unwrap().len()),
        (&"stable".into(), 3)
    );
    // What was read by it is not read again: a member that leaves has committed.
    c.stop();
    settled(&[&a, &b], 8);
    // One that is killed holds its partitions until its session timeout.
    let mut b = b;
    b.child.kill().unwrap();
    b.child.wait().unwrap();
    settled(&[&a], 8);
    produce(&cluster, 8);
    all_read(&[&a, &b, &Member::replay(&cluster, "c")], 8, 30);
    a.stop();
    no_partition_had_two_owners(&cluster);
}

impl Member {
    /// What a member that has ended has printed.
    fn replay(cluster: &LocalCluster, name: &str) -> Self {
        let file = |kind: &str| cluster.folder().join(format!("{name}.{kind}"));
        let child = Command::new("true").spawn().unwrap();
        Self { child, out: file("out"), err: file("err") }
    }
}

#[test]
fn a_member_that_was_stopped_finds_its_partitions_gone_and_joins_again() {
    let cluster = LocalCluster::start(3, 1);
    topic(&cluster, 4);
    produce(&cluster, 4);
    let (a, b) = (Member::start(&cluster, "a", &SHORT), Member::start(&cluster, "b", &SHORT));
    settled(&[&a, &b], 4);
    all_read(&[&a, &b], 4, 10);
    b.signal(Signal::SIGSTOP);
    settled(&[&a], 4);
    produce(&cluster, 4);
    all_read(&[&a, &b], 4, 20);
    let of_b = b.records();
    b.signal(Signal::SIGCONT);
    // It loses what it had before it reads anything, and is given its share anew.
    settled(&[&a, &b], 4);
    assert!(b.said().contains("lost: "), "{}", b.said());
    produce(&cluster, 4);
    all_read(&[&a, &b], 4, 30);
    assert!(b.records().starts_with(&of_b));
    a.stop();
    b.stop();
    no_partition_had_two_owners(&cluster);
}

#[test]
fn a_static_member_that_starts_again_in_time_disturbs_nobody() {
    let cluster = LocalCluster::start(1, 1);
    topic(&cluster, 4);
    let flags = ["--instance", "one", "--session-timeout", "60s"];
    let a = Member::start(&cluster, "a", &SHORT);
    settled(&[&a], 4);
    let mut b = Member::start(&cluster, "b", &flags);
    let before = settled(&[&a, &b], 4);
    b.child.kill().unwrap();
    b.child.wait().unwrap();
    let c = Member::start(&cluster, "c", &flags);
    let after = settled(&[&a, &c], 4);
    assert_eq!(before, after);
    assert_eq!(a.said().matches("revoked: ").count(), 1, "{}", a.said());
    // Of two at once the later one stays.
    let d = Member::start(&cluster, "d", &flags);
    assert_eq!(settled(&[&a, &d], 4), after);
    until("the earlier one says that it was replaced", PATIENCE, || {
        c.said().contains("another consumer has joined group g as instance one").then_some(())
    });
}

#[test]
fn offsets_are_reset_only_while_nobody_reads() {
    let cluster = LocalCluster::start(1, 1);
    topic(&cluster, 2);
    produce(&cluster, 2);
    let a = Member::start(&cluster, "a", &SHORT);
    all_read(&[&a], 2, 10);
    let reset = |to: &str, more: &[&str]| {
        let args = ["group", "reset", "g", "--topic", "t", "--to", to, "--output", "json"];
        cluster.run(&[&args, more].concat())
    };
    assert!(reset("earliest", &[]).error().contains("has members"));
    a.stop();
    let shown = reset("3", &["--dry-run"]).ok().json();
    assert_eq!(
        (&shown["partitions"][1]["before"], &shown["partitions"][1]["offset"]),
        (&10.into(), &3.into())
    );
    let described = || cluster.run(&["group", "describe", "g", "--output", "json"]).ok().json();
    assert_eq!((&described()["lag"], &described()["state"]), (&0.into(), &"empty".into()));
    reset("3", &[]).ok();
    assert_eq!(described()["lag"], 14);
    reset("-1h", &[]).ok();
    assert_eq!(described()["lag"], 20);
    reset("latest", &["--partition", "0"]).ok();
    assert_eq!(described()["lag"], 10);
    assert!(reset("earliest", &["--partition", "7"]).error().contains("no partition 7"));
    let listed = cluster.run(&["group", "list", "--output", "json"]).ok().json();
    assert_eq!((&listed[0]["group"], &listed[0]["members"]), (&"g".into(), &0.into()));
    cluster.run(&["group", "delete", "g"]).ok();
    assert!(cluster.run(&["group", "describe", "g"]).error().contains("unknown group g"));
}

#[test]
fn a_group_goes_on_where_an_operator_sets_it() {
    let cluster = LocalCluster::start(1, 1);
    topic(&cluster, 2);
    produce(&cluster, 2);
    produce(&cluster, 2);
    // When the second ten were written.
    let args = ["consume", "t", "--partition", "0", "--max-records", "20", "--format", "json"];
    let read = cluster.run(&args).ok().lines();
    let time = |n: usize| {
        let record: serde_json::Value = serde_json::from_slice(&read[n]).unwrap();
        record["timestamp"].as_i64().unwrap()
    };
    let (second, last) = (time(10), time(19));
    assert!(time(9) < second);
    let reset = |to: &str| {
        let args = ["group", "reset", "g", "--topic", "t", "--to", to, "--output", "json"];
        let told = cluster.run(&args).ok().json()["partitions"].clone();
        let told = told.as_array().unwrap();
        // What it says is what is there.
        let group = cluster.run(&["group", "describe", "g", "--output", "json"]).ok().json();
        for (set, row) in told.iter().zip(group["partitions"].as_array().unwrap()) {
            assert_eq!((&set["offset"], &set["lag"]), (&row["committed"], &row["lag"]), "{row}");
        }
        told.iter().map(|set| set["offset"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(reset("latest"), [20, 20]);
    assert_eq!(reset("earliest"), [0, 0]);
    // The first record that is not older: of each partition its own.
    assert_eq!(reset(&format!("@{second}"))[0], 10);
    assert_eq!(reset(&format!("@{}", last + 1))[0], 20);
    assert_eq!(reset("1970-01-01T00:00:00Z"), [0, 0]);
    assert_eq!(reset("2999-01-01T00:00:00Z"), [20, 20]);
    // And that is where a member begins.
    reset(&format!("@{second}"));
    let a = Member::start(&cluster, "a", &SHORT);
    let first = until("it reads", PATIENCE, || {
        a.records().into_iter().find(|(partition, _)| *partition == 0)
    });
    assert_eq!(first, (0, 10));
    a.stop();
}
