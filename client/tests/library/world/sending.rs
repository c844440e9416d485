//! What tests of the producer begin with.

use std::time::Duration;

use futures::future::join_all;
use streamhouse_client::producer::{Delivery, ProducerBuilder};
use streamhouse_client::{Producer, Record};

use super::World;

/// A cluster with the topic `orders`; the addresses of its controller and of its agent.
pub async fn one_agent(partitions: usize) -> (World, String, String) {
    let (world, controller) = World::new().await;
    let agent = world.add_agent().await;
    world.add_topic("orders", partitions, &agent);
    (world, controller, agent)
}

/// A producer that waits for nothing longer than it must.
pub fn builder(controller: &str) -> ProducerBuilder {
    Producer::builder()
        .controllers([controller])
        .linger(Duration::ZERO)
        .retry_backoff(Duration::from_millis(5))
        .retry_backoff_max(Duration::from_millis(50))
}

/// Sends these values to one partition of `orders`.
pub async fn send(producer: &Producer, values: impl IntoIterator<Item = u32>) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for value in values {
        let record = Record::to("orders").key("k").value(value.to_string());
        deliveries.push(producer.send(record).await.unwrap());
    }
    deliveries
}

/// The offsets of records all of which are acknowledged.
pub async fn offsets(deliveries: Vec<Delivery>) -> Vec<u64> {
    join_all(deliveries).await.into_iter().map(|placed| placed.unwrap().offset).collect()
}

/// Those values as the log has them.
pub fn texts(values: impl IntoIterator<Item = u32>) -> Vec<String> {
    values.into_iter().map(|value| value.to_string()).collect()
}
