//! The topics a producer has sent to: their routes, and a buffer per partition.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use super::buffer::Buffer;
use super::error::ProduceError;
use super::partitioner::{Partitioner, Turn};
use super::record::Record;
use crate::routing::TopicRoute;

/// A topic that is open for sending.
#[derive(Debug)]
pub(super) struct OpenTopic {
    pub(super) route: TopicRoute,
    pub(super) buffers: Vec<Arc<Buffer>>,
    /// The topic was deleted: the tasks of all its partitions end.
    pub(super) gone: CancellationToken,
    turn: Turn,
}

impl OpenTopic {
    pub(super) fn new(route: TopicRoute, buffers: Vec<Arc<Buffer>>) -> Self {
        Self { route, buffers, gone: CancellationToken::new(), turn: Turn::default() }
    }

    /// The partition for a record.
    #[inline]
    pub(super) fn choose(
        &self,
        partitioner: &Partitioner,
        record: &Record<'_>,
    ) -> Result<u32, ProduceError> {
        let partitions = self.route.partitions;
        let chosen = record.partition.unwrap_or_else(|| {
            let key = record.key.as_ref().map(AsRef::as_ref);
            let value = record.value.as_ref().map(AsRef::as_ref);
            partitioner.choose(&self.turn, &self.route.name, (key, value), partitions)
        });
        if chosen < partitions { Ok(chosen) } else { Err(self.no_partition(chosen)) }
    }

    #[cold]
    fn no_partition(&self, partition: u32) -> ProduceError {
        ProduceError::UnknownPartition {
            topic: self.route.name.clone(),
            partition,
            partitions: self.route.partitions,
        }
    }

    /// It takes no more records, and the fate of those it took is known.
    fn is_over(&self) -> bool {
        self.buffers.iter().all(|buffer| buffer.is_over())
    }

    /// A batch of that partition was closed.
    pub(super) fn pass_on(&self, partition: u32) {
        self.turn.pass_on(partition, self.route.partitions);
    }
}

#[derive(Debug, Default)]
struct Open {
    by_name: HashMap<Arc<str>, Arc<OpenTopic>>,
    /// The one opened last. Most producers have one topic, and its name need not be hashed for each record.
    newest: Option<Arc<OpenTopic>>,
}

impl Open {
    #[inline]
    fn get(&self, name: &str) -> Option<&Arc<OpenTopic>> {
        let newest = self.newest.as_ref().filter(|topic| *topic.route.name == *name);
        newest.or_else(|| self.by_name.get(name))
    }

    fn insert(&mut self, topic: Arc<OpenTopic>) {
        self.newest = Some(topic.clone());
        self.by_name.insert(topic.route.name.clone(), topic);
    }

    fn remove(&mut self, name: &str) -> Option<Arc<OpenTopic>> {
        self.newest = None;
        self.by_name.remove(name)
    }
}

/// All open topics, by name.
#[derive(Debug, Default)]
pub(super) struct Topics {
    open: RwLock<Open>,
    /// Forgotten topics with records whose fate is not known yet: a flush waits for them, too.
    ending: Mutex<Vec<Arc<OpenTopic>>>,
    /// Held while a topic is looked up, so that it is opened once.
    pub(super) opening: tokio::sync::Mutex<()>,
}

impl Topics {
    #[inline]
    pub(super) fn get(&self, name: &str) -> Option<Arc<OpenTopic>> {
        self.open.read().get(name).cloned()
    }

    /// What `f` makes of the topic, if it is open. Nothing is counted up or down meanwhile, but topics cannot be opened
    /// or forgotten: `f` must do neither.
    #[inline]
    pub(super) fn with<T>(&self, name: &str, f: impl FnOnce(&Arc<OpenTopic>) -> T) -> Option<T> {
        self.open.read().get(name).map(f)
    }

    pub(super) fn is_open(&self, name: &str) -> bool {
        self.open.read().get(name).is_some()
    }

    pub(super) fn insert(&self, topic: Arc<OpenTopic>) {
        self.open.write().insert(topic);
    }

    /// Forgets this topic, unless another of its name has taken its place.
    pub(super) fn forget(&self, topic: &OpenTopic) {
        let mut open = self.open.write();
        if open.get(&topic.route.name).is_some_and(|known| known.route.id == topic.route.id)
            && let Some(topic) = open.remove(&topic.route.name)
        {
            let mut ending = self.ending.lock();
            ending.retain(|topic| !topic.is_over());
            ending.push(topic);
        }
    }

    /// Every topic with records that may be on their way.
    pub(super) fn all(&self) -> Vec<Arc<OpenTopic>> {
        // Both at once: a topic must not go from one to the other in between.
        let open = self.open.read();
        let mut ending = self.ending.lock();
        ending.retain(|topic| !topic.is_over());
        open.by_name.values().chain(&*ending).cloned().collect()
    }
}
