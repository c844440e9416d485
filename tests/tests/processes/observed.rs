//! A cluster seen from outside: metrics, health, logs, and `cluster status`.
mod starting;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::v1::sessions_client::SessionsClient;
use streamhouse_tests::{LocalCluster, Setup, http_get, until};
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(60);
const UNAVAILABLE: i32 = 4;
const PREFIX: &str = "streamhouse_controller_";

/// The samples of controller `n`, by name and labels, its prefix left out.
pub(crate) fn metrics(cluster: &LocalCluster, n: usize) -> BTreeMap<String, f64> {
    let (status, text) = http_get(cluster.http_address(n), "/metrics").unwrap();
    assert_eq!(status, 200, "{text}");
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let name = name.strip_prefix(PREFIX).unwrap_or_else(|| panic!("no prefix: {line}"));
        let bare = name.split('{').next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| bare.strip_suffix(end));
        let helps = [bare, family.unwrap_or(bare)].map(|name| format!("# HELP {PREFIX}{name} "));
        assert!(helps.iter().any(|help| text.contains(help.as_str())), "no help for {bare}");
        samples.insert(name.to_owned(), value.parse().unwrap());
    }
    samples
}

/// Status and body of `/healthz` or `/readyz`.
fn ask(cluster: &LocalCluster, n: usize, path: &str) -> (u16, Value) {
    let (status, body) = http_get(cluster.http_address(n), path).unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

#[test]
fn metrics_tell_what_the_controllers_do() {
    let cluster = LocalCluster::start(3, 2);
    let leader = cluster.leader();
    let before = metrics(&cluster, leader);
    cluster.run(&["topic", "create", "t", "--partitions", "4"]).ok();
    cluster.run_with_input(&["produce", "t"], b"one\ntwo\n").ok();

    // A follower has all of it a moment later than the leader.
    let all = [1, 2, 3].map(|n| {
        until("it shows what was done", PATIENCE, || {
            let found = metrics(&cluster, n);
            let shown = (found["sessions"], found["topics"], found["leader_id"]);
            let whole = shown == (2.0, 1.0, leader as f64)
                && found["committed_index"] >= found["applied_index"];
            whole.then_some(found)
        })
    });
    let status = cluster.run(&["cluster", "status", "--output", "json"]).ok().json();
    for (n, found) in (1..).zip(&all) {
        assert_eq!(found["role{role=\"leader\"}"], f64::from(n == leader), "controller {n}");
        assert_eq!(found["role{role=\"follower\"}"], f64::from(n != leader), "controller {n}");
        assert_eq!(found["term"], status["controllers"][n - 1]["term"].as_f64().unwrap());
        assert!(found["applied_index"] > 0.0);
        assert!(found["state_size_bytes"] > 0.0 && found["resident_memory_bytes"] > 1e6);
        assert!(found["log_sync_seconds_sum"] > 0.0);
        assert_eq!(found["takes_part"], 1.0);
        assert!(found.keys().any(|key| key.starts_with("info{") && key.contains("disk=\"")));
    }
    let found = metrics(&cluster, leader);
    assert_eq!(found["leases"], 4.0);
    let synced = found["log_sync_seconds_count"] > before["log_sync_seconds_count"];
    assert!(synced, "what was created has been synced");
    assert!(found["commit_seconds_count"] >= 3.0, "two sessions and a topic");
    assert_eq!(found["commit_seconds_count"], found["commit_seconds_bucket{le=\"+Inf\"}"]);
    // It may have been elected more than once before that lasted, and not since.
    assert!(before["leader_changes_total"] >= 1.0);
    assert_eq!(found["leader_changes_total"], before["leader_changes_total"]);
    assert!(found["connections"] >= 2.0, "its agents, at least");
}

#[test]
fn one_without_a_leader_is_alive_and_not_ready() {
    let mut cluster = LocalCluster::start(3, 0);
    for n in 1..=3 {
        until("it is ready", PATIENCE, || (ask(&cluster, n, "/readyz").0 == 200).then_some(()));
        let (status, body) = ask(&cluster, n, "/healthz");
        assert_eq!((status, &body["status"]), (200, &Value::from("ok")));
        assert_eq!(body["controller"]["id"], n);
    }
    cluster.kill_controller(1);
    cluster.kill_controller(2);
    let body = until("it knows that nobody leads", PATIENCE, || {
        let (status, body) = ask(&cluster, 3, "/readyz");
        (status == 503).then_some(body)
    });
    assert_eq!(body["status"], "failing");
    assert_eq!(body["reasons"], serde_json::json!(["it knows no leader"]));
    assert_eq!(ask(&cluster, 3, "/healthz").0, 200, "a restart would not help");

    // Both still tell what they can, and how they end says what is missing.
    let told = cluster.run(&["status", "--output", "json"]);
    assert_eq!(told.code, Some(UNAVAILABLE), "{}", told.stderr);
    assert!(told.error().contains("no controller leads"), "{}", told.stderr);
    let told = told.json();
    assert_eq!((&told["leader"], &told["controllers"][2]["id"]), (&Value::Null, &3.into()));
    let told = cluster.run(&["cluster", "status", "--output", "json"]);
    assert_eq!(told.code, Some(UNAVAILABLE), "{}", told.stderr);
    assert!(told.error().contains("no controller leads"), "{}", told.stderr);
    let told = told.json();
    assert_eq!(told["leader"], Value::Null);
    let roles = |n: usize| told["controllers"][n]["role"].clone();
    assert_eq!((roles(0), roles(1)), ("unreachable".into(), "unreachable".into()));
    assert_eq!(told["controllers"][0]["lag"], Value::Null);
    let bench = cluster.run(&["bench", "metadata"]);
    assert_eq!(bench.code, Some(UNAVAILABLE), "{}", bench.stderr);
    assert_eq!(bench.error(), "error: no controller leads just now: try again");

    cluster.start_controller(1);
    until("it is ready again", PATIENCE, || (ask(&cluster, 3, "/readyz").0 == 200).then_some(()));
    let told = cluster.run(&["cluster", "status", "--output", "json"]).ok().json();
    assert!(told["leader"].is_u64() && told["controllers"][1]["role"] == "unreachable", "{told}");
}

#[test]
fn a_disk_that_hangs_shows_as_ill_and_one_that_works_again_as_well() {
    let cluster = LocalCluster::start_on_disks(3);
    let leader = cluster.leader();
    cluster.disk(leader).stall().unwrap();
    // A disk is noticed to hang by what waits for it: with a leader, something always does in time.
    let mut creating = cluster.spawn_command(&["topic", "create", "t", "--partitions", "1"]);
    let body = until("its disk is seen to hang", PATIENCE, || {
        let (status, body) = ask(&cluster, leader, "/healthz");
        (status == 503).then_some(body)
    });
    assert!(body["reasons"][0].as_str().unwrap().contains("the log's disk hangs"), "{body}");
    assert_eq!(ask(&cluster, leader, "/readyz").0, 503);
    drop(creating.child.stdin.take());
    creating.finish().ok();
    cluster.disk(leader).mend().unwrap();
    until("it is well again", PATIENCE, || {
        (ask(&cluster, leader, "/healthz").0 == 200).then_some(())
    });
    until("it is ready again", PATIENCE, || {
        (ask(&cluster, leader, "/readyz").0 == 200).then_some(())
    });
}

#[test]
fn cluster_status_tells_lag_disk_and_snapshot_of_each_controller() {
    let cluster = LocalCluster::start(3, 1);
    cluster.run(&["topic", "create", "t", "--partitions", "2"]).ok();
    let told = until("all have caught up", PATIENCE, || {
        let told = cluster.run(&["cluster", "status", "--output", "json"]).ok().json();
        let all = told["controllers"].as_array()?.clone();
        all.iter().all(|c| c["lag"] == 0).then_some(told)
    });
    let status = cluster.try_status().unwrap();
    assert_eq!(
        (&told["cluster"], &told["generation"]),
        (&status["cluster"], &status["generation"])
    );
    assert_eq!(told["leader"], status["leader"]);
    let mut disks = Vec::new();
    for (n, controller) in told["controllers"].as_array().unwrap().iter().enumerate() {
        assert_eq!(controller["id"], n + 1);
        assert_eq!(controller["address"], cluster.controller_address(n + 1).to_string());
        assert_eq!(
            (&controller["snapshot"], &controller["snapshot_age_seconds"]),
            (&0.into(), &Value::Null)
        );
        for number in ["term", "last_log", "applied", "state_bytes", "log_syncs"] {
            assert!(controller[number].as_u64() > Some(0), "{number}: {controller}");
        }
        disks.push(controller["disk"].as_str().unwrap().to_owned());
    }
    disks.dedup();
    assert!(disks.len() == 3 && disks.iter().all(|disk| disk.len() == 36), "{disks:?}");
    let text = String::from_utf8(cluster.run(&["cluster", "status"]).ok().stdout).unwrap();
    assert!(text.contains(" leads") && text.contains("lag"), "{text}");
}

/// All lines with that message that any controller has logged, as they are: every line is JSON.
fn said(cluster: &LocalCluster, controllers: usize, message: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for n in 1..=controllers {
        for line in cluster.controller_log(n).lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            found.extend((line["message"] == message).then_some(line));
        }
    }
    found
}

fn connect(cluster: &LocalCluster, n: usize) -> Channel {
    let address = cluster.controller_address(n);
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

#[test]
fn each_lease_move_and_leader_change_is_one_line_with_its_reason() {
    let mut cluster = LocalCluster::start_with_flags(3, 2, &["--log-format", "json"]);
    let leader = cluster.leader();
    // More than one, if the first one elected did not last.
    let before = said(&cluster, 3, "the leader changed").len();
    cluster.run(&["topic", "create", "t", "--partitions", "6"]).ok();
    cluster.run_with_input(&["produce", "t"], b"one\n").ok();
    assert!(said(&cluster, 3, "lease moved").is_empty(), "leases of new partitions do not move");

    // An agent dies: its three partitions move, which only the leader tells.
    let dead = cluster.agent_address(1).to_string();
    cluster.kill_agent(1);
    until("nothing is left to the dead", PATIENCE, || {
        cluster.partitions("t").iter().all(|p| p["address"] != dead.as_str()).then_some(())
    });
    let moves = until("the moves are told", PATIENCE, || {
        let moves = said(&cluster, 3, "lease moved");
        (moves.len() >= 3).then_some(moves)
    });
    assert_eq!(moves.len(), 3, "{moves:?}");
    for line in &moves {
        assert_eq!(line["reason"], "the holder's session ended");
        assert_eq!(line["address"], cluster.agent_address(2).to_string());
        assert!(line["partition"].as_str().unwrap().starts_with("t/"), "{line}");
        assert_eq!(line["level"], "INFO");
    }
    assert_eq!(metrics(&cluster, leader)["lease_moves_total"], 3.0);

    // The leadership is handed over, and then the leader dies.
    let to = 1 + leader % 3;
    cluster.run(&["cluster", "transfer-leader", &to.to_string()]).ok();
    // Whoever leads next tells whom it knew as the leader.
    until("all know the new leader", PATIENCE, || {
        (1..=3).all(|n| metrics(&cluster, n)["leader_id"] == to as f64).then_some(())
    });
    cluster.kill_controller(to);
    let last = until("another one leads", PATIENCE, || {
        let status = cluster.try_status()?;
        status["leader"].as_u64().filter(|id| *id != to as u64)
    });
    let mut changes = until("the changes are told", PATIENCE, || {
        let changes = said(&cluster, 3, "the leader changed");
        (changes.len() >= before + 2).then_some(changes)
    });
    changes.sort_by_key(|line| line["term"].as_u64());
    let [first, second, third] = &changes[before - 1..] else { panic!("{changes:?}") };
    assert_eq!(
        (&first["leader"], &second["leader"], &third["leader"]),
        (&leader.into(), &to.into(), &last.into())
    );
    assert_eq!(second["reason"], format!("controller {leader} handed over"));
    assert!(
        third["reason"].as_str().unwrap().starts_with(&format!("controller {to} was silent for "))
    );
}

#[test]
fn a_refused_commit_is_one_line_however_often_it_is_sent() {
    let cluster = LocalCluster::start_with_flags(3, 1, &["--log-format", "json"]);
    let leader = cluster.leader();
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (refused, topic) = runtime.block_on(async {
        // Through a follower: the leader tells of it all the same.
        let mut metadata = MetadataClient::new(connect(&cluster, 1 + leader % 3));
        let list = v1::ListTopicsRequest { linearizable: true };
        let topic =
            metadata.list_topics(list).await.unwrap().into_inner().topics[0].topic_id.clone();
        let mut sessions = SessionsClient::new(connect(&cluster, 1 + leader % 3));
        let registered = sessions.register(v1::RegisterRequest {
            instance: vec![7; 16],
            address: "nowhere:1".to_owned(),
            group: "another".to_owned(),
            store_url: format!("file://{}", cluster.objects().display()),
            ..Default::default()
        });
        let session = registered.await.unwrap().into_inner().session;
        let partition = v1::TopicPartition { topic_id: topic.clone(), partition: 0 };
        let slice = v1::SliceCommit {
            partition: Some(partition),
            record_count: 1,
            length: 10,
            ..Default::default()
        };
        let object =
            v1::ObjectCommit { sequence: 1, size: 10, slices: vec![slice], ..Default::default() };
        let request =
            v1::CommitObjectsRequest { session, objects: vec![object], instance: vec![7; 16] };
        let mut refused = 0;
        for _ in 0..3 {
            let answer = sessions.commit_objects(request.clone()).await.unwrap().into_inner();
            refused += usize::from(!answer.results[0].slices[0].accepted);
        }
        (refused, topic)
    });
    assert_eq!((refused, topic.len()), (3, 16));
    let lines = until("it is told", PATIENCE, || {
        let lines = said(&cluster, 3, "commit refused");
        (!lines.is_empty()).then_some(lines)
    });
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(line["reason"], "t/0: another session holds the lease, or none");
    assert_eq!(
        (&line["sequence"], &line["slices"], &line["refused"]),
        (&1.into(), &1.into(), &1.into())
    );
    assert_eq!(metrics(&cluster, leader)["commits_refused_total"], 1.0);
}

/// The lines that agent 1 has logged with this message, as JSON.
fn agent_said(cluster: &LocalCluster, message: &str) -> Vec<Value> {
    let log = cluster.agent_log(1);
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).collect()
}

#[test]
fn spans_follow_one_batch_from_its_stream_to_its_acknowledgement() {
    let agent_flags = &["--log", "info,streamhouse_agent=trace", "--log-format", "json"];
    let cluster = LocalCluster::start_as(1, 1, &Setup { agent_flags, ..Setup::default() });
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    cluster.run_with_input(&["produce", "t"], b"one\n").ok();
    cluster.run_with_input(&["produce", "t"], b"two\nthree\n").ok();
    let acknowledged = agent_said(&cluster, "batch acknowledged");
    let [first, second] = &acknowledged[..] else { panic!("{}", cluster.agent_log(1)) };
    assert_eq!((&first["base_offset"], &second["base_offset"]), (&0.into(), &1.into()));
    // The batch is followed by its span: the same when it came in.
    let span = &second["span"];
    assert_eq!(span["name"], "batch", "{second}");
    let admitted = agent_said(&cluster, "batch admitted");
    let admitted = admitted.iter().filter(|line| line["span"] == *span).count();
    assert_eq!(admitted, 1, "{span}: {}", cluster.agent_log(1));
    // Its offset and partition lead to the slice, that one's span to the object, the object's numbers to the commit.
    let slices = agent_said(&cluster, "slice in object");
    let slice = slices.iter().find(|slice| slice["base_offset"] == 1).expect("its slice");
    let (topic, partition) = (slice["topic"].as_str().unwrap(), &slice["partition"]);
    assert_eq!(span["partition"].as_str().unwrap(), format!("{topic}/{partition}"));
    let object = &slice["span"];
    assert_eq!((&object["name"], &slice["last_offset"]), (&"object".into(), &2.into()));
    let uploaded = agent_said(&cluster, "object uploaded");
    assert!(uploaded.iter().any(|line| line["span"] == *object), "{object}");
    let answered = agent_said(&cluster, "object's commit answered");
    let answered = answered.iter().find(|line| line["sequence"] == object["sequence"]).unwrap();
    assert_eq!(answered["session"], object["session"]);
    assert_eq!(answered["applied"], second["applied"], "acknowledged by this answer (ACK)");
}

#[test]
fn topic_describe_tells_the_rate_and_the_holder_of_each_partition() {
    let cluster = LocalCluster::start(1, 1);
    cluster.run(&["topic", "create", "t", "--partitions", "2"]).ok();
    let lines: String = (0..600).map(|n| format!("{n}\n")).collect();
    cluster.run_with_input(&["produce", "t", "--partition", "0"], lines.as_bytes()).ok();
    let partitions = cluster.partitions("t");
    let [busy, idle] = &partitions[..] else { panic!("two partitions") };
    // Six hundred in the last minute.
    assert_eq!(busy["records_per_second"], 10.0, "{busy}");
    assert!(busy["bytes_per_second"].as_f64().unwrap() > 1.0, "{busy}");
    assert_eq!(
        (&idle["records_per_second"], &idle["bytes_per_second"]),
        (&0.0.into(), &0.0.into())
    );
    for partition in [busy, idle] {
        assert_eq!(partition["address"], cluster.agent_address(1).to_string());
    }
}
