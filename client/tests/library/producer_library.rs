//! What the producer offers besides delivering: callbacks, limits on waiting, partitioners, what a record may hold,
//! circuit breakers, metrics.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::world::Action;
use crate::world::reading::{self, SOON};
use crate::world::sending::{builder, one_agent};
use streamhouse_client::consumer::Record as Read;
use streamhouse_client::producer::{ChoosePartition, Partitioner, ProduceError, ProducerMetrics};
use streamhouse_client::{Producer, Record};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

#[tokio::test]
async fn a_callback_is_told_topic_partition_offset_and_timestamp() {
    let (_world, controller, _) = one_agent(2).await;
    let producer = builder(&controller).build().await.unwrap();
    let (results, mut called) = mpsc::unbounded_channel();
    for timestamp in [7, 8] {
        let results = results.clone();
        let record = Record::to("orders").partition(1).timestamp(timestamp).value("x");
        let callback = move |result| results.send(result).unwrap();
        producer.send_with(record, callback).await.unwrap();
    }
    for (offset, timestamp) in [(0, 7), (1, 8)] {
        let placed = called.recv().await.unwrap().unwrap();
        assert_eq!((&*placed.topic, placed.partition), ("orders", 1));
        assert_eq!((placed.offset, placed.timestamp), (offset, timestamp));
    }
}

#[tokio::test]
async fn close_within_gives_up_what_is_not_acknowledged_in_time() {
    let (world, controller, agent) = one_agent(1).await;
    world.script(&agent, [Action::Accept, Action::Hold]);
    let producer = builder(&controller).build().await.unwrap();
    let first = producer.send(Record::to("orders").value("a")).await.unwrap();
    assert_eq!(first.await.unwrap().offset, 0);
    let second = producer.send(Record::to("orders").value("b")).await.unwrap();
    let error = producer.close_within(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!((error.failed, error.may_have_taken_effect()), (1, true));
    assert_eq!(second.await, Err(ProduceError::Closed { may_have_taken_effect: true }));
    // Once more there is nothing left to fail.
    producer.close_within(SOON).await.unwrap();
}

#[tokio::test]
async fn send_waits_for_room_no_longer_than_max_block() {
    let (world, controller, agent) = one_agent(1).await;
    world.script(&agent, [Action::Hold]);
    let limit = Duration::from_millis(50);
    let producer = builder(&controller)
        .batch_bytes(1024)
        .max_record_bytes(4096)
        .buffer_memory(8_000)
        .compression(streamhouse_client::Compression::None)
        .max_block(limit)
        .build()
        .await
        .unwrap();
    // Asked before, so that the limit is for room alone.
    producer.partitions("orders").await.unwrap();
    let record = || Record::to("orders").value(vec![1; 4000]);
    let first = producer.send(record()).await.unwrap();
    let error = producer.send(record()).await.unwrap_err();
    assert_eq!(error, ProduceError::BufferFull { limit: 8_000, waited: limit });
    assert!(error.retryable() && !error.may_have_taken_effect());
    assert_eq!(error.to_string(), "the buffer of 8000 bytes is full and was for 50ms");
    assert!(producer.metrics().waits_for_room >= 1);
    // What it did not wait for was given back: the next finds room as soon as there is some.
    world.gate.add_permits(1);
    first.await.unwrap();
    assert_eq!(producer.send(record()).await.unwrap().await.unwrap().offset, 1);
}

/// To the partition that the value names.
#[derive(Debug)]
struct ByValue;

impl ChoosePartition for ByValue {
    fn choose(&self, topic: &str, _: Option<&[u8]>, value: Option<&[u8]>, _: u32) -> u32 {
        assert_eq!(topic, "orders");
        std::str::from_utf8(value.unwrap()).unwrap().parse().unwrap()
    }
}

#[tokio::test]
async fn a_custom_partitioner_decides_and_a_wrong_answer_fails_its_record_alone() {
    let (_world, controller, _) = one_agent(3).await;
    let custom = Partitioner::custom(ByValue);
    let producer = builder(&controller).partitioner(custom).build().await.unwrap();
    for partition in ["2", "0", "1"] {
        let delivery = producer.send(Record::to("orders").value(partition)).await.unwrap();
        assert_eq!(delivery.await.unwrap().partition.to_string(), partition);
    }
    let error = producer.send(Record::to("orders").value("3")).await.unwrap_err();
    assert_eq!(error.to_string(), "topic orders has no partition 3, only 0 to 2");
    // A partition that the record names comes before any partitioner.
    let explicit = Record::to("orders").partition(1).value("2");
    assert_eq!(producer.send(explicit).await.unwrap().partition(), 1);
}

#[tokio::test]
async fn murmur2_sends_keys_where_kafka_s_java_client_does() {
    let (_world, controller, _) = one_agent(100).await;
    let producer = builder(&controller).partitioner(Partitioner::Murmur2).build().await.unwrap();
    // The positive hashes of Kafka's UtilsTest, modulo 100.
    for (key, partition) in [("21", 40), ("foobar", 66), ("abc", 7)] {
        let delivery = producer.send(Record::to("orders").key(key).value("x")).await.unwrap();
        assert_eq!(delivery.partition(), partition, "{key}");
    }
}

#[tokio::test]
async fn headers_timestamps_and_tombstones_arrive_as_they_were_sent() {
    let (world, controller, _) = one_agent(1).await;
    let producer = builder(&controller).build().await.unwrap();
    let full = Record::to("orders")
        .key("k")
        .value("v")
        .timestamp(-5)
        .header("trace", b"\x00\xff")
        .null_header("trace");
    let tombstone = Record::to("orders").key("k").timestamp(6);
    let empty = Record::to("orders").value("").timestamp(7);
    for record in [full, tombstone, empty] {
        drop(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
    let mut consumer = reading::builder(&world, &controller).build().await.unwrap();
    let records = reading::read(&mut consumer, 3).await;
    let headers: Vec<_> = records[0]
        .headers
        .iter()
        .map(|header| (header.0.to_string(), header.1.map(|value| value.to_vec())))
        .collect();
    let expected = [("trace".to_owned(), Some(vec![0, 255])), ("trace".to_owned(), None)];
    assert_eq!(headers, expected);
    let parts = |read: &Read| (read.timestamp, read.key.is_some(), read.value.clone());
    assert_eq!(parts(&records[0]), (-5, true, Some("v".into())));
    assert_eq!(parts(&records[1]), (6, true, None), "a tombstone has a key and no value");
    assert_eq!(parts(&records[2]), (7, false, Some("".into())), "an empty value is a value");
}

/// An agent that hangs up on everybody; counts them.
async fn broken_agent() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let callers = Arc::new(AtomicUsize::new(0));
    let count = callers.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    (address, callers)
}

async fn more_retries(producer: &Producer, count: u64) {
    let before = producer.metrics().retries;
    while producer.metrics().retries < before + count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_agent_that_keeps_failing_is_left_alone_and_others_are_not() {
    let (world, controller, agent) = one_agent(1).await;
    let (broken, callers) = broken_agent().await;
    world.add_topic("broken", 1, &broken);
    let pause = Duration::from_secs(3_000);
    let producer = builder(&controller).circuit_breaker(3, pause).build().await.unwrap();
    let delivery = producer.send(Record::to("broken").value("x")).await.unwrap();
    // It is tried until its circuit opens, and the batch on and on behind that.
    while producer.metrics().open_circuits == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    more_retries(&producer, 3).await;
    let heard = callers.load(Ordering::SeqCst);
    assert!(heard >= 3, "{heard}");
    more_retries(&producer, 10).await;
    assert_eq!(callers.load(Ordering::SeqCst), heard, "the agent hears nothing of it any more");
    // Other agents are served, and the batch goes to whoever gets the lease.
    let other = producer.send(Record::to("orders").value("y")).await.unwrap();
    assert_eq!(other.await.unwrap().offset, 0);
    world.move_partition("broken", 0, &agent);
    assert_eq!(delivery.await.unwrap().offset, 0);
}

#[tokio::test]
async fn metrics_show_rates_latencies_sizes_and_the_queue() {
    let (world, controller, agent) = one_agent(1).await;
    world.script(&agent, [Action::Hold]);
    let producer = builder(&controller).batch_size(100).build().await.unwrap();
    let mut deliveries = Vec::new();
    for _ in 0..100 {
        deliveries
            .push(producer.send(Record::to("orders").value([7; 100].as_slice())).await.unwrap());
    }
    let held: ProducerMetrics = producer.metrics();
    assert!(held.queue_bytes > 0 && held.queue_bytes < held.queue_limit_bytes, "{held:?}");
    assert_eq!((held.records, held.ack_latency_us.count()), (0, 0));
    world.gate.add_permits(1);
    producer.flush().await.unwrap();
    let metrics = producer.metrics();
    assert_eq!((metrics.records, metrics.queue_bytes), (100, 0), "{metrics:?}");
    assert_eq!(metrics.ack_latency_us.count(), metrics.batches);
    assert_eq!(metrics.batch_bytes.sum, metrics.bytes);
    assert!(metrics.records_per_second() > 0.0 && metrics.compression_ratio() > 2.0);
    let text = metrics.to_prometheus(&[("client", "test")]);
    assert!(text.contains("streamhouse_producer_records_total{client=\"test\"} 100\n"), "{text}");
}
