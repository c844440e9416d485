//! Poll's part: follows what the membership's task says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use streamhouse_segment::ids::TopicId;
use tokio::sync::{mpsc, oneshot};

use super::core::Key;
use super::membership::Membership;
use super::{EVENTS, Event, Group, VecDeque, WORDS, Word};
use crate::clock;
use crate::consumer::Consumer;
use crate::consumer::assignment::{Assigned, AssignmentEvent};
use crate::consumer::builder::OffsetReset;
use crate::consumer::commit::CommitQueue;
use crate::consumer::committing::{Fence, passed};
use crate::consumer::discovery::topics;
use crate::consumer::error::ConsumeError;
use crate::consumer::offsets::describe;
use crate::consumer::subscription::{Known, Subscription};
use crate::errors::Code;
use crate::types::TopicPartition;

impl Consumer {
    /// Whether it is the controllers who decide which partitions are read.
    pub(in crate::consumer) fn takes_part(&self, subscription: &Subscription) -> bool {
        let whole = match subscription {
            Subscription::None => false,
            Subscription::Topics { names, partitions } => {
                !names.is_empty() && partitions.is_empty()
            }
            Subscription::Pattern(_) => true,
        };
        whole && self.options.group_id.is_some()
    }

    /// Takes part in the group for what the subscription wants. Returns once the controllers have assigned something,
    /// which may be nothing yet.
    pub(in crate::consumer) async fn follow_as_member(
        &mut self,
        subscription: Subscription,
    ) -> Result<(), ConsumeError> {
        let found = self.wanted_now(&subscription).await?;
        if let Some(group) = &mut self.group {
            group.known.keep(&self.subscription);
            for (name, id, partitions) in found {
                group.known.note_first(&name, id, partitions);
            }
            let _ = group.words.send(Word::Subscribed(subscription.clone())).await;
            self.subscription = subscription;
            return Ok(());
        }
        // Until now the application decided.
        let before = self.assignment();
        self.commit_before_revocation(&before).await;
        self.forget_events();
        self.remove(&before);
        let mut known = Known::default();
        found.iter().for_each(|(name, id, partitions)| known.note(name, *id, *partitions));
        self.begin_membership(subscription.clone(), known);
        // From here on poll goes on with it, if nobody waits for this.
        self.subscription = subscription;
        let settled = self.settle().await;
        if settled.is_err() {
            // Neither one nor the other: what was assigned before is given up, and this it did not get.
            if !self.assignment().is_empty() {
                self.tell_of_leaving();
            }
            self.leave().await;
        }
        settled
    }

    /// The topics that it wants and that are there, each with its partitions.
    async fn wanted_now(
        &self,
        subscription: &Subscription,
    ) -> Result<Vec<(String, TopicId, u32)>, ConsumeError> {
        let mut found = Vec::new();
        match subscription {
            Subscription::Topics { names, .. } => {
                for name in names {
                    found.push(describe(&self.metadata, name).await?.topic);
                }
            }
            _ => {
                found = topics(&self.metadata, true).await?;
                found.retain(|topic| subscription.wants(&topic.name));
            }
        }
        Ok(found.into_iter().map(|topic| (topic.name, topic.id, topic.partitions)).collect())
    }

    fn begin_membership(&mut self, subscription: Subscription, known: Known) {
        let Some(name) = self.options.group_id.clone() else { return };
        let (events, receiver) = mpsc::channel(EVENTS);
        let (words, spoken) = mpsc::channel(WORDS);
        let lease = self.lease.clone();
        let membership = Membership::new(
            (name, self.options.group.clone()),
            (self.metadata.clone(), self.options.metadata_refresh),
            subscription,
            lease.clone(),
            (events, spoken),
        );
        let cancel = self.cancel.child_token();
        self.tasks.spawn(membership.run(cancel.clone()));
        self.group = Some(Group {
            lease,
            known,
            member: [0; 16],
            events: receiver,
            pending: VecDeque::new(),
            settled: false,
            lost: false,
            words,
            _task: cancel.drop_guard(),
        });
    }

    /// Follows the first changes, until the assignment is complete.
    async fn settle(&mut self) -> Result<(), ConsumeError> {
        let until = clock::later(clock::now(), self.options.pool.operation_timeout);
        loop {
            let Some(group) = &mut self.group else { return Ok(()) };
            if group.settled {
                return Ok(());
            }
            tokio::select! {
                () = group.news() => {}
                () = passed(&self.fence, &mut self.commits) => {}
                // What is still to come is followed by poll.
                () = tokio::time::sleep_until(until) => return Ok(()),
            }
            self.follow_group().await?;
        }
    }

    /// GROUP: whether what is read may be handed out. If not, it is lost.
    pub(in crate::consumer) async fn may_hand_out(&mut self) -> Result<bool, ConsumeError> {
        let Some(group) = &mut self.group else { return Ok(true) };
        if group.lease.holds() {
            return Ok(true);
        }
        group.lost = true;
        let all = self.assignment();
        self.lose(all).await?;
        Ok(false)
    }

    /// Follows what has come in, so far as it need not wait. A change that fails is followed again by the next poll.
    pub(in crate::consumer) async fn follow_group(&mut self) -> Result<(), ConsumeError> {
        loop {
            let Some(group) = &mut self.group else { return Ok(()) };
            if group.lost && group.words.send(Word::Lost).await.is_ok() {
                group.lost = false;
            }
            while group.pending.len() < EVENTS
                && let Ok(event) = group.events.try_recv()
            {
                group.pending.push_back(event);
            }
            let Some(event) = group.pending.front().cloned() else { return Ok(()) };
            if let Event::Failed(error) = event {
                // There is no way back from that one: it is told again and again.
                if !matches!(error, ConsumeError::ReplacedMember { .. }) {
                    group.pending.pop_front();
                }
                return Err(error);
            }
            if matches!(self.fence, Fence::None) {
                self.fence = self.prepare(&event);
            }
            if !self.fence_passed() {
                self.withhold();
                return Ok(());
            }
            self.follow_change(event).await?;
            self.fence = Fence::None;
            if let Some(group) = &mut self.group {
                group.pending.pop_front();
            }
        }
    }

    /// What must have happened before the change is followed. The order is documented at
    /// [`RebalanceListener`](super::RebalanceListener).
    fn prepare(&mut self, event: &Event) -> Fence {
        let keys = match event {
            Event::Assigned(..) => return self.settling(),
            Event::Revoked(keys) => keys,
            _ => return Fence::Passed,
        };
        self.withhold();
        let partitions = self.names_of(keys);
        if let Some(listener) = self.listener().filter(|_| !partitions.is_empty()) {
            listener.revoked(&partitions);
        }
        self.committing(&partitions)
    }

    /// GROUP: of partitions that are to go nothing is handed out, also while changes before that are waited for.
    fn withhold(&self) {
        let Some(group) = &self.group else { return };
        for event in &group.pending {
            let (Event::Revoked(keys) | Event::Lost(keys)) = event else { continue };
            for at in self.names_of(keys) {
                self.table.slot(&at).into_iter().for_each(|slot| self.targets.stop(slot));
            }
        }
    }

    async fn follow_change(&mut self, event: Event) -> Result<(), ConsumeError> {
        match event {
            Event::Began(member, epoch) => {
                // What is still read is of the membership before.
                let all = self.assignment();
                self.lose(all).await?;
                if let Some(group) = &mut self.group {
                    group.member = member;
                    group.lease.follow(member, epoch);
                }
            }
            Event::Assigned(keys, epoch) => self.take_over(&keys, epoch).await?,
            Event::Revoked(keys) => self.give_up(keys).await,
            Event::Lost(keys) => {
                let partitions = self.names_of(&keys);
                self.lose(partitions).await?;
            }
            Event::Settled => {
                if let Some(group) = &mut self.group {
                    group.settled = true;
                }
            }
            Event::Failed(_) => {}
        }
        Ok(())
    }

    async fn take_over(&mut self, keys: &[Key], epoch: u32) -> Result<(), ConsumeError> {
        if let Some(group) = &self.group {
            // Before its offsets are read: what is committed from here on is of this grant.
            group.lease.follow(group.member, epoch);
        }
        let mut wanted = BTreeMap::<_, BTreeSet<u32>>::new();
        for (topic, partition) in keys {
            wanted.entry(*topic).or_default().insert(*partition);
        }
        let (mut partitions, mut noticed) = (Vec::new(), Vec::new());
        for (topic, numbers) in wanted {
            let found = match self.metadata.describe_id(topic, false).await {
                Ok(found) => found,
                // It was deleted; the controllers will say so.
                Err(error) if error.code() == Some(Code::UnknownTopic) => continue,
                Err(error) => return Err(error.into()),
            };
            let name: Arc<str> = found.topic.name.into();
            let was_there = |partition| {
                let group = self.group.as_ref();
                group.is_none_or(|group| group.known.has(&name, topic, partition))
            };
            for state in found.partitions.iter().filter(|s| numbers.contains(&s.partition)) {
                let which = if was_there(state.partition) { &mut partitions } else { &mut noticed };
                which.push(Assigned::new(&name, topic, state));
            }
        }
        let all = partitions.iter().chain(&noticed);
        let names: Vec<_> = all.map(|assigned| TopicPartition::clone(&assigned.at)).collect();
        self.apply(&AssignmentEvent::Assigned { partitions, noticed: false }).await?;
        self.apply(&AssignmentEvent::Assigned { partitions: noticed, noticed: true }).await?;
        if self.options.offset_reset == OffsetReset::Latest {
            // Whoever gets them next goes on from here, not from the end as it is then.
            self.next_commit = clock::now();
        }
        if let Some(listener) = self.listener().filter(|_| !names.is_empty()) {
            listener.assigned(&names);
        }
        Ok(())
    }

    async fn give_up(&mut self, keys: Vec<Key>) {
        self.remove(&self.names_of(&keys));
        if let Some(group) = &self.group {
            let _ = group.words.send(Word::GivenUp(keys)).await;
        }
    }

    async fn lose(&mut self, partitions: Vec<TopicPartition>) -> Result<(), ConsumeError> {
        if partitions.is_empty() {
            return Ok(());
        }
        tracing::warn!(partitions = partitions.len(), "partitions of the group were lost");
        self.apply(&AssignmentEvent::Lost(partitions.clone())).await?;
        if let Some(listener) = self.listener() {
            listener.lost(&partitions);
        }
        Ok(())
    }

    fn listener(&self) -> Option<Arc<dyn super::RebalanceListener>> {
        self.options.group.listener.clone()
    }

    /// Those of them that are read.
    fn names_of(&self, keys: &[Key]) -> Vec<TopicPartition> {
        let keys: BTreeSet<&Key> = keys.iter().collect();
        let read =
            self.table.iter().filter(|(at, topic, _)| keys.contains(&(*topic, at.partition)));
        read.map(|(at, ..)| TopicPartition::clone(at)).collect()
    }

    /// The application decides from here on what is read.
    pub(in crate::consumer) async fn end_membership(&mut self) {
        if self.group.is_none() {
            return;
        }
        self.tell_of_leaving();
        self.apply_quietly(AssignmentEvent::Revoked(self.assignment())).await;
        self.leave().await;
    }

    /// Leaves the group at once, so that others need not wait for the session timeout; a static member stays one until
    /// then, for it may come again.
    pub(in crate::consumer) async fn leave(&mut self) {
        let Some(group) = self.group.take() else { return };
        (self.subscription, self.fence) = (Subscription::None, Fence::None);
        // What was to be committed is; a commit of less would take it back.
        self.apply_quietly(AssignmentEvent::Lost(self.assignment())).await;
        let commits = self.commits.as_ref().map_or(0, CommitQueue::of_this_membership);
        // GROUP: what was handed in before goes out as the member that it was handed in by; nothing does from here on, also
        // if nobody waits for the rest of this.
        group.lease.unfollow();
        if let Some(queue) = &mut self.commits {
            queue.answered(commits).await;
        }
        let (done, left) = oneshot::channel();
        if group.words.send(Word::Leave(done)).await.is_ok() {
            // Without an answer the session timeout does it.
            let _ = left.await;
        }
    }

    /// The application is about to make it leave.
    pub(in crate::consumer) fn tell_of_leaving(&self) {
        let mut partitions = self.assignment();
        let told = self.told_of_leaving();
        partitions.retain(|at| !told.contains(at));
        let any = self.group.is_some() && !partitions.is_empty();
        if let Some(listener) = self.listener().filter(|_| any) {
            listener.revoked(&partitions);
        }
    }

    /// Of these it was told, though they are not gone yet.
    fn told_of_leaving(&self) -> Vec<TopicPartition> {
        let first = self.group.as_ref().and_then(|group| group.pending.front());
        match (&self.fence, first) {
            (Fence::Answers(_) | Fence::Passed, Some(Event::Revoked(keys))) => self.names_of(keys),
            _ => Vec::new(),
        }
    }

    async fn apply_quietly(&mut self, event: AssignmentEvent) {
        if let Err(error) = self.apply(&event).await {
            tracing::warn!(%error, "leaving the group");
        }
    }
}
