//! What tests of the consumer begin with.

use std::time::Duration;

use streamhouse_client::consumer::{ConsumerBuilder, Record as Read};
use streamhouse_client::{Consumer, OffsetReset, Producer, Record, TopicPartition};

use super::World;
use super::sending::one_agent;

/// Long enough for anything that will happen.
pub const SOON: Duration = Duration::from_secs(20);

/// A cluster with the topic `orders`, and a producer whose batches hold ten records.
pub async fn cluster(partitions: usize) -> (World, String, Producer) {
    let (world, controller, _) = one_agent(partitions).await;
    let producer = Producer::builder()
        .controllers([&*controller])
        .batch_size(10)
        .linger(Duration::ZERO)
        .build()
        .await
        .unwrap();
    (world, controller, producer)
}

/// A cluster with the topic `orders` of two partitions, and so many objects with ten records of each.
pub async fn with_objects(objects: usize) -> (World, String) {
    let (world, controller, _producer) = cluster(2).await;
    for _ in 0..objects {
        world.append_object("orders", 0..2).await;
    }
    (world, controller)
}

/// Records whose value is `v<number>`.
pub async fn fill(producer: &Producer, partition: u32, range: std::ops::Range<u64>) {
    for number in range {
        let record = Record::to("orders")
            .partition(partition)
            .key(format!("k{}", number % 3))
            .value(format!("v{number}"))
            .header("n", format!("{number}"));
        drop(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
}

/// Reads `orders` from the beginning.
pub fn builder(world: &World, controller: &str) -> ConsumerBuilder {
    Consumer::builder()
        .controllers([controller])
        .topics(["orders"])
        .object_store(world.store())
        .offset_reset(OffsetReset::Earliest)
}

/// Polls until so many records came.
pub async fn read(consumer: &mut Consumer, count: usize) -> Vec<Read> {
    let mut records = Vec::new();
    while records.len() < count {
        let polled = consumer.poll(SOON).await.unwrap();
        assert!(!polled.is_empty(), "only {} of {count} records came", records.len());
        records.extend(polled);
    }
    records
}

/// Reads on until so many records came, each with the value `v<offset>`; what failed meanwhile.
pub async fn read_through(consumer: &mut Consumer, count: usize) -> (Vec<(u32, u64)>, Vec<String>) {
    let (mut seen, mut errors) = (Vec::new(), Vec::new());
    while seen.len() < count {
        match consumer.poll(SOON).await {
            Ok(records) => {
                assert!(!records.is_empty(), "only {} of {count} records came", seen.len());
                for record in records {
                    let value = format!("v{}", record.offset);
                    assert_eq!(record.value.as_deref(), Some(value.as_bytes()));
                    seen.push((record.partition, record.offset));
                }
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    (seen, errors)
}

/// Reads nothing yet.
pub async fn idle(world: &World, controller: &str) -> Consumer {
    let builder = Consumer::builder().controllers([controller]).object_store(world.store());
    let builder = builder.metadata_refresh(Duration::from_millis(50));
    builder.offset_reset(OffsetReset::Earliest).build().await.unwrap()
}

pub fn at(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

pub fn offsets(records: &[Read]) -> Vec<u64> {
    records.iter().map(|record| record.offset).collect()
}
