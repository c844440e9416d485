//! Which agent takes a partition's batches. Asked once, kept, and asked again after a redirect or a failure.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use streamhouse_segment::ids::TopicId;
use tokio::sync::watch;
use tokio::task::JoinSet;

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
    current: Arc<RwLock<Current>>,
    /// What was asked last, so that many partitions that lost the same agent ask once.
    ///
    /// SUBTLE: a question is a task of its own. Were it its asker's, who holds a lock until it is answered:
    /// 1. A partition's task asks where its silent agent's lease is, and looks after other things as well.
    /// 2. The agent answers after all, with a failure. The task now waits for a route, and for nothing else.
    /// 3. So it waits for its own question, which nobody drives; and all partitions of the topic wait with it.
    asking: Mutex<Option<LookUp>>,
}

/// What came of a look-up: nothing yet, or the answer is in the route, or there was none.
type Outcome = Option<Result<(), CallError>>;

/// A question to the controllers; nobody drops it before it has ended, but with the whole route.
#[derive(Debug)]
struct LookUp {
    outcome: watch::Receiver<Outcome>,
    _task: JoinSet<()>,
}

impl LookUp {
    /// Its task ends when it has told.
    fn is_under_way(&self) -> bool {
        self.outcome.has_changed().is_ok()
    }
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
            current: Arc::new(RwLock::new(Current { version: 1, agents })),
            asking: Mutex::new(None),
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

    /// Asks again, unless an answer newer than `seen` is there already. It ends with the pool's operation timeout at
    /// the latest.
    pub(crate) async fn refresh(&self, route: &TopicRoute, seen: u64) -> Result<(), CallError> {
        let Some(mut outcome) = self.look_up(route, seen) else { return Ok(()) };
        let ended = outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        // Without an outcome its task was cut off: nothing is newer in the route, so that it is asked anew.
        ended.ok().flatten().unwrap_or(Ok(()))
    }

    /// The look-up that is under way, or a new one; `None` if an answer newer than `seen` is there already.
    fn look_up(&self, route: &TopicRoute, seen: u64) -> Option<watch::Receiver<Outcome>> {
        let mut asking = route.asking.lock();
        if route.current.read().version > seen {
            return None;
        }
        if let Some(under_way) = asking.as_ref().filter(|asked| asked.is_under_way()) {
            return Some(under_way.outcome.clone());
        }
        let asked = self.ask(route);
        let outcome = asked.outcome.clone();
        *asking = Some(asked);
        Some(outcome)
    }

    fn ask(&self, route: &TopicRoute) -> LookUp {
        let (metadata, id, current) = (self.metadata.clone(), route.id, route.current.clone());
        let (tell, outcome) = watch::channel(None);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let answer = metadata.describe_id(id, false).await;
            let outcome = answer.map(|description| {
                let mut current = current.write();
                current.version += 1;
                current.agents = agents(&description);
            });
            tell.send_replace(Some(outcome));
        });
        LookUp { outcome, _task: task }
    }

    /// Is the topic gone? Asked of the leader, for the answer loses records.
    pub(crate) async fn is_gone(&self, id: TopicId) -> bool {
        match self.metadata.describe_id(id, true).await {
            Ok(_) => false,
            Err(error) => error.code() == Some(Code::UnknownTopic),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;
    use crate::routing::PoolConfig;
    use crate::types::Topic;

    /// A partition's task looks after other things as well, and may stop attending to the look-up that it began: nobody
    /// may have to wait for it to come back.
    #[tokio::test]
    async fn a_look_up_that_is_left_alone_holds_up_no_other() {
        // Nobody listens there.
        let pool = PoolConfig {
            controllers: vec!["127.0.0.1:1".to_owned()],
            operation_timeout: Duration::from_millis(100),
            ..PoolConfig::default()
        };
        let routes = Routes::new(Metadata::new(pool).unwrap());
        let route = TopicRoute::new(TopicDescription {
            topic: Topic {
                id: TopicId::from_bytes([1; 16]),
                name: "orders".to_owned(),
                partitions: 1,
                config: Default::default(),
            },
            partitions: Vec::new(),
            applied: 1,
        });
        let mut left_alone = Box::pin(routes.refresh(&route, 1));
        assert!(left_alone.as_mut().now_or_never().is_none());
        let other = tokio::time::timeout(Duration::from_secs(30), routes.refresh(&route, 1));
        let unreachable = other.await.expect("it has an end of its own").unwrap_err();
        // The next question is a new one, although the first one's asker has yet to look at its outcome.
        assert!(routes.look_up(&route, 1).unwrap().borrow().is_none());
        assert_eq!(left_alone.await, Err(unreachable));
    }
}
