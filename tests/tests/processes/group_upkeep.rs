//! What the leader does for groups by itself: idle ones go, and signs of life cost the log nothing.
use std::thread::sleep;
use std::time::Duration;

use crate::observed::metrics;
use streamhouse_client::consumer::ConsumerBuilder;
use streamhouse_client::{Consumer, OffsetReset};
use streamhouse_tests::{LocalCluster, until};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(60);
const RETENTION: Duration = Duration::from_secs(1);
/// In this time four members give 240 signs of life, to each of the controllers.
const WATCHED: Duration = Duration::from_secs(3);

fn start(flags: &[&str]) -> LocalCluster {
    let cluster = LocalCluster::start_with_flags(3, 1, flags);
    cluster.run(&["topic", "create", "t", "--partitions", "4"]).ok();
    cluster.run_with_input(&["produce", "t", "--partition", "0"], b"one\ntwo\nthree\n").ok();
    cluster
}

fn builder(cluster: &LocalCluster) -> ConsumerBuilder {
    let controllers = cluster.controllers();
    Consumer::builder()
        .controllers(controllers.split(','))
        .offset_reset(OffsetReset::Earliest)
        .auto_commit(false)
}

/// A group that has committed an offset and has no members.
fn make_idle(cluster: &LocalCluster, group: &str) {
    cluster.run(&["group", "reset", group, "--topic", "t", "--partition", "0", "--to", "1"]).ok();
}

fn until_gone(cluster: &LocalCluster, group: &str) {
    let unknown = format!("unknown group {group}");
    until("an idle group goes", PATIENCE, || {
        let described = cluster.run(&["group", "describe", group]);
        (described.code != Some(0) && described.error().contains(&unknown)).then_some(())
    });
}

#[test]
fn an_idle_group_goes_with_its_offsets() {
    let retention = format!("{}s", RETENTION.as_secs());
    let mut cluster = start(&["--group-retention", &retention]);
    let runtime = Runtime::new().unwrap();
    let mut member =
        runtime.block_on(builder(&cluster).group_id("live").topics(["t"]).build()).unwrap();
    runtime.block_on(member.commit_offsets([(("t", 0), 2)])).unwrap();
    let lives = |cluster: &LocalCluster| {
        let told = cluster.run(&["group", "describe", "live", "--output", "json"]).ok().json();
        let committed = told["partitions"][0]["committed"].clone();
        assert_eq!((told["members"].as_array().unwrap().len(), committed), (1, 2.into()));
    };
    make_idle(&cluster, "idle");
    until_gone(&cluster, "idle");
    lives(&cluster);
    // Where it was is not known any more: who comes next under its name begins anew.
    let next = builder(&cluster).group_id("idle").assign([("t", 0)]).build();
    assert!(runtime.block_on(async { next.await.unwrap().committed().await }).unwrap().is_empty());
    // Since when another one is idle is known to the next leader as well: here time must pass, and an entry tell of it,
    // for that is where the next leader's cluster time begins.
    make_idle(&cluster, "another");
    sleep(2 * RETENTION);
    cluster.run_with_input(&["produce", "t"], b"four\n").ok();
    let leader = cluster.leader();
    cluster.kill_controller(leader);
    until_gone(&cluster, "another");
    lives(&cluster);
    runtime.block_on(member.close()).unwrap();
    let log = |n| cluster.controller_log(n);
    let removed = (1..=3).map(|n| log(n).matches(" group removed ").count()).sum::<usize>();
    assert_eq!(removed, 2, "each of them once");
}

/// By how much the leader's log grows in that time; nothing if another term began, for which entries are written, too.
fn growth(cluster: &LocalCluster, time: Duration) -> Option<f64> {
    let look = || {
        let found = metrics(cluster, cluster.leader());
        (found["term"], found["applied_index"])
    };
    let (term, before) = look();
    sleep(time);
    let (now, after) = look();
    (now == term).then_some(after - before)
}

/// The same over some seconds, once what was done before has come to rest: how far the disks have got is marked a few
/// times after it.
fn growth_at_rest(cluster: &LocalCluster) -> f64 {
    let second = Duration::from_secs(1);
    until("a term lasts for as long as it is watched", PATIENCE, || {
        let _ = (0..10).find(|_| growth(cluster, second) == Some(0.0));
        growth(cluster, WATCHED)
    })
}

#[test]
fn signs_of_life_are_no_entries() {
    let cluster = start(&[]);
    let without = growth_at_rest(&cluster);
    let runtime = Runtime::new().unwrap();
    let mut members: Vec<Consumer> = Vec::new();
    runtime.block_on(async {
        for _ in 0..4 {
            // Without its signs of life a member would be ended while it is watched.
            let building = builder(&cluster).group_id("g").topics(["t"]);
            let building = building.session_timeout(Duration::from_secs(2));
            let building = building.heartbeat_interval(Duration::from_millis(50));
            members.push(building.build().await.unwrap());
        }
        while members.iter().any(|member| member.assignment().len() != 1) {
            for member in &mut members {
                member.poll(Duration::from_millis(20)).await.unwrap();
            }
        }
    });
    let described = || cluster.run(&["group", "describe", "g", "--output", "json"]).ok().json();
    let before = until("the group is settled", PATIENCE, || {
        Some(described()).filter(|told| told["state"] == "stable")
    });
    let with = growth_at_rest(&cluster);
    assert_eq!(described(), before, "they are members all the while");
    println!("the log grew by {with} entries with four idle members, by {without} without");
    assert!((with - without).abs() <= 2.0, "by {with} entries, by {without} without members");
    runtime.block_on(async {
        for member in members {
            member.close().await.unwrap();
        }
    });
}
