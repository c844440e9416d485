//! The producer's public face.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::agent_link::Links;
use super::buffer::{AppendError, BatchRules, Buffer};
use super::builder::ProducerBuilder;
use super::config::Config;
use super::delivery::{Delivery, Placed};
use super::error::{FlushError, ProduceError};
use super::identity::{Identity, Standing};
use super::metrics::{Counters, ProducerMetrics, Queue};
use super::partition_task::PartitionTask;
use super::record::Record;
use super::room::{BATCH_OVERHEAD, BatchRoom, Room};
use super::sending::Sending;
use super::topics::{OpenTopic, Topics};
use crate::clock;
use crate::errors::Code;
use crate::routing::{Metadata, Routes};

/// Sends records. Cheap to clone; all clones share buffers, streams and counters.
///
/// Dropping the last clone ends its tasks at once: what was not acknowledged by then fails as
/// [`Closed`](ProduceError::Closed). Call [`close`](Self::close) to have everything delivered first.
#[derive(Clone, Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    _end_with_the_last_clone: Arc<DropGuard>,
}

/// What became of a record that was to be put into a batch.
pub(super) enum Placing {
    Done(Delivery),
    /// It would open a batch for which there is no room.
    NoRoom,
    /// The topic was deleted meanwhile.
    Gone,
    /// The topic's partitions are not known yet.
    NotOpen,
}

/// What the producer's tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) room: Room,
    pub(super) counters: Counters,
    pub(super) routes: Routes,
    pub(super) links: Links,
    pub(super) topics: Topics,
    pub(super) tasks: TaskTracker,
    pub(super) cancel: CancellationToken,
    /// Who the producer is, if it is idempotent.
    pub(super) identity: Option<Identity>,
    closed: AtomicBool,
}

impl Producer {
    /// A `Producer` to be configured.
    pub fn builder() -> ProducerBuilder {
        ProducerBuilder::default()
    }

    pub(super) async fn start(config: Config) -> Result<Self, ProduceError> {
        let metadata = Metadata::new(config.pool.clone())?;
        metadata.cluster().await.map_err(|error| ProduceError::Metadata {
            topic: "(not looked up yet)".into(),
            error,
        })?;
        let takes_over = config.producer_name.is_some();
        let shared = Arc::new(Shared::new(config, metadata));
        if let Some(identity) = shared.identity.as_ref().filter(|_| takes_over) {
            // From here on its predecessor writes nothing more.
            let got = identity.get().await;
            got.map_err(|error| ProduceError::NoProducerId { error })?;
        }
        let end = Arc::new(shared.cancel.clone().drop_guard());
        Ok(Self { shared, _end_with_the_last_clone: end })
    }

    /// Takes a record into its partition's batch. Waits only for room in the buffer, and the first time for the
    /// topic's partitions, together for [`max_block`](ProducerBuilder::max_block) at the most; the [`Delivery`] tells
    /// when the record is acknowledged.
    ///
    /// Nothing is done before the future is awaited. An error concerns this record alone.
    #[inline]
    pub fn send<'a>(&'a self, record: Record<'a>) -> Sending<'a> {
        Sending::new(self, record)
    }

    /// [`send`](Self::send) where something has to be waited for.
    #[cold]
    pub(super) async fn send_patiently(
        &self,
        record: Record<'_>,
    ) -> Result<Delivery, ProduceError> {
        let limit = self.shared.config.max_block;
        let deadline = clock::later(clock::now(), limit);
        match tokio::time::timeout_at(deadline, self.send_when_possible(&record)).await {
            Ok(sent) => sent,
            Err(_) if self.shared.topics.is_open(&record.topic) => {
                Err(ProduceError::BufferFull { limit: self.shared.room.limit(), waited: limit })
            }
            Err(_) => Err(ProduceError::TopicNotLoaded { topic: (&*record.topic).into() }),
        }
    }

    async fn send_when_possible(&self, record: &Record<'_>) -> Result<Delivery, ProduceError> {
        let mut opens_batch = false;
        loop {
            let topic = match self.shared.topics.get(&record.topic) {
                Some(topic) => topic,
                None => self.open(&record.topic).await?,
            };
            let weight = self.admit(&topic, record)?;
            if opens_batch {
                self.wait_for_room(weight + BATCH_OVERHEAD).await?;
            } else if !self.shared.room.try_take(weight) {
                self.wait_for_room(weight).await?;
            }
            let placed = self.append(&topic, record, weight, opens_batch)?;
            self.forget_if_gone(&topic, &placed);
            match placed {
                Placing::Done(delivery) => return Ok(delivery),
                Placing::NoRoom => opens_batch = true,
                Placing::Gone | Placing::NotOpen => opens_batch = false,
            }
        }
    }

    /// Like [`send`](Self::send), without waiting: [`BufferFull`](ProduceError::BufferFull) if there is no room, and
    /// [`TopicNotLoaded`](ProduceError::TopicNotLoaded) if the topic's partitions are not known yet (see
    /// [`partitions`](Self::partitions)).
    pub fn try_send(&self, record: Record<'_>) -> Result<Delivery, ProduceError> {
        match self.place(&record)? {
            Placing::Done(delivery) => Ok(delivery),
            Placing::NoRoom => Err(ProduceError::BufferFull {
                limit: self.shared.room.limit(),
                waited: Duration::ZERO,
            }),
            Placing::Gone | Placing::NotOpen => {
                Err(ProduceError::TopicNotLoaded { topic: (&*record.topic).into() })
            }
        }
    }

    /// Like [`send`](Self::send), with a function that is called with the result in place of a future: see
    /// [`Delivery::on_result`].
    pub async fn send_with(
        &self,
        record: Record<'_>,
        callback: impl FnOnce(Result<Placed, ProduceError>) + Send + 'static,
    ) -> Result<(), ProduceError> {
        self.send(record).await?.on_result(callback);
        Ok(())
    }

    /// How many partitions a topic has; it is open for [`try_send`](Self::try_send) from then on.
    pub async fn partitions(&self, topic: &str) -> Result<u32, ProduceError> {
        match self.shared.topics.get(topic) {
            Some(topic) => Ok(topic.route.partitions),
            None => Ok(self.open(topic).await?.route.partitions),
        }
    }

    /// Sends what is buffered and waits until every record sent before has been acknowledged or has failed. The error
    /// tells how many failed since the previous flush; why each did is in its [`Delivery`].
    pub async fn flush(&self) -> Result<(), FlushError> {
        let mut unfinished = Vec::new();
        for topic in self.shared.topics.all() {
            for buffer in &topic.buffers {
                buffer.seal();
                unfinished.extend(buffer.unfinished());
            }
        }
        join_all(unfinished.into_iter().map(|batch| batch.wait())).await;
        self.shared.counters.take_failures()
    }

    /// Takes no more records, flushes, and ends all streams and tasks.
    pub async fn close(&self) -> Result<(), FlushError> {
        self.shared.closed.store(true, Ordering::SeqCst);
        let flushed = self.flush().await;
        self.end().await;
        // A record that was taken during the flush may have failed behind it.
        flushed.and(self.shared.counters.take_failures())
    }

    /// Ends everything: what is left fails.
    async fn end(&self) {
        self.shared.room.close();
        self.shared.cancel.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// [`close`](Self::close), for `timeout` at the most: whatever is not acknowledged by then fails as
    /// [`Closed`](ProduceError::Closed), which says whether it may be in the log all the same.
    pub async fn close_within(&self, timeout: Duration) -> Result<(), FlushError> {
        let deadline = clock::later(clock::now(), timeout);
        if let Ok(closed) = tokio::time::timeout_at(deadline, self.close()).await {
            return closed;
        }
        self.end().await;
        self.shared.counters.take_failures()
    }

    /// What the producer counted and measured since it was built.
    pub fn metrics(&self) -> ProducerMetrics {
        let shared = &self.shared;
        shared.counters.snapshot(Queue {
            used: shared.room.used(),
            limit: shared.room.limit(),
            failing_agents: shared.links.failing(),
        })
    }

    /// Puts a record into its batch, if that can be done now.
    #[inline]
    pub(super) fn place(&self, record: &Record<'_>) -> Result<Placing, ProduceError> {
        let mut gone = None;
        let placed = self.shared.topics.with(&record.topic, |topic| {
            let weight = self.admit(topic, record)?;
            if !self.shared.room.try_take(weight) {
                return Ok(Placing::NoRoom);
            }
            let placed = self.append(topic, record, weight, false);
            if matches!(placed, Ok(Placing::Gone)) {
                gone = Some(Arc::clone(topic));
            }
            placed
        });
        if let Some(topic) = gone {
            self.shared.topics.forget(&topic);
        }
        placed.unwrap_or(Ok(Placing::NotOpen))
    }

    fn forget_if_gone(&self, topic: &OpenTopic, placed: &Placing) {
        if matches!(placed, Placing::Gone) {
            self.shared.topics.forget(topic);
        }
    }

    /// The record's weight, if it may be sent at all.
    #[inline]
    fn admit(&self, topic: &OpenTopic, record: &Record<'_>) -> Result<usize, ProduceError> {
        if self.shared.closed.load(Ordering::Relaxed) {
            return Err(closed());
        }
        if let Some(reason) = self.shared.fenced() {
            return Err(ProduceError::Fenced { reason, may_have_taken_effect: false });
        }
        let weight = record.weight();
        // Only so that one record cannot wait for more room than there is: the limit itself is the encoder's.
        if weight + BATCH_OVERHEAD > self.shared.room.limit() {
            return Err(ProduceError::RecordTooLarge {
                topic: topic.route.name.clone(),
                size: weight as u64,
                limit: self.shared.config.max_record_bytes as u64,
            });
        }
        Ok(weight)
    }

    /// Encodes a record for which room was taken; `opens_batch`: for a batch, too.
    #[inline]
    fn append(
        &self,
        topic: &OpenTopic,
        record: &Record<'_>,
        weight: usize,
        opens_batch: bool,
    ) -> Result<Placing, ProduceError> {
        let batch_room = BatchRoom::new(&self.shared.room, opens_batch);
        let timestamp = record.timestamp.unwrap_or_else(clock::wall_ms);
        let placed = topic.choose(&self.shared.config.partitioner, record).and_then(|partition| {
            let buffer = &topic.buffers[partition as usize];
            match buffer.append(record, timestamp, weight, batch_room) {
                Ok((delivery, sealed)) => {
                    if sealed {
                        topic.pass_on(partition);
                    }
                    Ok(Placing::Done(delivery))
                }
                Err(AppendError::Closed) => Ok(Placing::Gone),
                Err(AppendError::NoRoom) => Ok(Placing::NoRoom),
                Err(AppendError::Refused(error)) => Err(error),
            }
        });
        if !matches!(placed, Ok(Placing::Done(_))) {
            self.shared.room.give_back(weight);
        }
        placed
    }

    async fn wait_for_room(&self, weight: usize) -> Result<(), ProduceError> {
        self.shared.counters.waited_for_room();
        // What lingers would only keep the room from being freed.
        for topic in self.shared.topics.all() {
            topic.buffers.iter().for_each(|buffer| buffer.seal());
        }
        if self.shared.room.take(weight).await { Ok(()) } else { Err(closed()) }
    }

    /// Looks a topic up and starts its partitions' tasks.
    async fn open(&self, name: &str) -> Result<Arc<OpenTopic>, ProduceError> {
        let _one = self.shared.topics.opening.lock().await;
        if let Some(topic) = self.shared.topics.get(name) {
            return Ok(topic);
        }
        if self.shared.closed.load(Ordering::Relaxed) {
            return Err(closed());
        }
        let route = self.shared.routes.open(name).await.map_err(|error| match error.code() {
            Some(Code::UnknownTopic) => ProduceError::UnknownTopic { topic: name.into() },
            _ => ProduceError::Metadata { topic: name.into(), error },
        })?;
        let config = &self.shared.config;
        let rules = BatchRules {
            records: config.batch_size,
            bytes: config.batch_bytes,
            linger: config.linger,
            compression: config.compression,
            limits: config.limits(),
        };
        let buffers = (0..route.partitions)
            .map(|partition| Arc::new(Buffer::new(route.name.clone(), partition, rules)))
            .collect();
        let topic = Arc::new(OpenTopic::new(route, buffers));
        for partition in 0..topic.route.partitions {
            let task = PartitionTask::new(self.shared.clone(), topic.clone(), partition);
            self.shared.tasks.spawn(task.run());
        }
        self.shared.topics.insert(topic.clone());
        Ok(topic)
    }
}

impl Shared {
    pub(super) fn new(config: Config, metadata: Metadata) -> Self {
        let tasks = TaskTracker::new();
        let cancel = CancellationToken::new();
        let identity = config
            .enable_idempotence
            .then(|| Identity::new(metadata.clone(), config.producer_name.clone()));
        Self {
            room: Room::new(config.buffer_memory),
            counters: Counters::default(),
            routes: Routes::new(metadata),
            links: Links::new(tasks.clone(), cancel.clone(), config.breaker),
            topics: Topics::default(),
            tasks,
            cancel,
            closed: AtomicBool::new(false),
            identity,
            config,
        }
    }

    /// Why nothing more is written.
    fn fenced(&self) -> Option<Arc<str>> {
        match self.identity.as_ref()?.standing() {
            Standing::Fenced(reason) => Some(reason),
            Standing::Unknown | Standing::Has { .. } => None,
        }
    }
}

fn closed() -> ProduceError {
    ProduceError::Closed { may_have_taken_effect: false }
}
