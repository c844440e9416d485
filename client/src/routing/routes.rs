//! Which agent takes a partition's batches. Asked once, kept, and asked again after a redirect or a failure.

use std::sync::Arc;

use parking_lot::RwLock;
use streamhouse_segment::ids::TopicId;

use super::metadata::Metadata;
use crate::errors::{CallError, Code};
use crate::types::TopicDescription;

/// Looks up routes.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    metadata: Metadata,
}

/// Where a topic's partitions are. Shared by all that write to the topic.
#[derive(Debug)]
pub(crate) struct TopicRoute {
    pub(crate) id: TopicId,
    pub(crate) name: Arc<str>,
    pub(crate) partitions: u32,
    current: RwLock<Current>,
    /// Held while asking, so that many partitions that lost the same agent ask once.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Current {
    /// Counts the answers.
    version: u64,
    agents: Vec<Option<Arc<str>>>,
}

impl TopicRoute {
    pub(crate) fn new(description: TopicDescription) -> Self {
        let agents = agents(&description);
        Self {
            id: description.topic.id,
            name: description.topic.name.into(),
            partitions: description.topic.partitions,
            current: RwLock::new(Current { version: 1, agents }),
            asking: tokio::sync::Mutex::new(()),
        }
    }

    /// The agent that held the partition's lease when last asked, and the version of that answer.
    pub(crate) fn agent(&self, partition: u32) -> (Option<Arc<str>>, u64) {
        let current = self.current.read();
        (current.agents.get(partition as usize).cloned().flatten(), current.version)
    }
}

fn agents(description: &TopicDescription) -> Vec<Option<Arc<str>>> {
    let mut agents = vec![None; description.topic.partitions as usize];
    for partition in &description.partitions {
        if let Some(agent) = agents.get_mut(partition.partition as usize) {
            *agent = partition.address.as_deref().map(Arc::from);
        }
    }
    agents
}

impl Routes {
    pub(crate) fn new(metadata: Metadata) -> Self {
        Self { metadata }
    }

    /// Notes the applied index of an acknowledgement.
    pub(crate) fn observe(&self, applied: u64) {
        self.metadata.pool.observe(applied);
    }

    /// Asks for a topic by name. Linearizable, so that a topic created before this call is never unknown.
    pub(crate) async fn open(&self, name: &str) -> Result<TopicRoute, CallError> {
        Ok(TopicRoute::new(self.metadata.describe(name, true).await?))
    }

    /// Asks again, unless an answer newer than `seen` is there already.
    pub(crate) async fn refresh(&self, route: &TopicRoute, seen: u64) -> Result<(), CallError> {
        let _one = route.asking.lock().await;
        if route.current.read().version > seen {
            return Ok(());
        }
        let description = self.metadata.describe_id(route.id, false).await?;
        let mut current = route.current.write();
        current.version += 1;
        current.agents = agents(&description);
        Ok(())
    }

    /// Is the topic gone? Asked of the leader, for the answer loses records.
    pub(crate) async fn is_gone(&self, id: TopicId) -> bool {
        match self.metadata.describe_id(id, true).await {
            Ok(_) => false,
            Err(error) => error.code() == Some(Code::UnknownTopic),
        }
    }
}
