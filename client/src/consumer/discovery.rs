//! The task that notices topics and partitions that a subscription wants and that were not there when it began.

use std::sync::Arc;
use std::time::Duration;

use streamhouse_proto::v1;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::assignment::{Assigned, AssignmentEvent};
use super::subscription::{Change, Known, Subscription};
use crate::convert;
use crate::errors::{CallError, Code};
use crate::routing::{Client, Metadata};
use crate::types::{Topic, TopicPartition};

/// Asks for the topics from time to time, and when the watch tells of a partition that nobody reads.
pub(super) struct Discovery {
    pub(super) metadata: Metadata,
    pub(super) subscription: Subscription,
    pub(super) known: Known,
    pub(super) every: Duration,
    pub(super) news: Arc<Notify>,
    pub(super) events: mpsc::Sender<AssignmentEvent>,
}

/// All topics of the cluster.
pub(super) async fn topics(
    metadata: &Metadata,
    linearizable: bool,
) -> Result<Vec<Topic>, CallError> {
    let request = v1::ListTopicsRequest { linearizable };
    let answer = metadata
        .pool
        .call("list topics", |mut client: Client| async move { client.list_topics(request).await });
    let answer = answer.await?;
    metadata.pool.observe(answer.applied);
    answer.topics.into_iter().map(convert::topic).collect()
}

impl Discovery {
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.news.notified() => {}
                () = tokio::time::sleep(self.every) => {}
            }
            let looked = tokio::select! {
                () = cancel.cancelled() => return,
                looked = self.look() => looked,
            };
            match looked {
                Ok(true) => {}
                // The consumer has another subscription by now, or is gone.
                Ok(false) => return,
                Err(error) => tracing::debug!(%error, "could not look for new topics"),
            }
        }
    }

    /// False once nobody listens any more.
    async fn look(&mut self) -> Result<bool, CallError> {
        let topics = topics(&self.metadata, false).await?;
        for change in self.known.changes(&topics, &self.subscription) {
            if !self.tell(change).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn tell(&mut self, change: Change) -> Result<bool, CallError> {
        let found = match self.metadata.describe(&change.name, true).await {
            Ok(found) => found,
            // Gone again, or not ready yet: the next look tells.
            Err(error) if error.code() == Some(Code::UnknownTopic) => return Ok(true),
            Err(error) => return Err(error),
        };
        let (id, partitions) = (found.topic.id, found.topic.partitions);
        if self.known.is(&change.name, id, partitions) {
            // Whoever listed the topics is behind.
            return Ok(true);
        }
        let name: Arc<str> = change.name.into();
        if change.lost > 0 {
            let lost = (0..change.lost).map(|number| TopicPartition::new(name.clone(), number));
            let lost = AssignmentEvent::Lost(lost.collect());
            if self.events.send(lost).await.is_err() {
                return Ok(false);
            }
        }
        self.known.note(&name, id, partitions);
        let new = found.partitions.iter().filter(|state| state.partition >= change.first_new);
        let partitions = new.map(|state| Assigned::new(&name, id, state)).collect();
        let event = AssignmentEvent::Assigned { partitions, noticed: true };
        Ok(self.events.send(event).await.is_ok())
    }
}
