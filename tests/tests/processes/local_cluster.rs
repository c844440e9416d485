//! `up` and `down`.
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use streamhouse_tests::{
    Signal, UpCluster, binary, kill_process, sample_file, sample_rows, signal, sorted, until,
};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn down_and_up_keep_everything() {
    let cluster = UpCluster::new();
    let up = cluster.up(&[]).ok().json();
    assert_eq!(up["started"].as_array().unwrap().len(), 5);
    assert_eq!(up["export"], format!("export STREAMHOUSE_CONTROLLERS={}", cluster.controllers()));
    cluster.run(&["topic", "create", "flights", "--partitions", "4"]).ok();
    let file = sample_file();
    let produce = ["produce", "flights", "--file", file.to_str().unwrap(), "--skip-header"];
    cluster.run(&[&produce[..], &["--key-field", "10"]].concat()).ok();
    let read = || sorted(cluster.run(&["consume", "flights", "--to-end"]).ok().lines());
    let expected = sorted(sample_rows());
    assert_eq!(read(), expected);

    let down = cluster.down().ok().json();
    assert_eq!(down["stopped"].as_array().unwrap().len(), 5, "{down}");
    assert_eq!(down["killed"].as_array().unwrap().len(), 0, "{down}");
    assert!(cluster.run(&["topic", "list"]).error().contains("cannot reach any controller"));

    cluster.up(&[]).ok();
    assert_eq!(read(), expected);
    // And it goes on: offsets continue.
    cluster.run(&[&produce[..], &["--key-field", "10"]].concat()).ok();
    assert_eq!(read().len(), expected.len() * 2);
}

#[test]
fn up_starts_only_what_does_not_run() {
    let cluster = UpCluster::new();
    let first = cluster.up(&[]).ok().json();
    assert!(cluster.up(&[]).ok().json()["started"].as_array().unwrap().is_empty());

    // One of each kind is killed; the others keep running.
    let killed = [&first["controllers"][1], &first["agents"][0]];
    for process in killed {
        kill_process(&process["pid"]);
    }
    let again = cluster.up(&[]).ok().json();
    assert_eq!(again["started"], serde_json::json!(["controller-2", "agent-1"]));
    assert_eq!(again["controllers"][0], first["controllers"][0]);
    assert_ne!(again["controllers"][1]["pid"], first["controllers"][1]["pid"]);
    let status = cluster.status();
    assert_eq!(status["agents"].as_array().unwrap().len(), 2);
    assert!(
        status["controllers"].as_array().unwrap().iter().all(|c| c["role"] != "unreachable"),
        "{status}"
    );
    // One more agent than before.
    let more = cluster.up(&["--agents", "3"]).ok().json();
    assert_eq!(more["started"], serde_json::json!(["agent-3"]));
}

#[test]
fn status_tells_roles_pids_and_leases() {
    let cluster = UpCluster::new();
    let up = cluster.up(&[]).ok().json();
    cluster.run(&["topic", "create", "t", "--partitions", "5"]).ok();
    let status = until("the agents hold all partitions", PATIENCE, || {
        let status = cluster.status();
        let agents = status["agents"].as_array()?.clone();
        let leases: u64 = agents.iter().filter_map(|agent| agent["leases"].as_u64()).sum();
        (leases == 5).then_some(status)
    });
    assert_eq!(status["topics"], 1);
    let controllers = status["controllers"].as_array().unwrap();
    let role = |role: &str| controllers.iter().filter(|c| c["role"] == role).count();
    assert_eq!((role("leader"), role("follower")), (1, 2), "{status}");
    for (index, controller) in controllers.iter().enumerate() {
        assert_eq!(controller["id"], index + 1);
        assert_eq!(controller["pid"], up["controllers"][index]["pid"]);
        assert_eq!(controller["address"], up["controllers"][index]["address"]);
        assert!(controller["term"].as_u64() > Some(0) && controller["applied"].as_u64() > Some(0));
    }
    for (index, agent) in status["agents"].as_array().unwrap().iter().enumerate() {
        assert_eq!(agent["pid"], up["agents"][index]["pid"]);
        assert!(agent["session"].as_u64() > Some(0));
    }

    // One that does not answer is told as such, and what it cannot tell is null.
    kill_process(&controllers[2]["pid"]);
    let status = cluster.status();
    assert_eq!(status["controllers"][2]["role"], "unreachable");
    assert_eq!(status["controllers"][2]["pid"], serde_json::Value::Null);
}

#[test]
fn ctrl_c_in_the_foreground_stops_the_cluster_cleanly() {
    let cluster = UpCluster::new();
    let mut up = Command::new(binary())
        .args(cluster.up_args(&["--agents", "1"]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It prints when the cluster is ready, and stays.
    use std::io::{BufRead as _, BufReader, Read as _};
    let mut lines = BufReader::new(up.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("export STREAMHOUSE_CONTROLLERS=")));
    let status = cluster.status();
    assert!(up.try_wait().unwrap().is_none());

    // A process that ends is told of, and not started behind the user's back.
    signal(&status["controllers"][1]["pid"], Signal::SIGKILL);
    let mut errors = BufReader::new(up.stderr.take().unwrap());
    let mut told = String::new();
    while !told.contains("controller-2") {
        assert_ne!(errors.read_line(&mut told).unwrap(), 0, "{told}");
    }
    signal(&up.id().into(), Signal::SIGINT);
    assert_eq!(up.wait().unwrap().code(), Some(0));
    errors.read_to_string(&mut told).unwrap();
    assert!(told.ends_with("stopped\n") && !told.contains("killed\n"), "{told}");
    assert!(cluster.down().ok().json()["stopped"].as_array().unwrap().is_empty());
}

#[test]
fn down_without_a_cluster_says_so() {
    let cluster = UpCluster::new();
    // A folder that is not there is a slip of the pen.
    let down = cluster.down();
    assert_eq!(down.code, Some(3));
    assert!(down.error().contains("there is no folder "), "{}", down.stderr);
    std::fs::create_dir(cluster.data()).unwrap();
    let down = cluster.down().ok().json();
    assert_eq!(down["stopped"], serde_json::json!([]));
    let human = cluster.run(&["down", "--data", cluster.data().to_str().unwrap()]).ok();
    assert!(String::from_utf8(human.stdout).unwrap().starts_with("nothing runs on "));
    // And leaves nothing behind.
    assert_eq!(std::fs::read_dir(cluster.data()).unwrap().count(), 0);
}

#[test]
fn a_port_that_somebody_else_has_is_named() {
    let cluster = UpCluster::new();
    let port = cluster.base_port() + 2;
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let up = cluster.up(&[]);
    assert!(
        up.error().contains(&format!("port {port} for controller-2 is taken")),
        "{}",
        up.stderr
    );
    // Nothing was started for it.
    assert!(cluster.down().ok().json()["stopped"].as_array().unwrap().is_empty());
}

#[test]
fn what_a_cluster_is_for_good_cannot_be_changed() {
    let cluster = UpCluster::new();
    cluster.up(&["--controllers", "1", "--agents", "1"]).ok();
    let changed = cluster.up(&["--controllers", "3"]);
    assert!(changed.error().contains("--controllers 3"), "{}", changed.stderr);
    assert_eq!(changed.code, Some(2));
}

#[test]
fn a_store_that_cannot_be_written_ends_up_with_the_reason() {
    let cluster = UpCluster::new();
    // Below a file there can be no folder, whoever asks.
    let file = tempfile::NamedTempFile::new().unwrap();
    let store = format!("file://{}/objects", file.path().display());
    let up = cluster.up(&["--store", &store]);
    assert!(up.error().contains(file.path().to_str().unwrap()), "{}", up.stderr);
    // What it had started it has stopped again.
    assert!(cluster.down().ok().json()["stopped"].as_array().unwrap().is_empty());
}
