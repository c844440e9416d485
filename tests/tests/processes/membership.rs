//! Controllers that join, leave, are replaced, and come back after their disk was damaged.
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use streamhouse_proto::{advice, from_status, v1};
use streamhouse_tests::{LocalCluster, Stopwatch, sample_rows, sorted, until};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::load::{client, commit, records};
use crate::promised::assert_exactly_once;
use crate::raw;

const PATIENCE: Duration = Duration::from_secs(60);
/// What a call that was refused waits before it is made again.
const AGAIN: Duration = Duration::from_millis(50);
const DAMAGED: i32 = 5;
/// A learner so many entries behind is as good as a voter.
const CAUGHT_UP: u64 = 1_000;

fn add(cluster: &LocalCluster, n: usize) -> Value {
    let address = cluster.controller_address(n).to_string();
    cluster.run(&["cluster", "add-controller", &address, "--output", "json"]).ok().json()
}

/// Waits until these vote, and nobody else does.
fn these_vote(cluster: &LocalCluster, expected: &[u64]) {
    until(&format!("{expected:?} vote"), PATIENCE, || {
        let status = cluster.try_status()?;
        let voters = status["controllers"].as_array()?.iter().filter(|c| c["role"] != "learner");
        let voters: Vec<u64> = voters.filter_map(|c| c["id"].as_u64()).collect();
        (voters == expected).then_some(())
    });
}

#[test]
fn three_five_three_under_load_without_a_failed_write() {
    let mut cluster = LocalCluster::start(3, 2);
    cluster.run(&["topic", "create", "t", "--partitions", "4"]).ok();
    let load = records(&cluster, "three-five-three");
    load.flows();
    for expected in [4, 5] {
        let n = cluster.join_controller();
        let added = load.during(&format!("add-controller {expected}"), || add(&cluster, n));
        assert_eq!(added["id"], expected);
    }
    these_vote(&cluster, &[1, 2, 3, 4, 5]);
    // All founders leave, whoever leads; all that clients and agents were told of at their start.
    for gone in 1..=3 {
        let removed = load.during(&format!("remove-controller {gone}"), || {
            let id = gone.to_string();
            let removed = cluster.run(&["cluster", "remove-controller", &id, "--output", "json"]);
            let removed = removed.ok().json();
            // It learns that it was removed, says so, and ends.
            assert_eq!(cluster.controller_exit(gone), Some(DAMAGED));
            removed
        });
        assert!(!removed["voters"].as_array().unwrap().contains(&json!(gone)), "{removed}");
        let log = cluster.controller_log(gone);
        assert!(log.contains(&format!("controller {gone} was removed from the cluster")), "{log}");
        if gone == 2 {
            these_vote(&cluster, &[3, 4, 5]);
        }
    }
    these_vote(&cluster, &[4, 5]);
    load.flows();
    let (sent, longest) = load.acknowledged();
    println!("3, 5, 3 and 2 controllers: a record waited for {longest:?} at most");
    assert_exactly_once(&cluster, &[&sent]);
}

#[test]
fn one_lost_for_good_is_replaced_under_load_without_a_failed_write() {
    let mut cluster = LocalCluster::start(3, 2);
    cluster.run(&["topic", "create", "t", "--partitions", "4"]).ok();
    let load = records(&cluster, "replaced");
    load.flows();
    cluster.kill_controller(2);
    load.flows();
    fs::remove_dir_all(cluster.controller_data(2)).unwrap();

    // With its disk gone it must not come back as if nothing had been.
    load.during("start with an empty disk", || {
        cluster.start_controller(2);
        assert_eq!(cluster.controller_exit(2), Some(DAMAGED));
    });
    assert!(cluster.controller_log(2).contains("with another disk"));

    let n = cluster.join_controller();
    let address = cluster.controller_address(n).to_string();
    let replaced = load.during("replace-controller 2", || {
        let replace = ["cluster", "replace-controller", "2", &address, "--output", "json"];
        cluster.run(&replace).ok().json()
    });
    assert_eq!(replaced["voters"], json!([1, 3, 4]), "{replaced}");
    // The new one holds everything: it and one more suffice.
    cluster.kill_controller(1);
    load.flows();
    let (sent, longest) = load.acknowledged();
    println!("one lost and replaced, one killed: a record waited for {longest:?} at most");
    assert_exactly_once(&cluster, &[&sent]);
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

/// So many entries for the log, and a bit.
async fn write_entries(address: &str, partition: &v1::TopicPartition, count: u64) {
    const REQUESTERS: u8 = 50;
    let mut writing = JoinSet::new();
    for requester in 0..REQUESTERS {
        let (mut client, partition) = (client(address), partition.clone());
        writing.spawn(async move {
            for number in 1..=count / u64::from(REQUESTERS) + 1 {
                let since = Stopwatch::start();
                let request = commit(requester, &partition, number);
                while let Err(refused) = client.commit_offsets(request.clone()).await {
                    let code = from_status(&refused).code();
                    // RETRY: it has its number, and takes effect once, whatever became of this try.
                    let again = advice(code).retryable || code == v1::ErrorCode::OutcomeUnknown;
                    assert!(again && since.elapsed() < PATIENCE, "{refused:?}");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        });
    }
    writing.join_all().await;
}

/// Whether `id` votes, as the controller at `address` tells; `None` if it is no member.
async fn votes(address: &str, id: u64) -> Option<bool> {
    let members = client(address).get_cluster(v1::GetClusterRequest {}).await.unwrap();
    let members = members.into_inner().controllers;
    members.into_iter().find(|member| member.id == id).map(|member| member.voter)
}

/// How the controller at `address` stands, if it answers.
async fn standing(address: &str) -> Option<v1::GetControllerResponse> {
    let answer = client(address).get_controller(v1::GetControllerRequest {}).await;
    answer.ok().map(tonic::Response::into_inner)
}

/// Follows controller `id` at `own` from its start until it votes, as the others tell at `other`: it is a learner until
/// its log is near `goal`.
async fn learns_before_it_votes(id: u64, own: &str, other: &str, goal: u64) {
    let watch = Stopwatch::start();
    let (mut looks, mut furthest) = (0, 0);
    loop {
        let voter = votes(other, id).await.expect("it is a member since its repair");
        // Asked later: it has not had less than this before.
        let now = standing(own).await.filter(|now| now.id == id);
        let last = now.as_ref().map_or(0, |now| now.last_log);
        if voter {
            assert!(looks > 0, "it votes from the beginning");
            println!(
                "a learner in {looks} looks, with {furthest} of {goal} entries; a voter with {last}"
            );
            assert!(last + CAUGHT_UP >= goal, "it votes with {last} of {goal} entries");
            return;
        }
        // The membership may have changed since.
        if votes(other, id).await == Some(false) {
            let role = now.map(|now| now.role);
            assert!(role.as_deref().is_none_or(|role| role == "learner"), "{role:?}");
            (looks, furthest) = (looks + 1, last);
        }
        assert!(watch.elapsed() < PATIENCE, "it never votes");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
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
    // Once more, it says the same and takes no other number.
    let again = [&repair[..], &["--node-id", "2"]].concat();
    assert_eq!(cluster.run(&again).ok().json(), repaired);

    // It is a learner before it is there, and stays one while it has nothing of what is written meanwhile.
    let runtime = Runtime::new().unwrap();
    let partition = raw::partition(&cluster, "flights");
    let address = |n: usize| cluster.controller_address(n).to_string();
    let (own, other) = (address(2), address(1));
    let goal = runtime.block_on(async {
        write_entries(&other, &partition, CAUGHT_UP * 3).await;
        assert_eq!(votes(&other, 4).await, Some(false));
        standing(&other).await.unwrap().committed
    });
    assert!(goal > CAUGHT_UP * 3);

    // Started as before, it has its own number and takes the old one's place.
    cluster.start_controller(2);
    runtime.block_on(learns_before_it_votes(4, &own, &other, goal));
    these_vote(&cluster, &[1, 3, 4]);
    cluster.kill_controller(1);
    let read = cluster.run(&["consume", "flights", "--to-end"]).ok().lines();
    assert_eq!(sorted(read), sorted(rows));
    cluster.run_with_input(&["produce", "flights"], b"one more\n").ok();

    // What was repaired and used since is repaired anew.
    cluster.start_controller(1);
    these_vote(&cluster, &[1, 3, 4]);
    cluster.stop_controller(2);
    damage(Path::new(data), "log");
    let repaired = cluster.run(&repair).ok().json();
    assert_eq!((&repaired["old"], &repaired["new"]), (&json!(4), &json!(5)), "{repaired}");
}

#[test]
fn leadership_is_handed_over() {
    let mut cluster = LocalCluster::start(3, 1);
    let leader = cluster.leader();
    let to = (1 + leader % 3).to_string();
    let led = cluster.run(&["cluster", "transfer-leader", &to, "--output", "json"]).ok().json();
    assert_eq!(led["leader"].to_string(), to);
    until("everybody sees it", PATIENCE, || (cluster.leader().to_string() == to).then_some(()));
    let other = cluster.run(&["cluster", "transfer-leader", "--output", "json"]).ok().json();
    assert_ne!(other["leader"].to_string(), to);

    // To one that is dead it is not, and nobody is elected for it.
    let leader = other["leader"].as_u64().unwrap() as usize;
    let before = until("everybody sees it", PATIENCE, || {
        Some(who_leads(&cluster)).filter(|(leads, _)| *leads == other["leader"])
    });
    let dead = (1..=3).find(|n| *n != leader).unwrap();
    cluster.kill_controller(dead);
    let refused = cluster.run(&["cluster", "transfer-leader", &dead.to_string()]);
    assert!(refused.error().contains("does not answer"), "{}", refused.stderr);
    assert_eq!(who_leads(&cluster), before);
}

/// Who leads, and in which term.
fn who_leads(cluster: &LocalCluster) -> (Value, Value) {
    let status = cluster.try_status().unwrap();
    let leader = status["leader"].clone();
    let of = |leader: u64| status["controllers"][leader as usize - 1]["term"].clone();
    (leader.clone(), leader.as_u64().map_or(Value::Null, of))
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
    these_vote(&cluster, &[2, 3, 4]);
}
