//! How fast one producer writes: `producer_benchmark ADDR TOPIC [RECORDS [BYTES]]`.
//!
//! `streamhouse bench produce` measures the same with more choices.

use std::time::{Duration, Instant};

use streamhouse_client::{Producer, Record};

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "a benchmark asks for the time")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let controller = arguments.next().unwrap_or_else(|| "127.0.0.1:7601".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "orders".to_owned());
    let records: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let bytes: usize = arguments.next().map_or(Ok(100), |text| text.parse())?;

    let producer = Producer::builder().controllers([controller]).build().await?;
    // So that looking the topic up is not measured.
    producer.partitions(&topic).await?;
    let value = vec![b'x'; bytes];

    let started = Instant::now();
    for _ in 0..records {
        // A delivery that is dropped still counts: what fails is told by the flush.
        drop(producer.send(Record::to(&*topic).value(&value)).await?);
    }
    producer.flush().await?;
    let seconds = started.elapsed().as_secs_f64();

    let metrics = producer.metrics();
    let latency = |quantile| {
        let bound = metrics.ack_latency_us.quantile(quantile);
        bound.map(Duration::from_micros).unwrap_or_default()
    };
    println!("{:.0} records/s", records as f64 / seconds);
    println!("{:.1} MB/s", (records * bytes as u64) as f64 / 1e6 / seconds);
    println!("{:.0} records a batch", metrics.records_per_batch());
    println!(
        "batches acknowledged: half within {:?}, 99 % within {:?}",
        latency(0.5),
        latency(0.99)
    );
    producer.close().await?;
    Ok(())
}
