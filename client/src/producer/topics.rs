//! The topics a producer has sent to: their routes, and a buffer per partition.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

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
    turn: Turn,
}

impl OpenTopic {
    pub(super) fn new(route: TopicRoute, buffers: Vec<Arc<Buffer>>) -> Self {
        Self { route, buffers, turn: Turn::default() }
    }

    /// The partition for a record.
    #[inline]
    pub(super) fn choose(
        &self,
        partitioner: Partitioner,
        record: &Record<'_>,
    ) -> Result<u32, ProduceError> {
        let partitions = self.route.partitions;
        match record.partition {
            None => {
                let key = record.key.as_ref().map(AsRef::as_ref);
                Ok(partitioner.choose(&self.turn, key, partitions))
            }
            Some(partition) if partition < partitions => Ok(partition),
            Some(partition) => Err(ProduceError::UnknownPartition {
                topic: self.route.name.clone(),
                partition,
                partitions,
            }),
        }
    }

    /// A batch of that partition was closed.
    pub(super) fn pass_on(&self, partition: u32) {
        self.turn.pass_on(partition, self.route.partitions);
    }
}

/// All open topics, by name.
#[derive(Debug, Default)]
pub(super) struct Topics {
    open: RwLock<HashMap<Arc<str>, Arc<OpenTopic>>>,
    /// Held while a topic is looked up, so that it is opened once.
    pub(super) opening: tokio::sync::Mutex<()>,
}

impl Topics {
    #[inline]
    pub(super) fn get(&self, name: &str) -> Option<Arc<OpenTopic>> {
        self.open.read().get(name).cloned()
    }

    pub(super) fn insert(&self, topic: Arc<OpenTopic>) {
        self.open.write().insert(topic.route.name.clone(), topic);
    }

    /// Forgets this topic, unless another of its name has taken its place.
    pub(super) fn forget(&self, topic: &OpenTopic) {
        let mut open = self.open.write();
        if open.get(&topic.route.name).is_some_and(|known| known.route.id == topic.route.id) {
            open.remove(&topic.route.name);
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<OpenTopic>> {
        self.open.read().values().cloned().collect()
    }
}
