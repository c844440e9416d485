//! How long a record takes to its acknowledgement at a steady rate: `latency_benchmark ADDR TOPIC [RATE [SECONDS]]`.
//!
//! `streamhouse bench latency` also takes the time to a consumer's poll.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use streamhouse_client::{Producer, Record};

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "a benchmark asks for the time")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let controller = arguments.next().unwrap_or_else(|| "127.0.0.1:7601".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "orders".to_owned());
    let rate: u32 = arguments.next().map_or(Ok(1_000), |text| text.parse())?;
    let seconds: u32 = arguments.next().map_or(Ok(10), |text| text.parse())?;

    let producer = Producer::builder().controllers([controller]).build().await?;
    producer.partitions(&topic).await?;

    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    let mut waiting = FuturesUnordered::new();
    let mut took = Vec::new();
    let mut left = (rate * seconds).max(1);
    while left > 0 || !waiting.is_empty() {
        tokio::select! {
            Some(latency) = waiting.next() => took.push(latency?),
            _ = ticks.tick(), if left > 0 => {
                left -= 1;
                let sent = Instant::now();
                let delivery = producer.send(Record::to(&*topic).value("tick")).await?;
                waiting.push(async move { delivery.await.map(|_| sent.elapsed()) });
            }
        }
    }
    producer.close().await?;

    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!("{} records: p50 {:?}, p99 {:?}, max {:?}", took.len(), at(0.5), at(0.99), at(1.0));
    Ok(())
}
