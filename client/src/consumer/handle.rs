//! The consumer's public face.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use streamhouse_segment::ids::TopicId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::bookkeeping::Bookkeeping;
use super::builder::{ConsumerBuilder, OffsetReset};
use super::commit::{Committer, Offset};
use super::error::ConsumeError;
use super::fetcher::{Fetcher, Parts};
use super::metrics::{ConsumerMetrics, Counters};
use super::offsets::describe;
use super::ready::Ready;
use super::records::Records;
use super::slot::Slot;
use super::source::Source;
use super::targets::Targets;
use super::watch::WatchTask;
use crate::clock;
use crate::routing::{Metadata, Requester};
use crate::types::{PartitionDescription, TopicPartition};

/// Watch messages between the watch task and the fetcher.
const UPDATES: usize = 16;

/// An automatic commit that is under way.
#[derive(Debug)]
struct Commit {
    offsets: Vec<(usize, u64)>,
    task: JoinHandle<Result<(), ConsumeError>>,
}

/// Reads records. Dropping it ends its tasks and commits nothing; [`close`](Self::close) does.
#[derive(Debug)]
pub struct Consumer {
    /// By slot.
    pub(super) partitions: Vec<Arc<TopicPartition>>,
    topics: Vec<TopicId>,
    pub(super) metadata: Metadata,
    pub(super) committer: Option<Committer>,
    books: Bookkeeping,
    targets: Arc<Targets>,
    ready: Arc<Ready>,
    counters: Arc<Counters>,
    max_poll_records: usize,
    /// `None`: no automatic commits.
    auto_commit: Option<Duration>,
    next_auto_commit: Instant,
    committing: Option<Commit>,
    tasks: TaskTracker,
    end_with_me: DropGuard,
}

/// A partition as it is when the consumer is built.
struct Found {
    at: Arc<TopicPartition>,
    topic: TopicId,
    state: PartitionDescription,
}

impl Consumer {
    /// A `Consumer` to be configured.
    pub fn builder() -> ConsumerBuilder {
        ConsumerBuilder::default()
    }

    pub(super) async fn start(options: ConsumerBuilder) -> Result<Self, ConsumeError> {
        let metadata = Metadata::new(options.pool.clone())?;
        let cluster = metadata.cluster().await?;
        let counters = Arc::new(Counters::default());
        let store = options.object_store.clone();
        let source = Source::new(store, metadata.clone(), counters.clone());
        source.open(cluster.store_url.as_deref())?;
        let found = find(&metadata, &options).await?;
        let books = positions(&metadata, &options, &found).await?;

        let offsets = (0..found.len()).map(|slot| books.position(slot));
        let targets = Arc::new(Targets::new(offsets));
        let ready = Arc::new(Ready::default());
        let tasks = TaskTracker::new();
        let cancel = CancellationToken::new();
        let (updates, watched) = mpsc::channel(UPDATES);
        let mut watched_topics: Vec<_> = found.iter().map(|found| found.topic).collect();
        watched_topics.sort();
        watched_topics.dedup();
        for watch in WatchTask::all(&metadata, &watched_topics, &updates, &ready) {
            tasks.spawn(watch.run(cancel.clone()));
        }
        let slots = found
            .iter()
            .map(|found| Slot::new(found.at.clone(), found.topic, found.state.high_watermark));
        let fetcher = Fetcher::new(Parts {
            cluster: cluster.id,
            reset: options.offset_reset,
            fetch_memory: options.fetch_memory,
            slots: slots.collect(),
            metadata: metadata.clone(),
            source: Arc::new(source),
            targets: targets.clone(),
            ready: ready.clone(),
            counters: counters.clone(),
            updates: watched,
            tasks: tasks.clone(),
        });
        tasks.spawn(fetcher.run(cancel.clone()));

        let committer = options.group_id.clone().map(|group| Committer {
            group,
            metadata: metadata.clone(),
            requester: Arc::new(Requester::new()),
        });
        let automatic = options.auto_commit && committer.is_some();
        Ok(Self {
            partitions: found.iter().map(|found| found.at.clone()).collect(),
            topics: found.iter().map(|found| found.topic).collect(),
            metadata,
            committer,
            books,
            targets,
            ready,
            counters,
            max_poll_records: options.max_poll_records,
            auto_commit: automatic.then_some(options.auto_commit_interval),
            next_auto_commit: clock::later(clock::now(), options.auto_commit_interval),
            committing: None,
            tasks,
            end_with_me: cancel.drop_guard(),
        })
    }

    /// The next records: as soon as there are any, or none after `timeout`. What the poll before handed out counts as
    /// taken by the application.
    ///
    /// After an error the consumer stands where it stood, and the next poll tries again. Controllers that cannot be
    /// reached are told of once, after the operation timeout, and asked again all the while.
    pub async fn poll(&mut self, timeout: Duration) -> Result<Records, ConsumeError> {
        self.books.begin_poll();
        self.commit_automatically().await;
        let until = clock::later(clock::now(), timeout);
        loop {
            if let Some(slot) = self.books.lost() {
                return Err(ConsumeError::NoOffset { at: (*self.partitions[slot]).clone() });
            }
            let records = self.gather()?;
            self.targets.ring();
            if !records.is_empty() {
                self.books.end_poll(records.consumed());
                return Ok(records);
            }
            if let Some(error) = self.ready.trouble() {
                return Err(error);
            }
            let arrived = self.ready.arrived();
            if tokio::time::timeout_at(until, arrived).await.is_err() {
                return Ok(records);
            }
        }
    }

    fn gather(&mut self) -> Result<Records, ConsumeError> {
        let gathered = self.ready.gather(
            self.max_poll_records,
            &self.partitions,
            &self.targets,
            &mut self.books,
        );
        gathered.map_err(|(slot, error)| {
            // READ: the partition is read again from where it stands, never further on.
            self.targets.set(slot, self.books.position(slot));
            error
        })
    }

    /// Commits the position of every partition: everything that was handed out, the last poll included.
    pub async fn commit(&mut self) -> Result<(), ConsumeError> {
        let offsets = self.books.positions();
        self.commit_now(offsets).await
    }

    /// Reads the partition from `offset` on.
    pub fn seek(&mut self, topic: &str, partition: u32, offset: u64) -> Result<(), ConsumeError> {
        let slot = self.slot(topic, partition)?;
        self.books.seek(slot, offset);
        self.targets.set(slot, Some(offset));
        Ok(())
    }

    /// The offset of the next record that poll will hand out; `None` if there is no such partition here, or if it has
    /// no position (see [`OffsetReset::None`]).
    pub fn position(&self, topic: &str, partition: u32) -> Option<u64> {
        self.books.position(self.slot(topic, partition).ok()?)
    }

    /// All positions.
    pub fn positions(&self) -> BTreeMap<TopicPartition, u64> {
        let positions = self.books.positions().into_iter();
        positions.map(|(slot, offset)| ((*self.partitions[slot]).clone(), offset)).collect()
    }

    /// The partitions that are read.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.partitions.iter().map(|at| (**at).clone()).collect()
    }

    /// The counters since the consumer was built.
    pub fn metrics(&self) -> ConsumerMetrics {
        self.counters.snapshot()
    }

    /// Ends the consumer. With automatic commits, what the application has taken is committed: the last poll's records
    /// only if they were iterated to the end.
    pub async fn close(mut self) -> Result<(), ConsumeError> {
        let committed = match self.auto_commit {
            Some(_) => {
                let offsets = self.books.taken_at_close();
                if offsets.is_empty() {
                    self.settle().await
                } else {
                    self.commit_now(offsets).await
                }
            }
            None => Ok(()),
        };
        drop(self.end_with_me);
        self.tasks.close();
        self.tasks.wait().await;
        committed
    }

    async fn commit_now(&mut self, offsets: Vec<(usize, u64)>) -> Result<(), ConsumeError> {
        let Some(committer) = self.committer.clone() else { return Err(ConsumeError::NoGroup) };
        // GROUP: one commit at a time. An automatic one that failed is made good by this one.
        if let Err(error) = self.settle().await {
            tracing::warn!(%error, "automatic commit failed");
        }
        committer.commit(self.wire(&offsets)).await?;
        self.books.committed(&offsets);
        Ok(())
    }

    /// Waits for the automatic commit that is under way.
    async fn settle(&mut self) -> Result<(), ConsumeError> {
        let Some(commit) = self.committing.take() else { return Ok(()) };
        commit.task.await.unwrap_or(Err(ConsumeError::Ended))?;
        self.books.committed(&commit.offsets);
        Ok(())
    }

    /// Starts an automatic commit when its time has come and none is under way. One that fails is made again at the
    /// next interval.
    async fn commit_automatically(&mut self) {
        let Some(interval) = self.auto_commit else { return };
        match &self.committing {
            Some(commit) if !commit.task.is_finished() => return,
            Some(_) => {
                if let Err(error) = self.settle().await {
                    tracing::warn!(%error, "automatic commit failed");
                }
            }
            None => {}
        }
        let Some(committer) = self.committer.clone() else { return };
        if clock::now() < self.next_auto_commit {
            return;
        }
        self.next_auto_commit = clock::later(clock::now(), interval);
        let offsets = self.books.taken();
        if !offsets.is_empty() {
            let task = self.tasks.spawn(committer.commit(self.wire(&offsets)));
            self.committing = Some(Commit { offsets, task });
        }
    }

    fn wire(&self, offsets: &[(usize, u64)]) -> Vec<Offset> {
        let one = |(slot, offset): &(usize, u64)| Offset {
            at: self.partitions[*slot].clone(),
            topic: self.topics[*slot],
            offset: *offset,
        };
        offsets.iter().map(one).collect()
    }

    pub(super) fn keys(&self) -> Vec<(TopicId, u32)> {
        let partitions = self.topics.iter().zip(&self.partitions);
        partitions.map(|(topic, at)| (*topic, at.partition)).collect()
    }

    fn slot(&self, topic: &str, partition: u32) -> Result<usize, ConsumeError> {
        let found =
            self.partitions.iter().position(|at| &*at.topic == topic && at.partition == partition);
        found.ok_or_else(|| ConsumeError::NotAssigned { at: TopicPartition::new(topic, partition) })
    }
}

/// The partitions to read, topic by topic.
async fn find(metadata: &Metadata, options: &ConsumerBuilder) -> Result<Vec<Found>, ConsumeError> {
    let mut topics: Vec<&Arc<str>> =
        options.topics.iter().chain(options.assigned.iter().map(|at| &at.topic)).collect();
    topics.sort();
    topics.dedup();
    let mut found = Vec::new();
    for topic in topics {
        let description = describe(metadata, topic).await?;
        let partitions = description.topic.partitions;
        for at in options.assigned.iter().filter(|at| at.topic == *topic) {
            if at.partition >= partitions {
                return Err(ConsumeError::UnknownPartition { at: at.clone(), partitions });
            }
        }
        for state in description.partitions {
            let at = TopicPartition::new(topic.clone(), state.partition);
            if options.topics.contains(topic) || options.assigned.contains(&at) {
                found.push(Found { at: Arc::new(at), topic: description.topic.id, state });
            }
        }
    }
    Ok(found)
}

/// Where each partition is read from: the group's offset, else what the reset policy says.
async fn positions(
    metadata: &Metadata,
    options: &ConsumerBuilder,
    found: &[Found],
) -> Result<Bookkeeping, ConsumeError> {
    let committed = match &options.group_id {
        Some(group) => {
            let keys: Vec<_> =
                found.iter().map(|found| (found.topic, found.at.partition)).collect();
            metadata.fetch_offsets(group, &keys).await?
        }
        None => BTreeMap::new(),
    };
    let mut books = Bookkeeping::default();
    for partition in found {
        let committed = committed.get(&(partition.topic, partition.at.partition)).copied();
        let reset = match options.offset_reset {
            OffsetReset::Earliest => Some(partition.state.log_start),
            OffsetReset::Latest => Some(partition.state.high_watermark),
            OffsetReset::None => None,
        };
        books.add(committed.or(reset), committed);
    }
    Ok(books)
}
