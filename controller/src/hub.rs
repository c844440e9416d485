//! How what was applied here reaches those who wait for it.
//!
//! Three ways, because records are appended all the time and everything else is
//! rare: a bounded broadcast of all effects but appends, one mailbox per
//! watcher, into which goes what happens in its topics, and a bell for each
//! member of a consumer group. A session's stream is not woken by other
//! sessions' commits, nor a watcher by other topics', nor a member by others.

use crate::member_bells::{MemberBell, MemberBells};
use crate::raft::ApplyObserver;
use crate::state::command::{PartitionKey, TopicKey};
use crate::state::groups::MemberId;
use crate::state::reply::Effect;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::{Notify, broadcast};

/// BOUND: batches a slow receiver may be behind before it must resync.
const CAPACITY: usize = 8_192;
/// BOUND: changed partitions that wait for a watcher before it must resync.
const WAITING: usize = 10_000;

/// What one batch of applied entries changed, appends left out.
#[derive(Debug)]
pub(crate) struct Changes {
    /// The last index applied with them.
    pub(crate) index: u64,
    /// In log order; empty after a snapshot was installed.
    pub(crate) effects: Vec<Effect>,
    /// The whole state was replaced.
    pub(crate) replaced: bool,
}

/// What changed in a watcher's topics since it last looked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    /// Records were added, or a lease moved.
    pub(crate) partitions: BTreeSet<PartitionKey>,
    pub(crate) deleted: BTreeSet<TopicKey>,
    /// More than is listed here: the watcher must read everything anew.
    pub(crate) everything: bool,
}

impl Pending {
    fn changed(&mut self, partition: PartitionKey) {
        if self.everything {
            return;
        }
        self.partitions.insert(partition);
        if self.partitions.len() > WAITING {
            self.partitions.clear();
            self.everything = true;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.everything && self.partitions.is_empty() && self.deleted.is_empty()
    }
}

#[derive(Default)]
struct Mailbox {
    pending: Mutex<Pending>,
    news: Notify,
}

impl Mailbox {
    fn put(&self, note: impl FnOnce(&mut Pending)) {
        note(&mut self.pending.lock());
        // Kept for a watcher that is not waiting just now.
        self.news.notify_one();
    }
}

#[derive(Default)]
struct Watchers {
    /// By topic, and by the watcher's number.
    of_topics: HashMap<TopicKey, HashMap<u64, Arc<Mailbox>>>,
    last: u64,
}

impl Watchers {
    fn of(&self, topic: &TopicKey) -> impl Iterator<Item = &Arc<Mailbox>> {
        self.of_topics.get(topic).into_iter().flat_map(HashMap::values)
    }
}

/// The sending side.
pub(crate) struct Hub {
    changes: broadcast::Sender<Arc<Changes>>,
    watchers: Mutex<Watchers>,
    members: Arc<MemberBells>,
}

/// A watcher's mailbox; it is given up when dropped.
pub(crate) struct Watch {
    hub: Arc<Hub>,
    number: u64,
    topics: BTreeSet<TopicKey>,
    mailbox: Arc<Mailbox>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self {
            changes: broadcast::Sender::new(CAPACITY),
            watchers: Mutex::default(),
            members: Arc::default(),
        }
    }

    /// All changes but appends, from now on. Subscribe before reading the
    /// state, so that nothing falls between.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.changes.subscribe()
    }

    /// What happens in these topics from now on; the same holds.
    pub(crate) fn watch(self: &Arc<Self>, topics: BTreeSet<TopicKey>) -> Watch {
        let mailbox = Arc::<Mailbox>::default();
        let mut watchers = self.watchers.lock();
        watchers.last += 1;
        let number = watchers.last;
        for topic in &topics {
            let of_topic = watchers.of_topics.entry(*topic).or_default();
            of_topic.insert(number, Arc::clone(&mailbox));
        }
        drop(watchers);
        Watch { hub: Arc::clone(self), number, topics, mailbox }
    }

    /// Rings when the member's partitions may have changed, or it is one no
    /// more; the same holds.
    pub(crate) fn member(&self, member: MemberId) -> MemberBell {
        MemberBells::hang(&self.members, member)
    }

    fn publish(&self, changes: Changes) {
        // Without a receiver nobody needs it.
        let _ = self.changes.send(Arc::new(changes));
    }
}

impl Watch {
    pub(crate) fn topics(&self) -> &BTreeSet<TopicKey> {
        &self.topics
    }

    /// What has changed, at once; perhaps nothing.
    pub(crate) fn take(&self) -> Pending {
        std::mem::take(&mut self.mailbox.pending.lock())
    }

    /// Waits until something may have changed.
    pub(crate) async fn changed(&self) {
        self.mailbox.news.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watchers = self.hub.watchers.lock();
        for topic in &self.topics {
            if let Some(of_topic) = watchers.of_topics.get_mut(topic) {
                of_topic.remove(&self.number);
                if of_topic.is_empty() {
                    watchers.of_topics.remove(topic);
                }
            }
        }
    }
}

impl ApplyObserver for Hub {
    fn applied(&self, index: u64, mut effects: Vec<Effect>) {
        // A watcher's mailbox is opened once a batch, however many of its
        // partitions changed how often.
        let mut changed = BTreeMap::<TopicKey, BTreeSet<PartitionKey>>::new();
        let mut deleted = Vec::new();
        for effect in &effects {
            match effect {
                Effect::Appended(partition, _) | Effect::Lease { partition, .. } => {
                    changed.entry(partition.topic).or_default().insert(*partition);
                }
                Effect::TopicDeleted(topic) => deleted.push(*topic),
                Effect::Assigned { members, .. } => self.members.tell(members),
                Effect::MemberLeft { member, .. } => self.members.tell([member]),
                // Addresses of holders change with their sessions, and every
                // such change moves leases too.
                Effect::SessionOpened(_)
                | Effect::SessionEnded(_)
                | Effect::TopicReady(_)
                | Effect::CommitRefused { .. }
                | Effect::OffsetsRefused { .. }
                | Effect::MemberJoined { .. }
                | Effect::GroupDeleted(_)
                | Effect::Cluster
                | Effect::WorkPending => {}
            }
        }
        {
            let watchers = self.watchers.lock();
            for (topic, partitions) in &changed {
                for mailbox in watchers.of(topic) {
                    mailbox.put(|pending| partitions.iter().for_each(|p| pending.changed(*p)));
                }
            }
            for topic in &deleted {
                for mailbox in watchers.of(topic) {
                    mailbox.put(|pending| {
                        pending.deleted.insert(*topic);
                    });
                }
            }
        }
        effects.retain(|effect| !matches!(effect, Effect::Appended(..)));
        if !effects.is_empty() {
            self.publish(Changes { index, effects, replaced: false });
        }
    }

    fn installed(&self, index: u64) {
        for mailbox in self.watchers.lock().of_topics.values().flat_map(HashMap::values) {
            mailbox.put(|pending| pending.everything = true);
        }
        self.members.tell_all();
        self.publish(Changes { index, effects: Vec::new(), replaced: true });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: TopicKey = [1; 16];

    fn appended(topic: TopicKey, partition: u32) -> Effect {
        Effect::Appended(PartitionKey { topic, partition }, 1)
    }

    #[test]
    fn a_watcher_hears_of_its_topics_alone_and_appends_reach_nobody_else() {
        let hub = Arc::new(Hub::new());
        let mut changes = hub.subscribe();
        let watch = hub.watch(BTreeSet::from([MINE]));
        hub.applied(1, vec![appended([2; 16], 0), appended(MINE, 3), appended(MINE, 3)]);
        let pending = watch.take();
        assert_eq!(
            pending.partitions,
            BTreeSet::from([PartitionKey { topic: MINE, partition: 3 }])
        );
        assert!(!pending.everything && watch.take().is_empty());
        assert!(changes.try_recv().is_err());
        hub.applied(2, vec![appended(MINE, 1), Effect::TopicDeleted(MINE)]);
        assert_eq!(changes.try_recv().unwrap().effects, [Effect::TopicDeleted(MINE)]);
        assert!(watch.take().deleted.contains(&MINE));
        drop(watch);
        assert!(hub.watchers.lock().of_topics.is_empty());
    }

    #[test]
    fn a_slow_watcher_and_a_replaced_state_lead_to_a_resync() {
        let hub = Arc::new(Hub::new());
        let watch = hub.watch(BTreeSet::from([MINE]));
        let many = (0..=WAITING as u32).map(|partition| appended(MINE, partition));
        hub.applied(1, many.collect());
        let pending = watch.take();
        assert!(pending.everything && pending.partitions.is_empty());
        hub.installed(2);
        assert!(watch.take().everything);
    }
}
