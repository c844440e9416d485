//! Which partitions a consumer reads: decided elsewhere, followed here.
//!
//! Whoever decides (the application by `subscribe` and `assign`, the task that notices new topics, a group's
//! coordinator) says so by [`AssignmentEvent`]s, which poll follows one after the other before it hands out records.
//! What is assigned is read from the group's offset, else from where the reset policy says. What is revoked is
//! committed first, as far as the application has taken it, if commits are automatic. What is lost is somebody else's
//! already: nothing of it is committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use streamhouse_host::{Mistake, is_planted};
use streamhouse_segment::ids::TopicId;
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use super::builder::OffsetReset;
use super::commit::Offset;
use super::committing::Fence;
use super::discovery::{self, Discovery};
use super::error::ConsumeError;
use super::handle::Consumer;
use super::offsets::describe;
use super::ready::{Body, Chunk};
use super::subscription::{Known, Subscription};
use super::targets::Place;
use super::times::Found;
use super::watch::WatchTask;
use crate::types::{PartitionDescription, TopicPartition};

/// BOUND: events that poll has not followed yet; whoever sends more waits.
pub(super) const EVENTS: usize = 16;

/// A partition that this consumer is to read.
#[derive(Clone, Debug)]
pub(super) struct Assigned {
    pub(super) at: Arc<TopicPartition>,
    pub(super) topic: TopicId,
    pub(super) log_start: u64,
    pub(super) high_watermark: u64,
}

impl Assigned {
    pub(super) fn new(name: &Arc<str>, topic: TopicId, state: &PartitionDescription) -> Self {
        Self {
            at: Arc::new(TopicPartition::new(name.clone(), state.partition)),
            topic,
            log_start: state.log_start,
            high_watermark: state.high_watermark,
        }
    }
}

/// Where a partition begins.
struct Start {
    /// The offset to read from, if it has one; or why that could not be found.
    position: Result<Option<u64>, ConsumeError>,
    /// The offset that its group has committed.
    committed: Option<u64>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) enum AssignmentEvent {
    /// Read these, too. `noticed`: they came into being after the subscription, so that all their records are new.
    Assigned { partitions: Vec<Assigned>, noticed: bool },
    /// Give these up.
    Revoked(Vec<TopicPartition>),
    /// These are gone.
    Lost(Vec<TopicPartition>),
}

/// Where events come from, and what ends with it.
#[derive(Debug)]
pub(super) struct Events {
    pub(super) receiver: mpsc::Receiver<AssignmentEvent>,
    pub(super) _source: DropGuard,
}

impl Consumer {
    /// Reads all partitions of these topics, which must exist, instead of what was read before; partitions that are
    /// read already go on where they are. Partitions that the topics get later are noticed.
    ///
    /// ```no_run
    /// # async fn example(consumer: &mut streamhouse_client::Consumer) -> Result<(), Box<dyn std::error::Error>> {
    /// consumer.subscribe(["orders", "payments"]).await?;
    /// println!("reading {:?}", consumer.assignment());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe<S: Into<Arc<str>>>(
        &mut self,
        topics: impl IntoIterator<Item = S>,
    ) -> Result<(), ConsumeError> {
        let names = topics.into_iter().map(Into::into).collect();
        self.follow(Subscription::Topics { names, partitions: Default::default() }).await
    }

    /// Reads all partitions of every topic whose whole name matches this regular expression, those that are created
    /// later included, instead of what was read before.
    pub async fn subscribe_pattern(&mut self, pattern: &str) -> Result<(), ConsumeError> {
        self.follow(Subscription::pattern(pattern)?).await
    }

    /// Reads these partitions, given as `(topic, partition)`, instead of what was read before; those that are read
    /// already go on where they are.
    ///
    /// ```no_run
    /// # async fn example(consumer: &mut streamhouse_client::Consumer) -> Result<(), Box<dyn std::error::Error>> {
    /// consumer.assign([("orders", 0), ("orders", 3)]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn assign<P: Into<TopicPartition>>(
        &mut self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<(), ConsumeError> {
        let partitions = partitions.into_iter().map(Into::into).collect();
        self.follow(Subscription::Topics { names: Default::default(), partitions }).await
    }

    /// Reads nothing any more. With automatic commits, what the application has taken is committed.
    pub async fn unsubscribe(&mut self) -> Result<(), ConsumeError> {
        self.follow(Subscription::None).await
    }

    /// The partitions that are read, in order.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.table.iter().map(|(at, ..)| (**at).clone()).collect()
    }

    /// Reads what the subscription wants. After an error everything is as it was; but where a membership had to begin or
    /// end for it, nothing is read.
    pub(super) async fn follow(&mut self, subscription: Subscription) -> Result<(), ConsumeError> {
        if self.takes_part(&subscription) {
            return self.follow_as_member(subscription).await;
        }
        let (wanted, known) = self.find(&subscription).await?;
        self.end_membership().await;
        let ids: BTreeMap<_, _> = wanted.iter().map(|a| (a.at.clone(), a.topic)).collect();
        let (mut gone, mut lost) = (Vec::new(), Vec::new());
        for (at, topic, _) in self.table.iter() {
            match ids.get(at) {
                Some(id) if *id == topic => {}
                // A topic that was deleted and created again is another one.
                Some(_) => lost.push((**at).clone()),
                None => gone.push((**at).clone()),
            }
        }
        let stays = |assigned: &Assigned| {
            let slot = self.table.slot(&assigned.at);
            slot.is_some_and(|slot| self.table.topic(slot) == assigned.topic)
        };
        let new: Vec<_> = wanted.into_iter().filter(|assigned| !stays(assigned)).collect();
        if !new.is_empty() {
            self.wait_for_commits().await;
        }
        let starts = self.starts(&new, false).await?;
        self.commit_before_revocation(&gone).await;
        // Nothing fails or waits from here on. What an earlier subscription still had to say is of no interest.
        self.forget_events();
        self.remove(&lost);
        self.remove(&gone);
        self.begin(new.into_iter().zip(starts));
        self.discover(&subscription, known);
        self.subscription = subscription;
        Ok(())
    }

    /// What whoever decided until now still had to say is not followed any more.
    pub(super) fn forget_events(&mut self) {
        (self.events, self.fence) = (None, Fence::None);
        self.pending.clear();
    }

    /// See [`settling`](Self::settling).
    async fn wait_for_commits(&mut self) {
        if let Some(queue) = &mut self.commits {
            queue.answered(queue.of_this_membership()).await;
        }
    }

    /// The partitions that it wants as the cluster is now.
    async fn find(
        &self,
        subscription: &Subscription,
    ) -> Result<(Vec<Assigned>, Known), ConsumeError> {
        let (mut wanted, mut known) = (Vec::new(), Known::default());
        for name in self.names(subscription).await? {
            let found = describe(&self.metadata, &name).await?;
            let (id, count) = (found.topic.id, found.topic.partitions);
            let all = subscription.wants(&name);
            if all {
                known.note(&name, id, count);
            }
            let mut some = Vec::new();
            if let Subscription::Topics { partitions, .. } = subscription {
                some.extend(partitions.iter().filter(|at| at.topic == name));
            }
            if let Some(at) = some.iter().find(|at| at.partition >= count) {
                let at = TopicPartition::clone(at);
                return Err(ConsumeError::UnknownPartition { at, partitions: count });
            }
            let states = found
                .partitions
                .iter()
                .filter(|state| all || some.iter().any(|at| at.partition == state.partition));
            wanted.extend(states.map(|state| Assigned::new(&name, id, state)));
        }
        Ok((wanted, known))
    }

    async fn names(&self, subscription: &Subscription) -> Result<Vec<Arc<str>>, ConsumeError> {
        let mut names: Vec<Arc<str>> = match subscription {
            Subscription::None => Vec::new(),
            Subscription::Topics { names, partitions } => {
                names.iter().chain(partitions.iter().map(|at| &at.topic)).cloned().collect()
            }
            Subscription::Pattern(_) => {
                let topics = discovery::topics(&self.metadata, true).await?.into_iter();
                topics
                    .map(|t| t.name.into())
                    .filter(|name: &Arc<str>| subscription.wants(name))
                    .collect()
            }
        };
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn discover(&mut self, subscription: &Subscription, known: Known) {
        if !subscription.follows() {
            return;
        }
        let (events, receiver) = mpsc::channel(EVENTS);
        let discovery = Discovery {
            metadata: self.metadata.clone(),
            subscription: subscription.clone(),
            known,
            every: self.options.metadata_refresh,
            news: self.news.clone(),
            events,
        };
        let cancel = self.cancel.child_token();
        self.tasks.spawn(discovery.run(cancel.clone()));
        self.events = Some(Events { receiver, _source: cancel.drop_guard() });
    }

    /// Follows what has come in, so far as it need not wait. An event that fails is followed again by the next poll.
    pub(super) async fn follow_events(&mut self) -> Result<(), ConsumeError> {
        if let Some(events) = &mut self.events {
            while self.pending.len() < EVENTS
                && let Ok(event) = events.receiver.try_recv()
            {
                self.pending.push_back(event);
            }
        }
        while let Some(event) = self.pending.front().cloned() {
            if matches!((&self.fence, &event), (Fence::None, AssignmentEvent::Assigned { .. })) {
                self.fence = self.settling();
            }
            if !self.fence_passed() {
                return Ok(());
            }
            self.apply(&event).await?;
            self.pending.pop_front();
            self.fence = Fence::None;
        }
        Ok(())
    }

    pub(super) async fn apply(&mut self, event: &AssignmentEvent) -> Result<(), ConsumeError> {
        match event {
            AssignmentEvent::Assigned { partitions, noticed } => {
                self.add(partitions, *noticed).await?;
            }
            AssignmentEvent::Lost(partitions) if !is_planted(Mistake::ZombieCommit) => {
                self.remove(partitions);
            }
            AssignmentEvent::Revoked(partitions) | AssignmentEvent::Lost(partitions) => {
                self.commit_before_revocation(partitions).await;
                self.remove(partitions);
            }
        }
        Ok(())
    }

    async fn add(&mut self, partitions: &[Assigned], noticed: bool) -> Result<(), ConsumeError> {
        let new = partitions.iter().filter(|assigned| self.table.slot(&assigned.at).is_none());
        let new: Vec<Assigned> = new.cloned().collect();
        let starts = self.starts(&new, noticed).await?;
        self.begin(new.into_iter().zip(starts));
        Ok(())
    }

    fn begin(&mut self, partitions: impl IntoIterator<Item = (Assigned, Start)>) {
        for (assigned, start) in partitions {
            self.begin_one(assigned, start);
        }
        self.watch();
    }

    fn begin_one(&mut self, assigned: Assigned, start: Start) {
        let Some(slot) = self.table.insert(&assigned.at, assigned.topic) else { return };
        let position = start.position.as_ref().copied().unwrap_or_default();
        self.books.add(slot, position, start.committed);
        let Assigned { at, topic, high_watermark, .. } = assigned;
        self.targets.assign(slot, Place { at, topic, high_watermark }, position);
        if let Err(error) = start.position {
            // Told like one that reading it meets, and then tried again.
            let version = self.targets.version(slot);
            self.ready.push(Chunk { slot, version, body: Body::Failed(error) });
        }
    }

    async fn starts(&self, new: &[Assigned], noticed: bool) -> Result<Vec<Start>, ConsumeError> {
        let committed = match &self.options.group_id {
            Some(group) if !new.is_empty() => {
                let keys: Vec<_> = new.iter().map(|a| (a.topic, a.at.partition)).collect();
                self.metadata.fetch_offsets(group, &keys).await?
            }
            _ => BTreeMap::new(),
        };
        let committed = |assigned: &Assigned| {
            committed.get(&(assigned.topic, assigned.at.partition)).map(|known| known.offset)
        };
        let mut by_time = Found::new();
        if let Some(since) = self.reset_time() {
            let without = new.iter().filter(|assigned| committed(assigned).is_none());
            let searches = without.map(|assigned| (assigned.clone(), since)).collect();
            by_time = self.searcher().search(searches).await?;
        }
        let mut reset = |assigned: &Assigned| match self.options.offset_reset {
            OffsetReset::Latest if !noticed => Ok(Some(assigned.high_watermark)),
            OffsetReset::Earliest | OffsetReset::Latest => Ok(Some(assigned.log_start)),
            OffsetReset::Since(_) => {
                let found = by_time.remove(&*assigned.at).transpose()?.flatten();
                Ok(Some(found.map_or(assigned.high_watermark, |found| found.offset)))
            }
            OffsetReset::None => Ok(None),
        };
        let start = |assigned: &Assigned| {
            let committed = committed(assigned);
            let position = if committed.is_some() { Ok(committed) } else { reset(assigned) };
            Start { position, committed }
        };
        Ok(new.iter().map(start).collect())
    }

    pub(super) fn remove(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            if let Some(slot) = self.table.remove(at) {
                self.books.remove(slot);
                self.paused.remove(&slot);
                self.targets.release(slot);
            }
        }
        self.watch();
    }

    /// What the application has taken of them, if that is not committed yet.
    pub(super) fn taken_of(&self, partitions: &[TopicPartition]) -> Vec<Offset> {
        let taken = self.books.taken().into_iter();
        let offsets = taken.map(|(slot, offset)| self.offset(slot, offset));
        offsets.filter(|offset| partitions.contains(&offset.at)).collect()
    }

    /// Watches the topics that are read.
    fn watch(&mut self) {
        let topics = self.table.topics();
        if topics == self.watched {
            return;
        }
        let all: Vec<TopicId> = topics.iter().copied().collect();
        let cancel = self.cancel.child_token();
        for task in WatchTask::all(&self.metadata, &all, &self.updates, &self.ready) {
            self.tasks.spawn(task.run(cancel.clone()));
        }
        self.watching = Some(cancel.drop_guard());
        self.watched = topics;
    }
}
