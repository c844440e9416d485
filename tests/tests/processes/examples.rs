//! The consumer's examples, as a newcomer runs them.
use std::path::PathBuf;
use std::process::Command;

use streamhouse_tests::{LocalCluster, binary};

const RECORDS: usize = 200;

/// Where `cargo test` (or `cargo build --examples`) puts it.
fn example(name: &str) -> PathBuf {
    let path = binary().parent().unwrap().join("examples").join(name);
    assert!(path.is_file(), "build it first: cargo build --release --workspace --examples");
    path
}

/// What an example prints that ends well.
fn output(cluster: &LocalCluster, name: &str) -> String {
    let first = cluster.controller_address(1).to_string();
    let ran = Command::new(example(name)).args([&first, "orders"]).output().unwrap();
    let (out, err) = (String::from_utf8(ran.stdout).unwrap(), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{name}: {err}\n{out}");
    out
}

#[test]
fn the_consumer_s_examples_run() {
    let cluster = LocalCluster::start(3, 1);
    cluster.run(&["topic", "create", "orders", "--partitions", "4"]).ok();
    let lines: String = (0..RECORDS).map(|n| format!("user{n},{n}\n")).collect();
    cluster.run_with_input(&["produce", "orders", "--key-field", "1"], lines.as_bytes()).ok();

    let told = output(&cluster, "consumer_demo");
    assert!(
        told.contains("records by partition") && told.contains("had its first record"),
        "{told}"
    );
    let group =
        cluster.run(&["group", "describe", "consumer-demo", "--output", "json"]).ok().json();
    assert_eq!((&group["lag"], &group["state"]), (&0.into(), &"empty".into()));
    let rows = group["partitions"].as_array().unwrap();
    assert!(rows.len() == 4 && rows.iter().all(|row| row["metadata"] == "demo done"), "{group}");

    let told = output(&cluster, "consumer_group_demo");
    // In this order: the first member has everything, gives some up for the second, and the last has everything again.
    let steps = [
        "alice joins",
        "alice + assigned: ",
        "stable · alice: orders/0 orders/1 orders/2 orders/3",
        "bob joins",
        "alice - revoked: ",
        "bob + assigned: ",
        "carol joins",
        "carol + assigned: ",
        "alice leaves",
        "bob leaves",
        "carol + assigned: ",
        "stable · carol: orders/0 orders/1 orders/2 orders/3",
        "carol leaves",
    ];
    let mut rest = told.as_str();
    for step in steps {
        rest = rest.split_once(step).unwrap_or_else(|| panic!("no '{step}' in its turn: {told}")).1;
    }
    assert!(!told.contains("! lost"), "{told}");
    let read = told.lines().find_map(|line| line.strip_suffix(" records read")).unwrap();
    assert!(read.parse::<usize>().unwrap() >= RECORDS, "{told}");
}
