//! A load of numbered records, each written down with where it was promised to be; and the log, held against that.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use streamhouse_client::producer::{Delivery, Placed, ProduceError};
use streamhouse_client::{Producer, Record};
use streamhouse_tests::{LocalCluster, until};
use tokio::runtime::Runtime;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Records fed at once: some batches.
pub(crate) const STEP: usize = 500;

/// An idempotent producer under load, of the topic `t`.
pub(crate) struct Load {
    runtime: Runtime,
    producer: Producer,
    tag: &'static str,
    partitions: u32,
    deliveries: Vec<Result<Delivery, ProduceError>>,
}

/// A record, and what its producer was told of it.
pub(crate) struct Sent {
    pub(crate) partition: u32,
    pub(crate) value: String,
    pub(crate) result: Result<Placed, ProduceError>,
}

impl Load {
    /// One of its own, or one that takes over a name.
    pub(crate) fn start(cluster: &LocalCluster, tag: &'static str, name: Option<&str>) -> Self {
        let runtime = Runtime::new().unwrap();
        let addresses = cluster.controllers();
        let mut builder = Producer::builder().controllers(addresses.split(','));
        if let Some(name) = name {
            builder = builder.producer_name(name);
        }
        let producer = runtime.block_on(builder.build()).unwrap();
        let partitions = cluster.partitions("t").len() as u32;
        Self { runtime, producer, tag, partitions, deliveries: Vec::new() }
    }

    fn at(&self, number: usize) -> (u32, String) {
        (number as u32 % self.partitions, format!("{},{number}", self.tag))
    }

    pub(crate) fn feed(&mut self, count: usize) {
        let first = self.deliveries.len();
        let fed: Vec<_> = self.runtime.block_on(async {
            let mut fed = Vec::with_capacity(count);
            for number in first..first + count {
                let (partition, value) = self.at(number);
                let record = Record::to("t").partition(partition).value(value);
                // One that was fenced may be told so at once.
                fed.push(self.producer.send(record).await);
            }
            fed
        });
        self.deliveries.extend(fed);
    }

    /// Records so far.
    pub(crate) fn fed(&self) -> usize {
        self.deliveries.len()
    }

    /// Feeds until the cluster shows that more was committed.
    pub(crate) fn flow(&mut self, cluster: &LocalCluster) {
        let before = cluster.records("t");
        until("records are committed", PATIENCE, || {
            self.feed(STEP);
            (cluster.records("t") > before).then_some(())
        });
    }

    /// Waits for what becomes of every record, in the order in which they were sent.
    pub(crate) fn end(mut self) -> Vec<Sent> {
        let deliveries = std::mem::take(&mut self.deliveries);
        let results = self.runtime.block_on(async {
            let mut results = Vec::with_capacity(deliveries.len());
            for delivery in deliveries {
                results.push(match delivery {
                    Ok(delivery) => delivery.await,
                    Err(error) => Err(error),
                });
            }
            results
        });
        let sent = results.into_iter().enumerate().map(|(number, result)| {
            let (partition, value) = self.at(number);
            Sent { partition, value, result }
        });
        sent.collect()
    }

    /// Ends the load: all of it was acknowledged.
    pub(crate) fn acknowledged(self) -> Vec<Sent> {
        let sent = self.end();
        for Sent { value, result, .. } in &sent {
            assert!(result.is_ok(), "{value}: {result:?}");
        }
        sent
    }
}

/// What lies where.
fn log(cluster: &LocalCluster) -> BTreeMap<(u32, u64), String> {
    let lines = cluster.run(&["consume", "t", "--to-end", "--format", "json"]).ok().lines();
    let mut log = BTreeMap::new();
    for line in lines {
        let record: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let number = |name: &str| record[name].as_u64().unwrap();
        let value = record["value"].as_str().unwrap().to_owned();
        let at = (number("partition") as u32, number("offset"));
        assert!(log.insert(at, value).is_none(), "{at:?} is read twice");
    }
    log
}

/// Every acknowledged record is in the log once, in order, at the offset that was promised; what certainly failed is
/// not there; and there is nothing else.
pub(crate) fn assert_exactly_once(cluster: &LocalCluster, loads: &[&[Sent]]) {
    let log = log(cluster);
    let mut places: BTreeMap<&str, Vec<(u32, u64)>> = BTreeMap::new();
    for (at, value) in &log {
        places.entry(value).or_default().push(*at);
    }
    let mut known = BTreeSet::new();
    for load in loads {
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        for Sent { partition, value, result } in *load {
            let found = places.get(value.as_str()).map_or(&[][..], Vec::as_slice);
            known.insert(value.as_str());
            match result {
                Ok(placed) => {
                    assert_eq!(found, [(*partition, placed.offset)], "{value}");
                    let before = last.insert(*partition, placed.offset);
                    assert!(before.is_none_or(|before| before < placed.offset), "{value} in order");
                }
                Err(error) if error.may_have_taken_effect() => {
                    assert!(found.len() <= 1, "{value} is at {found:?}");
                }
                Err(error) => assert_eq!(found, [], "{value} failed for certain: {error}"),
            }
        }
    }
    let strange: Vec<_> = places.keys().filter(|value| !known.contains(**value)).collect();
    assert!(strange.is_empty(), "nobody sent {strange:?}");
}

/// The agent that holds the topic's first partition.
pub(crate) fn holder(cluster: &LocalCluster) -> usize {
    until("an agent holds the partition", PATIENCE, || {
        cluster.agent_at(cluster.partitions("t")[0]["address"].as_str()?)
    })
}

/// Waits until another agent than `before` holds the first partition.
pub(crate) fn moved(cluster: &LocalCluster, before: usize) -> usize {
    until("the partition moves", PATIENCE, || {
        let address = cluster.partitions("t")[0]["address"].as_str()?.to_owned();
        cluster.agent_at(&address).filter(|holder| *holder != before)
    })
}
