//! The consumer library against real processes: its cache on disk.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use streamhouse_client::consumer::{ConsumerBuilder, ConsumerMetrics};
use streamhouse_client::{Consumer, OffsetReset};
use streamhouse_tests::LocalCluster;
use tokio::runtime::Runtime;

const PARTITIONS: u32 = 4;
const EACH: u64 = 500;
const SOON: Duration = Duration::from_secs(60);

/// What stands at that offset: what is read is known to be right.
fn value(partition: u32, offset: u64) -> String {
    format!("{partition}-{offset}-{}", "x".repeat((offset % 97) as usize))
}

/// The next [`EACH`] records of every partition.
fn produce(cluster: &LocalCluster, from: u64) {
    for partition in 0..PARTITIONS {
        let lines: String =
            (from..from + EACH).map(|offset| value(partition, offset) + "\n").collect();
        let partition = partition.to_string();
        cluster.run_with_input(&["produce", "t", "--partition", &partition], lines.as_bytes()).ok();
    }
}

fn cluster() -> LocalCluster {
    let cluster = LocalCluster::start(1, 1);
    cluster.run(&["topic", "create", "t", "--partitions", &PARTITIONS.to_string()]).ok();
    produce(&cluster, 0);
    cluster
}

/// A consumer of topic `t`.
pub(crate) fn from_the_beginning(cluster: &LocalCluster) -> ConsumerBuilder {
    let controllers = cluster.controllers();
    Consumer::builder()
        .controllers(controllers.split(','))
        .topics(["t"])
        .offset_reset(OffsetReset::Earliest)
}

fn cached(cluster: &LocalCluster, folder: &Path) -> ConsumerBuilder {
    from_the_beginning(cluster).cache_dir(folder).cache_size_bytes(8 << 20)
}

/// What was read: each record once, and right.
#[derive(Default)]
struct Seen(BTreeSet<(u32, u64)>);

impl Seen {
    /// Reads on until every partition was read up to `end`. What may be tried again is.
    async fn read(&mut self, consumer: &mut Consumer, end: u64) {
        while self.0.len() < (u64::from(PARTITIONS) * end) as usize {
            match consumer.poll(SOON).await {
                Ok(records) => {
                    assert!(!records.is_empty(), "{} records, then none", self.0.len());
                    self.take(records);
                }
                Err(error) => assert!(error.retryable(), "{error}"),
            }
        }
    }

    fn take(&mut self, records: streamhouse_client::consumer::Records) {
        for record in records {
            let wanted = value(record.partition, record.offset);
            assert_eq!(record.value.as_deref(), Some(wanted.as_bytes()), "READ");
            assert!(self.0.insert((record.partition, record.offset)), "READ: once");
        }
    }
}

/// Reads everything with a new consumer.
async fn read_all(builder: ConsumerBuilder) -> (Consumer, ConsumerMetrics) {
    let mut consumer = builder.build().await.unwrap();
    Seen::default().read(&mut consumer, EACH).await;
    let metrics = consumer.metrics();
    (consumer, metrics)
}

#[test]
fn what_is_in_the_cache_folder_is_not_fetched_by_a_second_consumer_nor_by_a_later_one() {
    let cluster = cluster();
    let folder = cluster.folder().join("cache");
    Runtime::new().unwrap().block_on(async {
        let (first, metrics) = read_all(cached(&cluster, &folder)).await;
        assert!(metrics.get_requests > 0 && metrics.cache_hits == 0, "{metrics:?}");
        // Of the same process, at the same time.
        let (second, metrics) = read_all(cached(&cluster, &folder)).await;
        assert_eq!((metrics.get_requests, metrics.cache_hit_rate()), (0, Some(1.0)), "{metrics:?}");
        first.close().await.unwrap();
        second.close().await.unwrap();
        // The cache is closed with the last of them; this one finds it on disk.
        let (third, metrics) = read_all(cached(&cluster, &folder)).await;
        assert_eq!((metrics.get_requests, metrics.cache_hit_rate()), (0, Some(1.0)), "{metrics:?}");
        let text = metrics.to_prometheus(&[]);
        assert!(text.contains("streamhouse_consumer_get_requests_total 0\n"), "{text}");
        third.close().await.unwrap();
    });
}

/// Flips a bit in every `stride`th byte that is not zero, from the `first` on; how many.
fn flip(folder: &Path, first: usize, stride: usize) -> usize {
    let (mut seen, mut flipped) = (0, 0);
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        for byte in bytes.iter_mut().filter(|byte| **byte != 0) {
            if seen % stride == first {
                *byte ^= 0x10;
                flipped += 1;
            }
            seen += 1;
        }
        fs::write(&path, bytes).unwrap();
    }
    flipped
}

#[test]
fn a_flipped_byte_in_the_cache_folder_is_never_delivered() {
    let cluster = cluster();
    let folder = cluster.folder().join("cache");
    Runtime::new().unwrap().block_on(async {
        read_all(cached(&cluster, &folder)).await.0.close().await.unwrap();
        // Few damages at first, which other bytes survive; in the end one in every kilobyte, which nothing survives.
        for (first, stride) in
            [(0, 1 << 20), (1_000, 50_000), (7, 20_003), (999, 7_001), (3, 1_009)]
        {
            assert!(flip(&folder, first, stride) > 0);
            // Each record is compared with what was written.
            let (consumer, metrics) = read_all(cached(&cluster, &folder)).await;
            consumer.close().await.unwrap();
            if stride < 2_000 {
                assert!(metrics.get_requests > 0, "fetched again: {metrics:?}");
            }
        }
    });
}

#[test]
fn a_cache_folder_that_is_deleted_while_it_is_used_harms_nothing() {
    let cluster = cluster();
    let folder = cluster.folder().join("cache");
    Runtime::new().unwrap().block_on(async {
        let mut consumer = cached(&cluster, &folder).max_poll_records(100).build().await.unwrap();
        let mut seen = Seen::default();
        seen.take(consumer.poll(SOON).await.unwrap());
        fs::remove_dir_all(&folder).unwrap();
        produce(&cluster, EACH);
        seen.read(&mut consumer, 2 * EACH).await;
        consumer.close().await.unwrap();
        // Whoever comes next begins anew, and fills it again.
        let mut next = cached(&cluster, &folder).build().await.unwrap();
        Seen::default().read(&mut next, 2 * EACH).await;
        assert!(next.metrics().get_requests > 0);
        next.close().await.unwrap();
        let mut last = cached(&cluster, &folder).build().await.unwrap();
        Seen::default().read(&mut last, 2 * EACH).await;
        assert_eq!(last.metrics().get_requests, 0);
        last.close().await.unwrap();
    });
}
