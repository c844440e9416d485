//! Sends a few records and prints where they went: `produce ADDR TOPIC`.

use std::time::Duration;

use streamhouse_client::{Compression, Producer, Record};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let controller = arguments.next().unwrap_or_else(|| "127.0.0.1:7601".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "orders".to_owned());

    let producer = Producer::builder()
        .controllers([controller])
        .batch_size(1000)
        .linger(Duration::from_millis(5))
        .compression(Compression::Lz4)
        .build()
        .await?;

    let mut deliveries = Vec::new();
    for number in 0..10 {
        let key = format!("user{}", number % 3);
        let record = Record::to(&*topic).key(key).value(format!("order {number}"));
        // Waits only while the buffer is full.
        deliveries.push(producer.send(record).await?);
    }
    for delivery in deliveries {
        let placed = delivery.await?;
        println!("{}/{} at offset {}", placed.topic, placed.partition, placed.offset);
    }
    producer.close().await?;
    Ok(())
}
