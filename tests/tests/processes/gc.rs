//! GC, from outside: what nothing can refer to any more is found and deleted, and nothing else.
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::raw::{RawStream, batch, partition};
use serde_json::Value;
use streamhouse_proto::v1::TakeBackupRequest;
use streamhouse_proto::v1::backups_client::BackupsClient;
use streamhouse_segment::Compression;
use streamhouse_tests::{LocalCluster, until};
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;

const PATIENCE: Duration = Duration::from_secs(90);
const FLAGS: [&str; 4] = ["--gc-grace", "2s", "--gc-interval", "1s"];
/// How often it is tried to kill an agent at the right moment.
const ROUNDS: usize = 5;

/// Every object in the bucket.
fn objects(cluster: &LocalCluster) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    walk(&cluster.objects(), &mut found);
    found.retain(|path| path.components().any(|part| part.as_os_str() == "l0"));
    found
}

fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else if !path.to_string_lossy().contains('#') {
            // What has a '#' is still being written.
            found.insert(path);
        }
    }
}

fn gc(cluster: &LocalCluster, args: &[&str]) -> Value {
    let all = [&["cluster", "gc", "--output", "json"], args].concat();
    cluster.run(&all).ok().json()
}

fn values(cluster: &LocalCluster, topic: &str) -> Vec<Vec<u8>> {
    cluster.run(&["consume", topic, "--to-end"]).ok().lines()
}

/// Makes the agent write an object that it cannot commit: there is no controller left to take it. Then it dies.
fn orphan(cluster: &mut LocalCluster, runtime: &Runtime) -> Option<PathBuf> {
    let partition = partition(cluster, "t");
    let before = objects(cluster);
    let mut stream = runtime.block_on(RawStream::open(cluster.agent_address(1)));
    cluster.kill_all_controllers();
    runtime.block_on(stream.send(&partition, batch(b"never seen", Compression::None)));
    let answered = runtime.spawn(async move { stream.answers(1).await });
    let made = until("an object is written, or the batch refused", PATIENCE, || {
        let made = objects(cluster).difference(&before).next().cloned();
        (made.is_some() || answered.is_finished()).then_some(made)
    });
    cluster.kill_agent(1);
    for n in 1..=3 {
        cluster.start_controller(n);
    }
    cluster.start_agent(1);
    cluster.wait_until_whole();
    made
}

#[test]
fn what_an_agent_wrote_and_could_not_commit_is_found_and_deleted() {
    let mut cluster = LocalCluster::start_with_flags(3, 1, &FLAGS);
    let runtime = Runtime::new().unwrap();
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    cluster.run_with_input(&["produce", "t"], b"one\ntwo\n").ok();
    assert_eq!(gc(&cluster, &["--pause"])["paused"], true);

    // The lease may have run out before the batch came, on a busy machine.
    let made = (0..ROUNDS).find_map(|_| orphan(&mut cluster, &runtime));
    let made = made.expect("an agent that was killed between PUT and commit");
    let index = cluster.partitions("t");

    // Its session has ended; once the grace is over it is named, and nothing is deleted.
    let key = made.strip_prefix(cluster.objects()).unwrap().to_string_lossy().into_owned();
    let found = until("the orphan is found", PATIENCE, || {
        let found = gc(&cluster, &["--dry-run"]);
        found["keys"].as_array()?.contains(&Value::from(key.as_str())).then_some(found)
    });
    assert_eq!((&found["orphans"], &found["deleted"]), (&Value::from(1), &Value::from(0)));
    assert!(found["oldest_orphan_ms"].as_u64().unwrap() > 1_600_000_000_000);
    assert!(made.exists(), "paused, it deletes nothing, and a dry run never does");

    assert_eq!(gc(&cluster, &["--resume"])["paused"], false);
    until("the orphan is deleted", PATIENCE, || (!made.exists()).then_some(()));
    let told = until("the sweep is told of", PATIENCE, || {
        let told = gc(&cluster, &[]);
        (told["last_sweep"]["listed"].as_u64()? > 0).then_some(told)
    });
    assert_eq!(told["last_sweep"]["errors"], 0, "{told}");
    assert!(told["collector"]["session"].is_u64(), "{told}");
    // The index is as it was, and so is what it refers to.
    let offsets = |partitions: &[Value]| -> Vec<(Value, Value)> {
        let of = |p: &Value| (p["high_watermark"].clone(), p["segments"].clone());
        partitions.iter().map(of).collect()
    };
    assert_eq!(offsets(&cluster.partitions("t")), offsets(&index));
    assert_eq!(values(&cluster, "t"), [b"one".to_vec(), b"two".to_vec()]);
}

#[test]
fn a_deleted_topic_frees_its_objects_and_its_neighbours_stay() {
    let cluster = LocalCluster::start_with_flags(3, 2, &FLAGS);
    for topic in ["gone", "stays"] {
        cluster.run(&["topic", "create", topic, "--partitions", "1"]).ok();
    }
    for round in 0..5 {
        let line = format!("{round}\n");
        cluster.run_with_input(&["produce", "gone"], line.as_bytes()).ok();
        cluster.run_with_input(&["produce", "stays"], line.as_bytes()).ok();
    }
    let all = objects(&cluster);
    assert_eq!(all.len(), 10, "an object each");
    assert_eq!(gc(&cluster, &["--dry-run"])["orphans"], 0);
    cluster.run(&["topic", "delete", "gone"]).ok();
    until("five objects are deleted", PATIENCE, || (objects(&cluster).len() == 5).then_some(()));
    let expected: Vec<_> = (0..5).map(|round| format!("{round}").into_bytes()).collect();
    assert_eq!(values(&cluster, "stays"), expected);
    // Sweeps go on, and find nothing more.
    until("a sweep finds nothing unreachable", PATIENCE, || {
        let last = gc(&cluster, &[]);
        let last = &last["last_sweep"];
        (last["listed"] == 5 && last["orphans"] == 0).then_some(())
    });
    assert_eq!(objects(&cluster).len(), 5);
    let wrong = cluster.run(&["cluster", "gc", "--confirm-generation", "7"]);
    assert!(wrong.error().contains("generation 7 is not the cluster's"), "{}", wrong.stderr);
    assert_eq!(gc(&cluster, &["--confirm-generation", "1"])["older_generations_confirmed"], true);
}

#[test]
fn what_a_backup_that_is_being_taken_refers_to_stays() {
    let cluster = LocalCluster::start_with_flags(1, 1, &FLAGS);
    cluster.run(&["topic", "create", "gone", "--partitions", "1"]).ok();
    cluster.run_with_input(&["produce", "gone"], b"one\n").ok();
    let kept = objects(&cluster);
    assert_eq!(kept.len(), 1);
    // It was begun, and its first piece was taken: nothing of it is to be seen in the bucket.
    let runtime = Runtime::new().unwrap();
    let backup = runtime.block_on(async {
        let address = format!("http://{}", cluster.controller_address(1));
        let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
        let mut backups = BackupsClient::new(channel);
        let mut pieces = backups.take(TakeBackupRequest {}).await.unwrap().into_inner();
        pieces.message().await.unwrap().expect("a piece");
        pieces
    });
    cluster.run(&["topic", "delete", "gone"]).ok();
    // The grace is over, and it is judged all the same.
    until("the object is kept for the backup", PATIENCE, || {
        let told = gc(&cluster, &[]);
        (told["last_sweep"]["kept_for_backups"] == 1).then_some(())
    });
    assert_eq!(objects(&cluster), kept);
    drop(backup);
    // One that breaks off may come from elsewhere, and be finished: only time tells.
    until("another sweep", PATIENCE, || {
        let told = gc(&cluster, &["--dry-run"]);
        (told["kept_for_backups"] == 1).then_some(())
    });
    assert_eq!(objects(&cluster), kept);
}
