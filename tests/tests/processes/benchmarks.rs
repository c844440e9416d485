//! The benchmarks run, count right and say what they promise to say. How fast anything is, no test asserts, but for how
//! long nothing may be written when leaders die: `STREAMHOUSE_FAILOVER_KILLS` says how many, and holds the gaps to what
//! so many must show.

use std::time::Duration;

use serde_json::Value;
use streamhouse_tests::{UpCluster, run, sample_file, until};

const PATIENCE: Duration = Duration::from_secs(120);
/// Nothing was measured, because another controller leads: it can be tried again.
const UNAVAILABLE: i32 = 4;

#[test]
fn bench_produce_counts_records_bytes_objects_and_cpu_time_per_process() {
    let cluster = UpCluster::new();
    cluster.up(&[]).ok();
    cluster.run(&["topic", "create", "flights", "--partitions", "4"]).ok();
    let file = sample_file();
    let file = file.to_str().unwrap();
    let args = ["bench", "produce", "--topic", "flights", "--file", file, "--skip-header"];
    let more = ["--key-field", "10", "--delimiter", ",", "--records", "30000", "--output", "json"];
    let report = cluster.run(&[&args[..], &more[..]].concat()).ok().json();
    assert_eq!(report["records"], 30_000);
    assert_eq!(report["retries"], 0);
    let positive = ["bytes", "seconds", "records_per_second", "mb_per_second", "put_requests"];
    for field in positive.into_iter().chain(["ack_p50_ms", "ack_p99_ms"]) {
        assert!(report[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {report}");
    }
    // This process, three controllers, two agents.
    assert_eq!(report["cpu_seconds"].as_object().map(|all| all.len()), Some(6), "{report}");
    // The file has fewer rows: they came again.
    let topic = cluster.run(&["topic", "describe", "flights", "--output", "json"]).ok().json();
    let written = topic["partitions"].as_array().unwrap().iter();
    let written: u64 = written.map(|p| p["high_watermark"].as_u64().unwrap()).sum();
    assert_eq!(written, 30_000);
    // An object holds slices of several partitions: it counts once.
    let slices = topic["partitions"].as_array().unwrap().iter();
    let slices: u64 = slices.map(|p| p["segments"].as_u64().unwrap()).sum();
    assert!(report["put_requests"].as_u64().unwrap() <= slices, "{report}");

    // Random records, into what is there already.
    let args = ["bench", "produce", "--topic", "flights", "--records", "500"];
    let more = ["--record-size", "1024", "--output", "json"];
    let report = cluster.run(&[&args[..], &more[..]].concat()).ok().json();
    assert_eq!((&report["records"], &report["bytes"]), (&500.into(), &(500 * 1024).into()));
}

#[test]
fn bench_latency_takes_the_time_of_every_record() {
    let cluster = UpCluster::new();
    cluster.up(&["--controllers", "1", "--agents", "1"]).ok();
    let args = ["bench", "latency", "--rate", "500", "--duration", "2", "--output", "json"];
    let report = cluster.run(&args).ok().json();
    assert_eq!(report["records"], 1_000);
    for times in [&report["ack_ms"], &report["end_to_end_ms"]] {
        let time = |name: &str| times[name].as_f64().unwrap();
        assert!(time("p50") > 0.0 && time("p50") <= time("p99") && time("p99") <= time("max"));
    }
    // The topic that it made is gone.
    let topics = cluster.run(&["topic", "list", "--output", "json"]).ok().json();
    assert_eq!(
        topics.as_array().or(topics["topics"].as_array()).map(Vec::len),
        Some(0),
        "{topics}"
    );
}

#[test]
fn bench_failover_kills_agents_and_finds_every_record_again() {
    let cluster = UpCluster::new();
    cluster.up(&[]).ok();
    let data = cluster.data().to_str().unwrap();
    let args = ["bench", "failover", "--data", data, "--target", "agent", "--kills", "2"];
    let finished = run(&[&args[..], &["--rate", "500", "--output", "json"]].concat());
    let report: Value = finished.json();
    assert_eq!((&report["target"], &report["kills"]), (&"agent".into(), &2.into()), "{report}");
    assert!(report["records"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["acknowledged"], report["records"], "{report}");
    for fate in ["lost", "duplicated", "order_violations", "misplaced"] {
        assert_eq!(report[fate], 0, "{fate}: {report}");
    }
    assert!(report["recovery_ms"]["p50"].as_f64().unwrap() > 0.0, "{report}");
    // All that was killed runs again.
    let status = cluster.status();
    assert_eq!(status["agents"].as_array().map(Vec::len), Some(2), "{status}");
}

/// Operations were measured, by so many clients, and their times are in order.
fn assert_measured(figures: &Value, clients: u64) {
    let figure = |name: &str| figures[name].as_f64().unwrap_or_else(|| panic!("{name}: {figures}"));
    assert_eq!(figures["clients"], clients, "{figures}");
    assert!(figures["operations"].as_u64() > Some(0), "{figures}");
    assert!(figure("ops_per_second") > 0.0 && figure("p50_ms") > 0.0, "{figures}");
    assert!(
        figure("p50_ms") <= figure("p99_ms") && figure("p99_ms") <= figure("max_ms"),
        "{figures}"
    );
}

#[test]
fn bench_metadata_measures_every_call_for_every_number_of_clients() {
    let cluster = UpCluster::new();
    cluster.up(&["--agents", "1"]).ok();
    let args = ["bench", "metadata", "--clients", "1,4", "--measure", "2s"];
    let more = ["--warm-up", "100ms", "--output", "json"];
    let report = until("one leader lasts for all measurements", PATIENCE, || {
        let measured = cluster.run(&[&args[..], &more[..]].concat());
        (measured.code != Some(UNAVAILABLE)).then(|| measured.ok().json())
    });
    assert_eq!(report["controllers"], 3, "{report}");
    assert_eq!(report["slices_per_commit"], 8, "{report}");
    for what in ["commits", "offset_commits"] {
        let figures = report[what].as_array().unwrap();
        assert_eq!(figures.len(), 2, "{what}: {report}");
        for (figures, clients) in figures.iter().zip([1, 4]) {
            assert_measured(figures, clients);
        }
    }
    for what in ["local", "linearizable"] {
        assert_measured(&report["lookups"][what], 64);
    }
    assert!(report["heartbeats_per_second"].as_f64() > Some(0.0), "{report}");
    // What it made is gone, its sessions too.
    let topics = cluster.run(&["topic", "list", "--output", "json"]).ok().json();
    assert_eq!(topics.as_array().map(Vec::len), Some(0), "{topics}");
    let groups = cluster.run(&["group", "list", "--output", "json"]).ok().json();
    assert_eq!(groups.as_array().map(Vec::len), Some(0), "{groups}");
    let status = cluster.status();
    assert_eq!(status["agents"].as_array().map(Vec::len), Some(1), "{status}");
}

#[test]
fn bench_failover_kills_leaders_and_measures_how_long_nothing_was_written() {
    let kills = std::env::var("STREAMHOUSE_FAILOVER_KILLS").ok();
    let cluster = UpCluster::new();
    cluster.up(&[]).ok();
    let data = cluster.data().to_str().unwrap();
    let args = ["bench", "failover", "--data", data, "--kills", kills.as_deref().unwrap_or("3")];
    let report = run(&[&args[..], &["--output", "json"]].concat()).ok().json();
    println!("{report}");
    assert_eq!(report["kills"].to_string(), args[5], "{report}");
    assert_eq!(report["controllers"], 3, "{report}");
    assert!(report["writes"].as_u64() > report["kills"].as_u64(), "{report}");
    let gap = |name: &str| report["gap_ms"][name].as_f64().unwrap();
    assert!(gap("min") > 0.0 && gap("min") <= gap("p50"), "{report}");
    assert!(gap("p50") <= gap("p99") && gap("p99") <= gap("max"), "{report}");
    assert!(gap("max") <= 3_000.0, "{report}");
    if kills.is_some() {
        assert!(gap("p50") <= 700.0 && gap("p99") <= 1_500.0, "{report}");
    }
    // All that was killed runs again.
    let status = cluster.status();
    let controllers = status["controllers"].as_array().unwrap();
    assert!(controllers.iter().all(|c| c["role"] != "unreachable"), "{status}");
}
