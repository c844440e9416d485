//! BOUND: what is too much is refused by the name and value of its limit, and sustained overload is shed without loss,
//! within memory, and without an election.
use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::v1::{self, ErrorCode};
use streamhouse_proto::{advice, from_status};
use streamhouse_tests::{LocalCluster, in_bounds, unless_paused, until};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

type Client = MetadataClient<Channel>;

fn client(cluster: &LocalCluster, n: usize) -> Client {
    let address = cluster.controller_address(n);
    MetadataClient::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy())
}

#[test]
fn each_limit_of_the_cluster_is_a_clear_error() {
    let flags = [
        "--max-topics=2",
        "--max-topic-partitions=5",
        "--max-partitions=8",
        "--max-sessions=1",
        "--max-producers=1",
        "--max-batch=2",
        "--max-entry-bytes=6000",
        "--max-message-bytes=40000",
    ];
    let cluster = LocalCluster::start_with_flags(3, 1, &flags);
    let create = |name: &str, partitions: &str| {
        let created = cluster.run(&["topic", "create", name, "--partitions", partitions]);
        if created.code == Some(0) { String::new() } else { created.error().to_owned() }
    };
    let error = create("a", "6");
    assert!(error.contains("allowed are 1 to 5 (--max-topic-partitions)"), "{error}");
    assert_eq!(create("a", "5"), "");
    let error = create("b", "4");
    assert!(error.contains("limit of 8 (--max-partitions)"), "{error}");
    assert_eq!(create("b", "3"), "");
    let error = create("c", "1");
    assert!(error.contains("limit of 2 (--max-topics)"), "{error}");
    // One that is there is there, whatever the limit.
    let error = create("b", "3");
    assert!(error.contains("topic b exists"), "{error}");
    // What goes makes room.
    cluster.run(&["topic", "delete", "a"]).ok();
    let runtime = Runtime::new().unwrap();
    streamhouse_tests::until("the deleted topic's room is free", Duration::from_secs(30), || {
        create("c", "5").is_empty().then_some(())
    });

    runtime.block_on(async {
        // Through every controller, the leader or not.
        for n in 1..=3 {
            let mut metadata = client(&cluster, n);
            let refused = metadata.commit_offsets(offsets("g", 3, 1, 10)).await.unwrap_err();
            let message = "3 offsets in one commit, allowed are 2 (--max-batch)";
            assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, message));
            let refused = metadata.commit_offsets(offsets("g", 2, 2, 4_000)).await.unwrap_err();
            let message = refused.message();
            assert!(
                message.contains("limit of 6000 bytes an entry (--max-entry-bytes)"),
                "{message}"
            );
            let refused = metadata.commit_offsets(offsets("g", 1, 3, 50_000)).await.unwrap_err();
            assert!(refused.message().contains("40000"), "{refused:?}");
            assert!(!advice(from_status(&refused).code()).retryable, "{refused:?}");

            let mut sessions = v1::sessions_client::SessionsClient::new(
                Endpoint::from_shared(format!("http://{}", cluster.controller_address(n)))
                    .unwrap()
                    .connect_lazy(),
            );
            let register = v1::RegisterRequest {
                instance: vec![n as u8; 16],
                address: format!("nowhere:{n}"),
                group: "another".to_owned(),
                store_url: format!("file://{}", cluster.objects().display()),
                ..Default::default()
            };
            let refused = sessions.register(register).await.unwrap_err();
            assert!(refused.message().contains("limit of 1 (--max-sessions)"), "{refused:?}");
        }
    });
    // The first takes the place that there is; a name that is taken over needs none.
    let produce =
        |args: &[&str]| cluster.run_with_input(&[&["produce", "b"], args].concat(), b"x\n");
    produce(&["--producer-name", "loader"]).ok();
    produce(&["--producer-name", "loader"]).ok();
    let refused = produce(&["--producer-name", "other"]);
    assert!(refused.error().contains("limit of 1 (--max-producers)"), "{}", refused.stderr);
    // One that is not idempotent is nobody.
    produce(&["--no-idempotence"]).ok();
}

#[test]
fn streams_connections_and_calls_beyond_their_limits_are_told_to_come_again() {
    let flags = ["--max-watchers=2", "--max-connections=3"];
    let cluster = LocalCluster::start_with_flags(3, 0, &flags);
    let (leader, term) = led(&cluster);
    let leader = leader as usize;
    let runtime = Runtime::new().unwrap();
    let watch = || v1::WatchRequest { topic_ids: vec![vec![1; 16]], min_applied: 0 };
    runtime.block_on(async {
        // The command line's connections have just been closed, and so, in a moment, are their places.
        let mut one = client(&cluster, leader);
        let first = retry_overloaded(|| {
            let mut one = one.clone();
            async move { one.watch(watch()).await }
        })
        .await;
        let second = one.watch(watch()).await.unwrap();
        let refused = one.watch(watch()).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let message = "this controller has 2 watch streams, which is its limit (--max-watchers)";
        assert_eq!(refused.message(), message);
        drop((first, second));
        retry_overloaded(|| {
            let mut one = one.clone();
            async move { one.watch(watch()).await }
        })
        .await;

        let mut others = Vec::new();
        let mut refusal = None;
        for _ in 0..8 {
            let mut other = client(&cluster, leader);
            if let Err(status) = other.get_controller(v1::GetControllerRequest {}).await {
                refusal = Some(status);
            }
            others.push(other);
        }
        let refusal = refusal.expect("eight are more than three");
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
        assert!(
            refusal.message().contains("3 connections, which is its limit (--max-connections)")
        );
        drop(others);
        retry_overloaded(|| {
            let mut other = client(&cluster, leader);
            async move { other.get_controller(v1::GetControllerRequest {}).await }
        })
        .await;
    });
    // A controller that comes back finds its peers, whoever else is connected.
    // The command line's own connection may still be one too many, just now.
    let status = until("the leader tells its term", Duration::from_secs(30), || {
        cluster.try_status().filter(|s| s["controllers"][leader - 1]["term"].is_u64())
    });
    assert_eq!(
        (&status["leader"], &status["controllers"][leader - 1]["term"]),
        (&leader.into(), &term.into())
    );
}

/// Tries until it is not refused as overload.
async fn retry_overloaded<T, F>(call: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, tonic::Status>>,
{
    let trying = async {
        loop {
            match call().await {
                Ok(answer) => return answer,
                Err(status) => {
                    assert!(advice(from_status(&status).code()).retryable, "{status:?}");
                    tokio::task::yield_now().await;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), trying).await.expect("there is room in time")
}

/// The commit of `count` offsets with so many bytes of metadata, of a partition that is not there.
fn offsets(group: &str, count: usize, number: u64, bytes: usize) -> v1::CommitOffsetsRequest {
    let partition = v1::TopicPartition { topic_id: vec![1; 16], partition: 0 };
    commit(group, partition, count, number, bytes)
}

fn commit(
    group: &str,
    partition: v1::TopicPartition,
    count: usize,
    number: u64,
    bytes: usize,
) -> v1::CommitOffsetsRequest {
    let mut requester = [0; 16];
    requester[..group.len()].copy_from_slice(group.as_bytes());
    let metadata = "m".repeat(bytes);
    let offset = v1::OffsetCommit { partition: Some(partition), offset: number, metadata };
    v1::CommitOffsetsRequest {
        request: Some(v1::RequestId { requester: requester.to_vec(), number }),
        group: group.to_owned(),
        offsets: vec![offset; count],
        ..v1::CommitOffsetsRequest::default()
    }
}

/// Who leads, and in which term, once all controllers are of that term.
fn led(cluster: &LocalCluster) -> (u64, u64) {
    until("all controllers are of one term", Duration::from_secs(30), || {
        let status = cluster.try_status()?;
        let all = status["controllers"].as_array()?;
        let terms: Option<BTreeSet<u64>> = all.iter().map(|c| c["term"].as_u64()).collect();
        let term = terms.filter(|terms| terms.len() == 1)?.pop_first()?;
        Some((status["leader"].as_u64()?, term))
    })
}

/// The most memory that controller `n` ever had resident.
fn peak_memory(cluster: &LocalCluster, n: usize) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.controller_pid(n))).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn overload_is_shed_without_loss_within_memory_and_without_an_election() {
    unless_paused(overload);
}

fn overload() -> Result<(), String> {
    const WRITERS: usize = 1_200;
    const COMMITS: u64 = 8;
    /// Ten times what may be in flight would fit, and the memory of RocksDB.
    const CEILING: u64 = 400 << 20;
    /// 64 commits of 32 KiB.
    const IN_FLIGHT: usize = 2 << 20;
    let flags = [
        &format!("--max-in-flight-bytes={IN_FLIGHT}")[..],
        "--max-entry-bytes=1048576",
        "--max-calls=600",
    ];
    let cluster = LocalCluster::start_with_flags(3, 0, &flags);
    let before = led(&cluster);
    let (leader, _) = before;
    let leader = leader as usize;
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let runtime = Runtime::new().unwrap();
    let (acknowledged, shed, unknown) = runtime.block_on(async {
        let mut first = client(&cluster, leader);
        let list = v1::ListTopicsRequest { linearizable: true };
        let topic = first.list_topics(list).await.unwrap().into_inner().topics[0].topic_id.clone();
        let partition = v1::TopicPartition { topic_id: topic, partition: 0 };
        // Two in three writers ask the leader, the others a follower.
        let places = [leader, leader, 1 + leader % 3];
        let clients: Arc<Vec<Client>> =
            Arc::new((0..24).map(|n| client(&cluster, places[n % 3])).collect());
        // All ways are open: on a busy machine a connection that is opened amid the flood may come too late, which
        // is no matter of limits.
        for (n, client) in clients.iter().enumerate() {
            let request = commit(&format!("warm-{n}"), partition.clone(), 1, 1, 1);
            client.clone().commit_offsets(request).await.unwrap();
        }
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (mut client, partition) = (clients[writer % 24].clone(), partition.clone());
            writers.spawn(async move {
                let group = format!("g-{writer}");
                let (mut acknowledged, mut shed, mut unknown) = (0, 0, 0);
                for number in 1..=COMMITS {
                    let request = commit(&group, partition.clone(), 8, number, 4_096);
                    match client.commit_offsets(request).await {
                        Ok(answer) => {
                            let results = answer.into_inner().results;
                            assert!(results.iter().all(|r| r.code() == ErrorCode::Unspecified));
                            acknowledged = number;
                        }
                        Err(status) => match from_status(&status).code() {
                            ErrorCode::Overloaded => {
                                assert_eq!(status.code(), Code::ResourceExhausted);
                                assert!(status.message().contains("(--max-"), "{status:?}");
                                shed += 1;
                            }
                            // It may have been applied: neither lost nor acknowledged.
                            code if advice(code).indeterminate => unknown += 1,
                            code => panic!("{code:?}: {status:?}"),
                        },
                    }
                }
                (group, acknowledged, shed, unknown)
            });
        }
        let (mut acknowledged, mut shed, mut unknown) = (Vec::new(), 0, 0);
        while let Some(written) = writers.join_next().await {
            let (group, last, refused, lost) = written.unwrap();
            acknowledged.extend((last > 0).then_some((group, last)));
            shed += refused;
            unknown += lost;
        }
        // Every acknowledged one is there, at a controller that did not take it, too.
        for at in 1..=3 {
            let mut reader = client(&cluster, at);
            // As new as can be, once: what follows is read where it stands.
            reader.list_topics(list).await.unwrap();
            for (group, last) in &acknowledged {
                let fetch = v1::FetchOffsetsRequest { group: group.clone(), ..Default::default() };
                let found = reader.fetch_offsets(fetch).await.unwrap().into_inner().offsets;
                assert!(found[0].offset >= *last, "{group} at {at}: {} of {last}", found[0].offset);
            }
        }
        (acknowledged.len(), shed, unknown)
    });
    let peaks: Vec<u64> = (1..=3).map(|n| peak_memory(&cluster, n) >> 20).collect();
    println!(
        "{acknowledged} groups acknowledged, {shed} commits shed, {unknown} unknown, peaks {peaks:?} MiB"
    );
    assert!(shed > 0, "so many at once are more than {IN_FLIGHT} bytes");
    assert!(acknowledged > 0, "some are served all the same");
    for n in 1..=3 {
        let peak = peak_memory(&cluster, n);
        assert!(peak < CEILING, "controller {n} had {} MiB", peak >> 20);
    }
    let after = led(&cluster);
    in_bounds(after == before, || format!("an election: (leader, term) {after:?} after {before:?}"))
}
