//! The consumer's public face.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use streamhouse_host::{Mistake, is_planted};
use streamhouse_proto::v1;
use streamhouse_segment::ids::{ClusterId, TopicId};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::assignment::{AssignmentEvent, EVENTS, Events};
use super::bookkeeping::Bookkeeping;
use super::budget::Memory;
use super::builder::ConsumerBuilder;
use super::commit::CommitQueue;
use super::committing::{Fence, UnderWay, passed};
use super::error::ConsumeError;
use super::fetcher::{Fetcher, Parts};
use super::group::{Group, Lease, news};
use super::metrics::{ConsumerMetrics, Counters, count};
use super::ready::Ready;
use super::records::{IntoIter, Loan, Records};
use super::source::Source;
use super::subscription::Subscription;
use super::table::Table;
use super::targets::Targets;
use crate::clock;
use crate::routing::Metadata;
use crate::types::TopicPartition;

/// Watch messages between the watch task and the fetcher.
const UPDATES: usize = 16;

/// Reads records. Dropping it ends its tasks and commits nothing; [`close`](Self::close) does.
#[derive(Debug)]
pub struct Consumer {
    pub(super) options: ConsumerBuilder,
    pub(super) cluster: ClusterId,
    pub(super) metadata: Metadata,
    pub(super) source: Arc<Source>,
    pub(super) counters: Arc<Counters>,
    // What is read, and how far.
    pub(super) subscription: Subscription,
    pub(super) table: Table,
    pub(super) books: Bookkeeping,
    pub(super) paused: BTreeSet<usize>,
    // Between this handle and the fetcher.
    pub(super) targets: Arc<Targets>,
    pub(super) ready: Arc<Ready>,
    memory: Arc<Memory>,
    /// What the last poll handed out.
    loan: Option<Arc<Loan>>,
    /// Held by the search by time that runs beside poll.
    pub(super) search: Arc<Mutex<()>>,
    // Changes of the assignment: where they come from, and those that are not yet followed.
    pub(super) events: Option<Events>,
    pub(super) pending: VecDeque<AssignmentEvent>,
    pub(super) fence: Fence,
    pub(super) news: Arc<Notify>,
    pub(super) updates: mpsc::Sender<v1::WatchResponse>,
    pub(super) watched: BTreeSet<TopicId>,
    pub(super) watching: Option<DropGuard>,
    // Its part in the group.
    pub(super) lease: Arc<Lease>,
    pub(super) group: Option<Group>,
    // Commits.
    pub(super) commits: Option<CommitQueue>,
    pub(super) automatic: Option<UnderWay>,
    pub(super) next_commit: Instant,
    // Tasks.
    pub(super) tasks: TaskTracker,
    pub(super) cancel: CancellationToken,
    end_with_me: DropGuard,
}

impl Consumer {
    /// A `Consumer` to be configured.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use streamhouse_client::{Consumer, OffsetReset};
    ///
    /// let consumer = Consumer::builder()
    ///     .controllers(["127.0.0.1:7601"])
    ///     .group_id("billing")
    ///     .topics(["orders"])
    ///     .offset_reset(OffsetReset::Earliest)
    ///     .cache_dir("/var/cache/billing")
    ///     .build()
    ///     .await?;
    /// # drop(consumer);
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> ConsumerBuilder {
        ConsumerBuilder::default()
    }

    pub(super) async fn start(mut options: ConsumerBuilder) -> Result<Self, ConsumeError> {
        let metadata = Metadata::new(options.pool.clone())?;
        let cluster = metadata.cluster().await?;
        let counters = Arc::new(Counters::default());
        let (store, cache) = (options.object_store.clone(), options.open_cache().await?);
        let source = Source::new(store, cache, metadata.clone(), counters.clone());
        source.open(cluster.store_url.as_deref())?;
        let tasks = TaskTracker::new();
        let lease = Arc::new(Lease::new());
        let commits = options.group_id.clone().map(|group| {
            let (metadata, counters) = (metadata.clone(), counters.clone());
            let patience = options.pool.operation_timeout;
            let (queue, task) =
                CommitQueue::new(group, metadata, counters, lease.clone(), patience);
            tasks.spawn(task);
            queue
        });
        let subscription = options.take_subscription()?;
        let (updates, watched) = mpsc::channel(UPDATES);
        let memory = Arc::new(Memory::new(options.fetch_memory));
        let cancel = CancellationToken::new();
        let mut consumer = Self {
            next_commit: clock::later(clock::now(), options.auto_commit_interval),
            options,
            cluster: cluster.id,
            metadata,
            source: Arc::new(source),
            counters,
            subscription: Subscription::None,
            table: Table::default(),
            books: Bookkeeping::default(),
            paused: BTreeSet::new(),
            targets: Arc::default(),
            ready: Arc::default(),
            memory,
            loan: None,
            search: Arc::default(),
            events: None,
            pending: VecDeque::new(),
            fence: Fence::None,
            news: Arc::default(),
            updates,
            watched: BTreeSet::new(),
            watching: None,
            lease,
            group: None,
            commits,
            automatic: None,
            tasks,
            end_with_me: cancel.clone().drop_guard(),
            cancel,
        };
        consumer.fetch(watched);
        consumer.follow(subscription).await?;
        Ok(consumer)
    }

    /// Starts the task that reads ahead.
    fn fetch(&self, updates: mpsc::Receiver<v1::WatchResponse>) {
        let fetcher = Fetcher::new(Parts {
            cluster: self.cluster,
            reset: self.options.offset_reset,
            metadata: self.metadata.clone(),
            source: self.source.clone(),
            targets: self.targets.clone(),
            ready: self.ready.clone(),
            counters: self.counters.clone(),
            memory: self.memory.clone(),
            updates,
            news: self.news.clone(),
            tasks: self.tasks.clone(),
        });
        self.tasks.spawn(fetcher.run(self.cancel.clone()));
    }

    /// The next records: as soon as there are any, or none after `timeout`. What the poll before handed out counts as
    /// taken by the application.
    ///
    /// After an error the consumer stands where it stood, and the next poll tries again. Controllers that cannot be
    /// reached are told of once, after the operation timeout, and asked again all the while.
    ///
    /// ```no_run
    /// # async fn example(consumer: &mut streamhouse_client::Consumer) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let records = consumer.poll(Duration::from_secs(1)).await?;
    /// println!("{} records", records.len());
    /// for record in records {
    ///     println!("{}/{} at {}: {:?}", record.topic, record.partition, record.offset, record.value);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn poll(&mut self, timeout: Duration) -> Result<Records, ConsumeError> {
        let _polling = self.lease.poll();
        if self.subscription.is_none() {
            return Err(ConsumeError::NotSubscribed);
        }
        self.books.begin_poll();
        if let Some(loan) = self.loan.take() {
            loan.end();
        }
        self.commit_automatically();
        let until = clock::later(clock::now(), timeout);
        loop {
            self.follow_group().await?;
            self.follow_events().await?;
            if let Some(soon) = self.fence.soon()
                && let passed = passed(&self.fence, &mut self.commits)
                && tokio::time::timeout_at(soon.min(until), passed).await.is_ok()
            {
                continue;
            }
            // Where it begins with what it was just given may be due.
            self.commit_automatically();
            if let Some(slot) = self.books.lost().filter(|_| self.reset_time().is_none()) {
                return Err(ConsumeError::NoOffset { at: (**self.table.at(slot)).clone() });
            }
            let records = self.gather()?;
            self.targets.ring();
            if !records.is_empty() {
                if !self.may_hand_out().await? {
                    continue;
                }
                count(&self.counters.records, records.len() as u64);
                self.books.end_poll(records.consumed());
                self.loan = Some(records.loan());
                return Ok(records);
            }
            if let Some(error) = self.ready.trouble() {
                return Err(error);
            }
            tokio::select! {
                () = self.ready.arrived() => {}
                // BOUND: whoever sends more waits until poll has followed some.
                event = next(&mut self.events), if self.pending.len() < EVENTS => {
                    self.pending.push_back(event);
                }
                () = news(&mut self.group) => {}
                () = passed(&self.fence, &mut self.commits) => {}
                () = tokio::time::sleep_until(until) => return Ok(records),
            }
        }
    }

    fn gather(&mut self) -> Result<Records, ConsumeError> {
        loop {
            let limit = self.options.max_poll_records;
            let gathered = self.ready.gather(limit, &self.table, &self.targets, &mut self.books);
            let (slot, error) = match gathered {
                Ok(records) => return Ok(records),
                Err(failed) => *failed,
            };
            match (&error, self.reset_time()) {
                (ConsumeError::TopicDeleted { .. }, _) => {
                    self.targets.set(slot, None);
                    if self.group.is_some() {
                        // Its group tells that the partition is lost; the member goes on.
                        continue;
                    }
                }
                (ConsumeError::OffsetOutOfRange { .. }, Some(since)) => {
                    self.read_since(slot, since);
                    continue;
                }
                _ => self.read_on(slot),
            }
            return Err(error);
        }
    }

    /// READ: the partition is read from where it stands, never further on. Where a search by time failed it stands
    /// nowhere: that is searched again.
    fn read_on(&mut self, slot: usize) {
        let position = self.books.position(slot);
        if let (None, Some(since)) = (position, self.reset_time()) {
            return self.read_since(slot, since);
        }
        let early = u64::from(is_planted(Mistake::StaleReadPlan));
        self.targets.set(slot, position.map(|position| position.saturating_sub(early)));
    }

    /// What was handed out and not taken is handed out again.
    pub(super) fn take_back(&mut self, rest: IntoIter) {
        self.counters.records.fetch_sub(rest.len() as u64, Relaxed);
        self.ready.take_back(rest, &self.targets, &mut self.books);
    }

    /// Reads the partition from `offset` on. An offset that is not in the log follows the reset policy when it is read.
    ///
    /// ```no_run
    /// # async fn example(consumer: &mut streamhouse_client::Consumer) -> Result<(), Box<dyn std::error::Error>> {
    /// consumer.seek("orders", 0, 42)?;
    /// assert_eq!(consumer.position("orders", 0), Some(42));
    /// # Ok(())
    /// # }
    /// ```
    pub fn seek(&mut self, topic: &str, partition: u32, offset: u64) -> Result<(), ConsumeError> {
        let slot = self.slot(&TopicPartition::new(topic, partition))?;
        self.books.seek(slot, offset);
        if !self.paused.contains(&slot) {
            self.targets.set(slot, Some(offset));
        }
        Ok(())
    }

    /// Hands out no records of these partitions until they are [resumed](Self::resume), and fetches none. Positions stay.
    pub fn pause<P: Into<TopicPartition>>(
        &mut self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<(), ConsumeError> {
        for at in partitions {
            let slot = self.slot(&at.into())?;
            if self.paused.insert(slot) {
                // BOUND: what was read ahead would hold memory for as long as the pause lasts.
                self.targets.set(slot, None);
            }
        }
        Ok(())
    }

    /// Goes on with partitions that were [paused](Self::pause), from their positions.
    pub fn resume<P: Into<TopicPartition>>(
        &mut self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<(), ConsumeError> {
        for at in partitions {
            let slot = self.slot(&at.into())?;
            if self.paused.remove(&slot) {
                self.read_on(slot);
            }
        }
        Ok(())
    }

    /// The partitions that are paused.
    pub fn paused(&self) -> Vec<TopicPartition> {
        self.paused.iter().map(|slot| (**self.table.at(*slot)).clone()).collect()
    }

    /// The offset of the next record that poll will hand out; `None` if there is no such partition here, or if it has
    /// no position (see [`OffsetReset::None`]; and of [`OffsetReset::Since`] while that cannot be found).
    pub fn position(&self, topic: &str, partition: u32) -> Option<u64> {
        self.books.position(self.slot(&TopicPartition::new(topic, partition)).ok()?)
    }

    /// All positions.
    pub fn positions(&self) -> BTreeMap<TopicPartition, u64> {
        let all = self.table.iter();
        all.filter_map(|(at, _, slot)| Some(((**at).clone(), self.books.position(slot)?))).collect()
    }

    /// The counters since the consumer was built.
    pub fn metrics(&self) -> ConsumerMetrics {
        self.counters.snapshot(self.memory.held())
    }

    /// Ends the consumer. With automatic commits, what the application has taken is committed: the last poll's records
    /// only if they were iterated to the end. Commits that are under way are waited for. All of it takes no longer than the
    /// operation timeout: what has no answer by then has failed.
    ///
    /// A member leaves its group at once, so that others get its partitions; a static one (see
    /// [`group_instance_id`](ConsumerBuilder::group_instance_id)) stays a member until its session timeout.
    pub async fn close(mut self) -> Result<(), ConsumeError> {
        let until = clock::later(clock::now(), self.options.pool.operation_timeout);
        if let Some(queue) = &mut self.commits {
            queue.close_by(until);
        }
        self.tell_of_leaving();
        let committed = self.commit_at_close().await;
        // Without an answer by then, the session timeout does it.
        let _ = tokio::time::timeout_at(until, self.leave()).await;
        drop(self.end_with_me);
        // Its task ends when it has sent what it has.
        drop(self.commits);
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(cache) = &self.source.cache {
            cache.flush().await;
        }
        committed
    }

    pub(super) fn slot(&self, at: &TopicPartition) -> Result<usize, ConsumeError> {
        self.table.slot(at).ok_or_else(|| ConsumeError::NotAssigned { at: at.clone() })
    }
}

/// The next change of the assignment, if any comes.
async fn next(events: &mut Option<Events>) -> AssignmentEvent {
    if let Some(events) = events
        && let Some(event) = events.receiver.recv().await
    {
        return event;
    }
    std::future::pending().await
}
