//! A tour of the consumer: `consumer_demo ADDR TOPIC`. Reads the topic to the end that it had at start, commits as it
//! goes, looks back by time, and says what it took.

use std::collections::BTreeMap;
use std::time::Duration;

use streamhouse_client::consumer::{CommittedOffset, ConsumeError};
use streamhouse_client::{Consumer, OffsetReset, TopicPartition};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let controller = arguments.next().unwrap_or_else(|| "127.0.0.1:7601".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "orders".to_owned());

    let mut consumer = Consumer::builder()
        .controllers([controller])
        .group_id("consumer-demo")
        // Where the group has no offset yet.
        .offset_reset(OffsetReset::Earliest)
        // We commit what we have worked on, when we have worked on it.
        .auto_commit(false)
        .fetch_memory(64 << 20)
        .build()
        .await?;
    consumer.subscribe([topic.as_str()]).await?;
    println!("reading {:?}, behind by {:?}", names(&consumer), consumer.lag().await?);

    read_to_end(&mut consumer).await?;
    look_back(&mut consumer, &topic).await?;

    println!("{:#?}", consumer.metrics());
    consumer.close().await?;
    Ok(())
}

fn names(consumer: &Consumer) -> Vec<String> {
    consumer.assignment().iter().map(ToString::to_string).collect()
}

async fn read_to_end(consumer: &mut Consumer) -> Result<(), ConsumeError> {
    let end = consumer.end_offsets().await?;
    let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
    while !reached(consumer, &end) {
        match consumer.poll(Duration::from_secs(1)).await {
            Ok(records) => {
                for record in records {
                    *counts.entry(record.partition).or_default() += 1;
                }
                // In the background; the next one goes behind it.
                drop(consumer.commit_async()?);
            }
            // The consumer stands where it stood, and the next poll tries again.
            Err(error) if error.retryable() => eprintln!("trying again: {error}"),
            Err(error) => return Err(error),
        }
    }
    println!("{counts:?} records by partition");
    // The last word, with a note for whoever looks at the group.
    let note = |offset| CommittedOffset { offset, metadata: "demo done".to_owned() };
    let positions: Vec<_> = consumer.positions().into_iter().collect();
    consumer.commit_offsets(positions.into_iter().map(|(at, offset)| (at, note(offset)))).await
}

fn reached(consumer: &Consumer, end: &BTreeMap<TopicPartition, u64>) -> bool {
    let positions = consumer.positions();
    end.iter().all(|(at, end)| positions.get(at).is_some_and(|position| position >= end))
}

/// The last minute of partition 0 once more, with the others paused.
async fn look_back(consumer: &mut Consumer, topic: &str) -> Result<(), ConsumeError> {
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as i64);
    let first = TopicPartition::new(topic, 0);
    let found = consumer.offsets_for_times([(first.clone(), now - 60_000)]).await?;
    let Some(Some(record)) = found.get(&first) else {
        println!("{first} got nothing in the last minute");
        return Ok(());
    };
    let others: Vec<_> = consumer.assignment().into_iter().filter(|at| *at != first).collect();
    consumer.pause(others.clone())?;
    consumer.seek(topic, 0, record.offset)?;
    let records = consumer.poll(Duration::from_secs(1)).await?;
    println!("{first} had its first record of the last minute at {}", record.offset);
    println!("reading from there, the first poll brought {} records", records.len());
    consumer.resume(others)
}
