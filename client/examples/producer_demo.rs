//! What a producer can be asked to do, in small: `producer_demo ADDR TOPIC`.

use std::time::Duration;

use streamhouse_client::{Compression, Producer, Record};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let controller = arguments.next().unwrap_or_else(|| "127.0.0.1:7601".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "orders".to_owned());

    let producer = Producer::builder()
        .controllers([controller])
        .linger(Duration::from_millis(5))
        .compression(Compression::Lz4)
        .delivery_timeout(Duration::from_secs(30))
        .build()
        .await?;

    // Send first, wait later: records that are on their way together share batches.
    let mut deliveries = Vec::new();
    for number in 0..10 {
        let record = Record::to(&*topic)
            .key(format!("user{}", number % 3))
            .value(format!("order {number}"))
            .header("source", "producer_demo");
        // Waits only while the buffer is full.
        deliveries.push(producer.send(record).await?);
    }
    for delivery in deliveries {
        let placed = delivery.await?;
        println!("{}/{} at offset {}", placed.topic, placed.partition, placed.offset);
    }

    // A function instead of a future; and a record without a value, which deletes its key.
    let tombstone = Record::to(&*topic).key("user1");
    producer
        .send_with(tombstone, |result| match result {
            Ok(placed) => println!("tombstone at offset {}", placed.offset),
            Err(error) => println!("tombstone: {error}, retry: {}", error.retryable()),
        })
        .await?;

    // Everything sent so far is acknowledged, or the error tells how many records are not.
    producer.flush().await?;
    let metrics = producer.metrics();
    println!(
        "{} records in {} batches, compressed {:.1} times, {} retries",
        metrics.records,
        metrics.batches,
        metrics.compression_ratio(),
        metrics.retries
    );
    producer.close_within(Duration::from_secs(10)).await?;
    Ok(())
}
