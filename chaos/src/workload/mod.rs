//! The clients of a trial, each a task that writes down what it asked and what it was told. One file a kind of client;
//! what a kind promises (may a record be there twice?) stands in its file.

mod assigned_consumer;
mod group_consumer;
mod offset_registers;
mod payload;
mod producer;
mod topic_registers;
mod watcher;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use streamhouse_client::consumer::{ConsumeError, ConsumerBuilder, Record};
use streamhouse_client::{Consumer, OffsetReset, TopicPartition};
use tokio_util::sync::CancellationToken;

pub(crate) use producer::{Kind, Producer};

use crate::cluster::Access;
use crate::error::ChaosError;
use crate::history::{Alarm, Failure, Operation, Outcome, Partition, Read};
use crate::random::Random;
use crate::recorder::Recorder;

/// Between two tries of what could not be done.
pub(crate) const AGAIN: Duration = Duration::from_millis(200);

/// A topic of the log workload; its number is its place in the list.
#[derive(Debug, Clone)]
pub struct LogTopic {
    /// Its name.
    pub name: Arc<str>,
    /// How many partitions it has.
    pub partitions: u32,
}

/// What every client is given.
#[derive(Clone)]
pub struct World {
    /// How the cluster is reached.
    pub access: Access,
    /// The log workload's.
    pub topics: Arc<[LogTopic]>,
    /// Where everything is written down.
    pub recorder: Arc<Recorder>,
    /// What clients choose by.
    pub random: Random,
    /// Records a second of each producer.
    pub rate: u64,
    /// Set once clients are to finish what they began, and end.
    pub stop: CancellationToken,
}

impl World {
    /// All partitions of all topics.
    pub fn partitions(&self) -> Vec<Partition> {
        let topics = self.topics.iter().zip(0..);
        let all = topics.flat_map(|(topic, number)| {
            (0..topic.partitions).map(move |partition| Partition { topic: number, partition })
        });
        all.collect()
    }

    pub(crate) fn name(&self, at: Partition) -> &Arc<str> {
        &self.topics[at.topic as usize].name
    }

    /// The same partition as the history has it.
    fn at(&self, named: &TopicPartition) -> Option<Partition> {
        let topic = self.topics.iter().position(|topic| topic.name == named.topic)?;
        Some(Partition { topic: u32::try_from(topic).ok()?, partition: named.partition })
    }

    pub(crate) fn reads(&self, records: impl IntoIterator<Item = Record>) -> Vec<Read> {
        let numbers: HashMap<&str, u32> =
            self.topics.iter().zip(0..).map(|(topic, number)| (&*topic.name, number)).collect();
        let read = |record: Record| {
            // A record of a topic that nobody asked for is one that nobody sent there.
            let topic = numbers.get(&*record.topic).copied().unwrap_or(u32::MAX);
            let at = Partition { topic, partition: record.partition };
            let value = record.value.as_deref().and_then(payload::decode);
            Read { at, offset: record.offset, value }
        };
        records.into_iter().map(read).collect()
    }

    /// A poll failed.
    pub(crate) fn poll_failed(&self, process: u32, error: &ConsumeError) {
        tracing::debug!(process, %error, "poll");
        let alarm = match error {
            ConsumeError::IndexGap { .. } => Some(Alarm::IndexGap),
            ConsumeError::MissingObject { .. } => Some(Alarm::MissingObject),
            ConsumeError::Corrupt { .. } => Some(Alarm::Corrupt),
            _ => None,
        };
        let failure = Some(Failure { alarm, text: error.to_string() });
        let poll = Operation::Poll { reads: Vec::new(), failure };
        self.recorder.record(process, Outcome::Fail, poll);
    }

    /// A new process of this kind of client.
    pub(crate) fn start(&self, client: &str, duplicates: bool) -> u32 {
        self.start_after(client, duplicates, None)
    }

    /// The same in the place of another one.
    fn start_after(&self, client: &str, duplicates: bool, follows: Option<u32>) -> u32 {
        let process = self.recorder.process();
        let start = Operation::Start { client: client.to_owned(), duplicates, follows };
        self.recorder.record(process, Outcome::Ok, start);
        process
    }

    fn consumer(&self) -> ConsumerBuilder {
        Consumer::builder()
            .controllers(self.access.controllers.iter().cloned())
            .object_store(self.access.store.clone())
            .offset_reset(OffsetReset::Earliest)
            .auto_commit(false)
            .max_poll_records(2_000)
    }

    /// A consumer of all partitions, from the first offset on.
    pub(crate) fn assigned(&self) -> ConsumerBuilder {
        let all = self.partitions().into_iter().map(|at| (self.name(at).clone(), at.partition));
        self.consumer().assign(all)
    }

    /// Waits, unless it is time to end: then it says so.
    async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.stop.cancelled() => false,
        }
    }
}

/// How many of each kind of client there are.
#[derive(Debug, Clone)]
pub struct Crew {
    /// Every fourth is plain, every fourth has a name, the others are idempotent.
    pub producers: u64,
    /// Consumers of all partitions.
    pub assigned_consumers: u64,
    /// Members, by the numbers of their seats: of two groups in turns, the first of each is static.
    pub group_members: Range<u64>,
    /// Of topics' names, and of offsets without membership.
    pub metadata_clients: u64,
    /// Of those offsets, who write none.
    pub register_readers: u64,
    /// Whether leases, by two through different controllers, and controllers are watched.
    pub watchers: bool,
}

impl Default for Crew {
    fn default() -> Self {
        Self {
            producers: 4,
            assigned_consumers: 2,
            group_members: 0..5,
            metadata_clients: 3,
            register_readers: 1,
            watchers: true,
        }
    }
}

/// Runs all clients until they are told to stop.
pub async fn run(world: &World, crew: Crew) -> Result<(), ChaosError> {
    let mut clients = tokio::task::JoinSet::new();
    let mut seat = 0;
    let mut next = || {
        seat += 1;
        World { random: world.random.fork(seat), ..world.clone() }
    };
    for number in 0..crew.producers {
        clients.spawn(producer::run(next(), Kind::of(number)));
    }
    for _ in 0..crew.assigned_consumers {
        clients.spawn(assigned_consumer::run(next()));
    }
    for number in crew.group_members {
        clients.spawn(group_consumer::run(next(), number));
    }
    for _ in 0..crew.metadata_clients {
        clients.spawn(topic_registers::run(next()));
        clients.spawn(offset_registers::run(next()));
    }
    for _ in 0..crew.register_readers {
        clients.spawn(offset_registers::read(next()));
    }
    if crew.watchers {
        for number in 0..watcher::WATCHERS {
            clients.spawn(watcher::leases(next(), number));
        }
        clients.spawn(watcher::replicas(next()));
    }
    while let Some(ended) = clients.join_next().await {
        ended.map_err(|error| ChaosError::Harness(format!("a client: {error}")))??;
    }
    Ok(())
}
