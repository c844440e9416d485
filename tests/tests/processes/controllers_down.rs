//! Consumers while all controllers are dead: they read what they know of, and go on when the controllers return.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streamhouse_client::consumer::{ConsumerBuilder, RebalanceListener, Records};
use streamhouse_client::{Consumer, Producer, Record, TopicPartition};
use streamhouse_tests::{LocalCluster, Random, Stopwatch, until};
use tokio::runtime::Runtime;

use crate::consumer::from_the_beginning;

const PARTITIONS: u32 = 4;
const EACH: u64 = 300;
/// Records of each partition in one object.
const AT_ONCE: u64 = 10;
const SOON: Duration = Duration::from_secs(60);
const SESSION_TIMEOUT: Duration = Duration::from_secs(2);
/// The least there is: one object holds more than half of it.
const FETCH_MEMORY: usize = 64 << 10;

/// What stands at that offset: no compression makes it smaller than half, and what is read is known to be right.
fn value(partition: u32, offset: u64) -> String {
    let mut random = Random::new(u64::from(partition) << 32 | offset);
    (0..64).map(|_| format!("{:016x}", random.number())).collect()
}

/// The next [`EACH`] records of every partition, in many objects.
async fn produce(cluster: &LocalCluster, from: u64) {
    let controllers = cluster.controllers();
    let building = Producer::builder().controllers(controllers.split(','));
    let producer = building.build().await.unwrap();
    for first in (from..from + EACH).step_by(AT_ONCE as usize) {
        let mut deliveries = Vec::new();
        for partition in 0..PARTITIONS {
            for offset in first..first + AT_ONCE {
                let record = Record::to("t").partition(partition).value(value(partition, offset));
                deliveries.push(producer.send(record).await.unwrap());
            }
        }
        for delivery in deliveries {
            delivery.await.unwrap();
        }
    }
    producer.close().await.unwrap();
}

fn cluster(runtime: &Runtime) -> LocalCluster {
    let cluster = LocalCluster::start(3, 1);
    cluster.run(&["topic", "create", "t", "--partitions", &PARTITIONS.to_string()]).ok();
    runtime.block_on(produce(&cluster, 0));
    cluster
}

fn return_of_the_controllers(cluster: &mut LocalCluster, runtime: &Runtime) {
    for n in 1..=3 {
        cluster.start_controller(n);
    }
    cluster.wait_until_whole();
    runtime.block_on(produce(cluster, EACH));
}

fn builder(cluster: &LocalCluster) -> ConsumerBuilder {
    from_the_beginning(cluster).operation_timeout(Duration::from_secs(2))
}

/// What was read of each partition: the first offset, and the one that comes next.
#[derive(Default)]
struct Seen(BTreeMap<u32, (u64, u64)>);

impl Seen {
    /// READ: what was written, each record once and none skipped.
    fn take(&mut self, records: Records) -> usize {
        let count = records.len();
        for record in records {
            let wanted = value(record.partition, record.offset);
            assert_eq!(record.value.as_deref(), Some(wanted.as_bytes()), "READ");
            let run = self.0.entry(record.partition).or_insert((record.offset, record.offset));
            assert_eq!(record.offset, run.1, "READ: in order, of {}", record.partition);
            run.1 += 1;
        }
        count
    }

    /// Reads on until every partition was read up to `end`. What may be tried again is.
    async fn read(&mut self, consumer: &mut Consumer, end: u64) {
        while !self.reaches(end) {
            match consumer.poll(SOON).await {
                Ok(records) => assert!(self.take(records) > 0, "{:?}, then none", self.0),
                Err(error) => assert!(error.retryable(), "{error}"),
            }
        }
    }

    /// Reads until something of every partition was read.
    async fn begin(&mut self, consumer: &mut Consumer) {
        while !self.reaches(1) {
            assert!(self.take(consumer.poll(SOON).await.unwrap()) > 0, "{:?}, then none", self.0);
        }
    }

    fn reaches(&self, end: u64) -> bool {
        self.0.len() == PARTITIONS as usize && self.0.values().all(|(_, next)| *next >= end)
    }
}

/// It waits: nothing comes, and that nobody answers is told at most once.
async fn waits(consumer: &mut Consumer) {
    let mut errors = 0;
    for _ in 0..6 {
        match consumer.poll(Duration::from_millis(500)).await {
            Ok(records) => assert!(records.is_empty(), "{} records", records.len()),
            Err(error) => {
                assert!(error.retryable(), "{error}");
                errors += 1;
            }
        }
    }
    assert!(errors <= 1, "told {errors} times");
}

#[test]
fn a_consumer_reads_what_it_knows_of_and_goes_on_when_they_return() {
    let runtime = Runtime::new().unwrap();
    let mut cluster = cluster(&runtime);
    let building = builder(&cluster).max_poll_records(10).fetch_memory(FETCH_MEMORY);
    let mut consumer = runtime.block_on(building.build()).unwrap();
    let mut seen = Seen::default();
    // A partition of which a record came is planned as a whole: one look-up is for far more than there is.
    runtime.block_on(seen.begin(&mut consumer));
    cluster.kill_all_controllers();
    let before = consumer.metrics();
    assert!(before.buffered_bytes <= FETCH_MEMORY as u64, "{before:?}");
    assert!(!seen.reaches(EACH / 2), "most of it is still to be read");
    runtime.block_on(seen.read(&mut consumer, EACH));
    let after = consumer.metrics();
    let fetched = after.bytes_fetched - before.bytes_fetched;
    println!(
        "without controllers: {} GETs brought {} KiB, with {} KiB in hand when they died",
        after.get_requests - before.get_requests,
        fetched >> 10,
        before.buffered_bytes >> 10
    );
    // Not what had been fetched before, and nobody could answer a look-up.
    assert!(after.get_requests > before.get_requests);
    assert!(fetched > 4 * FETCH_MEMORY as u64, "{fetched} bytes");
    runtime.block_on(waits(&mut consumer));
    return_of_the_controllers(&mut cluster, &runtime);
    runtime.block_on(seen.read(&mut consumer, 2 * EACH));
    assert!(seen.0.values().all(|(first, _)| *first == 0));
    runtime.block_on(consumer.close()).unwrap();
}

/// Partitions that a member was told to have lost.
#[derive(Clone, Default)]
struct Losses(Arc<Mutex<Vec<TopicPartition>>>);

impl Losses {
    fn told(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl RebalanceListener for Losses {
    fn lost(&self, partitions: &[TopicPartition]) {
        self.0.lock().unwrap().extend_from_slice(partitions);
    }
}

#[test]
fn a_member_of_a_group_falls_silent_and_goes_on_from_its_commit_when_they_return() {
    let runtime = Runtime::new().unwrap();
    let mut cluster = cluster(&runtime);
    let losses = Losses::default();
    let building = builder(&cluster).group_id("g").auto_commit(false).max_poll_records(10);
    let building = building.session_timeout(SESSION_TIMEOUT).rebalance_listener(losses.clone());
    let mut member = runtime.block_on(building.build()).unwrap();
    let committed = runtime.block_on(async {
        let mut seen = Seen::default();
        seen.begin(&mut member).await;
        member.commit().await.unwrap();
        let committed = member.positions();
        // Some more are handed out and not committed, and some more are fetched.
        for _ in 0..5 {
            assert!(seen.take(member.poll(SOON).await.unwrap()) > 0);
        }
        committed
    });
    until("there is more in its hands", SOON, || {
        (member.metrics().buffered_bytes > 0).then_some(())
    });
    cluster.kill_all_controllers();
    // Nobody has confirmed a sign of life since.
    let dead = Stopwatch::start();
    // GROUP: whatever it has in its hands, and whoever is there to say so.
    runtime.block_on(async {
        while losses.told() < PARTITIONS as usize {
            assert!(dead.elapsed() < SOON, "it keeps what it has");
            let silent = dead.elapsed() >= SESSION_TIMEOUT;
            match member.poll(Duration::from_millis(20)).await {
                Ok(records) => assert!(records.is_empty() || !silent, "{:?}", dead.elapsed()),
                Err(error) => assert!(error.retryable(), "{error}"),
            }
            // It works on what it was handed.
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        println!(
            "it gave up what it had {} ms after the controllers died",
            dead.elapsed().as_millis()
        );
        waits(&mut member).await;
    });
    return_of_the_controllers(&mut cluster, &runtime);
    let mut seen = Seen::default();
    runtime.block_on(seen.read(&mut member, 2 * EACH));
    let begun: BTreeMap<_, _> =
        seen.0.iter().map(|(p, (first, _))| (TopicPartition::new("t", *p), *first)).collect();
    assert_eq!(begun, committed, "where it had committed, in every partition");
    assert_eq!(losses.told(), PARTITIONS as usize, "each of them was lost once");
    runtime.block_on(member.close()).unwrap();
}
