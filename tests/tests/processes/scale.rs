//! A large state: many segments, topics and sessions. How fast it is found again, looked up and snapshotted, and what
//! it takes in memory. `STREAMHOUSE_SCALE` is the number of segments; topics and sessions go with it, 2,000 and 1,000
//! for a million.
mod session;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use session::{Controllers, Session};
use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_tests::{LocalCluster, Random, Stopwatch, http_get, until};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(120);
/// Of one object, each of a partition of its own.
const SLICES: usize = 8;
const RECORDS: u64 = 100;
const LOOK_UPS: usize = 5_000;
const GROUP: &str = "scale";

// The bounds of a state of the size that is asked for, on a machine that is there for this test alone
// (`make test-scale`). Memory is bounded always.
const COLD_START: Duration = Duration::from_secs(5);
const LOOK_UP_P99_MS: f64 = 1.0;
const MEMORY: u64 = 1 << 30;

struct Scale {
    segments: u64,
    topics: usize,
    sessions: usize,
    /// The size was asked for: times are held against their bounds.
    alone: bool,
}

fn scale() -> Scale {
    let asked = std::env::var("STREAMHOUSE_SCALE").ok();
    let segments: u64 = asked.as_ref().map_or(20_000, |text| text.parse().unwrap());
    let part = |of_a_million: u64| (segments * of_a_million).div_ceil(1_000_000) as usize;
    Scale { segments, topics: part(2_000), sessions: part(1_000), alone: asked.is_some() }
}

async fn channel(address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.tcp_nodelay(true).connect().await
}

async fn client(address: &str) -> MetadataClient<Channel> {
    MetadataClient::new(channel(address).await.unwrap())
}

fn id(n: usize) -> Vec<u8> {
    let mut id = vec![7; 16];
    id[..8].copy_from_slice(&(n as u64).to_be_bytes());
    id
}

fn percentile(sorted: &[f64], p: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * p) as usize]
}

fn snapshots(cluster: &LocalCluster, n: usize) -> BTreeMap<String, u64> {
    let files = fs::read_dir(cluster.controller_data(n).join("snapshots")).unwrap();
    let files =
        files.filter_map(Result::ok).filter(|f| f.path().extension().is_some_and(|e| e == "snap"));
    // An old one may go meanwhile.
    let sizes = files.filter_map(|f| Some((f.file_name(), f.metadata().ok()?.len())));
    sizes.map(|(name, size)| (name.into_string().unwrap(), size)).collect()
}

/// No group of entries may wait for, or take, so long while a snapshot is made, where the machine is there for this test
/// alone (`make test-scale`).
const LONGEST_PAUSE_MS: f64 = 50.0;

/// How long groups of entries took to be applied while snapshots were made.
const APPLIED_IN_SNAPSHOTS: &str = "apply_seconds_bucket{snapshot=\"yes\",le=\"";
/// How long look-ups took that any controller may answer.
const LOOKED_UP: &str = "look_up_seconds_bucket{linearizable=\"no\",le=\"";

/// A histogram of controller `n`: how many took at most so many milliseconds, by these.
fn histogram(cluster: &LocalCluster, n: usize, name: &str) -> Vec<(f64, u64)> {
    let (_, text) = http_get(cluster.http_address(n), "/metrics").unwrap();
    let own = text.lines().filter_map(|line| line.strip_prefix("streamhouse_controller_"));
    let buckets = own.filter_map(|line| line.strip_prefix(name)?.split_once("\"} "));
    let millis =
        |le: &str| if le == "+Inf" { f64::INFINITY } else { le.parse::<f64>().unwrap() * 1e3 };
    buckets.map(|(le, count)| (millis(le), count.parse().unwrap())).collect()
}

/// The smallest of those milliseconds that the share `p` took at most.
fn within(buckets: &[(f64, u64)], p: f64) -> f64 {
    let all = buckets.last().unwrap().1;
    let enough = |(_, count): &&(f64, u64)| *count as f64 >= all as f64 * p;
    buckets.iter().find(enough).unwrap().0
}

/// Prints how groups of entries were applied at controller `n` while snapshots were made, beside those `before`; the
/// longest in milliseconds.
fn print_applied_in_snapshots(cluster: &LocalCluster, n: usize, before: &[(f64, u64)]) -> f64 {
    let mut buckets = histogram(cluster, n, APPLIED_IN_SNAPSHOTS);
    for (after, before) in buckets.iter_mut().zip(before) {
        after.1 -= before.1;
    }
    let (groups, longest) = (buckets.last().unwrap().1, within(&buckets, 1.0));
    println!(
        "controller {n}: {groups} groups of entries were applied while snapshots were made, half of them within \
         {} ms, 99 % within {} ms, all within {longest} ms",
        within(&buckets, 0.5),
        within(&buckets, 0.99),
    );
    assert!(groups > 0, "a snapshot is taken between two groups");
    longest
}

/// Partitions, and one past the last offset of each.
type Written = Vec<(v1::TopicPartition, u64)>;

/// Opens all sessions, creates all topics and commits at least as many segments as are asked for.
async fn fill(
    scale: &Scale,
    controllers: &Arc<Controllers>,
    address: &str,
) -> (Vec<Session>, Written) {
    let Scale { segments, topics, sessions, .. } = *scale;
    let objects = segments.div_ceil((sessions * SLICES) as u64);
    let mut opening = JoinSet::new();
    for n in 0..sessions {
        let controllers = Arc::clone(controllers);
        opening.spawn(async move { Session::open(&controllers, n).await });
    }
    let opened = opening.join_all().await;
    let mut client = client(address).await;
    for n in 0..topics {
        let request = v1::RequestId { requester: id(0), number: n as u64 + 1 };
        let request = v1::CreateTopicRequest {
            request: Some(request),
            name: format!("scale-{n}"),
            partitions: SLICES as u32,
            config: [("agent.group".to_owned(), GROUP.to_owned())].into(),
        };
        let since = Stopwatch::start();
        while let Err(refused) = client.create_topic(request.clone()).await {
            controllers.pause(&since, &refused).await;
        }
    }
    let mut filling = JoinSet::new();
    for session in opened {
        let controllers = Arc::clone(controllers);
        filling.spawn(session.fill(controllers, address.to_owned(), objects));
    }
    let (sessions, written): (Vec<_>, Vec<_>) = filling.join_all().await.into_iter().unzip();
    (sessions, written.into_iter().flatten().collect())
}

/// How many segments the controller at `address` has in its index, and how many sessions live there.
async fn counted(topics: usize, address: &str) -> (u64, usize) {
    let mut client = client(address).await;
    // From here on it shows all that was acknowledged; after a start it may take a moment until it does.
    let since = Stopwatch::start();
    let agents = loop {
        match client.list_agents(v1::ListAgentsRequest { linearizable: true }).await {
            Ok(agents) => break agents.into_inner().agents.len(),
            Err(refused) => assert!(since.elapsed() < PATIENCE, "{refused:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let mut segments = 0;
    for n in 0..topics {
        let request = v1::DescribeTopicRequest {
            topic: Some(v1::describe_topic_request::Topic::Name(format!("scale-{n}"))),
            ..v1::DescribeTopicRequest::default()
        };
        let described = client.describe_topic(request).await.unwrap().into_inner();
        segments += described.partitions.iter().map(|partition| partition.segments).sum::<u64>();
    }
    (segments, agents)
}

/// Commits offsets until all controllers have made a snapshot of what is there now; the milliseconds that each took.
async fn commit_through_snapshots(
    cluster: &LocalCluster,
    controllers: &Controllers,
    address: &str,
    partition: &v1::TopicPartition,
) -> Vec<f64> {
    let before: Vec<_> = (1..=3).map(|n| snapshots(cluster, n)).collect();
    let mut client = client(address).await;
    let mut waits = Vec::new();
    for number in 1.. {
        let request = v1::CommitOffsetsRequest {
            request: Some(v1::RequestId { requester: id(1), number }),
            group: GROUP.into(),
            offsets: vec![v1::OffsetCommit {
                partition: Some(partition.clone()),
                offset: number,
                metadata: String::new(),
            }],
            ..v1::CommitOffsetsRequest::default()
        };
        let watch = Stopwatch::start();
        while let Err(refused) = client.commit_offsets(request.clone()).await {
            controllers.pause(&watch, &refused).await;
        }
        waits.push(watch.elapsed().as_secs_f64() * 1e3);
        let made = |n: usize| {
            let now = snapshots(cluster, n);
            !now.is_empty() && now != before[n - 1]
        };
        if number % 200 == 0 && (1..=3).all(made) {
            break;
        }
    }
    waits.sort_by(f64::total_cmp);
    waits
}

/// Each controller has built a snapshot. Prints the sizes and times of the last ones.
fn print_snapshots(cluster: &LocalCluster) {
    for n in 1..=3 {
        // A newer one may take its place between two looks.
        let what = format!("controller {n} keeps the last snapshot that it has built");
        let (index, bytes, millis) = until(&what, PATIENCE, || {
            let log = cluster.controller_log(n);
            let built = log.lines().rfind(|line| line.contains("snapshot built"))?;
            let number = |name: &str| {
                let (_, text) = built.split_once(name)?;
                text.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
            };
            let bytes = number("bytes=")?;
            let kept = snapshots(cluster, n).values().any(|size| *size == bytes);
            kept.then_some((number("index=")?, bytes, number("took_ms=")?))
        });
        println!(
            "controller {n}: a snapshot of {:.1} MiB up to index {index}, built in {millis} ms",
            bytes as f64 / f64::from(1 << 20)
        );
    }
}

fn assert_memory(cluster: &LocalCluster) {
    for n in 1..=3 {
        println!("controller {n}: {} MiB resident at most", cluster.peak_memory(n) >> 20);
        assert!(cluster.peak_memory(n) < MEMORY, "more than 1 GiB");
    }
}

/// Looks up places by partition and offset at one controller, one after another; what its client sees.
async fn look_up(address: &str, written: &Written) {
    let mut random = Random::new(11);
    let mut client = client(address).await;
    let mut times = Vec::new();
    for _ in 0..LOOK_UPS {
        let (partition, next) = &written[random.below(written.len() as u64) as usize];
        let offset = random.below(*next);
        let range = v1::SegmentRange {
            partition: Some(partition.clone()),
            offset,
            max_segments: 1,
            max_bytes: 0,
            from_timestamp_ms: None,
        };
        let request =
            v1::FindSegmentsRequest { ranges: vec![range], ..v1::FindSegmentsRequest::default() };
        let watch = Stopwatch::start();
        let plans = client.find_segments(request).await.unwrap().into_inner().plans;
        times.push(watch.elapsed().as_secs_f64() * 1e3);
        assert_eq!(plans[0].segments.len(), 1);
        let found = &plans[0].segments[0];
        assert!(found.base_offset <= offset && offset <= found.last_offset, "{offset}: {found:?}");
    }
    times.sort_by(f64::total_cmp);
    let (p50, p99) = (percentile(&times, 0.5), percentile(&times, 0.99));
    println!("look-ups by one client: p50 {p50:.3} ms, p99 {p99:.3} ms");
}

/// The 99th percentile of that at controller `n` itself, since it started: at most so many milliseconds.
fn looked_up(cluster: &LocalCluster, n: usize) -> f64 {
    let buckets = histogram(cluster, n, LOOKED_UP);
    assert!(buckets.last().unwrap().1 >= LOOK_UPS as u64, "{buckets:?}");
    let p99 = within(&buckets, 0.99);
    println!("at the controller: half within {} ms, 99 % within {p99} ms", within(&buckets, 0.5));
    p99
}

/// Kills all controllers and starts them again; how long it takes until they answer from their state.
fn cold_start(cluster: &mut LocalCluster) -> Duration {
    cluster.kill_all_controllers();
    let watch = Stopwatch::start();
    for n in 1..=3 {
        cluster.start_controller(n);
    }
    until("the topics are listed again", PATIENCE, || {
        let topics = cluster.run(&["topic", "list", "--output", "json"]);
        (topics.code == Some(0)).then_some(())
    });
    let took = watch.elapsed();
    println!("cold start to serving: {took:?}");
    took
}

#[test]
fn a_large_state_is_found_again_looked_up_and_snapshotted() {
    let scale = scale();
    let Scale { segments, topics, sessions, alone } = scale;
    // The last snapshot is made of the whole state, by the offset commits at the end.
    let every = (segments / SLICES as u64 / 5).max(1_000);
    let every = every.to_string();
    let mut cluster = LocalCluster::start_with_flags(3, 0, &["--snapshot-every", &every]);
    let runtime = Runtime::new().unwrap();
    let leader = cluster.leader();
    let address = cluster.controller_address(leader).to_string();
    let inside = runtime.enter();
    let addresses = cluster.controllers().split(',').map(str::to_owned).collect();
    let controllers = Arc::new(Controllers::of(addresses));
    drop(inside);

    let watch = Stopwatch::start();
    let (_sessions, written) = runtime.block_on(fill(&scale, &controllers, &address));
    let (entries, living) = runtime.block_on(counted(topics, &address));
    println!("{entries} segments, {topics} topics, {living} sessions in {:?}", watch.elapsed());
    assert!(entries >= segments, "{entries} segments");
    assert_eq!(living, sessions);

    // So far all cores had more to do than they could, and every thread waited for its turn: printed, not judged.
    println!("while the state grew, on cores that had no time left:");
    let grown: Vec<_> = (1..=3)
        .map(|n| {
            print_applied_in_snapshots(&cluster, n, &[]);
            histogram(&cluster, n, APPLIED_IN_SNAPSHOTS)
        })
        .collect();
    // Writers go on while all three controllers make a snapshot of the whole.
    let partition = &written[0].0;
    let waits = commit_through_snapshots(&cluster, &controllers, &address, partition);
    let waits = runtime.block_on(waits);
    println!(
        "{} offset commits while snapshots were made: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        waits.len(),
        percentile(&waits, 0.5),
        percentile(&waits, 0.99),
        waits[waits.len() - 1]
    );
    for n in 1..=3 {
        let longest = print_applied_in_snapshots(&cluster, n, &grown[n - 1]);
        assert!(!alone || longest <= LONGEST_PAUSE_MS, "a snapshot held up what is applied");
    }
    print_snapshots(&cluster);
    assert_memory(&cluster);
    runtime.block_on(look_up(&address, &written));
    let p99 = looked_up(&cluster, leader);
    assert!(!alone || p99 <= LOOK_UP_P99_MS, "a look-up took {p99} ms");

    let took = cold_start(&mut cluster);
    assert!(!alone || took <= COLD_START, "a cold start took {took:?}");
    // The sessions are there as before; nobody is busy with their end.
    until("every session is attached to every controller", PATIENCE, || {
        (controllers.streams() == sessions * 3).then_some(())
    });
    runtime.block_on(look_up(&address, &written));
    let p99 = looked_up(&cluster, leader);
    assert!(!alone || p99 <= LOOK_UP_P99_MS, "a look-up took {p99} ms after the start");
    assert_eq!(runtime.block_on(counted(topics, &address)), (entries, sessions));
    assert_memory(&cluster);
    let repeated = controllers.repeated();
    println!("{repeated} calls had to be made again");
    assert!(!alone || repeated == 0, "the load of commits alone made somebody else lead");
}
