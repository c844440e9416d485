//! A large state: many segments, topics and sessions. How fast it is found again, looked up and snapshotted, and what
//! it takes in memory. `STREAMHOUSE_SCALE` is the number of segments; topics and sessions go with it, 2,000 and 1,000
//! for a million.
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::v1::sessions_client::SessionsClient;
use streamhouse_tests::{LocalCluster, Random, Stopwatch, http_get, until};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(120);
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Each of a partition of its own.
const SLICES: usize = 8;
const RECORDS: u64 = 100;
const LOOK_UPS: usize = 5_000;
const GROUP: &str = "scale";

struct Scale {
    segments: u64,
    topics: usize,
    sessions: usize,
}

fn scale() -> Scale {
    let text = std::env::var("STREAMHOUSE_SCALE").unwrap_or_else(|_| "20000".into());
    let segments: u64 = text.parse().unwrap();
    let part = |of_a_million: u64| (segments * of_a_million).div_ceil(1_000_000) as usize;
    Scale { segments, topics: part(2_000), sessions: part(1_000) }
}

async fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.tcp_nodelay(true).connect().await.unwrap()
}

fn id(n: usize) -> Vec<u8> {
    let mut id = vec![7; 16];
    id[..8].copy_from_slice(&(n as u64).to_be_bytes());
    id
}

/// Epoch and next offset by topic and partition.
type Leases = BTreeMap<(Vec<u8>, u32), (u32, u64)>;

/// An agent without data: it holds leases and commits objects that nobody wrote.
struct Session {
    id: u64,
    instance: Vec<u8>,
    client: SessionsClient<Channel>,
    leases: watch::Receiver<Leases>,
    sequence: u64,
    _tasks: JoinSet<()>,
}

impl Session {
    async fn open(address: &str, n: usize) -> Self {
        let mut client = SessionsClient::new(channel(address).await);
        let instance = id(n);
        let request = v1::RegisterRequest {
            instance: instance.clone(),
            address: format!("scale-{n}.invalid:1"),
            group: GROUP.into(),
            store_url: "memory://scale".into(),
            ..v1::RegisterRequest::default()
        };
        let id = client.register(request).await.unwrap().into_inner().session;
        let (beat, beats) = mpsc::channel(1);
        let message = v1::AttachRequest { session: id, instance: instance.clone() };
        beat.send(message.clone()).await.unwrap();
        let mut news = client.attach(ReceiverStream::new(beats)).await.unwrap().into_inner();
        let (told, leases) = watch::channel(BTreeMap::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok(Some(news)) = news.message().await {
                told.send_modify(|leases| {
                    if news.full {
                        leases.clear();
                    }
                    for lease in news.leases {
                        let partition = lease.partition.unwrap();
                        let key = (partition.topic_id, partition.partition);
                        leases.insert(key, (lease.epoch, lease.next_offset));
                    }
                    for partition in news.lost.into_iter().filter_map(|lost| lost.partition) {
                        leases.remove(&(partition.topic_id, partition.partition));
                    }
                });
            }
        });
        tasks.spawn(async move {
            while beat.send(message.clone()).await.is_ok() {
                tokio::time::sleep(HEARTBEAT).await;
            }
        });
        Self { id, instance, client, leases, sequence: 0, _tasks: tasks }
    }

    /// Commits `objects`, one after another, to the first partitions it holds; returns their next offsets.
    async fn fill(mut self, objects: u64) -> (Self, Vec<(v1::TopicPartition, u64)>) {
        let held = self.leases.wait_for(|leases| leases.len() >= SLICES);
        let held = tokio::time::timeout(PATIENCE, held).await.unwrap().unwrap().clone();
        let mut held: Vec<_> = held.into_iter().take(SLICES).collect();
        for _ in 0..objects {
            self.sequence += 1;
            let slice = |((topic, partition), (epoch, next)): &((Vec<u8>, u32), (u32, u64))| {
                v1::SliceCommit {
                    partition: Some(v1::TopicPartition {
                        topic_id: topic.clone(),
                        partition: *partition,
                    }),
                    lease_epoch: *epoch,
                    base_offset: *next,
                    last_offset: next + RECORDS - 1,
                    record_count: RECORDS as u32,
                    length: 64 << 10,
                    crc32c: 1,
                    ..v1::SliceCommit::default()
                }
            };
            let object = v1::ObjectCommit {
                sequence: self.sequence,
                size: 1 << 20,
                slices: held.iter().map(slice).collect(),
                ..v1::ObjectCommit::default()
            };
            let request = v1::CommitObjectsRequest {
                session: self.id,
                instance: self.instance.clone(),
                objects: vec![object],
            };
            let answer = self.client.commit_objects(request).await.unwrap().into_inner();
            let slices = &answer.results[0].slices;
            assert!(slices.iter().all(|slice| slice.accepted), "{:?}", answer.results[0]);
            held.iter_mut().for_each(|(_, (_, next))| *next += RECORDS);
        }
        let written = held.into_iter().map(|((topic_id, partition), (_, next))| {
            (v1::TopicPartition { topic_id, partition }, next)
        });
        (self, written.collect())
    }
}

fn percentile(sorted: &[f64], p: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * p) as usize]
}

fn snapshots(cluster: &LocalCluster, n: usize) -> BTreeMap<String, u64> {
    let files = fs::read_dir(cluster.controller_data(n).join("snapshots")).unwrap();
    let files =
        files.filter_map(Result::ok).filter(|f| f.path().extension().is_some_and(|e| e == "snap"));
    files.map(|f| (f.file_name().into_string().unwrap(), f.metadata().unwrap().len())).collect()
}

/// No group of entries may wait for, or take, so long while a snapshot is made, where the machine is there for this test
/// alone (`make test-scale`).
const LONGEST_PAUSE_MS: f64 = 50.0;

/// How long groups of entries took to be applied at controller `n` while snapshots were made: how many took at most so
/// many milliseconds, by these.
fn applied_in_snapshots(cluster: &LocalCluster, n: usize) -> Vec<(f64, u64)> {
    const BUCKET: &str = "streamhouse_controller_apply_seconds_bucket{snapshot=\"yes\",le=\"";
    let (_, text) = http_get(cluster.http_address(n), "/metrics").unwrap();
    let buckets = text.lines().filter_map(|line| line.strip_prefix(BUCKET)?.split_once("\"} "));
    let millis =
        |le: &str| if le == "+Inf" { f64::INFINITY } else { le.parse::<f64>().unwrap() * 1e3 };
    buckets.map(|(le, count)| (millis(le), count.parse().unwrap())).collect()
}

/// The smallest of those milliseconds within which the share `p` of the groups was applied.
fn within(buckets: &[(f64, u64)], p: f64) -> f64 {
    let all = buckets.last().unwrap().1;
    let enough = |(_, count): &&(f64, u64)| *count as f64 >= all as f64 * p;
    buckets.iter().find(enough).unwrap().0
}

#[test]
fn a_large_state_is_found_again_looked_up_and_snapshotted() {
    let Scale { segments, topics, sessions } = scale();
    let objects = segments / (sessions * SLICES) as u64;
    // The last snapshot is made of the whole state, by the offset commits at the end.
    let every = (segments / SLICES as u64 / 5).max(1_000);
    let every = every.to_string();
    let mut cluster = LocalCluster::start_with_flags(3, 0, &["--snapshot-every", &every]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let leader = cluster.leader();
    let address = cluster.controller_address(leader).to_string();

    let watch = Stopwatch::start();
    let (written, _sessions) = runtime.block_on(async {
        let mut opening = JoinSet::new();
        for n in 0..sessions {
            let address = address.clone();
            opening.spawn(async move { Session::open(&address, n).await });
        }
        let opened = opening.join_all().await;
        let mut client = MetadataClient::new(channel(&address).await);
        for n in 0..topics {
            let request = v1::RequestId { requester: id(0), number: n as u64 + 1 };
            let request = v1::CreateTopicRequest {
                request: Some(request),
                name: format!("scale-{n}"),
                partitions: SLICES as u32,
                config: [("agent.group".to_owned(), GROUP.to_owned())].into(),
            };
            client.create_topic(request).await.unwrap();
        }
        let mut filling = JoinSet::new();
        for session in opened {
            filling.spawn(session.fill(objects));
        }
        let (sessions, written): (Vec<_>, Vec<_>) = filling.join_all().await.into_iter().unzip();
        (written.into_iter().flatten().collect::<Vec<_>>(), sessions)
    });
    let entries = written.len() as u64 * objects;
    println!("{entries} segments, {topics} topics, {sessions} sessions in {:?}", watch.elapsed());
    assert!(entries >= segments * 9 / 10);

    // Writers go on while all three controllers make a snapshot of the whole.
    let before: Vec<_> = (1..=3).map(|n| snapshots(&cluster, n)).collect();
    let mut waits = runtime.block_on(async {
        let mut client = MetadataClient::new(channel(&address).await);
        let mut waits = Vec::new();
        for number in 1.. {
            let request = v1::CommitOffsetsRequest {
                request: Some(v1::RequestId { requester: id(1), number }),
                group: "scale".into(),
                offsets: vec![v1::OffsetCommit {
                    partition: Some(written[0].0.clone()),
                    offset: number,
                    metadata: String::new(),
                }],
                ..Default::default()
            };
            let watch = Stopwatch::start();
            client.commit_offsets(request).await.unwrap();
            waits.push(watch.elapsed().as_secs_f64() * 1e3);
            let all = number % 200 == 0
                && (1..=3).all(|n| {
                    let now = snapshots(&cluster, n);
                    !now.is_empty() && now != before[n - 1]
                });
            if all {
                break;
            }
        }
        waits
    });
    waits.sort_by(f64::total_cmp);
    println!(
        "{} offset commits while snapshots were made: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        waits.len(),
        percentile(&waits, 0.5),
        percentile(&waits, 0.99),
        waits[waits.len() - 1]
    );
    for n in 1..=3 {
        let buckets = applied_in_snapshots(&cluster, n);
        let (groups, longest) = (buckets.last().unwrap().1, within(&buckets, 1.0));
        println!(
            "controller {n}: {groups} groups of entries were applied while snapshots were made, half of them within \
             {} ms, 99 % within {} ms, all within {longest} ms",
            within(&buckets, 0.5),
            within(&buckets, 0.99),
        );
        assert!(groups > 0, "a snapshot is taken between two groups");
        let alone = std::env::var("STREAMHOUSE_SCALE").is_ok();
        assert!(!alone || longest <= LONGEST_PAUSE_MS, "a snapshot held up what is applied");
    }
    println!("snapshots: {:?}", snapshots(&cluster, leader));
    let log = cluster.controller_log(leader);
    log.lines().filter(|line| line.contains("snapshot built")).for_each(|line| println!("{line}"));
    for n in 1..=3 {
        println!("controller {n}: {} MiB resident at most", cluster.peak_memory(n) >> 20);
        assert!(cluster.peak_memory(n) < 1 << 30, "more than 1 GiB");
    }

    let look_ups = |cluster: &LocalCluster| {
        let address = cluster.controller_address(leader).to_string();
        let mut random = Random::new(11);
        let mut times = runtime.block_on(async {
            let mut client = MetadataClient::new(channel(&address).await);
            let mut times = Vec::new();
            for _ in 0..LOOK_UPS {
                let (partition, next) = &written[random.below(written.len() as u64) as usize];
                let range = v1::SegmentRange {
                    partition: Some(partition.clone()),
                    offset: random.below(*next),
                    max_segments: 1,
                    max_bytes: 0,
                    from_timestamp_ms: None,
                };
                let request = v1::FindSegmentsRequest {
                    ranges: vec![range],
                    ..v1::FindSegmentsRequest::default()
                };
                let watch = Stopwatch::start();
                let plans = client.find_segments(request).await.unwrap().into_inner().plans;
                times.push(watch.elapsed().as_secs_f64() * 1e3);
                assert_eq!(plans[0].segments.len(), 1);
            }
            times
        });
        times.sort_by(f64::total_cmp);
        (percentile(&times, 0.5), percentile(&times, 0.99))
    };
    let (p50, p99) = look_ups(&cluster);
    println!("look-ups: p50 {p50:.3} ms, p99 {p99:.3} ms");

    cluster.kill_all_controllers();
    let watch = Stopwatch::start();
    for n in 1..=3 {
        cluster.start_controller(n);
    }
    until("the topics are listed again", PATIENCE, || {
        let topics = cluster.run(&["topic", "list", "--output", "json"]);
        (topics.code == Some(0)).then_some(())
    });
    println!("cold start to serving: {:?}", watch.elapsed());
    let (p50, p99) = look_ups(&cluster);
    println!("look-ups after it: p50 {p50:.3} ms, p99 {p99:.3} ms");
}
