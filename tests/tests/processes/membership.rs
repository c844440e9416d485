//! Controllers that join, leave, are replaced, and come back after their disk was damaged.
use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use streamhouse_tests::{LocalCluster, sample_rows, sorted, until};

const PATIENCE: Duration = Duration::from_secs(60);
const DAMAGED: i32 = 5;

fn add(cluster: &LocalCluster, n: usize) -> Value {
    let address = cluster.controller_address(n).to_string();
    cluster.run(&["cluster", "add-controller", &address, "--output", "json"]).ok().json()
}

fn voters(cluster: &LocalCluster) -> Vec<u64> {
    let status = cluster.try_status().unwrap();
    let controllers = status["controllers"].as_array().unwrap().iter();
    controllers.filter(|c| c["role"] != "learner").filter_map(|c| c["id"].as_u64()).collect()
}

#[test]
fn three_five_three_under_load_without_a_failed_write() {
    let mut cluster = LocalCluster::start(3, 2);
    cluster.run(&["topic", "create", "flights", "--partitions", "4"]).ok();
    let rows = sample_rows();
    let produce = ["produce", "flights", "--key-field", "10", "--output", "json"];
    let mut producer = cluster.spawn_command(&produce);
    let mut stdin = producer.child.stdin.take().unwrap();
    let mut fed = 0;
    let mut feed = |upto: usize| {
        for chunk in rows[fed..upto].chunks(500) {
            let mut lines = chunk.join(&b'\n');
            lines.push(b'\n');
            stdin.write_all(&lines).unwrap();
        }
        fed = upto;
    };
    let step = rows.len() / 6;
    feed(step);
    for expected in [4, 5] {
        let n = cluster.join_controller();
        let added = add(&cluster, n);
        assert_eq!(added["id"], expected);
        feed(step * (n - 2));
    }
    assert_eq!(voters(&cluster), [1, 2, 3, 4, 5]);
    // All founders but one leave, whoever leads.
    for (gone, upto) in [(1, 4), (2, 5)] {
        let id = gone.to_string();
        let removed = cluster.run(&["cluster", "remove-controller", &id, "--output", "json"]);
        let removed = removed.ok().json();
        assert!(!removed["voters"].as_array().unwrap().contains(&json!(gone)), "{removed}");
        // It learns that it was removed, says so, and ends.
        assert_eq!(cluster.controller_exit(gone), Some(DAMAGED));
        let log = cluster.controller_log(gone);
        assert!(log.contains(&format!("controller {gone} was removed from the cluster")), "{log}");
        feed(step * upto);
    }
    assert_eq!(voters(&cluster), [3, 4, 5]);
    feed(rows.len());
    drop(stdin);
    let produced = producer.finish().ok().json();
    assert_eq!(produced["acknowledged"], rows.len());
    let consumed = cluster.run(&["consume", "flights", "--to-end"]).ok().lines();
    let extra = (consumed.len() - rows.len()) as u64;
    assert!(extra <= produced["ambiguous_records"].as_u64().unwrap(), "{extra} rows too many");
    let all: HashSet<Vec<u8>> = consumed.into_iter().collect();
    assert_eq!(all, rows.into_iter().collect());
    // The agents know the new controllers: with the last founder gone, all goes on.
    cluster.run(&["cluster", "remove-controller", "3"]).ok();
    cluster.run_with_input(&["produce", "flights"], b"one more\n").ok();
}

#[test]
fn one_lost_for_good_is_replaced() {
    let mut cluster = LocalCluster::start(3, 1);
    cluster.run(&["topic", "create", "flights", "--partitions", "2"]).ok();
    let rows = sample_rows();
    cluster.run_with_input(&["produce", "flights"], &rows.join(&b'\n')).ok();
    cluster.kill_controller(2);
    fs::remove_dir_all(cluster.controller_data(2)).unwrap();

    // With its disk gone it must not come back as if nothing had been.
    cluster.start_controller(2);
    assert_eq!(cluster.controller_exit(2), Some(DAMAGED));
    assert!(cluster.controller_log(2).contains("with another disk"));

    let n = cluster.join_controller();
    let address = cluster.controller_address(n).to_string();
    let replace = ["cluster", "replace-controller", "2", &address, "--output", "json"];
    let replaced = cluster.run(&replace).ok().json();
    assert_eq!(replaced["voters"], json!([1, 3, 4]), "{replaced}");
    // The new one holds everything: it and one more suffice.
    cluster.kill_controller(1);
    let read = cluster.run(&["consume", "flights", "--to-end"]).ok().lines();
    assert_eq!(sorted(read), sorted(rows));
    cluster.run_with_input(&["produce", "flights"], b"one more\n").ok();
}

/// Turns over a bit in the middle of the largest file with that extension.
fn damage(data: &Path, extension: &str) {
    let files = fs::read_dir(data.join("db")).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|e| e == extension));
    let file = files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
}

#[test]
fn a_damaged_controller_is_refused_and_comes_back_as_a_learner() {
    let mut cluster = LocalCluster::start(3, 1);
    cluster.run(&["topic", "create", "flights", "--partitions", "2"]).ok();
    let rows = sample_rows();
    cluster.run_with_input(&["produce", "flights"], &rows.join(&b'\n')).ok();

    // Not while it runs.
    let data = cluster.controller_data(2);
    let data = data.to_str().unwrap();
    let repair = ["controller", "repair", "--data", data, "--rejoin-as-learner"];
    let error = cluster.run(&repair).error().to_owned();
    assert!(error.contains("in use by another process"), "{error}");

    cluster.stop_controller(2);
    damage(Path::new(data), "log");
    cluster.start_controller(2);
    assert_eq!(cluster.controller_exit(2), Some(DAMAGED));
    let log = cluster.controller_log(2);
    assert!(log.contains("is damaged"), "{log}");
    assert!(log.contains("repair"), "{log}");

    // Whose data it was is known beside the damage, and nobody else's number will do.
    let other = [&repair[..], &["--node-id", "1"]].concat();
    let error = cluster.run(&other).error().to_owned();
    assert!(error.contains("is controller 2's, not 1's"), "{error}");
    let repair = [&repair[..], &["--output", "json"]].concat();
    let repaired = cluster.run(&repair).ok().json();
    assert_eq!((&repaired["old"], &repaired["new"]), (&json!(2), &json!(4)), "{repaired}");
    assert!(Path::new(repaired["kept"].as_str().unwrap()).join("db").is_dir());

    // Started as before, it has its own number and takes the old one's place.
    cluster.start_controller(2);
    until("it votes", PATIENCE, || (voters(&cluster) == [1, 3, 4]).then_some(()));
    cluster.kill_controller(1);
    let read = cluster.run(&["consume", "flights", "--to-end"]).ok().lines();
    assert_eq!(sorted(read), sorted(rows));
    cluster.run_with_input(&["produce", "flights"], b"one more\n").ok();
}

#[test]
fn leadership_is_handed_over() {
    let cluster = LocalCluster::start(3, 1);
    let leader = cluster.leader();
    let to = (1 + leader % 3).to_string();
    let led = cluster.run(&["cluster", "transfer-leader", &to, "--output", "json"]).ok().json();
    assert_eq!(led["leader"].to_string(), to);
    assert_eq!(cluster.leader().to_string(), to);
    let other = cluster.run(&["cluster", "transfer-leader", "--output", "json"]).ok().json();
    assert_ne!(other["leader"].to_string(), to);
}

#[test]
fn wrong_use_is_refused() {
    let mut cluster = LocalCluster::start(3, 1);
    for (args, says) in [
        (&["cluster", "remove-controller", "99"][..], "there is no controller 99"),
        (&["cluster", "transfer-leader", "99"], "there is no controller 99"),
        (&["cluster", "add-controller", "127.0.0.1:1"], "127.0.0.1:1"),
        (&["cluster", "add-controller", "nowhere"], "has no port"),
        (&["controller", "--listen", "127.0.0.1:1", "--data", "/nonexistent"], "--node-id"),
    ] {
        let error = cluster.run(args).error().to_owned();
        assert!(error.contains(says), "{args:?}: {error}");
    }
    // A replacement for nobody.
    let n = cluster.join_controller();
    let address = cluster.controller_address(n).to_string();
    let error = cluster.run(&["cluster", "replace-controller", "77", &address]);
    assert!(error.error().contains("there is no controller 77"), "{error:?}");
    // Adding it twice is once.
    add(&cluster, n);
    add(&cluster, n);
    // Two of four die; without a third there would be no majority to remove one.
    cluster.kill_controller(1);
    let error = cluster.run(&["cluster", "remove-controller", "1"]).ok();
    drop(error);
    assert_eq!(voters(&cluster), [2, 3, 4]);
}
