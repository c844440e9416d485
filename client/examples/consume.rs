//! Prints a topic up to the end that it had at start: `consume ADDR TOPIC`.

use std::time::Duration;

use streamhouse_client::{Consumer, OffsetReset};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let controller = arguments.next().unwrap_or_else(|| "127.0.0.1:7601".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "orders".to_owned());

    let mut consumer = Consumer::builder()
        .controllers([controller])
        .topics([topic])
        .offset_reset(OffsetReset::Earliest)
        .build()
        .await?;

    let end = consumer.end_offsets().await?;
    let reached = |consumer: &Consumer| {
        let positions = consumer.positions();
        end.iter().all(|(at, end)| positions.get(at).is_some_and(|position| position >= end))
    };
    while !reached(&consumer) {
        for record in consumer.poll(Duration::from_secs(1)).await? {
            let text = |bytes: &Option<_>| {
                bytes.as_ref().map(|b: &bytes::Bytes| String::from_utf8_lossy(b).into_owned())
            };
            println!(
                "{}/{} {}: {:?} = {:?}",
                record.topic,
                record.partition,
                record.offset,
                text(&record.key),
                text(&record.value)
            );
        }
    }
    consumer.close().await?;
    Ok(())
}
