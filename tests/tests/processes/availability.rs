//! What goes on while controllers come, go and hang: writers wait a little and lose nothing, agents' leases move when
//! their agent dies and not otherwise, long work goes on under the next leader.
//!
//! `STREAMHOUSE_KILLS_SECONDS` says for how long leaders are killed.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_tests::{LocalCluster, Stopwatch, until};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(60);
/// A call without an answer for so long is made again elsewhere.
const CALL: Duration = Duration::from_millis(300);
const GROUP: &str = "availability";

fn client(address: &str) -> MetadataClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    MetadataClient::new(endpoint.connect_timeout(CALL).connect_lazy())
}

fn topic(cluster: &LocalCluster, name: &str, partitions: u32) -> v1::TopicPartition {
    cluster.run(&["topic", "create", name, "--partitions", &partitions.to_string()]).ok();
    let described = cluster.run(&["topic", "describe", name, "--output", "json"]).ok().json();
    let id = described["id"].as_str().unwrap().replace('-', "");
    let byte = |at: usize| u8::from_str_radix(&id[at..at + 2], 16).unwrap();
    v1::TopicPartition { topic_id: (0..32).step_by(2).map(byte).collect(), partition: 0 }
}

fn commit(partition: &v1::TopicPartition, number: u64) -> v1::CommitOffsetsRequest {
    v1::CommitOffsetsRequest {
        request: Some(v1::RequestId { requester: vec![5; 16], number }),
        group: GROUP.into(),
        offsets: vec![v1::OffsetCommit {
            partition: Some(partition.clone()),
            offset: number,
            metadata: String::new(),
        }],
        ..v1::CommitOffsetsRequest::default()
    }
}

/// The offset that is committed, by a linearizable read.
async fn committed(
    client: &mut MetadataClient<Channel>,
    partition: &v1::TopicPartition,
) -> Option<u64> {
    let request = v1::FetchOffsetsRequest {
        group: GROUP.into(),
        partitions: vec![partition.clone()],
        linearizable: true,
        min_applied: 0,
    };
    let answer = tokio::time::timeout(CALL, client.fetch_offsets(request)).await.ok()?.ok()?;
    answer.into_inner().offsets.first().map(|offset| offset.offset)
}

/// Commits one offset after another, each until it is acknowledged, at whichever controller answers.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Vec<Duration>)>,
}

impl Writer {
    fn start(addresses: Vec<String>, partition: v1::TopicPartition) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("writer".into()).spawn(move || {
            Runtime::new().unwrap().block_on(async {
                let mut clients: Vec<_> = addresses.iter().map(|a| client(a)).collect();
                let (mut number, mut at, mut pauses) = (0, 0, Vec::new());
                while !stopped.load(Ordering::SeqCst) {
                    number += 1;
                    let watch = Stopwatch::start();
                    loop {
                        let count = clients.len();
                        let call = clients[at % count].commit_offsets(commit(&partition, number));
                        match tokio::time::timeout(CALL, call).await {
                            Ok(Ok(answer)) => {
                                let results = answer.into_inner().results;
                                assert!(
                                    results.iter().all(|r| r.code() == v1::ErrorCode::Unspecified)
                                );
                                break;
                            }
                            Ok(Err(_)) | Err(_) => at += 1,
                        }
                        assert!(watch.elapsed() < PATIENCE, "a write fails for good");
                        // As a client's back-off does; what ends the loop is the answer.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    pauses.push(watch.elapsed());
                }
                (number, pauses)
            })
        });
        Self { stop, thread: thread.unwrap() }
    }

    /// The last offset that was acknowledged, and the longest wait for one.
    fn stop(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::SeqCst);
        let (last, pauses) = self.thread.join().unwrap();
        (last, pauses.into_iter().max().unwrap())
    }
}

fn addresses(cluster: &LocalCluster) -> Vec<String> {
    (1..=3).map(|n| cluster.controller_address(n).to_string()).collect()
}

fn status_of(cluster: &LocalCluster, n: usize) -> Option<Value> {
    let status = cluster.try_status()?;
    status["controllers"].as_array()?.iter().find(|c| c["id"] == n).cloned()
}

#[test]
fn a_rolling_restart_fails_no_write() {
    let mut cluster = LocalCluster::start(3, 1);
    let partition = topic(&cluster, "flights", 1);
    let writer = Writer::start(addresses(&cluster), partition.clone());
    for n in 1..=3 {
        cluster.stop_controller(n);
        cluster.start_controller(n);
        // The next one only when this one follows again, as an operator would.
        until("it follows again", PATIENCE, || {
            status_of(&cluster, n).filter(|c| c["role"] == "follower" || c["role"] == "leader")
        });
    }
    let (last, longest) = writer.stop();
    println!("rolling restart: {last} writes, the longest pause {longest:?}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    let address = cluster.controller_address(cluster.leader()).to_string();
    let read = Runtime::new()
        .unwrap()
        .block_on(async { committed(&mut client(&address), &partition).await });
    assert_eq!(read, Some(last));
}

#[test]
fn a_leader_that_hung_is_replaced_and_has_no_say_afterwards() {
    let cluster = LocalCluster::start(3, 0);
    let partition = topic(&cluster, "flights", 1);
    let old = cluster.leader();
    let others: Vec<String> =
        (1..=3).filter(|n| *n != old).map(|n| cluster.controller_address(n).to_string()).collect();
    let old_address = cluster.controller_address(old).to_string();
    Runtime::new().unwrap().block_on(async {
        let mut stopped = client(&old_address);
        stopped.commit_offsets(commit(&partition, 1)).await.unwrap();
        cluster.stop_controller_process(old);
        let watch = Stopwatch::start();
        // It waits in the stopped leader's socket, and would be the newer one if it ever counted late.
        let mut late = client(&old_address);
        let write = late.commit_offsets(commit(&partition, 2));
        let read = async { committed(&mut stopped, &partition).await };
        let go_on = async {
            let mut clients: Vec<_> = others.iter().map(|address| client(address)).collect();
            let mut at = 0;
            loop {
                let count = clients.len();
                let call = clients[at % count].commit_offsets(commit(&partition, 3));
                match tokio::time::timeout(CALL, call).await {
                    Ok(Ok(_)) => break,
                    Ok(Err(_)) | Err(_) => at += 1,
                }
                assert!(watch.elapsed() < PATIENCE, "nobody took over");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let took = watch.elapsed();
            println!("a hung leader was replaced after {took:?}");
            assert!(took < Duration::from_secs(3), "{took:?}");
            cluster.continue_controller_process(old);
        };
        let (write, _, ()) = tokio::join!(write, read, go_on);
        // An older commit of the same consumer: whoever answers, it changes nothing.
        if let Ok(answer) = write {
            let results = answer.into_inner().results;
            assert!(results.iter().all(|r| r.code() != v1::ErrorCode::Unspecified), "{results:?}");
        }
        let mut reader = client(&old_address);
        let read = loop {
            match committed(&mut reader, &partition).await {
                Some(read) => break read,
                None => assert!(watch.elapsed() < PATIENCE, "it does not serve again"),
            }
        };
        assert_eq!(read, 3, "the old leader answers with what is over");
    });
}

fn kills() -> Duration {
    let seconds = std::env::var("STREAMHOUSE_KILLS_SECONDS").unwrap_or_else(|_| "18".into());
    Duration::from_secs(seconds.parse().unwrap())
}

/// Holder and epoch of every partition.
fn leases(cluster: &LocalCluster) -> BTreeMap<u64, (String, u64)> {
    let described = cluster.run(&["topic", "describe", "flights", "--output", "json"]);
    let described =
        if described.code == Some(0) { described.json() } else { return BTreeMap::new() };
    let partitions = described["partitions"].as_array().unwrap();
    let lease = |p: &Value| {
        let holder = p["address"].as_str().unwrap_or_default().to_owned();
        (p["partition"].as_u64().unwrap(), (holder, p["lease_epoch"].as_u64().unwrap()))
    };
    partitions.iter().map(lease).collect()
}

#[test]
fn leaders_die_again_and_again_and_leases_move_only_from_the_dead() {
    const EVERY: Duration = Duration::from_secs(3);
    const AGENTS: usize = 3;
    let mut cluster = LocalCluster::start(3, AGENTS);
    cluster.run(&["topic", "create", "flights", "--partitions", "12"]).ok();
    let held_by = |leases: &BTreeMap<u64, (String, u64)>, n: usize, cluster: &LocalCluster| {
        let address = cluster.agent_address(n).to_string();
        leases.values().filter(|(holder, _)| *holder == address).count()
    };
    let before = until("every agent has its share", PATIENCE, || {
        let now = leases(&cluster);
        (1..=AGENTS).all(|n| held_by(&now, n, &cluster) == 12 / AGENTS).then_some(now)
    });
    let dead = cluster.agent_address(AGENTS).to_string();
    let watch = Stopwatch::start();
    let (mut rounds, mut died, mut moved) = (0, None, None);
    while watch.elapsed() < kills() || moved.is_none() {
        let round = Stopwatch::start();
        let leader = cluster.leader();
        if rounds == 2 {
            // It dies together with the leader.
            cluster.kill_agent(AGENTS);
            died = Some(Stopwatch::start());
        }
        cluster.kill_controller(leader);
        cluster.start_controller(leader);
        rounds += 1;
        until("the round is over", PATIENCE, || {
            if let (Some(died), None) = (&died, moved) {
                let now = leases(&cluster);
                if now.len() == 12 && held_by(&now, AGENTS, &cluster) == 0 {
                    moved = Some(died.elapsed());
                }
            }
            (round.elapsed() >= EVERY).then_some(())
        });
        assert!(watch.elapsed() < kills() + PATIENCE, "the dead agent's leases never moved");
    }
    let moved = moved.unwrap();
    println!("{rounds} leaders killed; the dead agent's leases moved within {moved:?}");
    assert!(moved < Duration::from_secs(6), "{moved:?}");
    let after = until("the partitions are described", PATIENCE, || {
        Some(leases(&cluster)).filter(|now| now.len() == 12)
    });
    for (partition, (holder, epoch)) in before {
        if holder == dead {
            assert_ne!(after[&partition].0, dead);
        } else {
            assert_eq!(
                after[&partition],
                (holder, epoch),
                "partition {partition} of a living agent"
            );
        }
    }
}

#[test]
fn ten_thousand_partitions_are_made_and_removed_across_leaders() {
    let mut cluster = LocalCluster::start(3, 1);
    let create = ["topic", "create", "large", "--partitions", "10000"];
    let delete = ["topic", "delete", "large"];
    for round in 0..2 {
        let creating = cluster.spawn_command(&create);
        until("the topic has begun to exist", PATIENCE, || {
            let listed = cluster.run(&["topic", "list", "--output", "json"]);
            (listed.code == Some(0) && listed.stdout.windows(7).any(|w| w == b"\"large\""))
                .then_some(())
        });
        let leader = cluster.leader();
        cluster.kill_controller(leader);
        creating.finish().ok();
        cluster.start_controller(leader);
        let partitions = until("every partition has its lease", PATIENCE, || {
            let partitions = cluster.partitions("large");
            let held = partitions.iter().all(|p| p["address"].is_string());
            (partitions.len() == 10_000 && held).then_some(partitions)
        });
        assert_eq!(partitions[9_999]["partition"], 9_999);

        let deleting = cluster.spawn_command(&delete);
        let leader = cluster.leader();
        cluster.kill_controller(leader);
        deleting.finish().ok();
        cluster.start_controller(leader);
        // Its name is free at once; what is left of it goes in the background.
        println!("round {round}: created and deleted");
    }
    cluster.run(&["topic", "create", "large", "--partitions", "3"]).ok();
    assert_eq!(cluster.partitions("large").len(), 3);
}
