//! What tests of the consumer begin with.

use std::time::Duration;

use streamhouse_client::consumer::{ConsumerBuilder, Record as Read};
use streamhouse_client::{Consumer, OffsetReset, Producer, Record};

use super::World;

/// Long enough for anything that will happen.
pub const SOON: Duration = Duration::from_secs(20);

/// A cluster with the topic `orders`, and a producer whose batches hold ten records.
pub async fn cluster(partitions: usize) -> (World, String, Producer) {
    let (world, controller) = World::new().await;
    let agent = world.add_agent().await;
    world.add_topic("orders", partitions, &agent);
    let producer = Producer::builder()
        .controllers([&*controller])
        .batch_size(10)
        .linger(Duration::ZERO)
        .build()
        .await
        .unwrap();
    (world, controller, producer)
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

pub fn offsets(records: &[Read]) -> Vec<u64> {
    records.iter().map(|record| record.offset).collect()
}
