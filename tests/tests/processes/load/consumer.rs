//! The only member of a consumer group, which reads the topic `t` from its beginning, and commits.
use std::collections::BTreeMap;
use std::time::Duration;

use streamhouse_client::{Consumer, OffsetReset};
use streamhouse_tests::{LocalCluster, Stopwatch};

use super::{Background, Course};

/// How long a poll waits for records.
const POLL: Duration = Duration::from_millis(100);
const COMMIT: Duration = Duration::from_millis(200);

/// The load: it waits from one poll that finds records to the next, while somebody writes some. It ends with the values
/// of each partition, which it has seen once and in order.
pub(crate) fn consumer(cluster: &LocalCluster) -> Background<BTreeMap<u32, Vec<String>>> {
    let addresses = cluster.controllers();
    Background::start("records read", move |course: Course| async move {
        let consumer = Consumer::builder()
            .controllers(addresses.split(','))
            .group_id("readers")
            .topics(["t"])
            .offset_reset(OffsetReset::Earliest)
            .auto_commit_interval(COMMIT);
        let mut consumer = consumer.build().await.unwrap();
        let mut read: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        let mut since = None;
        while course.goes_on() {
            let records = match consumer.poll(POLL).await {
                Ok(records) => records,
                Err(error) => {
                    assert!(error.retryable(), "{error}");
                    println!("the consumer tries again: {error}");
                    continue;
                }
            };
            if records.is_empty() {
                continue;
            }
            let count = records.len() as u64;
            for record in records {
                let of_partition = read.entry(record.partition).or_default();
                assert_eq!(record.offset, of_partition.len() as u64, "READ: once, and in order");
                let value = record.value.as_deref().unwrap_or_default().to_vec();
                of_partition.push(String::from_utf8(value).unwrap());
            }
            let waited = since.replace(Stopwatch::start());
            course.done(count, waited.map_or(Duration::ZERO, |since| since.elapsed()));
        }
        consumer.close().await.unwrap();
        read
    })
}
